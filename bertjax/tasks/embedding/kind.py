"""The kind embedding."""

from bertjax.tasks.embedding.config import EmbeddingConfig, EvaluationPairs
from bertjax.tasks.embedding.predictions import SimilarityPredictor
from bertjax.tasks.embedding.reading import read
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=EmbeddingConfig,
    heads=(),
    max_seq_length=128,
    read=read,
    predictor=SimilarityPredictor,
    evaluation=EvaluationPairs,
    immutable=EmbeddingConfig.immutable,
    next_verb="embed",
    unrecorded=("column_names",),
)
