#!/usr/bin/env python3
"""A decode step of a whole model by others, for comparison with `quest bench decode`.

Rows: `flash`, `cudnn` and `math` are a step written by hand in PyTorch with dense attention by
SDPA, in a CUDA graph; `quest` is the same step with Quest in plain PyTorch operations. Where they
are installed: `flashinfer` (the same step, attention by FlashInfer), `transformers` (Hugging Face,
static cache, torch.compile) and `llama.cpp` (its `llama-bench`, with `--gguf FILE`).
"""

import json
import shutil
import time
from contextlib import nullcontext

import common
from llama_torch import SHAPES, Llama
from pytorch import sdpa, torch

ROWS = ["flash", "cudnn", "math", "quest", "flashinfer", "transformers", "llama.cpp"]
DEFAULT = ["flash", "cudnn", "quest", "flashinfer", "transformers", "llama.cpp"]


def fields_of(bench, model, implementation, operation, context, budget=None):
    options = bench.options
    fields = {
        "implementation": implementation,
        "operation": operation,
        "model": model,
        "dtype": options.dtype,
        "weights": options.dtype,
        "n_heads": SHAPES[model]["heads"],
        "n_kv_heads": SHAPES[model]["kv"],
        "head_dim": SHAPES[model]["d"],
        "page_size": options.page_size,
        "context": context,
    }
    if budget is not None:
        fields.update(budget=budget, dense_layers=options.dense_layers)
    return fields


def measure(bench, llama, implementation, operation, attention, budget=None, timed_as=nullcontext):
    options = bench.options
    fields = fields_of(bench, llama.name, implementation, operation, llama.context, budget)
    fields["batch"] = llama.batch

    def step(_):
        return llama.step(attention)

    for launch in options.launch:
        try:
            with timed_as():
                llama.tokens.zero_()
                expected = llama.step(attention).clone()
                timed = (bench.graph if launch == "graph" else bench.plain)(step, 1)
                if timed is None:
                    continue
                # The timed call's own logits, for the token that the untimed step had.
                llama.tokens.zero_()
                found = timed.once() if launch == "graph" else llama.step(attention)
        except (RuntimeError, ValueError, AssertionError) as error:
            bench.skip(common.message(error), **fields)
            return
        error = common.relative_error(found, expected)
        if not error <= 0.05:
            raise SystemExit(
                f"{implementation} {operation}: expected the untimed step's logits within 0.05, "
                f"found a deviation of {error}"
            )
        bytes_moved = llama.step_bytes(
            llama.context, llama.page_size, budget, options.dense_layers
        )
        bench.emit(
            timed, bytes_moved, kind="decode", launch=launch, max_error=error,
            tokens_per_s=llama.batch * 1e6 / timed.fields["median_us"], **peak(bench), **fields,
        )


def peak(bench):
    return {"memory_reserved": torch.cuda.max_memory_reserved()} if bench.is_cuda else {}


def by_hand(bench, model, batch):
    options = bench.options
    wanted = {"flash", "cudnn", "math", "quest", "flashinfer"} & set(options.only)
    if not wanted:
        return
    llama = Llama(bench, model, batch)
    if bench.is_cuda and not options.eager:
        llama.compile_glue()
    for context in options.contexts:
        fields = dict(fields_of(bench, model, "pytorch", "all", context), batch=batch)
        needed = llama.weight_bytes() + llama.cache_bytes(context, options.page_size)
        if bench.is_late():
            bench.skip(f"{options.minutes} minutes are over", **fields)
            continue
        if needed * 1.05 > bench.memory_limit():
            bench.skip(f"expected {needed} bytes of memory, found {bench.memory_limit()}", **fields)
            continue
        if context % options.page_size:
            bench.skip("the context is not a multiple of the page size", **fields)
            continue
        common.say(f"{model}, batch {batch}, context {context}")
        llama.fill(context, options.page_size)
        for row in ("flash", "cudnn", "math"):
            if row in wanted:
                def backend(row=row):
                    return sdpa(row)

                measure(bench, llama, f"pytorch_{row}", "dense", llama.dense, timed_as=backend)
        if wanted & {"quest", "flashinfer"}:
            llama.digest()
        for budget in options.budgets:
            k = budget // options.page_size
            if "quest" not in wanted:
                continue
            if not 1 < k < llama.n_pages:
                bench.skip("the budget covers the context or is below two pages", **dict(fields, budget=budget))
                continue
            attention = llama.quest(k, options.dense_layers)
            measure(bench, llama, "pytorch_ops", "quest", attention, budget)
        if "flashinfer" in wanted:
            flashinfer(bench, llama)
        llama.release()
    del llama
    bench.free()


