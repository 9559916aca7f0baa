"""Goodput: what the time of a run was spent on, over all processes that worked on it."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bertjax.train.telemetry.fields import duration

PARTS = {
    "steps": "steps",
    "compile": "compilation",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "checkpoints": "checkpoints",
    "start": "start",
    "repeated": "repeated steps",
    "stopped": "stopped",
}
"""Parts of the time of a run, and their names in sentences.

start: from the command to the first step, without compilation. data: waiting for batches, while
accelerators may still compute. checkpoints: restoring, and what a save takes from training.
repeated: work after the last save of a process that ended without one; the next process does these
steps again. stopped: from the last record of a process to the start of the next."""

_STOPPED = "stopped"
_EVENTS = ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")


class Goodput:
    """Counts the seconds of each part; every moment belongs to one part.

    The seconds in which JAX traces, lowers or compiles a program in this thread, or reads one from
    its cache, count for `compile` in every part.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Counts for `start`, for the first run inside of `command` from where that began.

        `clock` returns seconds; `now`, seconds since 1970.
        """
        _listen()
        if _command:
            began = _command.pop()
        else:
            began = clock()
            _compilation.take()  # of what came before
        self._clock, self._since = clock, began
        self._began = now() - (clock() - began)  # in seconds since 1970
        self._part = "start"
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._processes = 1

    def begin(self, earlier: Mapping[str, Any] | None, last: float) -> None:
        """Adds the time of earlier processes, and counts for `steps` from now on.

        Args:
            earlier: what `record` returned when the step was saved from which the run resumes;
                None: this is its first process.
            last: time of the last record of an earlier process, in seconds since 1970.
        """
        self._enter("steps")
        if earlier is None:
            return
        for name in PARTS:
            self._seconds[name] += earlier.get(name, 0.0)
        # The clocks of two hosts may differ.
        self._seconds["repeated"] += max(0.0, last - earlier["time"])
        self._seconds[_STOPPED] += max(0.0, self._began - last)
        self._processes += earlier.get("processes", 0)

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Counts the time inside for a part, a key of `PARTS`."""
        outer = self._part
        self._enter(part)
        try:
            yield
        finally:
            self._enter(outer)

    def record(self) -> dict[str, float]:
        """Returns the seconds of each part so far, and the number of processes."""
        self._enter(self._part)
        seconds = {name: round(value, 3) for name, value in self._seconds.items() if value}
        return {"processes": self._processes, **seconds}

    def _enter(self, part: str) -> None:
        now = self._clock()
        elapsed = now - self._since
        compiled = min(elapsed, _compilation.take())
        self._seconds["compile"] += compiled
        self._seconds[self._part] += elapsed - compiled
        self._part, self._since = part, now


_command: list[float] = []  # when the command began whose first run is still to come


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Lets the first run inside count its time from here; within another one, does nothing."""
    if "jax" in sys.modules:  # a mistake in a command is told before JAX is imported
        _listen()
    if _command:
        yield
        return
    _command.append(time.monotonic())
    _compilation.take()
    try:
        yield
    finally:
        _command.clear()


class _Compilation(threading.local):
    """Intervals in which this thread compiled."""

    def __init__(self) -> None:
        self._intervals: list[tuple[float, float]] = []

    def add(self, event: str, duration_secs: float, **_: Any) -> None:
        """Is called by JAX at the end of a duration, which may contain earlier ones."""
        if not event.startswith("/jax/core/compile/") or not any(map(event.count, _EVENTS)):
            return
        end = time.monotonic()
        start = end - duration_secs
        while self._intervals and self._intervals[-1][0] >= start:
            self._intervals.pop()
        self._intervals.append((start, end))

    def take(self) -> float:
        """Returns the seconds since the last call."""
        total = sum(end - start for start, end in self._intervals)
        self._intervals.clear()
        return total


_compilation = _Compilation()


@functools.cache
def _listen() -> None:
    import jax

    jax.monitoring.register_event_duration_secs_listener(_compilation.add)


def total(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the sums of what `Goodput.record` returned for several runs."""
    rows = list(records)
    return {name: sum(row.get(name, 0) for row in rows) for name in ("processes", *PARTS)}


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the share of each part in the time of all processes, without parts that took none."""
    running = {name: seconds.get(name, 0) for name in PARTS if name != _STOPPED}
    whole = sum(running.values())
    return {name: value / whole for name, value in running.items() if value > 0}


def sentence(seconds: Mapping[str, float]) -> str:
    """Returns e.g. "Goodput 91.2% of 2h05m: evaluation 5.1%, start 3.7%."."""
    share = shares(seconds)
    whole = sum(seconds.get(name, 0) for name in share)
    others = sorted((name for name in share if name != "steps"), key=lambda name: -share[name])
    rest = [f"{PARTS[name]} {share[name]:.1%}" for name in others if share[name] >= 0.0005]
    processes = round(seconds.get("processes", 1))
    who = f" in {processes} processes" if processes > 1 else ""
    stopped = seconds.get(_STOPPED, 0)
    rest += [f"and {duration(stopped)} between processes"] if stopped >= 1 else []
    return f"Goodput {share.get('steps', 0):.1%} of {duration(whole)}{who}: {', '.join(rest)}."
