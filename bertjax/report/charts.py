"""The curves of a run: one chart a metric or group of metrics, as HTML and as PNG."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from bertjax.files import writing
from bertjax.report import html
from bertjax.report.html import Line
from bertjax.rundir.records import KINDS, Metric, Record, metric_names, points_of

_COLORS = {"train": "second", "eval": "accent"}
_PNG_COLORS = {"accent": "#1f6f8b", "second": "#b0aa9f", "third": "#c98a3d"}


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves that are drawn together."""

    name: str
    """Name of its file."""
    title: str
    lines: Sequence[Line]
    references: Sequence[tuple[str, float]]
    """(label, value) of the horizontal lines."""

    def picture(self) -> str:
        """The chart as SVG."""
        return html.curves(self.lines, self.title, references=self.references)


def charts_of(records: Sequence[Record], metrics: Mapping[str, Metric]) -> list[Chart]:
    """The charts of a run, its main metric first.

    Args:
        records: of metrics.jsonl.
        metrics: what the run says of its metrics; a metric that it does not name has a chart of
            its own, after the others.
    """
    names = metric_names(records)
    described = [metric for name, metric in metrics.items() if name in names]
    described += [Metric(name, name) for name in names if name not in metrics]
    groups: dict[str, list[Metric]] = {}
    for metric in described:
        groups.setdefault(metric.group or metric.words, []).append(metric)
    return [
        _group(title, group, records) if group[0].group else _single(group[0], records)
        for title, group in groups.items()
    ]


def _single(metric: Metric, records: Sequence[Record]) -> Chart:
    lines = [
        Line(KINDS[kind], points, color)
        for kind, color in _COLORS.items()
        if (points := points_of(records, kind, metric.name))
    ]
    return Chart(metric.name, metric.words, lines, [metric.reference] if metric.reference else [])


def _group(title: str, metrics: Sequence[Metric], records: Sequence[Record]) -> Chart:
    lines = [
        Line(metric.words, points_of(records, "eval", metric.name), *html.color_of(number))
        for number, metric in enumerate(metrics)
    ]
    references = [
        (f"{metric.words}: {metric.reference[0]}", metric.reference[1])
        for metric in metrics
        if metric.reference
    ]
    name = re.sub(r"\W+", "_", title)
    return Chart(name, f"{title}, {KINDS['eval']}", lines, references)


def write_pngs(
    directory: epath.Path, charts: Sequence[Chart], log: Callable[[str], None], prefix: str = ""
) -> None:
    """Writes a PNG for each chart; without Matplotlib only says what is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log("Curves as PNG need Matplotlib: pip install 'bertjax[demo]', then bertjax report.")
        return
    for chart in charts:
        picture = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.add_subplot()
        for line in chart.lines:
            if line.points:
                steps, values = zip(*line.points, strict=True)
                axes.plot(steps, values, color=_PNG_COLORS.get(line.color), label=line.label)
        for label, value in chart.references:
            if math.isfinite(value):
                axes.axhline(value, color=_PNG_COLORS["third"], linestyle="--", label=label)
        axes.set_xlabel("steps")
        axes.set_ylabel(chart.title)
        axes.legend(frameon=False)
        path = directory / f"{prefix}{chart.name}.png"
        with writing(path), path.open("wb") as file:
            picture.savefig(file, format="png", dpi=150)