def flashinfer(bench, llama):
    """The same step; each KV head is a request over its own pages."""
    fields = dict(fields_of(bench, llama.name, "flashinfer", "dense", llama.context), batch=llama.batch)
    try:
        import flashinfer as fi
    except ImportError as error:
        bench.skip(f"FlashInfer is not installed: {error}", **fields)
        return
    lists = llama.batch * llama.kv

    def wrapper(n):
        base = torch.arange(lists, dtype=torch.int32, device="cuda")[:, None] * llama.n_pages
        indices = (torch.arange(n, dtype=torch.int32, device="cuda")[None] + base).flatten().contiguous()
        starts = torch.arange(0, (lists + 1) * n, n, dtype=torch.int32, device="cuda")
        last = torch.full((lists,), llama.page_size, dtype=torch.int32, device="cuda")
        made = fi.BatchDecodeWithPagedKVCacheWrapper(
            torch.zeros(256 << 20, dtype=torch.uint8, device="cuda"), "NHD", use_cuda_graph=True,
            paged_kv_indptr_buffer=starts.clone(), paged_kv_indices_buffer=indices.clone(),
            paged_kv_last_page_len_buffer=last.clone(),
        )
        made.plan(
            starts, indices, last, llama.group, 1, llama.d, llama.page_size,
            pos_encoding_mode="NONE", q_data_type=bench.dtype, kv_data_type=bench.dtype,
        )
        return made, base.long()

    def pages(cache):
        return cache.view(lists * llama.n_pages, llama.page_size, 1, llama.d)

    def run(made, layer, query):
        query = query.view(lists, llama.group, llama.d)
        out = made.run(query, (pages(llama.keys[layer]), pages(llama.values[layer])))
        return out.view(llama.batch, -1)

    try:
        every, _ = wrapper(llama.n_pages)

        def dense(layer, query, key):
            return run(every, layer, query)

        measure(bench, llama, "flashinfer", "dense", dense)
        for budget in bench.options.budgets:
            k = budget // llama.page_size
            if not 1 < k < llama.n_pages:
                continue
            chosen, base = wrapper(k)

            def quest(layer, query, key):
                if layer < bench.options.dense_layers:
                    return run(every, layer, query)
                selected = llama.select(layer, query, key, k).view(lists, k) + base
                chosen._paged_kv_indices_buf[: lists * k].copy_(selected.flatten())
                return run(chosen, layer, query)

            measure(bench, llama, "flashinfer", "quest", quest, budget)
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        bench.skip(common.message(error), **fields)


def transformers(bench, model, batch):
    """Hugging Face: eager with a static cache, and compiled."""
    fields = dict(fields_of(bench, model, "transformers", "dense", bench.options.contexts[0]), batch=batch)
    try:
        import transformers as hf
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    except ImportError as error:
        bench.skip(f"transformers is not installed: {error}", **fields)
        return
    s = SHAPES[model]
    sizes = dict(
        hidden_size=s["hidden"], intermediate_size=s["inter"], num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"], num_key_value_heads=s["kv"], vocab_size=s["vocab"], head_dim=s["d"],
        max_position_embeddings=max(bench.options.contexts), tie_word_embeddings=s["tied"], rms_norm_eps=1e-5,
    )
    try:
        try:
            config = hf.LlamaConfig(**sizes, rope_parameters=dict(rope_type="default", rope_theta=s["theta"]))
        except TypeError:
            config = hf.LlamaConfig(**sizes, rope_theta=s["theta"])
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            network = hf.LlamaForCausalLM(config)
        network = network.to(bench.dtype).to_empty(device=bench.device)
        for name, weight in network.named_parameters():
            weight.fill_(1.0) if "norm" in name else weight.normal_(0, 0.02)
        network.model.rotary_emb = LlamaRotaryEmbedding(config=config).to(bench.device)
        network.eval()
        network.tie_weights()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        bench.skip(common.message(error), **fields)
        return
    for context in bench.options.contexts:
        if bench.is_late():
            bench.skip(f"{bench.options.minutes} minutes are over", **dict(fields, context=context))
            continue
        for implementation, compiled in (("transformers_eager", False), ("transformers_compiled", True)):
            if compiled and not bench.is_cuda:
                continue
            now = dict(fields, context=context, implementation=implementation)
            try:
                timed = transformers_step(bench, hf, network, config, batch, context, compiled)
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                bench.skip(common.message(error), **now)
                continue
            launch = "graph" if compiled else "plain"
            speed = batch * 1e6 / timed.fields["median_us"]
            bench.emit(timed, kind="decode", launch=launch, tokens_per_s=speed, **peak(bench), **now)
            torch.compiler.reset()
            bench.free()


