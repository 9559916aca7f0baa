"""The final numbers of a run beside their baselines, and its settings, as tables."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.report import html
from bertjax.rundir.records import RESULT, Metric, Record, read_object, read_result, read_settings
from bertjax.train.telemetry import goodput

Numbers = Mapping[str, float]

_PART_COLORS = {"steps": "accent", "repeated": "third"}


def final_numbers(
    directory: epath.Path, runs: Sequence[Sequence[Record]], metrics: Mapping[str, Metric]
) -> list[str]:
    """Returns a table of the metrics of a run, each the mean over its seeds.

    They are those of result.json for a finished fine-tuning, else of the last evaluations.

    Args:
        directory: the run directory.
        runs: the records of each seed.
        metrics: how the run describes its metrics, the main one first.
    """
    columns = dict(_columns(directory, runs, metrics))
    columns = {title: numbers for title, numbers in columns.items() if numbers and any(numbers)}
    found = [name for numbers in columns.values() for each in numbers for name in each]
    names = [name for name in dict.fromkeys((*metrics, *found)) if name in found]
    if not names:
        return []
    rows = [
        [
            html.text(metrics[name].full_words if name in metrics else name),
            *(
                _mean([each[name] for each in numbers if name in each])
                for numbers in columns.values()
            ),
        ]
        for name in names
    ]
    header = ["metric", *columns]
    return [html.heading("Final numbers"), html.table(header, rows, range(1, len(header)))]


def _columns(
    directory: epath.Path, runs: Sequence[Sequence[Record]], metrics: Mapping[str, Metric]
) -> Iterator[tuple[str, list[Numbers]]]:
    """Yields (title, the numbers of each seed) of each column."""
    result = read_object(directory / RESULT)
    seeds = result.get("seeds")
    if isinstance(seeds, list) and read_result(directory, [each for run in runs for each in run]):
        for rows, field, baseline in (
            ("dev rows", "metrics", "baseline"),
            ("test rows", "test_metrics", "test_baseline"),
        ):
            yield rows, [_numbers(seed, field) for seed in seeds]
            rule = result.get(baseline)
            if isinstance(rule, dict):
                yield f"{rule.get('description')}, {rows}", [_numbers(rule, "scores")]
        return
    evaluations = [[each for each in records if each.get("kind") == "eval"] for records in runs]
    last = [_numbers({"": each[-1]}, "") for each in evaluations if each]
    yield (
        "held out",
        [
            {name: value for name, value in each.items() if name in metrics or "loss" in name}
            for each in last
        ],
    )
    for title in dict.fromkeys(each.reference[0] for each in metrics.values() if each.reference):
        same = {
            name: each.reference[1]
            for name, each in metrics.items()
            if each.reference and each.reference[0] == title
        }
        yield title, [same] if last else []


def _numbers(fields: Any, name: str) -> Numbers:
    """Returns the numbers of an object in another one, which may be damaged."""
    found = fields.get(name) if isinstance(fields, dict) else None
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, int | float)}


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    text = html.number(statistics.fmean(values))
    return text if len(values) < 2 else f"{text} ± {html.number(statistics.stdev(values))}"


def goodput_figure(records: Sequence[Record]) -> list[str]:
    """Returns bars of where the time of a run went.

    Args:
        records: the last time record of each seed; see `goodput.Goodput`.
    """
    spent = goodput.total(records)
    items = [
        html.Bar(goodput.PARTS[name], share, None, _PART_COLORS.get(name, "second"))
        for name, share in goodput.shares(spent).items()
    ]
    if not items:
        return []
    title = "Where the time went"
    longest = max(bar.value for bar in items)
    picture = html.bars(items, title, longest, left=160)
    return [html.heading(title), html.figure(picture, goodput.sentence(spent))]


def settings_table(directory: epath.Path) -> list[str]:
    """Returns a table of the settings in config.json, and the names of those that are not set."""
    settings = read_settings(directory)
    if not settings:
        return []
    unset = [
        name for name, value in settings.items() if value is None or value is False or value == []
    ]
    rows = [
        [f"<code>{html.text(name)}</code>", html.text(setting(value))]
        for name, value in settings.items()
        if name not in unset
    ]
    pieces = [html.heading("Settings"), html.table(["setting", "value"], rows, style="settings")]
    if unset:
        pieces.append(html.paragraph(f"Not set: {', '.join(unset)}.", "note"))
    return pieces


def setting(value: Any) -> str:
    """Returns a setting in words."""
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value is None else str(value)
