#!/usr/bin/env python3
"""Writes a checkpoint of random weights, so that a program that loads checkpoints can be timed in a shape of which no weights are at hand.

    python3 benches/peers/random_checkpoint.py llama3-8b FOLDER
    quest bench serve --model FOLDER --device cuda --policies dense,quest

Weights are normal, f16: the same run of numbers again and again, which no row begins at the same place. The tokenizer has the 256 bytes
and a name for every other token, so that a text has as many tokens as bytes. Answers are of no meaning. Python is all that it takes.
"""

import argparse
import json
import math
import pathlib
import random
import struct
import sys

# hidden, intermediate, layers, query heads, KV heads, vocabulary
SHAPES = {
    "llama2-7b": (4096, 11008, 32, 32, 32, 32000),
    "llama3-8b": (4096, 14336, 32, 32, 8, 128256),
    "llama3.2-1b": (2048, 8192, 16, 32, 8, 128256),
}
FILE_BYTES = 4 << 30
PERIOD = (1 << 20) + 1  # random numbers; odd, so that rows begin at different ones


def tensors(hidden, intermediate, layers, heads, kv_heads, vocabulary):
    head_dim = 64 if hidden == 2048 else 128
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        of = f"model.layers.{layer}."
        yield of + "input_layernorm.weight", (hidden,)
        yield of + "self_attn.q_proj.weight", (heads * head_dim, hidden)
        yield of + "self_attn.k_proj.weight", (kv_heads * head_dim, hidden)
        yield of + "self_attn.v_proj.weight", (kv_heads * head_dim, hidden)
        yield of + "self_attn.o_proj.weight", (hidden, heads * head_dim)
        yield of + "post_attention_layernorm.weight", (hidden,)
        yield of + "mlp.gate_proj.weight", (intermediate, hidden)
        yield of + "mlp.up_proj.weight", (intermediate, hidden)
        yield of + "mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    if not is_tied(hidden):
        yield "lm_head.weight", (vocabulary, hidden)


def is_tied(hidden):
    return hidden == 2048


def files(all_tensors):
    """Runs of tensors, each of at most so many bytes."""
    run, n_bytes = [], 0
    for name, shape in all_tensors:
        size = 2 * math.prod(shape)
        if run and n_bytes + size > FILE_BYTES:
            yield run
            run, n_bytes = [], 0
        run.append((name, shape, size))
        n_bytes += size
    yield run


def write_weights(folder, shape, seed):
    generator = random.Random(seed)
    run = struct.pack(f"<{PERIOD}e", *(generator.gauss(0, 0.02) for _ in range(PERIOD)))
    one = struct.pack("<e", 1)
    index, place = {}, 0
    for number, of_file in enumerate(files(tensors(*shape)), 1):
        name = f"model-{number:05}.safetensors"
        header, offset = {}, 0
        for tensor, dims, size in of_file:
            header[tensor] = {"dtype": "F16", "shape": dims, "data_offsets": [offset, offset + size]}
            offset += size
            index[tensor] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            for tensor, dims, size in of_file:
                if len(dims) == 1:
                    file.write(one * dims[0])
                    continue
                while size:
                    part = run[place : place + size]
                    file.write(part)
                    size -= len(part)
                    place = (place + len(part)) % len(run)
        print(f"{name}: {offset / 1e9:.2f} GB", file=sys.stderr)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def bytes_as_characters():
    """The character that byte-level tokenizers write for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write_tokenizer(folder, vocabulary):
    characters = bytes_as_characters()
    vocab = {"<s>": 0, "</s>": 1}
    for byte in range(256):
        vocab[characters[byte]] = len(vocab)
    while len(vocab) < vocabulary:
        vocab[f"t{len(vocab)}"] = len(vocab)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, text in enumerate(["<s>", "</s>"])
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_config(folder, shape, context):
    hidden, intermediate, layers, heads, kv_heads, vocabulary = shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 64 if hidden == 2048 else 128,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": context,
        "tie_word_embeddings": is_tied(hidden),
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--context", type=int, default=131072, help="max_position_embeddings")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    options.folder.mkdir(parents=True, exist_ok=True)
    write_config(options.folder, shape, options.context)
    write_tokenizer(options.folder, shape[-1])
    write_weights(options.folder, shape, options.seed)


if __name__ == "__main__":
    main()
