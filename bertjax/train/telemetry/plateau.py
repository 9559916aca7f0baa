"""The plateau meter: reports that a masked LM predicts only how often each token occurs."""

from collections import deque
from collections.abc import Mapping
from typing import Any

_FLOOR, _CEILING = 0.96, 1.06
"""Bounds of held-out loss / unigram entropy while a model has learned only frequencies.
The two differ by a few percent: a tenth of the chosen tokens stay visible, and few are chosen."""
_LEFT = 0.95
"""Below this ratio a model has left the plateau."""
_FLAT = 0.01
"""A loss is flat if it falls by less than this share of the entropy over the observed steps."""
_STEPS = 500
"""Steps to observe before a plateau is reported."""


class PlateauMeter:
    """Called with every record of metrics.jsonl, returns a sentence to log, mostly None.

    It reports a plateau once, and leaving it once. Its reports depend on the records alone: a
    resumed run passes the earlier records first, so the meter doesn't repeat itself.
    """

    def __init__(self, entropies: Mapping[str, float]) -> None:
        """`entropies` maps the evaluation metrics of a run to the unigram entropy of their text."""
        self._entropies = dict(entropies)
        self._seen: deque[tuple[int, dict[str, Any]]] = deque()
        self._rate: float | None = None
        self._said = self._left = False

    def __call__(self, record: Mapping[str, Any]) -> str | None:
        """Receives a record."""
        self._rate = record.get("learning_rate") or self._rate
        if record.get("kind") != "eval" or self._left:
            return None
        losses: dict[str, Any] = {name: record.get(name) for name in self._entropies}
        if not losses or None in losses.values():
            self._seen.clear()
            return None
        step = record["step"]
        self._seen.append((step, losses))
        # Keep only the evaluations needed to look back _STEPS.
        while len(self._seen) > 1 and self._seen[1][0] <= step - _STEPS:
            self._seen.popleft()
        if self._said:
            return self._leaving(step, losses)
        return self._entering() if self._is_flat() else None

    def _is_flat(self) -> bool:
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        if last - first < _STEPS:
            return False
        for name, entropy in self._entropies.items():
            shares = [losses[name] / entropy for _, losses in self._seen]
            fall = (before[name] - now[name]) / entropy
            if not (min(shares) >= _FLOOR and max(shares) <= _CEILING and fall < _FLAT):
                return False
        return True

    def _entering(self) -> str:
        self._said = True
        (first, _), (last, losses) = self._seen[0], self._seen[-1]
        rate = "" if self._rate is None else f" (it is {self._rate:.1e})"
        return (
            f"From step {first:,} to {last:,} the model only predicted how often each token "
            f"occurs: {self._compared(losses)}. Small models stay there for thousands of steps "
            "before the loss falls. If it doesn't fall, the usual causes are a learning rate too "
            f"low or too high{rate}, too short a warm-up, too small a batch, or data whose tokens "
            "don't depend on each other (the audit of `bertjax prepare` tells). In a new run, the "
            "initialization with `initialization.positions` waves and `initialization.attention` "
            "neighbors avoids the plateau."
        )

    def _leaving(self, step: int, losses: dict[str, float]) -> str | None:
        if any(loss > _LEFT * self._entropies[name] for name, loss in losses.items()):
            return None
        self._left = True
        return (
            f"At step {step:,} the model predicts more than how often each token occurs: "
            f"{self._compared(losses)}."
        )

    def _compared(self, losses: dict[str, float]) -> str:
        return ", ".join(
            f"held-out {name} {loss:.3f}, unigram entropy {self._entropies[name]:.3f}"
            for name, loss in losses.items()
        )
