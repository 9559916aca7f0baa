"""One HTML page that compares several runs: curves, last values, settings."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax.files import writing
from bertjax.report import html
from bertjax.report.html import Line
from bertjax.report.results import setting
from bertjax.report.tables import compared_tables
from bertjax.rundir.records import (
    KINDS,
    Metric,
    Record,
    metric_names,
    points_of,
    read_metrics,
    read_settings,
    read_tables,
    run_files,
)
from bertjax.tasks.report_tables import ReportTable
from bertjax.train.telemetry.metrics_file import read_records

_NO_SETTINGS = frozenset({"workdir", "fresh"})  # they always differ, and change no result


class _Run(NamedTuple):
    label: str  # name in tables and curves
    directory: str  # name of its directory, which holds one run for each seed
    path: epath.Path  # path of its metrics.jsonl
    records: Sequence[Record]
    settings: dict[str, Any]  # the fields of config.json by their dotted names
    metrics: dict[str, Metric]  # how config.json describes the metrics
    tables: Sequence[ReportTable]  # outputs for dev rows


def write_comparison(directories: Sequence[epath.Path], target: epath.Path) -> epath.Path:
    """Writes the page `target`, which compares the runs of several directories.

    Each seed of a fine-tuning is a run. Raises `UserError` if a directory holds no run.
    """
    runs = _read_runs(directories)
    title = f"{len(runs)} runs compared"
    # The colors of the runs, in a line that stays in sight while the figures scroll.
    legend = [
        f"<span>{html.swatch(number)} {html.text(run.label)}</span>"
        for number, run in enumerate(runs)
    ]
    body = [
        *html.title("bertjax", title),
        _overview(runs),
        html.heading("Last values"),
        html.paragraph(
            "Held-out values are those of the last evaluation; the best one stands below if it was "
            "another. The best of the runs that were evaluated on the same rows is bold. Training "
            "values are means of the last steps.",
            "note",
        ),
        _last_values(runs),
        html.heading("Curves"),
        f'<p class="legend">{" ".join(legend)}</p>',
        '<div class="pair">',
        *_figures(runs),
        "</div>",
        *compared_tables({run.label: run.tables for run in runs}),
        html.heading("Settings that differ"),
        *_settings(runs),
    ]
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html.page(f"bertjax: {title}", body))
    return target


def _read_runs(directories: Sequence[epath.Path]) -> list[_Run]:
    """Reads the runs of directories and gives each a label of its own."""
    names = [directory.name for directory in directories]
    runs = []
    for directory in directories:
        # Where two have the same name, the path tells them apart.
        own = directory.name if names.count(directory.name) == 1 else str(directory)
        files = run_files(directory)
        for name, path in files:
            # The config.json of a seed is in the directory above, that of a demo's pre-training
            # beside its metrics.
            settings = read_settings(path.parent) or read_settings(directory)
            metrics = read_metrics(path.parent) or read_metrics(directory)
            label = own if len(files) == 1 else f"{own}/{name}"
            tables = read_tables(path.parent)
            runs.append(_Run(label, own, path, read_records(path), settings, metrics, tables))
    return runs


def _overview(runs: Sequence[_Run]) -> str:
    rows = []
    for number, run in enumerate(runs):
        name = f"{html.swatch(number)} <b>{html.text(run.label)}</b>"
        steps = max((record["step"] for record in run.records), default=0)
        place = f"<small>{html.text(run.path.parent)}</small>"
        rows.append([name, html.text(run.settings.get("kind", "")), f"{steps:,}", place])
    return html.table(["run", "kind", "steps", "directory"], rows, numbers=(2,))


def _last_values(runs: Sequence[_Run]) -> str:
    """A table with a row a metric and a column a run."""
    rows = []
    for kind, metric in _metrics(runs):
        curves = [points_of(run.records, kind, metric.name) for run in runs]
        last: dict[str | None, list[float]] = {}  # of the runs with the same held-out rows
        groups = [run.metrics.get(metric.name, metric).data for run in runs]
        for group, points in zip(groups, curves, strict=True):
            last.setdefault(group, []).extend(value for _, value in points[-1:])
        cells = []
        for group, points in zip(groups, curves, strict=True):
            cell = html.number(points[-1][1]) if points else ""
            best = _best(kind, metric, last[group]) if len(last[group]) > 1 else None
            if points and points[-1][1] == best:
                cell = f"<b>{cell}</b>"
            cells.append(cell + _best_so_far(kind, metric, points))
        rows.append([f"{html.text(metric.full_words)}, <small>{KINDS[kind]}</small>", *cells])
    header = ["metric", *(run.label for run in runs)]
    return html.table(header, rows, numbers=range(1, len(header)))


def _best_so_far(kind: str, metric: Metric, points: Sequence[tuple[float, float]]) -> str:
    """The value and the step of the best evaluation, unless it was the last one."""
    best = _best(kind, metric, [value for _, value in points])
    if best is None or best == points[-1][1]:
        return ""
    step = next(step for step, value in points if value == best)
    return f"<br><small>best {html.number(best)} at {step:,}</small>"


def _best(kind: str, metric: Metric, values: Sequence[float]) -> float | None:
    """The best of held-out values; None where no order is known."""
    finite = [value for value in values if math.isfinite(value)]
    if kind != "eval" or not finite or metric.better is None:
        return None
    return min(finite) if metric.better == "min" else max(finite)


def _metrics(runs: Sequence[_Run]) -> list[tuple[str, Metric]]:
    """(kind, metric) of all metrics with a value in some run, held-out ones first."""
    found: dict[tuple[str, str], Metric] = {}
    for kind in KINDS:
        for run in runs:
            for name in (*run.metrics, *metric_names(run.records, min_points=1)):
                if points_of(run.records, kind, name):
                    found.setdefault((kind, name), run.metrics.get(name, Metric(name, name)))
    return [(kind, metric) for (kind, _), metric in found.items()]


def _figures(runs: Sequence[_Run]) -> list[str]:
    """A figure for each metric that has a curve in some run, with a line for each run."""
    figures = []
    for kind, metric in _metrics(runs):
        curves = [points_of(run.records, kind, metric.name) for run in runs]
        if max(map(len, curves)) < 2:
            continue
        lines = [
            Line(run.label, points, *html.color_of(number))
            for number, (run, points) in enumerate(zip(runs, curves, strict=True))
        ]
        caption = f"{metric.full_words}, {KINDS[kind]}"
        figures.append(html.figure(html.curves(lines, caption, legend=False), caption))
    return figures


def _settings(runs: Sequence[_Run]) -> list[str]:
    """A table for each kind of run, with the settings that differ among its directories."""
    tables = []
    for kind in dict.fromkeys(run.settings.get("kind") for run in runs):
        same = [run for run in runs if run.settings and run.settings.get("kind") == kind]
        own = {run.directory: run.settings for run in same}
        if len(own) > 1:
            tables += _differences(own)
    return tables or [html.paragraph("No two of these directories have settings of one kind.")]


def _differences(settings: dict[str, dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all of {directory: its settings}."""
    absent = object()
    names = dict.fromkeys(name for fields in settings.values() for name in fields)
    rows, same = [], 0
    for name in names:
        values = [fields.get(name, absent) for fields in settings.values()]
        if all(value == values[0] for value in values):
            same += 1
        elif name not in _NO_SETTINGS:
            cells = ["" if value is absent else html.text(setting(value)) for value in values]
            rows.append([f"<code>{html.text(name)}</code>", *cells])
    if not rows:
        return [html.paragraph(f"{', '.join(settings)}: all {same} settings are the same.")]
    return [
        html.table(["setting", *settings], rows),
        html.paragraph(f"{same} other settings are the same.", "note"),
    ]
