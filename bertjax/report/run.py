"""`bertjax report`: the results of runs as HTML files that need no network, and curves as PNG."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import tyro
from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.files import location, writing
from bertjax.report import comparison, html
from bertjax.report.charts import charts_of, write_pngs
from bertjax.report.demo import NUMBERS, PAGE, write_demo_report
from bertjax.rundir.records import (
    CONFIG,
    REPORT,
    STORY,
    Metric,
    Record,
    points_of,
    read_metrics,
    read_result,
    run_files,
)
from bertjax.train.telemetry.metrics_file import read_records

COMPARISON = "comparison.html"


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write the report of runs or of a demo, and a page that compares several of them."""

    directories: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, or demo directories. Each gets a report/index.html."""
    output: str | None = None
    """Page that compares several directories. Default: report/comparison.html in the first."""


def report(
    directories: Sequence[epath.PathLike],
    log: Callable[[str], None],
    output: epath.PathLike | None = None,
) -> list[epath.Path]:
    """Writes report/index.html and a PNG of every chart into each directory.

    Several directories also get one page that compares their runs.

    Args:
        directories: directories of pre-training, of fine-tuning, or of the demo.
        log: is given one line for each page.
        output: the page that compares; by default report/comparison.html in the first directory.

    Returns:
        The pages, in the order of the directories; then the one that compares.

    Raises:
        UserError: there are no directories; one holds no run or is named twice; `output` is given
            for a single directory.
    """
    if not directories:
        raise UserError("`directories` is empty: name at least one run directory.")
    named = [location(directory) for directory in directories]
    if twice := {str(path) for path in named if named.count(path) > 1}:
        raise UserError(f"{min(twice)}: is named twice; name every directory once.")
    if output is not None and len(named) < 2:
        raise UserError(
            f"{output}: `output` is the page that compares directories; name at least two of them."
        )
    pages = []
    for directory in named:
        write = _rewrite_demo_report if (directory / REPORT / STORY).exists() else _write_run_report
        pages.append(write(directory, log))
        log(f"Wrote {pages[-1]}.")
    if len(named) > 1:
        target = named[0] / REPORT / COMPARISON if output is None else location(output)
        pages.append(comparison.write_comparison(named, target))
        log(f"Wrote {target}, which compares them.")
    return pages


def _rewrite_demo_report(directory: epath.Path, log: Callable[[str], None]) -> epath.Path:
    """Writes the page of a finished demo from its numbers and its story."""
    target = directory / REPORT
    if not (target / NUMBERS).exists():
        raise UserError(
            f"{target / NUMBERS}: no such file; run the same `bertjax demo` again to write it."
        )
    numbers, story = (read_json_object(target / name) for name in (NUMBERS, STORY))
    return write_demo_report(directory, numbers, story, log)


def _write_run_report(directory: epath.Path, log: Callable[[str], None]) -> epath.Path:
    """Writes the page of a run directory: its result, its charts and its settings."""
    runs = [(name, read_records(path)) for name, path in run_files(directory)]
    metrics = read_metrics(directory)
    target = directory / REPORT
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    body = html.title(f"bertjax: {directory.name}", headline(directory, dict(runs), metrics))
    for name, records in runs:
        charts = charts_of(records, metrics)
        if len(runs) > 1:
            body.append(html.heading(name))
        figures = [html.figure(chart.picture(), chart.title) for chart in charts]
        body += [*figures[:1], '<div class="pair">', *figures[1:], "</div>"]
        write_pngs(target, charts, log, prefix="" if len(runs) == 1 else f"{name}-")
    if (directory / CONFIG).exists():
        text = (directory / CONFIG).read_bytes().decode(errors="replace")
        body.append(html.folded(CONFIG, html.preformatted(text.rstrip().split("\n"))))
    with writing(target):
        (target / PAGE).write_text(html.page(f"bertjax: {directory.name}", body))
    return target / PAGE


def headline(
    directory: epath.Path, runs: Mapping[str, Sequence[Record]], metrics: Mapping[str, Metric]
) -> str:
    """A run's result in one sentence: its own if it is finished, else its last evaluations.

    Args:
        directory: holds result.json if the run was finished.
        runs: {name: records}; several seeds have one name each.
        metrics: what the run says of its metrics, the main one first.
    """
    records = [record for each in runs.values() for record in each]
    if result := read_result(directory, records):
        return result
    steps = max((record["step"] for record in records), default=0)
    main = next(iter(metrics.values()), None)
    curves = [points_of(each, "eval", main.name) for each in runs.values()] if main else []
    last = [points[-1] for points in curves if points]
    if main is None or not last:
        return f"{directory.name}: {steps:,} steps"
    values = ", ".join(f"{value:.4g}" for _, value in last)
    reference = f" ({main.reference[0]} {main.reference[1]:.4g})" if main.reference else ""
    return f"Held-out {main.words} after {max(last)[0]:,} steps: {values}{reference}"
