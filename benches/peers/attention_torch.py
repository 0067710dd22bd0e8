#!/usr/bin/env python3
"""Decode attention of one layer in PyTorch, for comparison with `quest bench attention`.

Rows: `flash` and `cudnn` are dense attention by SDPA's FlashAttention and cuDNN, `math` by its
plain operations; `quest` is Quest in plain PyTorch operations, by parts and as a whole;
`flashinfer`, where it is installed, is dense attention and attention over given pages.
"""

import common
from pytorch import F, sdpa, torch

ROWS = ["flash", "cudnn", "math", "quest", "flashinfer"]
DEFAULT = ["flash", "cudnn", "quest", "flashinfer"]


class Problem:
    """Caches in turn, each with a query."""

    def __init__(self, bench, batch, n_heads, n_kv_heads, head_dim, context, page_size, n_caches):
        self.batch, self.n_heads, self.n_kv_heads = batch, n_heads, n_kv_heads
        self.head_dim, self.context, self.page_size = head_dim, context, page_size
        self.group, self.n_pages = n_heads // n_kv_heads, context // page_size
        self.element = torch.empty((), dtype=bench.dtype).element_size()
        rows = (batch, n_kv_heads, context, head_dim)
        self.keys = [bench.normal(*rows) for _ in range(n_caches)]
        self.values = [bench.normal(*rows) for _ in range(n_caches)]
        self.queries = [bench.normal(batch, n_heads, 1, head_dim) for _ in range(n_caches)]
        self.digests = None

    def row_bytes(self):
        return self.batch * self.n_kv_heads * self.head_dim * self.element

    def query_bytes(self):
        return self.batch * self.n_heads * self.head_dim * self.element

    def pages(self, rows):
        shape = (self.batch, self.n_kv_heads, self.n_pages, self.page_size, self.head_dim)
        return rows.view(shape)

    def digest(self):
        """Maximum and minimum of each page's keys, next to each other."""
        self.digests = [
            torch.cat((self.pages(k).amax(3), self.pages(k).amin(3)), -1).contiguous()
            for k in self.keys
        ]

    # ---- operations

    def dense(self, i):
        return attend(self.queries[i], self.keys[i], self.values[i], self.group)

    def scores(self, i):
        query = self.queries[i]
        query = torch.cat((query.clamp(min=0), query.clamp(max=0)), -1)
        query = query.view(self.batch, self.n_kv_heads, self.group, 2 * self.head_dim)
        return (query @ self.digests[i].transpose(-1, -2)).amax(2)

    def top(self, scores, k):
        """The newest page is always in."""
        best = scores[..., :-1].topk(k - 1, -1, sorted=False).indices
        newest = torch.full_like(best[..., :1], self.n_pages - 1)
        return torch.cat((best, newest), -1)

    def over(self, i, pages):
        k = pages.shape[-1]
        index = pages[..., None, None].expand(*pages.shape, self.page_size, self.head_dim)
        rows = (self.batch, self.n_kv_heads, k * self.page_size, self.head_dim)
        keys = self.pages(self.keys[i]).gather(2, index).view(rows)
        values = self.pages(self.values[i]).gather(2, index).view(rows)
        return attend(self.queries[i], keys, values, self.group)

    # ---- what they should give, for the first KV head, in f32

    def expected(self, i, pages=None):
        query = self.queries[i][0, : self.group, 0].float()
        keys, values = self.keys[i][0, 0], self.values[i][0, 0]
        if pages is not None:
            at = pages[0, 0].sort().values
            keys = keys.view(self.n_pages, -1)[at].view(-1, self.head_dim)
            values = values.view(self.n_pages, -1)[at].view(-1, self.head_dim)
        weights = (query @ keys.float().T / self.head_dim**0.5).softmax(-1)
        return weights @ values.float()

    def expected_scores(self, i):
        query = self.queries[i][0, : self.group, 0].float()
        digest = self.digests[i][0, 0].float()
        highest, lowest = digest[:, : self.head_dim], digest[:, self.head_dim :]
        bounds = torch.maximum(query[:, None] * highest, query[:, None] * lowest).sum(-1)
        return bounds.amax(0)


def attend(query, keys, values, group):
    return F.scaled_dot_product_attention(query, keys, values, enable_gqa=group > 1)


