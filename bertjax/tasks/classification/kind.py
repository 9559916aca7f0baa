"""The kind classification."""

from bertjax.tasks.classification.config import ClassificationConfig, EvaluationColumns, LineOptions
from bertjax.tasks.classification.predictions import TextPredictor, defaults
from bertjax.tasks.classification.reading import read
from bertjax.tasks.classification.targets import HEADS, SOFT_LOSSES
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=ClassificationConfig,
    heads=HEADS,
    max_seq_length=128,
    read=read,
    predictor=TextPredictor,
    prediction=LineOptions,
    evaluation=EvaluationColumns,
    defaults=defaults,
    immutable=ClassificationConfig.immutable,
    unrecorded=("column_names",),
    soft_losses=SOFT_LOSSES,
)
