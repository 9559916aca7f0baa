"""Stretches of a run whose steps differ in what they hold, e.g. 128 tokens a row and then 512."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bertjax.train.telemetry.mfu import Work

if TYPE_CHECKING:
    from bertjax.train.telemetry.logger import Field


class Phase(NamedTuple):
    """What the loop and telemetry know of a phase."""

    end: int
    """The step that is its last."""
    tokens_per_step: int
    name: str = ""
    """What lines and records call it, e.g. "2"; nothing where a run has one phase."""
    fields: "tuple[Field, ...]" = ()
    """The metrics of its lines; those of the run where it has none of its own."""
    work: Work | None = None
    """What its steps take, for MFU; as of the run where it is None."""


def phase_of(phases: Sequence[Phase], step: int) -> Phase:
    """The phase that a step is of, the steps counted from 1; beyond the end it is the last."""
    return next((phase for phase in phases if step <= phase.end), phases[-1])


def phase_start(phases: Sequence[Phase], step: int) -> int:
    """How many steps come before the phase that a step is of."""
    return max((phase.end for phase in phases if phase.end < step), default=0)


def tokens_between(phases: Sequence[Phase], start: int, stop: int) -> int:
    """Tokens of the steps after `start` up to `stop`; where none are known, the steps."""
    tokens, begin = 0, 0
    for phase in phases:
        steps = min(stop, phase.end) - max(start, begin)
        tokens += max(0, steps) * (phase.tokens_per_step or 1)
        begin = phase.end
    return tokens
