"""The kind multiple_choice."""

from bertjax.tasks.multiple_choice.config import (
    ChoiceColumns,
    ChoiceEvaluation,
    MultipleChoiceConfig,
)
from bertjax.tasks.multiple_choice.losses import soft_multiple_choice
from bertjax.tasks.multiple_choice.predictions import MAX_SEQ_LENGTH, ChoicePredictor, defaults
from bertjax.tasks.multiple_choice.reading import HEAD, read
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=MultipleChoiceConfig,
    heads=(HEAD.name,),
    max_seq_length=MAX_SEQ_LENGTH,
    read=read,
    predictor=ChoicePredictor,
    prediction=ChoiceColumns,
    evaluation=ChoiceEvaluation,
    defaults=defaults,
    unrecorded=("column_names",),
    soft_losses={HEAD.name: soft_multiple_choice},
)
