"""Tables, as Markdown on stdout, bars, and evidence.jsonl of what evidence.sh has measured.

usage: evidence.py FOLDER|JSONL..

Folders hold journals, so that runs that were cut count with the rows that they have; a JSONL file is one that this
script wrote. Of what several of them have, the last one counts. Files go to the last folder.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path


def parsed(line):
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # The last line of a run that was cut.


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def measured(name, run, rows):
    """The rows of one run's journal as records that say what was measured."""
    settings = run["settings"]
    common = {
        "experiment": run["experiment"],
        "run": name,
        "model": run["model"]["name"],
        "device": run["device"],
        "dtype": run["dtype"],
        "seed": run["seed"],
        "commit": run["build"]["commit"],
        "digest": run["digest"],
        "stored": run["digests"],
        "page_size": settings.get("page_size", 16),
        "text": Path(settings.get("text") or "ids").stem,
    }
    common |= {key: settings["quest"][key] for key in ("dense_layers", "sink_pages", "recent_pages")}
    answers = defaultdict(list)
    for row in rows:
        what = common | {"policy": row["policy"], "budget": row["asked_budget"]}
        if run["experiment"] == "passkey":
            answers[row["policy"], row["length"], row["asked_budget"]].append(row["correct"])
        elif run["experiment"] == "recall":
            layers = [layer for layer in row["layers"] if layer]
            shares = {key: round(mean(layer[key] for layer in layers), 6) for key in ("recall", "mass", "read")}
            yield what | {"length": settings["length"], "steps": settings["steps"]} | shares
        else:
            yield what | {key: row[key] for key in ("tokens", "mean_nll")}
    for (policy, length, budget), correct in answers.items():
        what = common | {"policy": policy, "budget": budget, "length": length, "keys": settings["keys"]}
        del what["text"]
        yield what | {"answers": len(correct), "correct": sum(correct)}


def records(paths):
    for path in map(Path, paths):
        if path.is_file():
            yield from map(json.loads, path.read_text().splitlines())
        for journal in sorted(path.glob("*.journal")):
            run, *rows = filter(None, map(parsed, journal.read_text().splitlines()))
            yield from measured(journal.stem, run, rows)


def budget_order(budget):
    """Numbers of tokens, the least first, and shares, the largest first."""
    return budget.startswith("1/"), int(budget.split("/")[-1])


def line(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(cells):
    line(cells)
    line(["---"] * len(cells))


class Table:
    """A row for each digest with its group rule or factor, and one for each control."""

    RULES = ("", "group=max", "group=mean")

    def __init__(self):
        self.cells = defaultdict(dict)
        self.columns = set()

    def put(self, record, text):
        name, _, options = record["policy"].partition(":")
        label = (record["digest"], record["stored"], record["page_size"], options)
        if name in ("dense", "oracle"):
            label = (name, "", "", options)  # Neither knows digests.
        column = record.get("length", 0), record["budget"]
        self.cells[label][column] = text
        if record["budget"]:
            self.columns.add(column)

    def print(self, title):
        columns = sorted(self.columns, key=lambda column: (column[0], budget_order(column[1])))
        if not columns:
            return
        print(f"\n{title}\n")
        several = len({length for length, _ in columns}) > 1
        head(["digest", "stored", "pages of", "scores"] + [f"{n}: {b}" if several else b for n, b in columns])
        for label in sorted(self.cells, key=lambda label: [str(part) for part in label]):
            row = self.cells[label]
            # Dense attention has no budget.
            line(list(label) + [row.get(column, row.get((column[0], None), "")) for column in columns])


    def bars(self, path, title):
        """Bars of the first budget's numbers, by digest and group rule."""
        columns = sorted(self.columns, key=lambda column: (column[0], budget_order(column[1])))
        values = {}
        for (digest, stored, page_size, rule), row in self.cells.items():
            value = row.get(columns[0], row.get((columns[0][0], None)))
            if value and rule in self.RULES and stored in ("", "full"):
                pages = f" / {page_size}" if page_size else ""
                values[f"{digest}{pages}, {rule.removeprefix('group=')}".removesuffix(", ")] = float(value)
        if len(values) > 1:
            bars(path, f"{title}, {columns[0][1]} tokens read", values, ("mean", "min-max"))


def digests(all_records):
    needles, recall, likelihood = Table(), defaultdict(Table), defaultdict(Table)
    for r in all_records:
        if r["experiment"] == "passkey":
            needles.put(r, f"{r['correct']} of {r['answers']}")
        elif r["experiment"] == "recall":
            recall[r["text"]].put(r, f"{r['recall']:.3f}")
        elif r["run"].startswith("perplexity"):
            likelihood[r["text"]].put(r, f"{r['mean_nll']:.4f}")
    needles.print("Needles found")
    for text, table in recall.items():
        table.print(f"Recall of the ten tokens with the most attention, {text}")
    for text, table in likelihood.items():
        table.print(f"Mean negative log-likelihood, {text}")
    return likelihood


def by_budget(all_records, prefix, title):
    """Likelihoods by policy and budget of the runs with a name of this kind."""
    table = defaultdict(dict)
    for r in all_records:
        if r["run"].startswith(prefix):
            layers = r["run"].removeprefix(prefix) + " dense layers, " if prefix == "dense-layers-" else ""
            table[r["text"], layers + r["policy"]][r["budget"] or ""] = r["mean_nll"]
    if not table:
        return {}
    budgets = sorted({b for row in table.values() for b in row if b}, key=budget_order)
    print()
    head(["text", title] + [f"NLL at {b}" for b in budgets])
    for label in sorted(table, key=lambda label: (label[0], min(table[label].values()))):
        values = [table[label].get(b, table[label].get("")) for b in budgets]
        line(list(label) + ["" if v is None else f"{v:.4f}" for v in values])
    return table


def bars(path, title, values, marked=("quest",)):
    """Bars of numbers, the least first, as an SVG; those with names that begin so are in colour."""
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
        fill = "#2a6fbb" if name.startswith(marked) else "#9aa5b1"
        out.append(f'<text x="200" y="{y + 13}" text-anchor="end">{name}</text>')
        out.append(f'<rect x="208" y="{y}" width="{length:.1f}" height="18" fill="{fill}"/>')
        out.append(f'<text x="{214 + length:.1f}" y="{y + 13}">{number:.4f}</text>')
    Path(path).write_text("\n".join(out + ["</svg>\n"]))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    all_records = list(records(sys.argv[1:]))
    if not all_records:
        sys.exit(f"expected journals of evidence.sh with rows, found none in {', '.join(sys.argv[1:])}")
    likelihood = digests(all_records)
    by_budget(all_records, "dense-layers-", "dense layers")
    policies = by_budget(all_records, "policy-", "policy")
    out = Path(sys.argv[-1])
    if out.is_file():
        return
    for text, table in likelihood.items():
        table.bars(out / f"digests-{text}.svg", f"Mean NLL of {text}")
    (out / "evidence.jsonl").write_text("".join(json.dumps(r) + "\n" for r in all_records))
    for text in {text for text, _ in policies}:
        of_text = {policy: row for (name, policy), row in policies.items() if name == text}
        for budget in {b for row in of_text.values() for b in row if b}:
            values = {p: row.get(budget, row.get("")) for p, row in of_text.items()}
            values = {p: v for p, v in values.items() if v}
            bars(out / f"policies-{text}-{budget}.svg", f"Mean NLL, {budget} tokens read", values)


if __name__ == "__main__":
    main()
