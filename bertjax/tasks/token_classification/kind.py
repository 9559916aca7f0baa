"""The kind token_classification."""

from bertjax.tasks.task import TaskKind
from bertjax.tasks.token_classification.config import (
    TaggedFileOptions,
    TokenClassificationConfig,
    WordOptions,
)
from bertjax.tasks.token_classification.losses import soft_token_classification
from bertjax.tasks.token_classification.predictions import TokenPredictor
from bertjax.tasks.token_classification.reading import HEAD_NAME, read

KIND = TaskKind(
    options=TokenClassificationConfig,
    heads=(HEAD_NAME,),
    max_seq_length=128,
    read=read,
    predictor=TokenPredictor,
    prediction=WordOptions,
    evaluation=TaggedFileOptions,
    unrecorded=("column_names",),
    soft_losses={HEAD_NAME: soft_token_classification},
)
