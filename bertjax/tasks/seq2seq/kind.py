"""The kind seq2seq."""

from bertjax.tasks.seq2seq.architectures import ENCODER_DECODER
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.predictions import (
    ScoringOptions,
    Seq2SeqPredictor,
    WritingOptions,
    defaults,
)
from bertjax.tasks.seq2seq.reading import immutable, read
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=Seq2SeqConfig,
    heads=(ENCODER_DECODER,),
    max_seq_length=512,
    read=read,
    predictor=Seq2SeqPredictor,
    prediction=WritingOptions,
    evaluation=ScoringOptions,
    defaults=defaults,
    immutable=immutable,
    unrecorded=("column_names",),
)
