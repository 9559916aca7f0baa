"""The kind summarization_extractive."""

import dataclasses

from bertjax.model import extractive
from bertjax.tasks.summarization_extractive.config import (
    ExtractiveEvaluation,
    ExtractiveSummarizationConfig,
    PickingOptions,
)
from bertjax.tasks.summarization_extractive.predictions import (
    MAX_SEQ_LENGTH,
    ExtractivePredictor,
    defaults,
)
from bertjax.tasks.summarization_extractive.reading import read
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=ExtractiveSummarizationConfig,
    heads=(extractive.KIND,),
    max_seq_length=MAX_SEQ_LENGTH,
    read=read,
    predictor=ExtractivePredictor,
    prediction=PickingOptions,
    evaluation=ExtractiveEvaluation,
    defaults=defaults,
    immutable=dataclasses.asdict,
    unrecorded=("column_names",),
)
