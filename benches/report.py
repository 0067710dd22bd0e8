#!/usr/bin/env python3
"""One Markdown report and its plots from the JSON lines of `quest bench` and the peers.

    python3 report.py --out DIR [--contexts N,..] [--budgets N,..] FILE.jsonl ...

Times are medians, with the quartiles in brackets. Ratios compare only what is in the files: pass
files of one run on one machine.
"""

import argparse
import json
import sys
from pathlib import Path

import svg

OURS = "quest-burn"
PARTS = ["page_scores", "top_pages", "paged_attention"]
WHOLE = ["three_operations", "top_k_attention"]
OPERATIONS = ["append", *PARTS, *WHOLE, "dense_attention"]
REQUIRED = {
    "attention": ["median_us", "q1_us", "q3_us", "n_heads", "n_kv_heads", "head_dim", "context",
                  "page_size", "batch", "launch", "dtype"],
    "decode": ["median_us", "q1_us", "q3_us", "model", "context", "batch", "launch", "weights"],
    "prefill": ["median_us", "model", "context", "batch", "chunk", "tokens_per_s"],
    "bandwidth": ["median_us", "gb_per_s"],
    "skipped": ["reason"],
    "failed": ["reason"],
}


class BadInput(Exception):
    """A file that is not what it should be."""


