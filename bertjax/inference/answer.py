"""Questions answered by a trained model, out of documents of any length."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import tables
from bertjax.tasks.batches import length_buckets
from bertjax.tasks.question_answering import predictions as question_answering
from bertjax.tasks.question_answering.features import Windows, make_windows
from bertjax.tasks.question_answering.predictions import (
    Outputs,
    Prediction,
    QuestionAnsweringConfig,
)
from bertjax.tasks.question_answering.squad import Question, read_squad

KIND = "question_answering"
_DEFAULT = Execution()


def answer(
    model: Pretrained,
    questions: Sequence[Question],
    *,
    k: int = 5,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> list[dict[str, Any]]:
    """See `bertjax.predict`, for the kind question_answering."""
    if k < 1:
        raise UserError(f"k is {k}: give at least 1.")
    if not questions:
        return []
    windows = _windows(model, questions, has_unanswerable=_may_refuse(model))
    outputs = _outputs(model, windows, batch_size, execution)
    n_best = max(k, question_answering.N_BEST)
    predictions = question_answering.decode(
        windows, outputs, _options(model).max_answer_length, n_best
    )
    return [
        _result(model, question, prediction, k)
        for question, prediction in zip(questions, predictions, strict=True)
    ]


def evaluate(
    model: Pretrained,
    path: epath.PathLike,
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> dict[str, float]:
    """See `bertjax.inference.predict.evaluate`, for the kind question_answering."""
    file = read_squad(path)
    windows = _windows(model, file.questions, has_unanswerable=file.has_unanswerable)
    outputs = _outputs(model, windows, batch_size, execution)
    threshold = _null_threshold(model)
    scores = question_answering.scores(
        windows,
        outputs,
        max_answer_length=_options(model).max_answer_length,
        null_threshold=threshold,
    )
    said = {"null_threshold": threshold} if file.has_unanswerable else {}
    return {"examples": float(len(file)), **said, **scores}


def answer_lines(
    model: Pretrained, chunks: Iterable[tuple[int, list[str]]], *, k: int = 5, batch_size: int = 32
) -> Iterator[str]:
    """See `bertjax.inference.predict.predict_lines`; of (number of the first line, lines)."""
    for first, lines in chunks:
        pairs = [_parse_line(line, first + row) for row, line in enumerate(lines)]
        questions = as_questions(pairs, name="Line", first=first)
        for result in answer(model, questions, k=k, batch_size=batch_size):
            yield json.dumps(result, ensure_ascii=False)


def as_questions(
    pairs: Sequence[str | tuple[str, str]], *, name: str = "Question", first: int = 1
) -> list[Question]:
    """Questions without known answers, of (question, document), checked.

    Args:
        pairs: N of them.
        name: what messages call one.
        first: the number of the first.
    """
    if isinstance(pairs, str) or any(isinstance(pair, str) for pair in pairs):
        raise UserError("The model answers questions: give a list of (question, document).")
    questions = []
    for number, pair in enumerate(pairs, start=first):
        question, context, where = *pair, f"{name} {number}"
        tables.check_text(question, where)
        tables.check_text(context, where, longest=None)
        if not question.strip() or not context.strip():
            raise UserError(f"{where}: the question or its document is empty; write both.")
        questions.append(Question(where, question, context, where=where))
    return questions


def _parse_line(line: str, number: int) -> tuple[str, str]:
    """(question, document) of a line: a JSON object, or both with a tab between."""
    if line.lstrip().startswith("{"):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, Mapping):
            pair = (fields.get("question"), fields.get("context"))
            if isinstance(pair[0], str) and isinstance(pair[1], str):
                return pair[0], pair[1]
    question, tab, context = line.partition("\t")
    if not tab or "\t" in context:
        raise UserError(
            f'Line {number}: the model answers questions; write {{"question": "...", "context": '
            '"..."} as JSON, or question and document with a tab between.'
        )
    return question, context


def _result(
    model: Pretrained, question: Question, prediction: Prediction, k: int
) -> dict[str, Any]:
    with_null = _may_refuse(model)
    shares, null_share = question_answering.probabilities(prediction, with_null=with_null)
    candidates = [
        {"text": each.text, "start": each.start, "end": each.end, "score": share}
        for each, share in zip(prediction.candidates, shares, strict=True)
    ][:k]
    best = candidates[0]
    if with_null:
        if not prediction.text(_null_threshold(model)):
            best = {"text": "", "start": None, "end": None, "score": null_share}
        best = {**best, "null_difference": prediction.difference}
    return {"question": question.question, **best, "n_best": candidates}


def _windows(
    model: Pretrained, questions: Sequence[Question], *, has_unanswerable: bool
) -> Windows:
    options = _options(model)
    return make_windows(
        questions,
        model.tokenizer,
        max_seq_length=_row_length(model),
        max_query_length=options.max_query_length,
        doc_stride=options.doc_stride,
        has_unanswerable=has_unanswerable,
    )


def _outputs(model: Pretrained, windows: Windows, batch_size: int, execution: Execution) -> Outputs:
    return programs.output_batches(
        model.params,
        windows,
        model.config,
        batch_size=programs.row_bucket(len(windows), batch_size),
        buckets=length_buckets(_row_length(model)),
        kind=KIND,
        execution=execution,
    )


def _row_length(model: Pretrained) -> int:
    """Tokens of a window: as in training, or Google's 384."""
    said = (model.task or {}).get("max_seq_length", 384)
    return min(said, model.config.max_position_embeddings)


def _options(model: Pretrained) -> QuestionAnsweringConfig:
    """As in training; of a model that doesn't say, the defaults, less of few positions."""
    task, room = model.task or {}, _row_length(model) - 3
    query = min(QuestionAnsweringConfig.max_query_length, max(1, room // 3))
    defaults = {
        "max_query_length": query,
        "doc_stride": min(QuestionAnsweringConfig.doc_stride, max(1, (room - query) // 2)),
    }
    names = ("doc_stride", "max_query_length", "max_answer_length")
    return QuestionAnsweringConfig(
        **{**defaults, **{name: task[name] for name in names if name in task}}
    )


def _may_refuse(model: Pretrained) -> bool:
    """Whether it may say that there is no answer: by its own word, else where it was trained to."""
    return bool((model.task or {}).get("has_unanswerable"))


def _null_threshold(model: Pretrained) -> float:
    return float((model.task or {}).get("null_threshold", 0.0))
