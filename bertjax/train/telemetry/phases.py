"""The phases of a run for the loop and for telemetry, e.g. 128 tokens a row, then 512."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from bertjax.train.telemetry.fields import Field
from bertjax.train.telemetry.mfu import Work


class PhaseInfo(NamedTuple):
    """A phase: consecutive steps with the same tokens, FLOPs and reported metrics."""

    end: int
    """Number of its last step, counted from 1."""
    tokens_per_step: int = 0
    name: str = ""
    """Name in lines and records, e.g. "2"; empty if the run has one phase."""
    fields: tuple[Field, ...] = ()
    """Metrics of its lines; if empty, those of the run."""
    work: Work = Work()
    """FLOPs of its steps, for MFU."""
    real_share: float | None = None
    """Share of its tokens that are not padding; None if padding does not count as tokens."""
    scheduled: Mapping[str, float] = MappingProxyType({})
    """Numbers of its steps that differ between phases, shown as metrics, such as batch_size."""


def phase_of(phases: Sequence[PhaseInfo], step: int) -> PhaseInfo:
    """Returns the phase of a step, counted from 1; beyond the last step, the last phase."""
    return next((phase for phase in phases if step <= phase.end), phases[-1])


def phase_start(phases: Sequence[PhaseInfo], step: int) -> int:
    """Returns the number of steps before the phase of a step."""
    return max((phase.end for phase in phases if phase.end < step), default=0)


def tokens_between(phases: Sequence[PhaseInfo], start: int, stop: int) -> int:
    """Returns the tokens of steps start + 1 to stop; a step without known tokens counts as one."""
    tokens, begin = 0, 0
    for phase in phases:
        steps = min(stop, phase.end) - max(start, begin)
        tokens += max(0, steps) * (phase.tokens_per_step or 1)
        begin = phase.end
    return tokens
