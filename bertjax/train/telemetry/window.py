"""Means and speed over a window of steps: those since the previous line."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping


@dataclasses.dataclass
class MetricWindow:
    """Sums of metrics since the previous line; skipped steps are only counted."""

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    newest: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int = 0
    skipped: int = 0

    def add(self, metrics: Mapping[str, float], *, skipped: bool) -> None:
        """Adds the metrics of one step."""
        if skipped:
            self.skipped += 1
            return
        self.count += 1
        self.newest = dict(metrics)
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def values(self, last: Iterable[str]) -> dict[str, float]:
        """Returns the mean of each metric; the newest value of the metrics in `last`."""
        means = {name: total / self.count for name, total in self.sums.items()}
        return means | {name: self.newest[name] for name in last if name in self.newest}


class StepTimer:
    """Measures steps per second without compilation and evaluations."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._run: tuple[int, float] | None = None  # first step after compilation, its time
        self._window = (0, 0.0)  # its first step, its time
        self.waited = 0.0  # seconds of the window spent waiting for data
        self.paused = 0.0  # seconds of the window that don't count as training
        self.measured = (0, 0.0)  # steps of all windows since `start`, their seconds

    @property
    def started(self) -> bool:
        """Whether a step is done; the first step, which compiles, is not timed."""
        return self._run is not None

    def start(self, step: int) -> None:
        """Begins to measure after a step that compiled."""
        self._window = (step, self._clock())
        self._run = self._run or self._window
        self.waited = self.paused = 0.0
        self.measured = (0, 0.0)

    def lap(self, step: int) -> tuple[float | None, float | None]:
        """Ends the window at a step; returns its steps/s and the share of time spent waiting."""
        if self._run is None:
            return None, None
        (first, started), now = self._window, self._clock()
        steps, elapsed, waited = step - first, now - started - self.paused, self.waited
        self._window = (step, now)
        self.waited = self.paused = 0.0
        if elapsed <= 0 or steps <= 0:
            return None, None
        self.measured = (self.measured[0] + steps, self.measured[1] + elapsed)
        return steps / elapsed, min(1.0, waited / elapsed)

    def since_start(self) -> tuple[int, float] | None:
        """Returns the first step's number and the seconds since, evaluations included."""
        return self._run and (self._run[0], self._clock() - self._run[1])
