"""metrics.jsonl: a run's records, one JSON object a line."""

import contextlib
import json
import re
from collections.abc import Collection
from typing import Any

from etils import epath

from bertjax.files import is_local, reading, write_atomically, writing

Record = dict[str, Any]

KINDS = ("train", "eval")
"""Kinds of records with metrics."""
TIME = "time"
"""Kind of the records of `goodput.Goodput`."""

_LARGEST = 1 << 63
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def read_records(path: epath.Path, kinds: Collection[str] = KINDS) -> list[Record]:
    """Reads the records of a metrics.jsonl, without damaged lines such as a truncated last one."""
    with reading(path):
        text = path.read_bytes().decode(errors="replace")
    records = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            if _is_record(record := json.loads(line)) and record["kind"] in kinds:
                records.append(record)
    return records


def _is_record(value: Any) -> bool:
    """Whether a JSON value has a step and a kind, and texts and numbers within usual limits."""
    if not isinstance(value, dict) or value.get("kind") not in (*KINDS, TIME):
        return False
    if type(value.get("step")) is not int or type(value.get("time", 0)) not in (int, float):
        return False
    numbers = [each for each in value.values() if isinstance(each, int | float)]
    texts = [each for each in value.values() if isinstance(each, str)]
    if value["kind"] == TIME and not ("time" in value and len(numbers) == len(value) - 1):
        return False
    is_text = not _HALF_CHARACTER.search("".join((*value, *texts)))
    return is_text and all(-_LARGEST < each < _LARGEST for each in numbers)


class MetricsFile:
    """The records of a run, kept in memory and in a file."""

    def __init__(self, path: epath.PathLike) -> None:
        """Nothing is read or written before `begin`."""
        self.path = epath.Path(path)
        self._all: list[Record] = []
        self.last_time: float | None = None
        """When the last record of an earlier process was written, in seconds since 1970."""
        self._read_only = False
        # Object stores can't append to a file: it is written whole, at saves and at the end.
        self._appendable = is_local(self.path)

    @property
    def records(self) -> list[Record]:
        """The records with metrics."""
        return [record for record in self._all if record["kind"] in KINDS]

    @property
    def time_record(self) -> Record | None:
        """The last record of the kind `TIME`."""
        return next((each for each in reversed(self._all) if each["kind"] == TIME), None)

    def begin(self, step: int, evaluated: int, *, read_only: bool) -> None:
        """Reads the records of an earlier process up to a step, and drops later ones.

        Evaluations stay up to the step `evaluated`. With `read_only`, nothing is written.
        """
        self._all, self._read_only = [], read_only
        if not read_only:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        for record in read_records(self.path, (*KINDS, TIME)):
            self.last_time = max(self.last_time or 0.0, record.get("time", 0.0))
            if record["step"] <= (evaluated if record["kind"] == "eval" else step):
                self._all.append(record)
        if not read_only and self._text().encode() != self.path.read_bytes():
            self._write()

    def append(self, record: Record) -> None:
        """Adds a record."""
        self._all.append(record)
        if self._appendable and not self._read_only:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Writes the records that could not be appended."""
        if self._all and not (self._appendable or self._read_only):
            self._write()

    def _text(self) -> str:
        return "".join(json.dumps(record) + "\n" for record in self._all)

    def _write(self) -> None:
        write_atomically(self.path, self._text().encode())
