"""Draws the pieces of a self-contained HTML page: text, tables, and bars and curves as SVG.

A page loads nothing from a network. All text is escaped. Colors are CSS classes of style.css.
"""

import html
import importlib.resources
import math
from collections.abc import Sequence
from typing import NamedTuple

_COLORS = 8  # the classes run0 to run7
_MAX_POINTS = 1000
_MAX_TEXT = 300
_MAX_LABEL = 30
_CHARACTER, _LABEL_HEIGHT = 8.0, 16  # pixels of a character of a label


def page(title: str, body: Sequence[str]) -> str:
    """Returns a whole document; `body` holds pieces of HTML."""
    style = importlib.resources.files("bertjax.report").joinpath("style.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escapes a value for HTML and for attributes."""
    return html.escape(str(value))


def heading(value: str) -> str:
    """A section's heading."""
    return f"<h2>{text(value)}</h2>"


def paragraph(value: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{text(value)}</p>' if style else f"<p>{text(value)}</p>"


def title(kicker: str, sentence: str) -> list[str]:
    """The head of a page: a small line, and the result in large type."""
    return [paragraph(kicker, "kicker"), f"<h1>{text(sentence)}</h1>"]


def preformatted(lines: Sequence[str]) -> str:
    """Lines of code, such as commands to copy into a shell."""
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def folded(summary: str, content: str, style: str = "") -> str:
    """HTML that opens with a click on the summary."""
    kind = f' class="{style}"' if style else ""
    return f"<details{kind}><summary>{text(summary)}</summary>{content}</details>"


def long_text(value: str) -> str:
    """A text in the direction of its script; the end of a long one opens with a click."""
    if len(value) <= _MAX_TEXT:
        return f'<div class="words" dir="auto">{text(value)}</div>'
    end = value.rfind(" ", _MAX_TEXT // 2, _MAX_TEXT)
    end = _MAX_TEXT if end < 0 else end
    rest = folded(f"... {len(value) - end:,} more characters", text(value[end:]), "more")
    return f'<div class="words" dir="auto">{text(value[:end])} {rest}</div>'


def number(value: float) -> str:
    """Four significant digits."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int] = (),
    style: str = "",
) -> str:
    """A table. Cells are HTML; the columns in `numbers` are aligned to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="number"' if at in numbers else "" for at in range(len(header))]
        pairs = zip(kinds, cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in pairs) + "</tr>"

    head, body = line("th", list(map(text, header))), "".join(line("td", row) for row in rows)
    kind = f' class="{style}"' if style else ""
    whole = f"<table{kind}><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{whole}</div>'


def figure(picture: str, caption: str) -> str:
    """A picture with its caption."""
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


class Bar(NamedTuple):
    """One bar of `bars`."""

    label: str
    value: float  # from 0 to 1
    deviation: float | None  # standard deviation; None where nothing is random
    color: str  # accent, second or third


def bars(items: Sequence[Bar], title: str, longest: float, left: int = 150) -> str:
    """Horizontal bars with their standard deviations as whiskers.

    A bar of the value `longest` has the full length. The labels have `left` pixels. Screen readers
    say the title.
    """
    width, row, top = 370 + left, 44, 8
    scale = (width - left - 110) / (longest or 1.0)
    shapes = []
    for number, bar in enumerate(items):
        y = top + number * row
        end = after = left + bar.value * scale
        shapes.append(
            f'<text x="{left - 12}" y="{y + 22}" text-anchor="end" font-size="15">'
            f"{text(bar.label)}</text>"
            f'<rect class="{bar.color}" x="{left}" y="{y + 3}" width="{bar.value * scale:.1f}" '
            'height="28" rx="2"/>'
        )
        if bar.deviation:
            low, after = end - bar.deviation * scale, end + bar.deviation * scale
            shapes.append(
                f'<path d="M{low:.1f} {y + 17}H{after:.1f}M{low:.1f} {y + 11}v12'
                f'M{after:.1f} {y + 11}v12" {_stroke(1.6)}/>'
            )
        spread = "" if bar.deviation is None else f" ± {100 * bar.deviation:.1f}"
        shapes.append(
            f'<text x="{after + 10:.1f}" y="{y + 22}" font-size="15" font-weight="600">'
            f"{100 * bar.value:.1f}{spread}%</text>"
        )
    return _svg(width, top + len(items) * row, title, shapes)


class Line(NamedTuple):
    """One curve of `curves`."""

    label: str
    points: Sequence[tuple[float, float]]  # (step, value), steps ascending
    color: str = "accent"  # accent, second or third, or a color of `color_of`
    dash: str = ""  # lengths of dashes and gaps, as in SVG; empty: a solid line


def color_of(number: int) -> tuple[str, str]:
    """(color, dash) of one of many lines, by its number; 32 pairs differ."""
    return f"run{number % _COLORS}", ("", "7 4", "2 3", "10 3 2 3")[number // _COLORS % 4]


def swatch(number: int) -> str:
    """A short piece of the line that `color_of` describes, for a legend in text."""
    color, dash = color_of(number)
    return (
        f'<svg class="swatch {color}" viewBox="0 0 30 10" aria-hidden="true">'
        f'<path d="M0 5H30" {_stroke(4, dash)}/></svg>'
    )


def curves(
    lines: Sequence[Line],
    title: str,
    *,
    references: Sequence[tuple[str, float]] = (),
    legend: bool = True,
) -> str:
    """Curves over steps, without points that are not finite; empty if no point is left.

    `references` are (label, value) of horizontal dashed lines to compare with. The legend names
    each line beside its end. Screen readers say the title.
    """
    finite = [
        line._replace(points=points)
        for line in lines
        if (points := [point for point in line.points if all(map(math.isfinite, point))])
    ]
    if not finite:
        return ""
    steps, values = zip(*(point for line in finite for point in line.points), strict=True)
    values = (*values, *(value for _, value in references))
    labels = [(_cut(line.label), line.color, line.points[-1][1]) for line in finite]
    labels += [(_cut(label), "third", value) for label, value in references]
    labels = labels if legend else []
    longest = max((len(label) for label, _, _ in labels), default=0)
    right = _Axes.width - 24 - _CHARACTER * longest
    axes = _Axes(max(steps) or 1, nice_ticks(min(values), max(values)), right)
    shapes = [
        *axes.grid(),
        *(axes.level(value) for _, value in references),
        *(axes.curve(line) for line in finite),
        *axes.legend(labels),
    ]
    return _svg(axes.width, axes.height, title, shapes)


def _cut(label: str) -> str:
    return (
        label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


class _Axes(NamedTuple):
    """The coordinates of `curves`: steps from 0, values between the outer ticks."""

    steps: float
    ticks: Sequence[float]
    right: float
    """Where the curves end, and the legend begins."""

    width, height = 720, 272
    left, top, bottom = 60, 16, 230

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.steps

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.top + (self.bottom - self.top) * (high - value) / (high - low)

    def grid(self) -> list[str]:
        """A horizontal line a tick, and the labels of both axes."""
        shapes = [
            f'<path class="grid" d="M{self.left} {self.y(tick):.1f}H{self.right}"/>'
            f'<text class="label" x="{self.left - 8}" y="{self.y(tick) + 4:.1f}" '
            f'text-anchor="end" font-size="12">{tick:g}</text>'
            for tick in self.ticks
        ]
        shapes += [
            f'<text class="label" x="{self.x(tick):.1f}" y="{self.height - 22}" '
            f'text-anchor="middle" font-size="12">{tick:,.0f}</text>'
            for tick in nice_ticks(0, self.steps)
            if tick <= self.steps
        ]
        name = f'<text class="label" x="{self.left}" y="{self.height - 4}" font-size="12">'
        return [*shapes, f"{name}steps</text>"]

    def level(self, value: float) -> str:
        """A horizontal dashed line."""
        path = f"M{self.left} {self.y(value):.1f}H{self.right}"
        return f'<g class="third"><path d="{path}" {_stroke(1.6, "6 4")}/></g>'

    def legend(self, labels: Sequence[tuple[str, str, float]]) -> list[str]:
        """Labels (text, color, value) to the right of the curves, near their values."""
        ordered = sorted(labels, key=lambda each: self.y(each[2]))
        places, lowest = [], self.top
        for place, (_, _, value) in enumerate(ordered):
            left_over = len(ordered) - place - 1
            wanted = min(self.y(value), self.bottom - _LABEL_HEIGHT * left_over)
            places.append(max(wanted, lowest))
            lowest = places[-1] + _LABEL_HEIGHT
        return [
            f'<text class="{color}" x="{self.right + 10}" y="{y + 4:.1f}" font-size="13" '
            f'font-weight="600">{text(label)}</text>'
            for y, (label, color, _) in zip(places, ordered, strict=True)
        ]

    def curve(self, line: Line) -> str:
        """A curve, with a dot at each point if they are few."""
        at = [(self.x(step), self.y(value)) for step, value in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in _thinned(at))
        dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at if len(at) <= 40]
        return (
            f'<g class="{line.color}"><title>{text(line.label)}</title>'
            f'<path d="M{path}" {_stroke(2.4, line.dash)}/>{"".join(dots)}</g>'
        )


def _stroke(width: float, dash: str = "") -> str:
    """Attributes of an SVG path that is drawn in the color of its class."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'class="line" stroke-width="{width}"{dashes}'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keeps the lowest and highest point of each column of pixels; all points if they are few."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0]), []).append(point)
    kept: list[tuple[float, float]] = []
    for column in columns.values():
        kept += sorted({min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])})
    return kept


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, `about` of them; the first is at most `low`, the last at least `high`."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * magnitude >= rough * 0.999) * magnitude
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _svg(width: int, height: int, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}">'
        f"<title>{text(title)}</title>{''.join(shapes)}</svg>"
    )
