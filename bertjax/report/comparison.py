"""One HTML page that lays several runs beside each other: curves, last values, settings."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from bertjax.files import writing
from bertjax.report import html
from bertjax.report.html import Line
from bertjax.rundir.records import (
    KINDS,
    METRICS,
    Record,
    metric_names,
    points_of,
    read_records,
    read_settings,
    run_files,
)

# A directory's own place says nothing about what its run is.
_NO_SETTINGS = frozenset({"workdir", "fresh"})


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison."""

    label: str
    """What tables and curves call it."""
    directory: str
    """What they call its directory, which holds several runs if it is of several seeds."""
    path: epath.Path
    """Of its metrics.jsonl."""
    records: Sequence[Record]
    settings: dict[str, Any]
    """The fields of config.json, by their flags' names."""

    def last(self, kind: str, name: str) -> tuple[float, float] | None:
        """(step, value) of the newest record that has the metric; None if there is none."""
        points = points_of(self.records, kind, name)
        return points[-1] if points else None


def write_comparison(directories: Sequence[epath.Path], target: epath.Path) -> epath.Path:
    """Writes the page that compares the runs of several directories.

    Args:
        directories: run directories; each seed of a fine-tuning is a run.
        target: the page.

    Raises:
        UserError: a directory holds no run.
    """
    runs = read_runs(directories)
    title = f"{len(runs)} runs compared"
    body = [
        '<p class="kicker">bertjax</p>',
        f"<h1>{html.text(title)}</h1>",
        _overview(runs),
        html.heading("Last values"),
        html.paragraph(
            "Held out: of the last evaluation, with the best one below where that was another; the "
            "best run's is bold. Training: the mean of the last steps.",
            "note",
        ),
        _last_values(runs),
        html.heading("Curves"),
        _legend(runs),
        '<div class="pair">',
        *_figures(runs),
        "</div>",
        html.heading("Settings that differ"),
        *_settings(runs),
    ]
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html.page(f"bertjax: {title}", body))
    return target


def read_runs(directories: Sequence[epath.Path]) -> list[Run]:
    """The runs of directories, each with a label of its own.

    Raises:
        UserError: a directory holds no run.
    """
    names = [directory.name for directory in directories]
    runs = []
    for directory in directories:
        # Where two have the same name, the path tells them apart.
        own = directory.name if names.count(directory.name) == 1 else str(directory)
        files = run_files(directory)
        for name, path in files:
            # Seeds have those of their directory, and a demo those of its pre-training.
            settings = read_settings(path.parent) or read_settings(directory)
            label = own if len(files) == 1 else f"{own}/{name}"
            runs.append(Run(label, own, path, read_records(path), settings))
    return runs


def _overview(runs: Sequence[Run]) -> str:
    rows = []
    for number, run in enumerate(runs):
        steps = max((record["step"] for record in run.records), default=0)
        kind = run.settings.get("kind", "")
        rows.append(
            [
                f"{html.swatch(number)} <b>{html.text(run.label)}</b>",
                html.text(kind),
                f"{steps:,}",
                f"<small>{html.text(str(run.path).removesuffix(f'/{METRICS}'))}</small>",
            ]
        )
    return html.table(["run", "kind", "steps", "directory"], rows, numbers=(2,))


def _legend(runs: Sequence[Run]) -> str:
    """Which line is which run; stays in sight while the figures scroll."""
    names = [
        f"<span>{html.swatch(number)} {html.text(run.label)}</span>"
        for number, run in enumerate(runs)
    ]
    return f'<p class="legend">{" ".join(names)}</p>'


def _last_values(runs: Sequence[Run]) -> str:
    """Metrics by rows, runs by columns."""
    rows = []
    for kind, metric in _metrics(runs):
        last = [run.last(kind, metric) for run in runs]
        values = [point[1] for point in last if point is not None and math.isfinite(point[1])]
        best = _best(kind, metric, values) if len(values) > 1 else None
        cells = []
        for run, point in zip(runs, last, strict=True):
            said = "" if point is None else _number(point[1])
            if point is not None and point[1] == best:
                said = f"<b>{said}</b>"
            cells.append(said + _best_so_far(run, kind, metric, point))
        rows.append([f"{html.text(metric)}, <small>{KINDS[kind]}</small>", *cells])
    header = ["metric", *(run.label for run in runs)]
    return html.table(header, rows, numbers=range(1, len(header)))


def _best_so_far(run: Run, kind: str, metric: str, last: tuple[float, float] | None) -> str:
    """The step and value of the best evaluation, where that was not the last."""
    points = points_of(run.records, kind, metric)
    best = _best(kind, metric, [value for _, value in points])
    if last is None or best is None or best == last[1]:
        return ""
    step = next(step for step, value in points if value == best)
    return f"<br><small>best {_number(best)} at {step:,}</small>"


def _best(kind: str, metric: str, values: Sequence[float]) -> float | None:
    """Of evaluations: losses are better low, and all else (accuracies, F1, correlations) high; a
    threshold is neither."""
    finite = [value for value in values if math.isfinite(value)]
    if kind != "eval" or not finite or metric.endswith("_threshold"):
        return None
    return min(finite) if "loss" in metric else max(finite)


def _metrics(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(kind, metric), held out first, of all runs: each has a value in at least one."""
    found: dict[tuple[str, str], None] = {}
    for kind in KINDS:
        for run in runs:
            own = (record for record in run.records if record.get("kind") == kind)
            for metric in metric_names(own, least=1):
                if points_of(run.records, kind, metric):
                    found[kind, metric] = None
    return list(found)


def _figures(runs: Sequence[Run]) -> list[str]:
    """A figure for each metric that has a curve in some run, a line in it for each run."""
    figures = []
    for kind, metric in _metrics(runs):
        curves = [points_of(run.records, kind, metric) for run in runs]
        if max(map(len, curves)) < 2:
            continue
        lines = [
            Line(run.label, points, *html.color_of(number))
            for number, (run, points) in enumerate(zip(runs, curves, strict=True))
            if points
        ]
        said = f"{metric}, {KINDS[kind]}"
        figures.append(html.figure(html.curves(lines, said, legend=False), said))
    return figures


def _settings(runs: Sequence[Run]) -> list[str]:
    """What differs among the settings of runs of one kind: a table for each kind."""
    parts = []
    for kind in dict.fromkeys(run.settings.get("kind") for run in runs):
        own = {run.directory: run.settings for run in runs if run.settings.get("kind") == kind}
        own = {directory: settings for directory, settings in own.items() if settings}
        if len(own) > 1:
            parts += _differences(own)
    return parts or [html.paragraph("No two of these directories have settings of one kind.")]


def _differences(settings: dict[str, dict[str, Any]]) -> list[str]:
    """The fields of config.json that are not the same in all of {directory: its settings}."""
    absent = object()
    names = dict.fromkeys(name for fields in settings.values() for name in fields)
    rows, same = [], 0
    for name in names:
        values = [fields.get(name, absent) for fields in settings.values()]
        if all(value == values[0] for value in values):
            same += 1
        elif name not in _NO_SETTINGS:
            cells = ["" if value is absent else html.text(_setting(value)) for value in values]
            rows.append([f"<code>{html.text(name)}</code>", *cells])
    if not rows:
        return [html.paragraph(f"{', '.join(settings)}: all {same} settings are the same.")]
    return [
        html.table(["setting", *settings], rows),
        html.paragraph(f"{same} other settings are the same.", "note"),
    ]


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    return "not set" if value is None else str(value)


def _number(value: float) -> str:
    """Four digits that matter."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
