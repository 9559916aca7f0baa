"""The evaluations of a run so far: the best one, and how long none was better."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Progress:
    """The memory of a run's evaluations, which checkpoints save as JSON values."""

    best: dict[str, Any] | None = None
    """`step`, `value` and all `metrics` of the best evaluation."""
    evaluated: int = 0
    """The last step with an evaluation."""
    no_better: int = 0
    """Number of consecutive evaluations without a new best one."""

    def add(
        self,
        step: int,
        metrics: Mapping[str, float],
        value: float | None,
        *,
        mode: str,
        first: int,
        eligible: bool,
    ) -> bool:
        """Adds an evaluation and returns whether it is the best so far.

        The "min" or "max" (`mode`) of the values is the best. Steps up to `first` don't compete:
        they belong to an earlier phase. A state that isn't `eligible` won't be saved: it neither is
        the best nor costs patience.
        """
        self.evaluated = step
        is_best = False
        if eligible and value is not None and math.isfinite(value):
            sign = 1 if mode == "min" else -1
            best = self.best
            is_best = not best or best["step"] <= first or sign * value < sign * best["value"]
        if is_best:
            self.best = {"step": step, "value": value, "metrics": dict(metrics)}
        self.no_better = 0 if is_best else self.no_better + eligible
        return is_best

    def is_out_of_patience(self, patience: int) -> bool:
        """Whether `patience` evaluations in a row were no better; never if patience is 0."""
        return 0 < patience <= self.no_better