def transformers_step(bench, hf, network, config, batch, context, compiled, room=24):
    """Times steps at the positions just below the context."""
    cache = hf.StaticCache(config=config, max_cache_len=context)
    shape = (batch, config.num_key_value_heads, 1, config.head_dim)
    start = torch.zeros(shape, dtype=bench.dtype, device=bench.device)
    for layer in cache.layers:
        layer.lazy_initialization(start, start)
        layer.keys.normal_()
        layer.values.normal_()
    tokens = torch.zeros(batch, 1, dtype=torch.long, device=bench.device)
    forward = network.forward
    if compiled:
        forward = torch.compile(forward, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def rewind():
        for layer in cache.layers:
            layer.cumulative_length.fill_(context - room)

    def step():
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()
        return forward(input_ids=tokens, past_key_values=cache, use_cache=True).logits

    rewind()
    for _ in range(4):
        step()
    rounds = []
    for _ in range(bench.options.rounds):
        rewind()
        bench.sync()
        begin = time.perf_counter()
        for _ in range(room // 2):
            logits = step()
        bench.sync()
        rounds.append((time.perf_counter() - begin) / (room // 2) * 1e6)
    if not torch.isfinite(logits.float()).all():
        raise SystemExit("transformers: expected numbers as logits, found others")
    return common.Timed(rounds, [])


def llama_cpp(bench, model, batch):
    """`llama-bench` generates after a prompt of the context's length; it needs a GGUF file."""
    options = bench.options
    program = shutil.which("llama-bench")
    for context in options.contexts:
        fields = dict(fields_of(bench, model, "llama.cpp", "dense", context), batch=batch)
        if program is None or options.gguf is None or batch != 1:
            found = "no llama-bench" if program is None else "no --gguf file" if batch == 1 else f"batch {batch}"
            bench.skip(f"expected llama-bench, a --gguf file and batch 1, found {found}", **fields)
            continue
        if bench.is_late():
            bench.skip(f"{options.minutes} minutes are over", **fields)
            continue
        arguments = [program, "-m", options.gguf, "-p", "0", "-n", "32", "-d", str(context - 32), "-fa", "1"]
        text = common.command(arguments + ["-ngl", "99", "-r", str(options.rounds), "-o", "json"], 900)
        try:
            samples = json.loads(text or "")[-1]["samples_ns"]
        except (json.JSONDecodeError, KeyError, IndexError, TypeError):
            bench.skip(f"expected JSON with samples_ns of {program}, found {str(text)[:100]}", **fields)
            continue
        timed = common.Timed([ns / 32 / 1e3 for ns in samples], [])
        speed = 1e6 / timed.fields["median_us"]
        fields["weights"] = options.gguf.rsplit("/", 1)[-1]
        bench.emit(timed, kind="decode", launch="graph", tokens_per_s=speed, **fields)


def main():
    parser = common.arguments(__doc__.splitlines()[0], DEFAULT)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama2-7b")
    parser.add_argument("--dense-layers", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="no torch.compile of small functions")
    parser.add_argument("--gguf", default=None, help="the model's file for llama-bench")
    options = common.parse(parser, ROWS)
    bench = common.Bench(options)
    bench.bandwidth()
    for batch in options.batch:
        by_hand(bench, options.shape, batch)
        if "transformers" in options.only:
            transformers(bench, options.shape, batch)
        if "llama.cpp" in options.only:
            llama_cpp(bench, options.shape, batch)


if __name__ == "__main__":
    main()
