"""Pieces of a self-contained HTML page: type, colours for light and dark, bars and curves in SVG.

Nothing here comes from a network, and every text that is put in is escaped.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

_COLORS = 8  # --run0 to --run7
_MOST_POINTS = 1000

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfcfa; --ink: #1d1c1a; --soft: #6b6760; --line: #dedad2; --box: #f4f1eb;
  --accent: #1f6f8b; --second: #b0aa9f; --third: #c98a3d;
  --run0: #1f6f8b; --run1: #c2571a; --run2: #3f8f4f; --run3: #8a4fa3; --run4: #b8860b;
  --run5: #c23b6b; --run6: #4f5fb8; --run7: #6b6760;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171614; --ink: #ece8e1; --soft: #a29c91; --line: #38352f; --box: #211f1c;
    --accent: #5cb4d3; --second: #7a746a; --third: #dda35c;
    --run0: #5cb4d3; --run1: #f08a4b; --run2: #6fc47f; --run3: #c08ad8; --run4: #e0bb4c;
    --run5: #ee7ba3; --run6: #98a4f0; --run7: #a29c91;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.4rem 1.5rem 5rem; }
h1 {
  font-size: 1.62rem; line-height: 1.32; font-weight: 600; margin: 0 0 .7rem; text-wrap: pretty;
}
h2 { font-size: 1.18rem; font-weight: 600; margin: 2.6rem 0 .7rem; }
p { max-width: 44rem; margin: .6rem 0; }
.kicker, .note, figcaption, th, .label, small { color: var(--soft); }
.kicker {
  font: 600 .78rem/1.4 var(--sans); letter-spacing: .07em; text-transform: uppercase;
  margin: 0 0 .8rem;
}
.note, figcaption { font-size: .9rem; }
:root { --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
        --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.2rem 2.6rem;
}
figure { margin: 1rem 0 0; max-width: 46rem; }
svg { display: block; width: 100%; height: auto; font-family: var(--sans); }
svg text { fill: var(--ink); } svg .label { fill: var(--soft); }
svg.swatch { display: inline-block; width: 1.9em; height: .6em; margin-right: .3em; }
.legend {
  position: sticky; top: 0; max-width: none; padding: .4rem 0; background: var(--paper);
  display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font: .86rem/1.5 var(--sans);
}
.grid { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th { text-align: left; font: 600 .78rem/1.4 var(--sans); padding: .35rem .9rem .35rem 0; }
td { padding: .5rem .9rem .5rem 0; border-top: 1px solid var(--line); vertical-align: top; }
th.number, td.number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.words { font-family: var(--sans); font-size: .86rem; line-height: 1.5; }
.words b { font-weight: 600; } .words i { font-style: normal; color: var(--soft); }
.blank { border-bottom: 2px solid var(--accent); padding: 0 1.6em; margin-right: 0.25em; }
pre {
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1.1rem;
  overflow-x: auto; font: .82rem/1.6 var(--mono);
}
code { font: .86em var(--mono); }
.right { color: var(--accent); font-weight: 600; } .wrong { color: var(--third); font-weight: 600; }
@media print { body { font-size: 11pt; } pre { white-space: pre-wrap; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document of these parts, which are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escaped for HTML and for attributes."""
    return html.escape(str(value))


def heading(value: str) -> str:
    """A section's heading."""
    return f"<h2>{text(value)}</h2>"