def measure(bench, problem, implementation, operation, call, bytes_moved, expected, budget=None):
    """One operation in each kind of launch. `expected(i)` is compared with the first head."""
    fields = fields_of(bench, problem, implementation, operation, budget)
    rotation = max(2, min(common.MAX_ROTATION, -(-common.ROTATED_BYTES // max(bytes_moved, 1))))
    rotation = min(rotation, len(problem.keys))
    for launch in bench.options.launch:
        try:
            timed = (bench.graph if launch == "graph" else bench.plain)(call, rotation)
        except (RuntimeError, ValueError) as error:
            bench.skip(common.message(error), **fields)
            return
        if timed is None:
            continue
        worst = 0.0
        for i, output in timed.outputs:
            if not torch.isfinite(output.float()).all():
                raise SystemExit(f"{implementation} {operation}: expected numbers, found others")
            error = expected(i, output)
            if not error <= common.TOLERANCES[bench.options.dtype]:
                raise SystemExit(
                    f"{implementation} {operation}: expected the result in f32 within "
                    f"{common.TOLERANCES[bench.options.dtype]}, found a deviation of {error}"
                )
            worst = max(worst, error)
        fields_now = dict(fields, kind="attention", launch=launch, max_error=worst)
        bench.emit(timed, bytes_moved, rotated_bytes=bytes_moved * rotation, **fields_now)


def fields_of(bench, problem, implementation, operation, budget):
    fields = {
        "implementation": implementation,
        "operation": operation,
        "dtype": bench.options.dtype,
        "batch": problem.batch,
        "n_heads": problem.n_heads,
        "n_kv_heads": problem.n_kv_heads,
        "head_dim": problem.head_dim,
        "page_size": problem.page_size,
        "context": problem.context,
    }
    return fields if budget is None else dict(fields, budget=budget)


def first_head(problem, output):
    return output[0, : problem.group].reshape(problem.group, problem.head_dim)


def dense(bench, problem, row):
    row_bytes, query_bytes = problem.row_bytes(), problem.query_bytes()
    with sdpa(row):
        measure(
            bench,
            problem,
            f"pytorch_{row}",
            "dense_attention",
            problem.dense,
            2 * query_bytes + problem.context * 2 * row_bytes,
            lambda i, o: common.relative_error(first_head(problem, o), problem.expected(i)),
        )


def quest(bench, problem, budget):
    k = budget // problem.page_size
    row_bytes, query_bytes = problem.row_bytes(), problem.query_bytes()
    digest_bytes = problem.n_pages * 2 * row_bytes
    chosen_bytes = k * problem.page_size * 2 * row_bytes
    lists = problem.batch * problem.n_kv_heads
    score_bytes = lists * problem.n_pages * problem.element
    scores = [problem.scores(i) for i in range(len(problem.keys))]
    pages = [problem.top(s, k) for s in scores]

    def attention_error(i, output):
        return common.relative_error(first_head(problem, output), problem.expected(i, pages[i]))

    def scores_error(i, output):
        return common.relative_error(output[0, 0], problem.expected_scores(i))

    def pages_error(i, output):
        same = torch.equal(output.sort(-1).values, pages[i].sort(-1).values)
        return 0.0 if same else float("inf")

    def whole(i):
        return problem.over(i, problem.top(problem.scores(i), k))

    for operation, call, bytes_moved, error in (
        ("page_scores", problem.scores, query_bytes + digest_bytes + score_bytes, scores_error),
        ("top_pages", lambda i: problem.top(scores[i], k), score_bytes + lists * k * 8, pages_error),
        ("paged_attention", lambda i: problem.over(i, pages[i]), 2 * query_bytes + chosen_bytes, attention_error),
        ("top_k_attention", whole, 2 * query_bytes + digest_bytes + chosen_bytes, attention_error),
    ):
        measure(bench, problem, "pytorch_ops", operation, call, bytes_moved, error, budget)


def flashinfer(bench, problem):
    """Dense, and over given pages: each KV head is a request over its own pages."""
    try:
        import flashinfer as fi
    except ImportError as error:
        fields = fields_of(bench, problem, "flashinfer", "dense_attention", None)
        bench.skip(f"FlashInfer is not installed: {error}", **fields)
        return
    lists = problem.batch * problem.n_kv_heads
    row_bytes, query_bytes = problem.row_bytes(), problem.query_bytes()

    def wrapper(page_lists):
        n = page_lists.shape[1]
        workspace = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
        starts = torch.arange(0, (lists + 1) * n, n, dtype=torch.int32, device="cuda")
        last = torch.full((lists,), problem.page_size, dtype=torch.int32, device="cuda")
        made = fi.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_cuda_graph=True, paged_kv_indptr_buffer=starts.clone(),
            paged_kv_indices_buffer=page_lists.flatten().clone(), paged_kv_last_page_len_buffer=last.clone(),
        )
        made.plan(
            starts, page_lists.flatten(), last, problem.group, 1, problem.head_dim, problem.page_size,
            pos_encoding_mode="NONE", q_data_type=bench.dtype, kv_data_type=bench.dtype,
        )
        return made

    def runs(made):
        def run(i):
            shape = (lists * problem.n_pages, problem.page_size, 1, problem.head_dim)
            query = problem.queries[i].view(lists, problem.group, problem.head_dim)
            output = made.run(query, (problem.keys[i].view(shape), problem.values[i].view(shape)))
            return output.view(problem.batch, problem.n_heads, 1, problem.head_dim)

        return run

    base = torch.arange(lists, dtype=torch.int32, device="cuda")[:, None] * problem.n_pages
    every = torch.arange(problem.n_pages, dtype=torch.int32, device="cuda")[None] + base
    try:
        run = runs(wrapper(every))
        measure(
            bench, problem, "flashinfer", "dense_attention", run,
            2 * query_bytes + problem.context * 2 * row_bytes,
            lambda i, o: common.relative_error(first_head(problem, o), problem.expected(i)),
        )
        for budget in bench.options.budgets:
            k = budget // problem.page_size
            if k >= problem.n_pages:
                continue
            chosen = torch.stack([torch.randperm(problem.n_pages, device="cuda")[:k] for _ in range(lists)])
            pages = chosen.view(problem.batch, problem.n_kv_heads, k)
            run = runs(wrapper((chosen + base).int()))
            measure(
                bench, problem, "flashinfer", "paged_attention", run,
                2 * query_bytes + k * problem.page_size * 2 * row_bytes,
                lambda i, o: common.relative_error(first_head(problem, o), problem.expected(i, pages)),
                budget,
            )
    except (RuntimeError, ValueError, AssertionError) as error:
        bench.skip(common.message(error), **fields_of(bench, problem, "flashinfer", "dense_attention", None))


def main():
    parser = common.arguments(__doc__.splitlines()[0], DEFAULT)
    parser.add_argument("--heads", type=common.heads, default=[(32, 32), (32, 8)])
    parser.add_argument("--head-dim", type=common.sizes, default=[128])
    options = common.parse(parser, ROWS)
    bench = common.Bench(options)
    bench.bandwidth()
    for batch in options.batch:
        for n_heads, n_kv_heads in options.heads:
            for head_dim in options.head_dim:
                for context in options.contexts:
                    shape(bench, batch, n_heads, n_kv_heads, head_dim, context)


def shape(bench, batch, n_heads, n_kv_heads, head_dim, context):
    options = bench.options
    fields = dict(
        implementation="pytorch", operation="all", dtype=options.dtype, batch=batch, n_heads=n_heads,
        n_kv_heads=n_kv_heads, head_dim=head_dim, page_size=options.page_size, context=context,
    )
    if context % options.page_size:
        bench.skip("the context is not a multiple of the page size", **fields)
        return
    if bench.is_late():
        bench.skip(f"{options.minutes} minutes are over", **fields)
        return
    element = torch.empty((), dtype=bench.dtype).element_size()
    cache_bytes = 2 * batch * n_kv_heads * context * head_dim * element * (1 + 1 / options.page_size)
    limit = bench.memory_limit()
    if cache_bytes * 1.25 > limit:
        bench.skip(f"expected {cache_bytes:.0f} bytes of memory, found {limit}", **fields)
        return
    chosen = min(options.budgets) * 2 * batch * n_kv_heads * head_dim * element
    n_caches = max(2, min(common.MAX_ROTATION, int(common.ROTATED_BYTES // chosen) + 1))
    n_caches = max(1, min(n_caches, int(0.8 * limit / cache_bytes)))
    common.say(f"{fields}, {n_caches} caches")
    problem = Problem(
        bench, batch, n_heads, n_kv_heads, head_dim, context, options.page_size, n_caches
    )
    for row in ("flash", "cudnn", "math"):
        if row in options.only:
            dense(bench, problem, row)
    if "quest" in options.only:
        problem.digest()
        for budget in options.budgets:
            if 1 < budget // options.page_size < problem.n_pages:
                quest(bench, problem, budget)
            else:
                bench.skip("the budget covers the context or is below two pages", **dict(fields, budget=budget))
    if "flashinfer" in options.only:
        flashinfer(bench, problem)
    del problem
    bench.free()


if __name__ == "__main__":
    main()
