"""Where a run's records go besides metrics.jsonl, by flag: event files for TensorBoard, and the
services that `train.services` logs to."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.files import is_local, write_atomically, writing
from bertjax.train.telemetry.profiling import Profiler
from bertjax.train.telemetry.services import KINDS, Service, scalars

Record = Mapping[str, Any]

SERVICES = ("wandb", "trackio")


@dataclasses.dataclass(frozen=True)
class TelemetryConfig:
    """Where metrics go besides metrics.jsonl, and what is looked at; training stays the same."""

    tensorboard: bool = False
    """Also write event files that TensorBoard reads, into tensorboard/ of the run directory."""
    wandb: str | None = None
    """Project of Weights & Biases to log to (extra wandb); WANDB_MODE=offline connects nowhere."""
    trackio: str | None = None
    """Project of trackio to log to, on this machine unless TRACKIO_SPACE_ID is set (extra
    trackio)."""
    profile_steps: tuple[int, int] | None = None
    """First and last step to trace by JAX's profiler, into profile/ of the run directory."""

    def __post_init__(self) -> None:
        for name in SERVICES:
            if getattr(self, name) == "":
                raise UserError(f"telemetry.{name} is empty: give the name of a project.")
        if self.profile_steps is not None:
            first, last = self.profile_steps
            if not 1 <= first <= last:
                raise UserError(
                    f"profile_steps are {first} {last}: give the first step, from 1 on, and the "
                    "last, which is not before it."
                )

    def check(self, train_steps: int) -> None:
        """Refuses what a run of so many steps can't do.

        Raises:
            UserError: the steps to trace are not all in the run.
        """
        if self.profile_steps is not None and self.profile_steps[1] > train_steps:
            first, last = self.profile_steps
            raise UserError(
                f"profile_steps are {first} {last}, and the run has {train_steps:,} steps: give "
                "steps that it has."
            )


class Tracker(Protocol):
    """Is given what metrics.jsonl is given, by the first process alone."""

    def begin(self, history: Sequence[Record]) -> None:
        """Starts, with the records up to the step that the run goes on from."""
        ...

    def record(self, record: Record) -> None:
        """Takes up a record."""
        ...

    def flush(self) -> None:
        """Brings what can't be appended to up to date; called before a save."""
        ...

    def end(self) -> None:
        """Closes; may be called twice."""
        ...


def make_trackers(
    config: TelemetryConfig, workdir: epath.Path, settings: Mapping[str, Any]
) -> tuple[Tracker, ...]:
    """The trackers that a configuration asks for; none of them writes before it begins.

    Args:
        config: which.
        workdir: the run directory.
        settings: of the run, as JSON values.

    Raises:
        UserError: a package that one needs is not installed.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(EventFiles(workdir / "tensorboard"))
    for name in SERVICES:
        if (project := getattr(config, name)) is not None:
            trackers.append(Service(name, project, workdir, settings))
    return tuple(trackers)


def make_profiler(config: TelemetryConfig, workdir: epath.Path) -> Profiler | None:
    """What traces the steps that a configuration asks for; None if it asks for none."""
    if config.profile_steps is None:
        return None
    return Profiler(*config.profile_steps, workdir / "profile")


class EventFiles:
    """Event files for TensorBoard, in directories train and eval: a metric's curves share a chart.

    When a run goes on, both files are written anew from its history: steps that a sudden end cost
    are not there twice, and a run that began without them has all of its metrics.

    Formats: tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto.
    """

    def __init__(self, directory: epath.Path, clock: Callable[[], float] = time.time) -> None:
        """Nothing is written before `begin`; `clock` gives seconds since 1970."""
        self._directory, self._clock = directory, clock
        self._paths: dict[str, epath.Path] = {}
        self._whole: dict[str, bytes] = {}  # where files can't be appended to

    def begin(self, history: Sequence[Record]) -> None:
        """Writes the files of what was recorded, and removes those from before."""
        for kind in KINDS:
            directory = self._directory / kind
            with writing(directory):
                directory.mkdir(parents=True, exist_ok=True)
            before = sorted(directory.glob("events.out.tfevents.*"))
            # TensorBoard, which may be looking, goes on to files of later names alone.
            numbers = [int(found[1]) for path in before if (found := _NUMBER.search(path.name))]
            number = max(int(self._clock()), *(number + 1 for number in numbers), 0)
            self._paths[kind] = directory / f"events.out.tfevents.{number:010d}.bertjax"
            now = self._clock()  # the time of records that were written before they had one
            own = [{"time": now, **record} for record in history if record.get("kind") == kind]
            self._write(kind, _preamble(now) + b"".join(map(_event, own)))
            for path in before:
                path.unlink()
        self.flush()

    def record(self, record: Record) -> None:
        """Appends a record."""
        self._write(record["kind"], _event(record))

    def flush(self) -> None:
        """Writes whole what an object store can't append to."""
        for kind, data in self._whole.items():
            write_atomically(self._paths[kind], data)

    def end(self) -> None:
        """Writes what is left to write."""
        self.flush()

    def _write(self, kind: str, data: bytes) -> None:
        path = self._paths[kind]
        if is_local(path):
            with writing(path), path.open("ab") as file:
                file.write(data)
        else:
            self._whole[kind] = self._whole.get(kind, b"") + data


_NUMBER = re.compile(r"tfevents\.(\d+)\.")


def _preamble(now: float) -> bytes:
    """The version, and that a session starts here: what a reader has of later steps is outdated."""
    version = protobuf.bytes_field(3, b"brain.Event:2")
    start = protobuf.bytes_field(7, protobuf.varint_field(1, 1))
    return b"".join(_framed([protobuf.float64_field(1, now), field]) for field in (version, start))


def _event(record: Record) -> bytes:
    values = (
        protobuf.bytes_field(
            1, protobuf.bytes_field(1, name.encode()) + protobuf.float32_field(2, value)
        )
        for name, value in scalars(record).items()
    )
    return _framed(
        [
            protobuf.float64_field(1, record["time"]),
            protobuf.varint_field(2, record["step"]),
            protobuf.bytes_field(5, b"".join(values)),
        ]
    )


def _framed(fields: Iterable[bytes]) -> bytes:
    from bertjax.data.tfrecords import framed  # with what it needs for reading text

    return framed(b"".join(fields))
