"""Reads what run directories hold: records of metrics.jsonl, config.json and result.json."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.report_tables import ReportTable
from bertjax.train.telemetry.metrics_file import Record

METRICS, CONFIG, RESULT = "metrics.jsonl", "config.json", "result.json"
TABLES = "tables.json"
REPORT, STORY = "report", "story.json"  # the report's directory, and what a demo keeps in it
KINDS = {"eval": "held out", "train": "training"}
"""Kinds of records, and their names in reports."""

_NO_CURVE = frozenset({"step", "time", "seconds", "data_wait", "skipped", "learning_rate"})


class Metric(NamedTuple):
    """How a report shows one metric. A run keeps these in config.json, its main metric first."""

    name: str
    """Field of metrics.jsonl."""
    words: str
    """Name in a sentence."""
    better: Literal["min", "max"] | None = None
    """Whether lower or higher values are better; None: neither."""
    reference: tuple[str, float] | None = None
    """Words and value to compare with."""
    group: str | None = None
    """Title of the figure that this metric shares with the others of the group."""
    note: str | None = None
    """How it is computed, where the name does not tell."""
    data: str | None = None
    """Hash of the held-out rows. Only values on the same rows are compared."""

    @property
    def full_words(self) -> str:
        """Name that needs no title above it."""
        return f"{self.group}: {self.words}" if self.group else self.words


def run_files(directory: epath.Path) -> list[tuple[str, epath.Path]]:
    """Returns (name, path of metrics.jsonl) of each run in a directory.

    A run directory has its own, a demo that of its pre-training, and a fine-tuning one for each
    seed, below a directory for each setting if several were tried. Raises `UserError` if there is
    no such directory, or no run has begun there.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a run directory.")
    for own in (directory / METRICS, directory / "pretrain" / METRICS):
        if own.exists() and (own.parent == directory or (directory / REPORT / STORY).exists()):
            return [(directory.name, own)]
    found = [*directory.glob(f"seed-*/{METRICS}"), *directory.glob(f"*/seed-*/{METRICS}")]
    if not found:
        raise UserError(f"{directory}: holds no {METRICS}; give a run that has begun.")
    return [
        (str(path.parent.relative_to(directory)).replace("/", "-"), path) for path in sorted(found)
    ]


def read_settings(directory: epath.Path) -> dict[str, Any]:
    """Reads the configuration in config.json; empty if there is none or it is damaged.

    Nested fields get dotted names (`optimizer.learning_rate`). The immutable settings, which
    repeat the fields, and the metrics are left out.
    """
    fields = read_object(directory / CONFIG)
    more = ("immutable", "metrics")
    return dict(_flat({name: value for name, value in fields.items() if name not in more}))


def read_metrics(directory: epath.Path) -> dict[str, Metric]:
    """Reads the metrics that config.json describes, by name, the main one first."""
    described = read_object(directory / CONFIG).get("metrics")
    rows = described if isinstance(described, list) else []
    return {each["name"]: Metric(**each) for each in rows if _is_metric(each)}


def _is_metric(value: Any) -> bool:
    """Whether a JSON value has the fields of a `Metric`, each with a value that it may have."""
    if not isinstance(value, dict) or not value.keys() <= set(Metric._fields):
        return False
    match value.get("reference"):
        case None | [str(), int() | float()]:
            texts = (value.get(name) for name in ("group", "note"))
            return (
                isinstance(value.get("name"), str)
                and isinstance(value.get("words"), str)
                and value.get("better") in (None, "min", "max")
                and all(text is None or isinstance(text, str) for text in texts)
            )
    return False


def read_result(directory: epath.Path, records: Sequence[Record]) -> str | None:
    """Reads the sentence in result.json; None if the run was not finished at its last record."""
    result = read_object(directory / RESULT)
    last = max((record["step"] for record in records), default=0)
    match result:
        case {"sentence": str() as sentence, "steps": int() as steps} if steps >= last:
            return sentence
    return None


def read_tables(directory: epath.Path) -> list[ReportTable]:
    """Reads the tables of dev rows in tables.json; none if there is no such file."""
    tables = read_object(directory / TABLES).get("tables")
    found = []
    for table in tables if isinstance(tables, list) else []:
        match table:
            case {
                "title": str() as title,
                "columns": list() as columns,
                "rows": list() as rows,
                "given": int() as given,
            } if all(isinstance(row, list) and len(row) == len(columns) for row in rows):
                shown = [[v if isinstance(v, int | float) else str(v) for v in row] for row in rows]
                found.append(ReportTable(title, list(map(str, columns)), shown, given))
    return found


def read_object(path: epath.Path) -> dict[str, Any]:
    """Reads a JSON object; returns an empty one if there is none or it is damaged."""
    try:
        fields = json.loads(path.read_text()) if path.is_file() else {}
        json.dumps(fields, ensure_ascii=False).encode()  # fails for halves of characters
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _flat(fields: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def points_of(records: Iterable[Record], kind: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of a metric in the records of one kind."""
    return [
        (record["step"], record[name])
        for record in records
        if record.get("kind") == kind and isinstance(record.get(name), int | float)
    ]


def metric_names(records: Iterable[Record], min_points: int = 2) -> list[str]:
    """The metrics that have `min_points` values or more; two or more make a curve."""
    records = list(records)
    names = dict.fromkeys(
        name for record in records for name in record if name.split("/")[0] not in _NO_CURVE
    )
    return [
        name
        for name in names
        if sum(len(points_of(records, kind, name)) for kind in KINDS) >= min_points
    ]
