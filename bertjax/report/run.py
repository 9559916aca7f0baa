"""`bertjax report`: the results of runs as HTML files that need no network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import tyro
from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.files import location, writing
from bertjax.report import html
from bertjax.report.charts import charts_of
from bertjax.report.comparison import write_comparison
from bertjax.report.demo import NUMBERS, PAGE, write_demo_report
from bertjax.report.results import final_numbers, goodput_figure, settings_table
from bertjax.report.tables import run_tables
from bertjax.rundir.records import (
    REPORT,
    STORY,
    Metric,
    Record,
    points_of,
    read_metrics,
    read_result,
    read_tables,
    run_files,
)
from bertjax.train.telemetry.metrics_file import TIME, read_records


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
    """Writes report/index.html into each directory, and a page that compares several of them.

    Returns the pages in the order of the directories, and then the one that compares. Raises
    `UserError` if there are no directories, if one holds no run or is named twice, or if there is
    an `output` but a single directory.

    Args:
        directories: directories of pre-training, of fine-tuning, or of the demo.
        log: is given one line for each page.
        output: the page that compares; by default report/comparison.html in the first directory.
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
        pages.append(write(directory))
        log(f"Wrote {pages[-1]}.")
    if len(named) > 1:
        target = named[0] / REPORT / "comparison.html" if output is None else location(output)
        pages.append(write_comparison(named, target))
        log(f"Wrote {target}, which compares them.")
    return pages


def _rewrite_demo_report(directory: epath.Path) -> epath.Path:
    """Writes the page of a finished demo from its numbers and its story."""
    target = directory / REPORT
    if not (target / NUMBERS).exists():
        raise UserError(
            f"{target / NUMBERS}: no such file; run the same `bertjax demo` again to write it."
        )
    numbers, story = (read_json_object(target / name) for name in (NUMBERS, STORY))
    return write_demo_report(directory, numbers, story)


def _write_run_report(directory: epath.Path) -> epath.Path:
    """Writes the page of a run directory: its result, its charts and its settings."""
    files = run_files(directory)
    runs = [(name, read_records(path)) for name, path in files]
    metrics = read_metrics(directory)
    name = f"bertjax: {directory.name}"
    every = [records for _, records in runs]
    body = html.title(name, _headline(directory, every, metrics))
    body += final_numbers(directory, every, metrics)
    for (seed, records), (_, path) in zip(runs, files, strict=True):
        body.append(html.heading(seed if len(runs) > 1 else "Curves"))
        figures = [
            html.figure(chart.picture(), chart.caption) for chart in charts_of(records, metrics)
        ]
        body += [*figures[:1], '<div class="pair">', *figures[1:], "</div>"]
        body += run_tables(read_tables(path.parent))
    times = [record for _, path in files for record in read_records(path, (TIME,))[-1:]]
    body += goodput_figure(times)
    body += settings_table(directory)
    target = directory / REPORT / PAGE
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html.page(name, body))
    return target


def _headline(
    directory: epath.Path, runs: Sequence[Sequence[Record]], metrics: Mapping[str, Metric]
) -> str:
    """Returns the sentence of a finished run's result, else the last evaluation of each seed."""
    records = [record for each in runs for record in each]
    if result := read_result(directory, records):
        return result
    steps = max((record["step"] for record in records), default=0)
    main = next(iter(metrics.values()), None)
    curves = [points_of(each, "eval", main.name) for each in runs] if main else []
    last = [points[-1] for points in curves if points]
    if main is None or not last:
        return f"{directory.name}: {steps:,} steps"
    values = ", ".join(f"{value:.4g}" for _, value in last)
    reference = f" ({main.reference[0]} {main.reference[1]:.4g})" if main.reference else ""
    return f"Held-out {main.words} after {max(last)[0]:,} steps: {values}{reference}"
