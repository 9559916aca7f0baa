"""What run directories hold, read for reports: the records of metrics.jsonl, and config.json."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from bertjax.errors import UserError

Record = dict[str, Any]

METRICS, CONFIG, DEMO = "metrics.jsonl", "config.json", "report/story.json"
KINDS = {"eval": "held out", "train": "training"}
"""Kinds of records, and what people call them."""

_NO_CURVE = frozenset({"step", "time", "seconds", "data_wait", "skipped", "learning_rate"})


def run_files(directory: epath.Path) -> list[tuple[str, epath.Path]]:
    """The metrics.jsonl of each run in a directory, named: its own, that of a demo's pre-training,
    or those of seeds, below learning rates if several were tried.

    Raises:
        UserError: there is no such directory, or no run has begun there.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a run directory.")
    for own in (directory / METRICS, directory / "pretrain" / METRICS):
        if own.exists() and (own.parent == directory or (directory / DEMO).exists()):
            return [(directory.name, own)]
    found = [*directory.glob(f"seed-*/{METRICS}"), *directory.glob(f"*/seed-*/{METRICS}")]
    if not found:
        raise UserError(
            f"{directory}: holds no {METRICS}; give the directory of a run that has begun."
        )
    return [
        (str(path.parent.relative_to(directory)).replace("/", "-"), path) for path in sorted(found)
    ]


def read_records(path: epath.Path) -> list[Record]:
    """The records of a metrics.jsonl; what is damaged, as a last line that a sudden end cut short,
    is left out."""
    records = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def read_settings(directory: epath.Path) -> dict[str, Any]:
    """config.json with its parts' fields named as flags are (`optimizer.learning_rate`), without
    the immutable settings that repeat them; empty where there is none, or it is not JSON."""
    path = directory / CONFIG
    try:
        fields = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}
    if not isinstance(fields, dict):
        return {}
    return dict(_flat({name: value for name, value in fields.items() if name != "immutable"}))


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


def metric_names(records: Iterable[Record], least: int = 2) -> list[str]:
    """The metrics that have at least so many values; by default so many that there is a curve."""
    records = list(records)
    names = dict.fromkeys(name for record in records for name in record if name not in _NO_CURVE)
    return [name for name in names if sum(len(points_of(records, k, name)) for k in KINDS) >= least]
