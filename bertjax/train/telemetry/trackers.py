"""Trackers, which receive the records of metrics.jsonl: TensorBoard's event files and services."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.files import is_local, write_atomically, writing
from bertjax.train.telemetry.metrics_file import KINDS
from bertjax.train.telemetry.profiling import Profiler
from bertjax.train.telemetry.services import Service, scalars

Record = Mapping[str, Any]

SERVICES = ("wandb", "trackio")


@dataclasses.dataclass(frozen=True)
class TelemetryConfig:
    """Trackers and traces. They don't change training."""

    tensorboard: bool = False
    """Write event files for TensorBoard into tensorboard/."""
    wandb: str | None = None
    """Weights & Biases project to log to (extra wandb). WANDB_MODE=offline opens no connection."""
    trackio: str | None = None
    """trackio project to log to (extra trackio), on this machine unless TRACKIO_SPACE_ID is set."""
    profile_steps: tuple[int, int] | None = None
    """First and last step to trace with JAX's profiler, into profile/."""

    def __post_init__(self) -> None:
        for name in SERVICES:
            if getattr(self, name) == "":
                raise UserError(f"`telemetry.{name}` is empty: give the name of a project.")
        first, last = self.profile_steps or (1, 1)
        if not 1 <= first <= last:
            raise UserError(
                f"`telemetry.profile_steps` is {first} {last}: give the first step, at least 1, "
                "and the last step, not below the first."
            )

    def check(self, train_steps: int) -> None:
        """Raises `UserError` if the run doesn't have all of the steps to trace."""
        first, last = self.profile_steps or (1, 1)
        if last > train_steps:
            raise UserError(
                f"`telemetry.profile_steps` is {first} {last}, and the run has {train_steps:,} "
                "steps: give steps of the run."
            )


class Tracker(Protocol):
    """Receives every record of metrics.jsonl, in the first process only."""

    def begin(self, history: Sequence[Record]) -> None:
        """Starts; `history` holds the records up to the step that the run resumes from."""

    def record(self, record: Record) -> None:
        """Receives a new record."""

    def flush(self) -> None:
        """Writes what could not be appended; called before a save."""

    def end(self) -> None:
        """Closes the tracker; may be called twice."""


def make_trackers(
    config: TelemetryConfig, workdir: epath.Path, settings: Mapping[str, Any]
) -> tuple[Tracker, ...]:
    """Makes the trackers of a configuration; none of them writes before `begin`.

    `settings` are the run's configuration as JSON values. Raises `UserError` if a tracker needs a
    package that is not installed.
    """
    files = (EventFiles(workdir / "tensorboard"),) if config.tensorboard else ()
    projects = [(name, project) for name in SERVICES if (project := getattr(config, name))]
    return *files, *(Service(name, project, workdir, settings) for name, project in projects)


def make_profiler(config: TelemetryConfig, workdir: epath.Path) -> Profiler | None:
    """Makes the profiler of a configuration; None if no steps are to be traced."""
    if config.profile_steps is None:
        return None
    return Profiler(*config.profile_steps, workdir / "profile")


class EventFiles:
    """Event files for TensorBoard, in directories train and eval, so that a metric has one chart.

    A resumed run writes both files anew from its history. Steps that are repeated after a crash
    appear once, and a run that began without event files gets all of its metrics. Formats:
    tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto.
    """

    def __init__(self, directory: epath.Path, clock: Callable[[], float] = time.time) -> None:
        """Nothing is written before `begin`; `clock` returns seconds since 1970."""
        self._directory, self._clock = directory, clock
        self._paths: dict[str, epath.Path] = {}
        self._whole: dict[str, bytes] = {}  # for object stores, which can't append

    def begin(self, history: Sequence[Record]) -> None:
        """Writes new files with the history, and removes the old ones."""
        for kind in KINDS:
            directory = self._directory / kind
            with writing(directory):
                directory.mkdir(parents=True, exist_ok=True)
            before = sorted(directory.glob("events.out.tfevents.*"))
            # A running TensorBoard continues only with files of later names.
            numbers = [int(found[1]) for path in before if (found := _NUMBER.search(path.name))]
            number = max(int(self._clock()), *(number + 1 for number in numbers), 0)
            self._paths[kind] = directory / f"events.out.tfevents.{number:010d}.bertjax"
            own = (record for record in history if record.get("kind") == kind)
            self._write(kind, _preamble(self._clock()) + b"".join(map(_event, own)))
            for path in before:
                path.unlink()
        self.flush()

    def record(self, record: Record) -> None:
        """Appends an event."""
        self._write(record["kind"], _event(record))

    def flush(self) -> None:
        """Writes the files of an object store."""
        for kind, data in self._whole.items():
            write_atomically(self._paths[kind], data)

    end = flush

    def _write(self, kind: str, data: bytes) -> None:
        path = self._paths[kind]
        if is_local(path):
            with writing(path), path.open("ab") as file:
                file.write(data)
        else:
            self._whole[kind] = self._whole.get(kind, b"") + data


_NUMBER = re.compile(r"tfevents\.(\d+)\.")


def _preamble(now: float) -> bytes:
    """Returns the events of the version and of a session's start.

    After the latter, readers drop the later steps that they know.
    """
    version = protobuf.bytes_field(3, b"brain.Event:2")
    start = protobuf.bytes_field(7, protobuf.varint_field(1, 1))
    time_field = protobuf.float64_field(1, now)
    return protobuf.framed(time_field + version) + protobuf.framed(time_field + start)


def _event(record: Record) -> bytes:
    summary = b""
    for name, value in scalars(record).items():
        metric = protobuf.bytes_field(1, name.encode()) + protobuf.float32_field(2, value)
        summary += protobuf.bytes_field(1, metric)
    when = protobuf.float64_field(1, record.get("time", 0)) + protobuf.varint_field(
        2, record["step"]
    )
    return protobuf.framed(when + protobuf.bytes_field(5, summary))
