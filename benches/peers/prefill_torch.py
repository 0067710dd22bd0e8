#!/usr/bin/env python3
"""Prompts in PyTorch through a model of the Llama family, as JSON lines beside `quest bench prefill`.

Written by hand: cuBLAS for the matrix products, SDPA for the attention, `torch.compile` for the small
functions between. `chunks` sends as many tokens at once as ours, each chunk attending to all before it;
`whole` sends the prompt at once, which takes more memory. Logits are computed for the last token.
"""

import time

import common
from decode_torch import fields_of, peak
from llama_torch import SHAPES, Llama
from pytorch import F, causal_lower_right, sdpa, torch

ROWS = ["chunks", "whole"]
BACKENDS = ["flash", "cudnn"]


class Prompt:
    """A prompt of random ids, its positions, and a cache for it."""

    def __init__(self, bench, llama, tokens):
        self.bench, self.llama, self.tokens = bench, llama, tokens
        shape = (llama.batch, llama.kv, tokens, llama.d)
        self.keys = [bench.normal(*shape) for _ in range(llama.layers)]
        self.values = [bench.normal(*shape) for _ in range(llama.layers)]
        self.ids = torch.randint(llama.vocab, (llama.batch, tokens), device=bench.device)
        half = torch.arange(0, llama.d, 2, device=bench.device).float() / llama.d
        angles = torch.arange(tokens, device=bench.device).float()[:, None] * llama.theta**-half
        self.cos, self.sin = angles.cos(), angles.sin()

    def attend(self, layer, query, start, end):
        """Causal attention of `query [b, heads, n, d]` to the cache up to `end`."""
        keys, values = self.keys[layer][:, :, :end], self.values[layer][:, :, :end]
        grouped = dict(enable_gqa=self.llama.group > 1)
        if start == 0:
            return F.scaled_dot_product_attention(query, keys, values, is_causal=True, **grouped)
        mask = causal_lower_right(end - start, end)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, **grouped)

    def run(self, chunk):
        """Logits of the last token, `[b, vocab]`."""
        llama, f = self.llama, self.llama.functions
        q, k = llama.heads * llama.d, llama.kv * llama.d
        for start in range(0, self.tokens, chunk):
            end = min(start + chunk, self.tokens)
            n = end - start
            cos, sin = self.cos[start:end], self.sin[start:end]
            hidden = F.embedding(self.ids[:, start:end], llama.embed)
            x = f["rms"](hidden, llama.norms[0])
            for layer in range(llama.layers):
                qkv = F.linear(x, llama.qkv[layer])
                heads = qkv[..., : q + k].view(llama.batch, n, llama.heads + llama.kv, llama.d)
                heads = f["rotate"](heads.transpose(1, 2), cos, sin)
                value = qkv[..., q + k :].view(llama.batch, n, llama.kv, llama.d).transpose(1, 2)
                self.keys[layer][:, :, start:end] = heads[:, llama.heads :]
                self.values[layer][:, :, start:end] = value
                out = self.attend(layer, heads[:, : llama.heads], start, end)
                out = out.transpose(1, 2).reshape(llama.batch, n, q)
                update = F.linear(out, llama.out[layer])
                hidden, x = f["add_rms"](hidden, update, llama.norms[2 * layer + 1])
                update = F.linear(f["silu"](F.linear(x, llama.gate_up[layer])), llama.down[layer])
                hidden, x = f["add_rms"](hidden, update, llama.norms[2 * layer + 2])
        return F.linear(x[:, -1], llama.lm_head)


def measure(bench, prompt, backend, chunk):
    options, llama = bench.options, prompt.llama
    fields = fields_of(bench, llama.name, f"pytorch_{backend}", "prefill", prompt.tokens)
    fields.update(batch=llama.batch, chunk=chunk)
    seconds = []
    try:
        with sdpa(backend):
            for _ in range(options.prompts + 1):
                bench.sync()
                start = time.perf_counter()
                logits = prompt.run(chunk)
                bench.sync()
                seconds.append(time.perf_counter() - start)
    except (RuntimeError, ValueError, AssertionError) as error:
        bench.skip(common.message(error), **fields)
        return
    if not torch.isfinite(logits.float()).all():
        raise SystemExit("prefill: expected numbers as logits, found others")
    # The first prompt compiles.
    timed = common.Timed([s * 1e6 for s in seconds[1:]], [])
    speed = llama.batch * prompt.tokens * 1e6 / timed.fields["median_us"]
    bench.emit(timed, kind="prefill", launch="plain", tokens_per_s=speed, **peak(bench), **fields)


def main():
    parser = common.arguments(__doc__.splitlines()[0], ROWS)
    parser.set_defaults(contexts=[8192, 32768])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama2-7b")
    parser.add_argument("--chunk", type=common.size, default=2048, help="tokens of a chunk")
    parser.add_argument("--prompts", type=int, default=3, help="prompts that are timed")
    parser.add_argument("--backends", type=common.names, default=BACKENDS, help="of SDPA")
    parser.add_argument("--eager", action="store_true", help="no torch.compile of small functions")
    options = common.parse(parser, ROWS)
    unknown = [name for name in options.backends if name not in ["flash", "cudnn", "math"]]
    if unknown:
        parser.error(f"--backends: expected flash, cudnn or math, found {', '.join(unknown)}")
    bench = common.Bench(options)
    for batch in options.batch:
        llama = Llama(bench, options.shape, batch)
        if bench.is_cuda and not options.eager:
            llama.compile_glue()
        for context in options.contexts:
            fields = dict(fields_of(bench, llama.name, "pytorch", "prefill", context), batch=batch)
            needed = llama.weight_bytes() + llama.cache_bytes(context, options.page_size)
            if bench.is_late():
                bench.skip(f"{options.minutes} minutes are over", **fields)
                continue
            if needed * 1.05 > bench.memory_limit():
                bench.skip(f"expected {needed} bytes of memory, found {bench.memory_limit()}", **fields)
                continue
            common.say(f"{llama.name}, batch {batch}, prompt of {context}")
            prompt = Prompt(bench, llama, context)
            for row in options.only:
                for backend in options.backends:
                    measure(bench, prompt, backend, options.chunk if row == "chunks" else context)
            del prompt
            bench.free()
        del llama
        bench.free()


if __name__ == "__main__":
    main()
