"""Tables, as Markdown on stdout, and bars of what evidence.sh has measured."""

import json
import sys
from collections import defaultdict
from pathlib import Path


def results(folder):
    for path in sorted(Path(folder).glob("*.json")):
        result = json.loads(path.read_text())
        yield path.stem, result["run"], result["rows"]


def value(rows, policy, budget, of):
    found = [of(r) for r in rows if r["policy"] == policy and r.get("asked_budget") == budget]
    return found[0] if found else None


def cell(number, digits):
    """A number of digits; none of them for a share, in percent."""
    if number is None:
        return ""
    return f"{number:.{digits}f}" if digits else f"{100 * number:.0f} %"


def line(cells):
    print("| " + " | ".join(str(c) for c in cells) + " |")


def head(cells):
    line(cells)
    line(["---"] * len(cells))


def budgets_of(rows):
    found = {r["asked_budget"] for r in rows if r.get("asked_budget")}
    return sorted(found, key=lambda b: (b.startswith("1/"), int(b.split("/")[-1])))


def digests(folder):
    by_kind = defaultdict(dict)
    for name, run, rows in results(folder):
        experiment = name.split("-")[0]
        if experiment in ("perplexity", "recall", "needles"):
            pages = run["settings"].get("page_size", 16)
            by_kind[(run["digest"], run["digests"], pages)].setdefault(experiment, []).extend(rows)
    if not by_kind:
        return
    rows = {e: next(iter(k[e] for k in by_kind.values() if e in k), []) for e in ("perplexity", "recall", "needles")}
    columns = [("perplexity", b, "NLL", 4, lambda r: r["mean_nll"]) for b in budgets_of(rows["perplexity"])]
    columns += [("recall", b, "recall", 3, lambda r: r["recall"]) for b in budgets_of(rows["recall"])]
    for length in sorted({r["length"] for r in rows["needles"]}):
        columns += [("needles", b, f"needles in {length}", 0, length) for b in budgets_of(rows["needles"])]
    head(["digest", "stored", "pages of", "scores"] + [f"{what} at {b}" for _, b, what, _, _ in columns])

    def found(kind, experiment, policy, budget, of):
        rows = by_kind[kind].get(experiment, [])
        if experiment == "needles":
            mine = [r for r in rows if (r["policy"], r["asked_budget"], r["length"]) == (policy, budget, of)]
            return sum(r["correct"] for r in mine) / sum(r["trials"] for r in mine) if mine else None
        rows = [r for r in rows if r.get("layer") is None]
        return value(rows, policy, budget, of)

    lines = []
    for kind in by_kind:
        policies = {r["policy"] for e in by_kind[kind].values() for r in e} - {"dense"}
        for policy in sorted(policies):
            cells = [found(kind, e, policy, b, of) for e, b, _, _, of in columns]
            text = [cell(c, digits) for c, (_, _, _, digits, _) in zip(cells, columns)]
            name, _, options = policy.partition(":")
            label = ["oracle", "", kind[2]] if name == "oracle" else list(kind)
            lines.append(label + [options or "default"] + text)
    for cells in sorted(lines, key=lambda cells: [str(cell) for cell in cells]):
        line(cells)
    dense = [r for k in by_kind.values() for r in k.get("perplexity", []) if r["policy"] == "dense"]
    needles = [r for k in by_kind.values() for r in k.get("needles", []) if r["policy"] == "dense"]
    if dense:
        print(f"\nDense attention: NLL {dense[0]['mean_nll']:.4f}", end="")
        print(f", needles {sum(r['correct'] for r in needles)} of {sum(r['trials'] for r in needles)}.\n")


def by_budget(folder, prefix, title):
    table = defaultdict(dict)
    for name, run, rows in results(folder):
        if not name.startswith(prefix):
            continue
        for row in rows:
            label = row["policy"]
            if prefix == "dense-layers-":
                label = f"{name.removeprefix(prefix)} dense layers, {label}"
            table[label][row.get("asked_budget") or ""] = row["mean_nll"]
    if not table:
        return {}
    budgets = budgets_of([{"asked_budget": b} for r in table.values() for b in r if b])
    head([title] + [f"NLL at {b}" for b in budgets])
    order = sorted(table, key=lambda label: min(table[label].values()))
    for label in order:
        every = table[label].get("")
        line([label] + [cell(table[label].get(b, every), 4) for b in budgets])
    print()
    return {label: table[label] for label in order}


def bars(path, title, values):
    """Bars of numbers, the least first, as an SVG."""
    low, high = min(values.values()), max(values.values())
    low -= 0.1 * (high - low or 1.0)
    width, row = 720, 26
    height = 60 + row * len(values)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="12" y="26" font-size="15">{title}</text>',
    ]
    for i, (name, number) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        y, length = 46 + row * i, 400 * (number - low) / (high - low or 1.0)
        fill = "#2a6fbb" if name.startswith("quest") else "#9aa5b1"
        out.append(f'<text x="200" y="{y + 13}" text-anchor="end">{name}</text>')
        out.append(f'<rect x="208" y="{y}" width="{length:.1f}" height="18" fill="{fill}"/>')
        out.append(f'<text x="{214 + length:.1f}" y="{y + 13}">{number:.4f}</text>')
    Path(path).write_text("\n".join(out + ["</svg>\n"]))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: evidence.py FOLDER")
    folder = Path(sys.argv[1])
    digests(folder)
    by_budget(folder, "dense-layers-", "dense layers")
    policies = by_budget(folder, "policy-", "policy")
    budgets = {b for row in policies.values() for b in row if b}
    for budget in budgets:
        values = {p: row.get(budget, row.get("")) for p, row in policies.items()}
        bars(folder / f"policies-{budget}.svg", f"Mean NLL, {budget} tokens read", {p: v for p, v in values.items() if v})


if __name__ == "__main__":
    main()
