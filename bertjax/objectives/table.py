"""The table of pre-training objectives."""

import dataclasses

from bertjax.errors import UserError
from bertjax.objectives.minilm import RelationDistillation
from bertjax.objectives.mlm import MaskedLM
from bertjax.objectives.nsp import NextSentence
from bertjax.objectives.objective import Objective
from bertjax.objectives.options import ObjectiveOptions
from bertjax.objectives.rtd import ReplacedTokenDetection
from bertjax.objectives.sop import SentenceOrder

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        *(NextSentence(), SentenceOrder(), MaskedLM()),
        *(ReplacedTokenDetection(), RelationDistillation()),
    )
}
"""All objectives, with default options. The first one for a kind of segments is its default."""
DEFAULT_OBJECTIVE = next(iter(OBJECTIVES.values()))


def choose_objective(
    name: str | None,
    segments: str,
    options: ObjectiveOptions = ObjectiveOptions(),
    *,
    has_teacher: bool = False,
    z_loss: float = 0.0,
) -> Objective:
    """Returns an objective for data with this kind of segments.

    Args:
        name: a key of `OBJECTIVES`; None chooses the default for the segments or, with a teacher,
            the first objective that learns from one.
        segments: the kind of segments in the data.
        options: the options of the objective.
        has_teacher: whether the run has a teacher.
        z_loss: weight of `losses.with_z_loss`.

    Raises:
        UserError: the objective can't be trained on such segments, lacks a teacher, or needs none.
    """
    taught = [each.name for each in OBJECTIVES.values() if each.needs_teacher]
    if name is None:
        fitting = (each.name for each in OBJECTIVES.values() if each.segments == segments)
        name = taught[0] if has_teacher else next(fitting)
    objective = OBJECTIVES[name]
    if objective.needs_teacher and not has_teacher:
        raise UserError(f"The objective {name} learns from another model: name it in `teacher`.")
    if has_teacher and not objective.needs_teacher:
        raise UserError(
            f"`teacher` is for the objective {', '.join(taught)}, and `objective` is {name}: leave "
            "out one of the two."
        )
    if z_loss and objective.needs_teacher:
        raise UserError(
            f"`z_loss` has no effect with the objective {name}, which has no masked-LM logits: "
            "leave it out."
        )
    objective = dataclasses.replace(objective, z_loss=z_loss)
    if (own := getattr(options, name, None)) is not None:
        objective = dataclasses.replace(objective, **dataclasses.asdict(own))
    if objective.segments != segments and not objective.any_segments:
        raise UserError(
            f"The objective {name} trains on {objective.segments} segments, and the data hold "
            f"{segments} segments: choose another `objective`, or prepare the data with `segments` "
            f"{objective.segments}."
        )
    return objective
