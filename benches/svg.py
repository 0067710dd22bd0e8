"""Small charts as SVG text: lines over a logarithmic axis, and stacked bars."""

from html import escape
from math import log10, floor, log2

# The palette of `report/src/plot/style.rs`.
COLORS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#787878", "#e69f00", "#56b4e9"]
FONT = 'font-family="sans-serif" font-size="12"'
LEFT, TOP, BOTTOM, LEGEND_ROW = 64, 36, 48, 18


def text(x, y, content, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {FONT} {extra}>{escape(content)}</text>'


def line(points, color, dash=""):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'


def tokens(n):
    return f"{n // 1024}K" if n % 1024 == 0 else str(n)


def document(width, height, parts):
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n<rect width="100%" height="100%" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def ticks(least, most):
    """1, 2 and 5 times powers of ten within the bounds."""
    exponents = range(floor(log10(least)), floor(log10(most)) + 1)
    all_ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    return [tick for tick in all_ticks if least <= tick <= most]


def frame(x, y, width, height, title, x_label, y_label):
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="#888"/>',
        text(x + width / 2, y - 12, title, extra='font-weight="bold"'),
        text(x + width / 2, y + height + 38, x_label),
        f'<g transform="translate({x - 48},{y + height / 2}) rotate(-90)">{text(0, 0, y_label)}</g>',
    ]


def legend(x, y, labels):
    parts = []
    for row, (label, color) in enumerate(labels):
        at = y + row * LEGEND_ROW
        parts.append(f'<rect x="{x}" y="{at - 9}" width="14" height="10" fill="{color}"/>')
        parts.append(text(x + 20, at, label, anchor="start"))
    return parts


def line_legend(x, y, labels):
    """As `legend`, of lines: those of one colour differ in their dashes."""
    parts = []
    for row, (label, color, dash) in enumerate(labels):
        at = y + row * LEGEND_ROW
        parts.append(line([(x, at - 4), (x + 26, at - 4)], color, dash))
        parts.append(text(x + 32, at, label, anchor="start"))
    return parts


def line_charts(panels, y_label):
    """Panels next to each other: `(title, {label: [(context, value)]})`, both axes logarithmic."""
    panels = [(title, {k: sorted(v) for k, v in lines.items() if v}) for title, lines in panels]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        return None
    labels = list(dict.fromkeys(label for _, lines in panels for label in lines))
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    dashes = {label: "" if i < len(COLORS) else "5 3" for i, label in enumerate(labels)}
    width, height = 320, 280
    total = (width + LEFT + 24) * len(panels)
    bottom = TOP + height + BOTTOM + 16
    parts = []
    for index, (title, lines) in enumerate(panels):
        x0 = LEFT + index * (width + LEFT + 24)
        values = [v for points in lines.values() for _, v in points]
        contexts = sorted({c for points in lines.values() for c, _ in points})
        low, high = min(values) * 0.8, max(values) * 1.25
        left, right = log2(contexts[0]) - 0.3, log2(contexts[-1]) + 0.3

        def place(context, value):
            x = x0 + (log2(context) - left) / (right - left) * width
            y = TOP + height - (log10(value) - log10(low)) / (log10(high) - log10(low)) * height
            return x, y

        parts += frame(x0, TOP, width, height, title, "tokens of context", y_label)
        for tick in ticks(low, high):
            _, y = place(contexts[0], tick)
            parts.append(f'<path d="M{x0} {y:.1f}h{width}" stroke="#ddd"/>')
            parts.append(text(x0 - 6, y + 4, f"{tick:g}", anchor="end"))
        for context in contexts:
            x, _ = place(context, low)
            parts.append(text(x, TOP + height + 18, tokens(context)))
        for label, points in lines.items():
            placed = [place(*point) for point in points]
            parts.append(line(placed, colors[label], dashes[label]))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colors[label]}"/>' for x, y in placed]
    parts += line_legend(LEFT, bottom + 6, [(label, colors[label], dashes[label]) for label in labels])
    return document(total, bottom + len(labels) * LEGEND_ROW + 12, parts)


def stacked_bars(title, groups, y_label):
    """Groups of bars: `(group, [(bar, {part: value})])`."""
    groups = [(name, [bar for bar in bars if bar[1]]) for name, bars in groups]
    groups = [(name, bars) for name, bars in groups if bars]
    if not groups:
        return None
    labels = list(dict.fromkeys(p for _, bars in groups for _, stack in bars for p in stack))
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    bar_width, gap, height = 52, 28, 300
    width = sum(len(bars) * bar_width + gap for _, bars in groups) + gap
    highest = max(sum(stack.values()) for _, bars in groups for _, stack in bars) * 1.1
    step = next(t for t in ticks(highest / 20, highest) if highest / t <= 10)
    parts = frame(LEFT, TOP, width, height, title, "", y_label)

    def y_of(value):
        return TOP + height - value / highest * height

    for i in range(int(highest / step) + 1):
        y = y_of(i * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, f"{i * step:g}", anchor="end"))
    x = LEFT + gap
    for name, bars in groups:
        parts.append(text(x + len(bars) * bar_width / 2, TOP + height + 36, name))
        for bar, stack in bars:
            value = 0.0
            for part, size in stack.items():
                top = y_of(value + size)
                parts.append(
                    f'<rect x="{x + 4}" y="{top:.1f}" width="{bar_width - 8}" '
                    f'height="{y_of(value) - top:.1f}" fill="{colors[part]}"/>'
                )
                value += size
            parts.append(text(x + bar_width / 2, y_of(value) - 4, f"{value:.1f}"))
            parts.append(text(x + bar_width / 2, TOP + height + 18, bar))
            x += bar_width
        x += gap
    bottom = TOP + height + BOTTOM + 16
    parts += legend(LEFT, bottom, [(label, colors[label]) for label in labels])
    return document(LEFT + width + 24, bottom + len(labels) * LEGEND_ROW + 8, parts)
