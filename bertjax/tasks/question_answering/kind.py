"""The kind question_answering."""

from bertjax.tasks.question_answering.config import (
    AnswerOptions,
    QuestionAnsweringConfig,
    QuestionFile,
)
from bertjax.tasks.question_answering.losses import soft_question_answering
from bertjax.tasks.question_answering.predictions import MAX_SEQ_LENGTH, QuestionPredictor
from bertjax.tasks.question_answering.reading import HEAD, read, recorded
from bertjax.tasks.task import TaskKind

KIND = TaskKind(
    options=QuestionAnsweringConfig,
    heads=(HEAD.name,),
    max_seq_length=MAX_SEQ_LENGTH,
    read=read,
    predictor=QuestionPredictor,
    prediction=AnswerOptions,
    evaluation=QuestionFile,
    immutable=recorded,
    soft_losses={HEAD.name: soft_question_answering},
)
