"""The plateau meter: says when a masked LM only predicts how often each token occurs."""

from collections import deque
from collections.abc import Mapping
from typing import Any

_FLOOR, _CEILING = 0.96, 1.06
"""Held-out loss over unigram entropy, between which a model has learnt frequencies and no more.
They differ by a few percent: a tenth of the chosen tokens can be seen, and few are chosen."""
_LEFT = 0.95
_FLAT = 0.01
"""A loss stands if it falls by less than this share of the entropy over all steps looked at."""
_STEPS = 500
"""A model is not said to stand before it was seen to for so many steps."""


class PlateauMeter:
    """Called with every record of metrics.jsonl, gives the sentence that is due, mostly None.

    The plateau is said once, and once that it was left. What was said follows from the records
    alone: a resumed run gives the meter those from before, and it does not repeat itself.
    """

    def __init__(self, entropies: Mapping[str, float]) -> None:
        """{metric of an evaluation: the unigram entropy of its text}: of all of them together."""
        self._entropies = dict(entropies)
        self._seen: deque[tuple[int, dict[str, float]]] = deque()
        self._rate: float | None = None
        self._said = self._left = False

    def __call__(self, record: Mapping[str, Any]) -> str | None:
        """Takes up a record."""
        self._rate = record.get("learning_rate") or self._rate
        if record.get("kind") != "eval" or self._left:
            return None
        losses = {name: record.get(name) for name in self._entropies}
        known = {name: loss for name, loss in losses.items() if loss is not None}
        if not known or len(known) < len(losses):
            self._seen.clear()
            return None
        self._see(record["step"], known)
        if self._said:
            return self._leaving(record["step"], known)
        return self._entering() if self._is_flat() else None

    def _see(self, step: int, losses: dict[str, float]) -> None:
        self._seen.append((step, losses))
        # As many evaluations as it takes to go back _STEPS, and no more.
        while len(self._seen) > 1 and self._seen[1][0] <= step - _STEPS:
            self._seen.popleft()

    def _is_flat(self) -> bool:
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        if last - first < _STEPS:
            return False
        for name, entropy in self._entropies.items():
            shares = [losses[name] / entropy for _, losses in self._seen]
            if not (min(shares) >= _FLOOR and max(shares) <= _CEILING):
                return False
            if (before[name] - now[name]) / entropy >= _FLAT:
                return False
        return True

    def _entering(self) -> str:
        self._said = True
        (first, _), (last, losses) = self._seen[0], self._seen[-1]
        rate = "" if self._rate is None else f" (it is {self._rate:.1e})"
        return (
            f"From step {first:,} to {last:,} the model only predicted how often each token "
            f"occurs: {self._beside(losses)}; small models stand there for thousands of steps and "
            f"then fall, and if this one does not, the usual causes are a learning rate too low or "
            f"too high{rate}, too short a warm-up, too small a batch, or data whose tokens do not "
            "follow from each other (bertjax prepare --audit); a new run may begin with first "
            "values that don't stand there (--initialization.positions waves "
            "--initialization.attention neighbours)."
        )

    def _leaving(self, step: int, losses: dict[str, float]) -> str | None:
        if any(loss > _LEFT * self._entropies[name] for name, loss in losses.items()):
            return None
        self._left = True
        return (
            f"At step {step:,} the model predicts more than how often each token occurs: "
            f"{self._beside(losses)}."
        )

    def _beside(self, losses: dict[str, float]) -> str:
        return ", ".join(
            f"held-out {name} {loss:.3f}, unigram entropy {self._entropies[name]:.3f}"
            for name, loss in losses.items()
        )
