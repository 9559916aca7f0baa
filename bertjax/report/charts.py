"""Chooses which curves of a run a report shows: one chart a metric or group of metrics."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.report import html
from bertjax.report.html import Line
from bertjax.rundir.records import KINDS, Metric, Record, metric_names, points_of

_WORDS = {"grad_norm": "gradient norm"}
_COLORS = {"train": "second", "eval": "accent"}


class Chart(NamedTuple):
    """Curves that are drawn together."""

    title: str
    lines: list[Line]
    references: list[tuple[str, float]]
    """(label, value) of the horizontal lines."""
    note: str | None
    """How the metric is computed."""

    @property
    def caption(self) -> str:
        """The title and the note."""
        return f"{self.title} ({self.note})" if self.note else self.title

    def picture(self) -> str:
        """The chart as SVG."""
        return html.curves(self.lines, self.title, references=self.references)


def charts_of(records: Sequence[Record], metrics: Mapping[str, Metric]) -> list[Chart]:
    """Returns the charts of a run, its main metric first.

    Each metric that has a curve in `records` but is not in `metrics` has a chart of its own at the
    end.
    """
    names = metric_names(records)
    described = [metric for name, metric in metrics.items() if name in names]
    others = [name for name in names if name not in metrics]
    described += [
        Metric(name, _WORDS.get(name, name.replace("_", " ")))
        for name in sorted(others, key=lambda name: name != "loss")
    ]
    groups: dict[str, list[Metric]] = {}
    for metric in described:
        groups.setdefault(metric.group or metric.words, []).append(metric)
    charts = []
    for title, group in groups.items():
        if group[0].group:
            lines = [
                Line(metric.words, points_of(records, "eval", metric.name), *html.color_of(number))
                for number, metric in enumerate(group)
            ]
            references = [
                (f"{metric.words}: {metric.reference[0]}", metric.reference[1])
                for metric in group
                if metric.reference
            ]
            charts.append(Chart(f"{title}, {KINDS['eval']}", lines, references, group[0].note))
        else:
            metric = group[0]
            lines = [
                Line(KINDS[kind], points_of(records, kind, metric.name), color)
                for kind, color in _COLORS.items()
            ]
            references = [metric.reference] if metric.reference else []
            charts.append(Chart(title, lines, references, metric.note))
    return charts