def paragraph(value: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{text(value)}</p>' if style else f"<p>{text(value)}</p>"


def commands(lines: Sequence[str]) -> str:
    """Lines to copy into a shell."""
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table whose cells are HTML; the columns in `numbers` are aligned to the right."""
    head = "".join(
        f'<th class="number">{text(cell)}</th>' if at in numbers else f"<th>{text(cell)}</th>"
        for at, cell in enumerate(header)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="number">{cell}</td>' if at in numbers else f"<td>{cell}</td>"
            for at, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{whole}</div>'


def figure(picture: str, caption: str) -> str:
    """A picture and what it shows."""
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of `bars`."""

    label: str
    value: float
    """From 0 to 1."""
    deviation: float | None
    """Standard deviation; None where nothing is random."""
    color: str
    """accent, second or third."""


def bars(items: Sequence[Bar], title: str, most: float | None = None) -> str:
    """Horizontal bars of shares up to `most`, with their standard deviations as whiskers."""
    left, width, row, top = 150, 520, 44, 8
    scale = (width - left - 110) / (most or max(bar.value for bar in items) or 1.0)
    parts = []
    for number, bar in enumerate(items):
        y = top + number * row
        end = left + bar.value * scale
        said = f"{bar.value:.1%}" if bar.deviation is None else _with_deviation(bar)
        parts.append(
            f'<text x="{left - 12}" y="{y + 22}" text-anchor="end" font-size="15">'
            f"{text(bar.label)}</text>"
            f'<rect x="{left}" y="{y + 3}" width="{bar.value * scale:.1f}" height="28" rx="2" '
            f'style="fill:var(--{bar.color})"/>'
        )
        after = end + 10
        if bar.deviation:
            low, high = end - bar.deviation * scale, end + bar.deviation * scale
            after = high + 10
            parts.append(
                f'<path d="M{low:.1f} {y + 17}H{high:.1f}M{low:.1f} {y + 11}v12'
                f'M{high:.1f} {y + 11}v12" '
                'style="stroke:var(--ink);stroke-width:1.6;fill:none"/>'
            )
        parts.append(
            f'<text x="{after:.1f}" y="{y + 22}" font-size="15" font-weight="600">{said}</text>'
        )
    height = top + len(items) * row
    return _svg(width, height, title, parts)


def _with_deviation(bar: Bar) -> str:
    return f"{100 * bar.value:.1f} ± {100 * (bar.deviation or 0):.1f}%"


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve of `curves`."""

    label: str
    points: Sequence[tuple[float, float]]
    """(step, value), steps ascending."""
    color: str = "accent"
    """accent, second or third, or what `color_of` gives."""
    dash: str = ""
    """Lengths of dashes and gaps, as SVG has them; a whole line if it is empty."""


def color_of(number: int) -> tuple[str, str]:
    """(color, dash) of the first, second, ... of many lines; each pair is another."""
    return f"run{number % _COLORS}", ("", "7 4", "2 3", "10 3 2 3")[number // _COLORS % 4]


def swatch(number: int) -> str:
    """A piece of the line that `color_of` describes, for a legend in text."""
    color, dash = color_of(number)
    return (
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true"><path d="M0 5H30" '
        f'style="{_stroke(color, 4, dash)}"/></svg>'
    )


def curves(
    lines: Sequence[Line],
    title: str,
    *,
    references: Sequence[tuple[str, float]] = (),
    legend: bool = True,
) -> str:
    """Curves over steps, and level dashed lines to compare them with; `legend` names the curves."""
    width, height, left, right, top, bottom = 720, 270, 60, 24, 14, 42
    finite = [
        (x, y) for line in lines for x, y in line.points if math.isfinite(x) and math.isfinite(y)
    ]
    if not finite:
        return ""
    most = max(x for x, _ in finite) or 1
    values = [y for _, y in finite] + [value for _, value in references]
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * x / most,
            top + (height - top - bottom) * (high - y) / (high - low),
        )

    parts = []
    for tick in ticks:
        y = place(0, tick)[1]
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/><text class="label" '
            f'x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="12">{tick:g}</text>'
        )
    for tick in nice_ticks(0, most):
        if tick <= most:
            x = place(tick, low)[0]
            parts.append(
                f'<text class="label" x="{x:.1f}" y="{height - 22}" text-anchor="middle" '
                f'font-size="12">{tick:,.0f}</text>'
            )
    for label, value in references:
        y = place(0, value)[1]
        parts.append(
            f'<path d="M{left} {y:.1f}H{width - right}" style="stroke:var(--third);'
            f'stroke-width:1.6;stroke-dasharray:6 4"/><text x="{left + 8}" y="{y + 17:.1f}" '
            f'font-size="13" font-weight="600" style="fill:var(--third)">{text(label)}</text>'
        )
    for line in lines:
        at = [place(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
        if not at:
            continue
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(at))
        parts.append(
            f"<g><title>{text(line.label)}</title>"
            f'<path d="M{path}" style="{_stroke(line.color, 2.4, line.dash)}"/></g>'
        )
        if len(at) <= 40:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:var(--{line.color})"/>'
                for x, y in at
            ]
    # The legend stands in the upper right corner, which falling curves leave free.
    parts += [
        f'<text x="{width - right}" y="{top + 16 + 17 * number}" text-anchor="end" '
        f'font-size="13" font-weight="600" style="fill:var(--{line.color})">'
        f"{text(line.label)}</text>"
        for number, line in enumerate(lines if legend else ())
    ]
    parts.append(f'<text class="label" x="{left}" y="{height - 4}" font-size="12">steps</text>')
    return _svg(width, height, title, parts)


def _stroke(color: str, width: float, dash: str) -> str:
    dashes = f";stroke-dasharray:{dash}" if dash else ""
    return f"stroke:var(--{color});stroke-width:{width};fill:none;stroke-linejoin:round{dashes}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest and the highest point of every column of pixels, so that a long run's page stays
    small and none of its peaks is lost; all points if they are few."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0]), []).append(point)
    kept: list[tuple[float, float]] = []
    for column in columns.values():
        ends = {min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, some `about` of them, the first at most `low` and the last at least `high`."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * magnitude >= rough * 0.999) * magnitude
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}">'
        f"<title>{text(title)}</title>{''.join(parts)}</svg>"
    )
