"""The table of pre-training objectives."""

import dataclasses

from bertjax.errors import UserError
from bertjax.objectives.mlm import MaskedLM
from bertjax.objectives.nsp import NextSentence
from bertjax.objectives.objective import Objective
from bertjax.objectives.options import ObjectiveOptions
from bertjax.objectives.rtd import ReplacedTokenDetection
from bertjax.objectives.sop import SentenceOrder

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (NextSentence(), SentenceOrder(), MaskedLM(), ReplacedTokenDetection())
}
"""All objectives, with default options. The first one for a kind of segments is its default."""
DEFAULT_OBJECTIVE = next(iter(OBJECTIVES.values()))


def choose_objective(
    name: str | None, segments: str, options: ObjectiveOptions = ObjectiveOptions()
) -> Objective:
    """Returns an objective for data with this kind of segments.

    Args:
        name: a key of `OBJECTIVES`; None chooses the default for the segments.
        segments: the kind of segments in the data.
        options: the options of the objective.

    Raises:
        UserError: the objective can't be trained on such segments.
    """
    if name is None:
        return next(each for each in OBJECTIVES.values() if each.segments == segments)
    objective = OBJECTIVES[name]
    if (own := getattr(options, name, None)) is not None:
        objective = dataclasses.replace(objective, **dataclasses.asdict(own))
    if objective.segments != segments and not objective.any_segments:
        raise UserError(
            f"The objective {name} trains on {objective.segments} segments, and the data hold "
            f"{segments} segments: choose another `objective`, or prepare the data with `segments` "
            f"{objective.segments}."
        )
    return objective