def read(paths):
    records = []
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: expected a readable file, found {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                records.append(parsed(line, f"{path}:{number}"))
    if not records:
        raise BadInput("expected at least one result, found none")
    return records


def numbers(text):
    """Of an option that lists them."""
    return [int(number) for number in text.split(",")]


def limited(records, contexts, budgets):
    """Those of the given contexts and budgets, and what has none."""
    limits = {"context": contexts, "budget": budgets}
    records = [
        r for r in records
        if all(not values or r.get(key) is None or r[key] in values for key, values in limits.items())
    ]
    if not records:
        raise BadInput("expected results of the contexts and budgets asked for, found none")
    return records


def parsed(line, where):
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: expected a JSON object, found {error}") from error
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {line[:40]}")
    kind = record.get("kind")
    if kind not in REQUIRED:
        raise BadInput(f"{where}: expected a kind among {', '.join(REQUIRED)}, found {kind}")
    missing = [f for f in ["implementation", "operation", *REQUIRED[kind]] if f not in record]
    if missing:
        raise BadInput(f"{where}: expected {', '.join(missing)}, found none")
    return record


# ---- tables


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def time_of(record, unit=1.0):
    if record is None:
        return "-"
    shown = [record[key] / unit for key in ("median_us", "q1_us", "q3_us")]
    digits = 1 if shown[0] >= 10 else 2
    median, low, high = (f"{value:.{digits}f}" for value in shown)
    return f"{median} ({low}-{high})"


def ratio(over, under):
    return "-" if over is None or not under else f"{over / under:.2f}x"


def least(records):
    """The fastest; nothing of none."""
    return min(records, key=lambda record: record["median_us"], default=None)


def us(record):
    return None if record is None else record["median_us"]


def floor_us(record):
    """The bytes of a result at the copy bandwidth of its own run."""
    share = record.get("copy_share") if record else None
    return record["median_us"] * share if share else None


def who(record):
    """The implementation, with its backend where it has several, and digests that are not whole."""
    name = record["implementation"]
    return f"{name}, {variant(record)}" if name == OURS else name


def variant(record):
    """Backend and form of the digests of a result of ours."""
    backend, digests = record.get("backend", "?"), record.get("digests", "full")
    return backend if digests == "full" else f"{backend}, {digests} digests"


def groups_of(records, keys):
    groups = {}
    for record in records:
        groups.setdefault(tuple(record.get(key) for key in keys), []).append(record)
    return groups


def ordered(values):
    return sorted(values, key=lambda value: (value is None, value))


def attention(records):
    """A table for each setting: columns are heads and contexts, rows operations."""
    rows_by_setting = groups_of(
        [r for r in records if r["kind"] == "attention"],
        ["device", "dtype", "batch", "head_dim", "page_size", "launch"],
    )
    out = []
    for setting, rows in rows_by_setting.items():
        device, dtype, batch, head_dim, page_size, launch = setting
        budgets = ordered({r["budget"] for r in rows if "budget" in r}) or [None]
        for budget in budgets:
            chosen = [r for r in rows if r.get("budget") in (None, budget)]
            columns = sorted(
                {(r["n_heads"], r["n_kv_heads"], r["context"]) for r in chosen},
                key=lambda c: (-c[1], -c[0], c[2]),
            )
            title = f"### {device}, {dtype}, batch {batch}, head dim {head_dim}, page {page_size}"
            title += f", budget {budget}" if budget else ""
            out += [f"{title}, {launch}\n", attention_table(chosen, columns)]
    return ["## Decode attention of one layer, microseconds\n", *out] if out else []


def attention_table(rows, columns):
    def at(column, **fields):
        query, kv, context = column
        fields.update(n_heads=query, n_kv_heads=kv, context=context)
        return [r for r in rows if all(r.get(key) == value for key, value in fields.items())]

    header = ["", *(f"{q}:{kv} heads, {svg.tokens(c)}" for q, kv, c in columns)]
    names = sorted({who(r) for r in rows}, key=lambda name: (not name.startswith(OURS), name))
    body = []
    for name in names:
        for operation in OPERATIONS:
            cells = [
                least([r for r in at(c, operation=operation) if who(r) == name]) for c in columns
            ]
            if any(cells):
                body.append([f"{name}: {operation}", *map(time_of, cells)])

    def whole(column, backend):
        found = [r for name in WHOLE for r in at(column, operation=name, implementation=OURS)]
        return least([r for r in found if variant(r) == backend])

    def peers(column, operations):
        found = [r for name in operations for r in at(column, operation=name)]
        return least([r for r in found if r["implementation"] != OURS])

    backends = ordered({variant(r) for r in rows if r["implementation"] == OURS})
    for backend in backends:
        quest = [whole(c, backend) for c in columns]
        dense = [
            least([
                r for r in at(c, operation="dense_attention", implementation=OURS)
                if variant(r) == backend
            ])
            for c in columns
        ]
        best_dense = [peers(c, ["dense_attention"]) for c in columns]
        best_quest = [peers(c, WHOLE) for c in columns]
        floors = [floor_us(q) for q in quest]
        for label, over, under in (
            ("best dense peer / our Quest", map(us, best_dense), map(us, quest)),
            ("best Quest peer / our Quest", map(us, best_quest), map(us, quest)),
            ("our dense / our Quest", map(us, dense), map(us, quest)),
            ("our dense / best dense peer", map(us, dense), map(us, best_dense)),
            ("our Quest / byte floor", map(us, quest), floors),
            ("our dense / byte floor", map(us, dense), map(floor_us, dense)),
        ):
            cells = [ratio(o, u) for o, u in zip(over, under)]
            if any(cell != "-" for cell in cells):
                body.append([f"*{backend}: {label}*", *cells])
        shown = ["-" if f is None else f"{f:.2f}" for f in floors]
        if any(f is not None for f in floors):
            body.append([f"*{backend}: byte floor of Quest*", *shown])
    if "cuda" in backends:
        for backend in backends:
            if backend.startswith("cuda"):
                continue
            cells = [ratio(us(whole(c, backend)), us(whole(c, "cuda"))) for c in columns]
            if any(cell != "-" for cell in cells):
                body.append([f"*our Quest, {backend} / cuda*", *cells])
    return table(header, body)


def decode(records):
    out = []
    settings = groups_of(
        [r for r in records if r["kind"] == "decode"], ["device", "model", "weights", "batch"]
    )
    for (device, model, weights, batch), rows in settings.items():
        contexts = sorted({r["context"] for r in rows})
        lines = groups_of(rows, ["implementation", "backend", "digests", "operation", "budget", "launch"])

        def cell(line, context):
            return least([r for r in line if r["context"] == context])

        body = [
            [label_of(line[0]), *(time_of(cell(line, c), 1e3) for c in contexts)]
            for line in lines.values()
        ]
        mine = [line for line in lines.values() if line[0]["implementation"] == OURS]
        theirs = [r for r in rows if r["implementation"] != OURS]
        for line in mine:
            first = line[0]
            here = [cell(line, c) for c in contexts]
            dense = [
                least([
                    r for r in rows
                    if r["context"] == c and r["operation"] == "dense"
                    and who(r) == who(first) and r["launch"] == first["launch"]
                ])
                for c in contexts
            ]
            peer = [least([r for r in theirs if r["context"] == c]) for c in contexts]
            for label, over, under in (
                ("our dense", map(us, dense) if first["operation"] != "dense" else [], map(us, here)),
                ("best peer", map(us, peer), map(us, here)),
            ):
                cells = [ratio(o, u) for o, u in zip(over, under)]
                if any(c != "-" for c in cells):
                    body.append([f"*{label} / {label_of(first)}*", *cells])
            cells = [ratio(us(r), floor_us(r)) for r in here]
            if any(c != "-" for c in cells):
                body.append([f"*{label_of(first)} / byte floor*", *cells])
        header = ["", *(svg.tokens(c) for c in contexts)]
        out += [f"### {model}, {weights}, batch {batch}, {device}\n", table(header, body)]
    return ["## A decode step of a whole model, milliseconds\n", *out] if out else []


def label_of(record):
    label = f"{who(record)}: {record['operation']}"
    if "budget" in record:
        label += f" {record['budget']}"
    return f"{label}, {record['launch']}"


def prefill(records):
    rows = [r for r in records if r["kind"] == "prefill"]
    if not rows:
        return []
    body = [
        [who(r), r["model"], str(r["batch"]), svg.tokens(r["context"]), str(r["chunk"]),
         svg.tokens(r["budget"]) if "budget" in r else "-",
         f"{r['tokens_per_s']:.0f}", f"{r['median_us'] / 1e3:.1f}"]
        for r in rows
    ]
    header = ["", "model", "batch", "prompt", "chunk", "budget", "tokens/s", "ms"]
    return ["## Prefill\n", table(header, body)]


def sources(records):
    """What was measured where, and what the memory gave."""
    keys = ["implementation", "version", "commit", "backend", "device", "driver", "date"]
    measured = [r for r in records if r["kind"] != "bandwidth"]
    rows = []
    for values in dict.fromkeys(tuple(r.get(key) for key in keys) for r in measured):
        rows.append([str(value or "-") for value in values])
    bandwidth = [
        [who(r), r["operation"], f"{r['gb_per_s']:.0f}"] for r in records if r["kind"] == "bandwidth"
    ]
    out = ["## Sources\n", table(keys, rows)] if rows else []
    if bandwidth:
        out += ["## Memory bandwidth\n", table(["", "what", "GB/s"], bandwidth)]
    return out


def skipped(records):
    counts = {}
    for record in records:
        if record["kind"] in ("skipped", "failed"):
            key = (who(record), record["operation"], record["kind"], record["reason"])
            counts[key] = counts.get(key, 0) + 1
    if not counts:
        return []
    rows = [[*key, str(count)] for key, count in counts.items()]
    return ["## Not measured\n", table(["", "what", "", "why", "rows"], rows)]


# ---- plots


def plots(records):
    """SVG texts by file name."""
    out = {}
    settings = groups_of(
        [r for r in records if r["kind"] == "attention"],
        ["device", "backend", "dtype", "batch", "head_dim", "page_size", "n_heads", "n_kv_heads",
         "digests"],
    )
    # Peers belong to every backend of ours on the same device.
    peers = [r for r in records if r["kind"] == "attention" and r["implementation"] != OURS]
    for setting, rows in settings.items():
        rows = [r for r in rows if r["implementation"] == OURS]
        if not rows:
            continue
        device, backend, dtype, batch, head_dim, page_size, n_heads, n_kv_heads, digests = setting
        same = dict(device=device, dtype=dtype, batch=batch, head_dim=head_dim,
                    page_size=page_size, n_heads=n_heads, n_kv_heads=n_kv_heads)
        rows += [r for r in peers if all(r.get(k) == v for k, v in same.items())]
        launch = "graph" if any(r["launch"] == "graph" for r in rows) else "plain"
        rows = [r for r in rows if r["launch"] == launch]
        name = f"{backend}-{dtype}-b{batch}-h{n_heads}x{n_kv_heads}-d{head_dim}-p{page_size}"
        if digests not in (None, "full"):
            name += f"-{digests}"
        out[f"kernels-{name}.svg"] = kernels_plot(rows)
        out[f"breakdown-{name}.svg"] = breakdown_plot(
            rows, f"{n_heads}:{n_kv_heads} heads, {variant(rows[0])}"
        )
    steps = groups_of(
        [r for r in records if r["kind"] == "decode"], ["device", "model", "weights", "batch"]
    )
    for (_, model, weights, batch), rows in steps.items():
        lines = {}
        for record in rows:
            point = (record["context"], record["median_us"] / 1e3)
            lines.setdefault(label_of(record), []).append(point)
        title = f"{model}, {weights}, batch {batch}"
        chart = svg.line_charts([(title, lines)], "milliseconds per token")
        out[f"decode-{Path(model).name}-{weights}-b{batch}.svg"] = chart
    return {name: text for name, text in out.items() if text}


def kernels_plot(rows):
    """As the paper's figure 8: estimation, top-k, attention over the chosen pages against dense."""
    def lines(operations, by_budget):
        found = {}
        for record in rows:
            if record["operation"] in operations:
                label = f"{who(record)}: {record['operation']}"
                if by_budget and "budget" in record:
                    label += f" {record['budget']}"
                points = found.setdefault(label, {})
                now = points.get(record["context"], record["median_us"])
                points[record["context"]] = min(now, record["median_us"])
        return {label: list(points.items()) for label, points in found.items()}

    panels = [
        ("page scores", lines(["page_scores"], False)),
        ("top pages", lines(["top_pages"], True)),
        ("attention", lines(["paged_attention", "dense_attention"], True)),
    ]
    return svg.line_charts(panels, "microseconds")


def breakdown_plot(rows, title):
    """As the paper's figure 9: the parts of Quest for each budget beside dense attention."""
    ours = [r for r in rows if r["implementation"] == OURS]
    groups = []
    for context in sorted({r["context"] for r in rows}):
        here = [r for r in rows if r["context"] == context]
        bars = []
        dense = least([r for r in here if r["operation"] == "dense_attention" and r in ours])
        peer = least([r for r in here if r["operation"] == "dense_attention" and r not in ours])
        if dense:
            bars.append(("dense", {"dense attention, ours": dense["median_us"]}))
        if peer:
            bars.append(("peer", {"dense attention, best peer": peer["median_us"]}))
        for budget in ordered({r["budget"] for r in here if "budget" in r and r in ours}):
            parts = {}
            for part in PARTS:
                found = [r for r in here if r in ours and r["operation"] == part]
                found = least([r for r in found if r.get("budget") in (None, budget)])
                if found:
                    parts[part.replace("_", " ")] = found["median_us"]
            if len(parts) == len(PARTS):
                bars.append((str(budget), parts))
        groups.append((svg.tokens(context), bars))
    return svg.stacked_bars(title, groups, "microseconds")


def report(records):
    parts = ["# Benchmarks\n", *sources(records), *attention(records), *decode(records)]
    return "\n".join(parts + prefill(records) + skipped(records))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="JSON lines")
    parser.add_argument("--out", default="bench-results", help="folder of the report and plots")
    parser.add_argument("--contexts", type=numbers, help="only these, such as 8192,32768")
    parser.add_argument("--budgets", type=numbers, help="only these")
    options = parser.parse_args(arguments)
    try:
        records = limited(read(options.files), options.contexts, options.budgets)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    charts = plots(records)
    text = report(records)
    if charts:
        text += "\n## Plots\n\n" + "\n".join(f"![{name}]({name})" for name in sorted(charts)) + "\n"
    for name, content in {"report.md": text, **charts}.items():
        (out / name).write_text(content, encoding="utf-8")
        print(out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
