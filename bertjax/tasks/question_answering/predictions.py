"""Answers to questions on documents of any length, and the metrics of a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.tasks import tables
from bertjax.tasks.question_answering import decoding
from bertjax.tasks.question_answering.config import AnswerOptions, QuestionAnsweringConfig
from bertjax.tasks.question_answering.decoding import Prediction
from bertjax.tasks.question_answering.features import Windows, make_windows
from bertjax.tasks.question_answering.squad import Question, read_squad
from bertjax.tasks.task import Run, Scores, TrainedModel, trained_length

MAX_SEQ_LENGTH = 384
"""Default maximum tokens of a window, as in Google's run_squad.py."""


class QuestionPredictor:
    """Answers questions on documents.

    An answer is {"question", "text": the answer as the document has it, "start", "end": its first
    character and one past its last, "score", "n_best": the top k of {"text", "start", "end",
    "score"}}. Scores are probabilities among the 20 best answers. A model that was trained on
    unanswerable questions adds "null_difference", the logits by which no answer is likelier than
    the best one. Above the null threshold of the model, "text" is "" and "start" and "end" are
    None.
    """

    forward = staticmethod(bert.task_logits)
    chunk_lines: int | None = 64  # documents may be long
    max_line: int | None = None

    def __init__(self, model: TrainedModel, options: Any) -> None:
        recorded = model.task or {}
        self.options = options
        self.tokenizer = model.tokenizer
        self.max_seq_length = trained_length(model, MAX_SEQ_LENGTH)
        self.recorded = _recorded_options(recorded, self.max_seq_length)
        self.may_refuse = bool(recorded.get("has_unanswerable"))
        self.null_threshold = float(recorded.get("null_threshold", 0.0))

    def parse_line(self, line: str, where: str) -> tuple[str, str]:
        """A line is a JSON object, or a question and a document with a tab between."""
        pair = _parse_line(line, where)
        as_questions([pair], lambda _: where)
        return pair

    def predict(
        self,
        inputs: Sequence[tuple[str, str]],
        run: Run,
        *,
        where: Callable[[int], str] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers each (question, document); see `Predictor.predict`."""
        options: AnswerOptions = self.options
        questions = as_questions(inputs, where or (lambda index: f"Question {index + 1}"))
        windows = self._windows(questions, has_unanswerable=self.may_refuse)
        n_best = max(options.top_k, decoding.N_BEST)
        predictions = decoding.decode(
            windows, run(windows), self.recorded.max_answer_length, n_best
        )
        return [
            self._answer(question, prediction, options.top_k)
            for question, prediction in zip(questions, predictions, strict=True)
        ]

    def evaluate(self, path: epath.PathLike, run: Run) -> Scores:
        """Computes the metrics of a file in SQuAD's format, at the null threshold of the model."""
        file = read_squad(path, drop_misaligned=self.options.drop_misaligned)
        windows = self._windows(file.questions, has_unanswerable=file.has_unanswerable)
        scores = decoding.scores(
            windows, run(windows), self.recorded.max_answer_length, self.null_threshold
        )
        threshold = {"null_threshold": self.null_threshold} if file.has_unanswerable else {}
        return {"examples": len(file), **threshold, **scores}

    def _windows(self, questions: Sequence[Question], *, has_unanswerable: bool) -> Windows:
        return make_windows(
            questions,
            self.tokenizer,
            self.recorded,
            max_seq_length=self.max_seq_length,
            has_unanswerable=has_unanswerable,
        )

    def _answer(self, question: Question, prediction: Prediction, top_k: int) -> dict[str, Any]:
        shares, null_share = decoding.probabilities(prediction, with_null=self.may_refuse)
        candidates = [
            {"text": each.text, "start": each.start, "end": each.end, "score": share}
            for each, share in zip(prediction.candidates, shares, strict=True)
        ][:top_k]
        best = candidates[0]
        if self.may_refuse:
            if not prediction.text(self.null_threshold):
                best = {"text": "", "start": None, "end": None, "score": null_share}
            best = {**best, "null_difference": prediction.difference}
        return {"question": question.question, **best, "n_best": candidates}


def as_questions(pairs: Sequence[tuple[str, str]], where: Callable[[int], str]) -> list[Question]:
    """Checks pairs (question, document); `where` names a pair in errors."""
    if isinstance(pairs, str) or any(isinstance(pair, str) for pair in pairs):
        raise UserError("The model answers questions: give a list of (question, document).")
    questions = []
    for index, (question, context) in enumerate(pairs):
        name = where(index)
        tables.check_text(question, name)
        tables.check_text(context, name, max_length=None)
        if not question.strip() or not context.strip():
            raise UserError(f"{name}: the question or its document is empty; write both.")
        questions.append(Question(name, question, context, where=name))
    return questions


def _parse_line(line: str, where: str) -> tuple[str, str]:
    if isinstance(fields := tables.read_json(line), Mapping):
        pair = (fields.get("question"), fields.get("context"))
        if isinstance(pair[0], str) and isinstance(pair[1], str):
            return pair[0], pair[1]
    question, tab, context = line.partition("\t")
    if not tab or "\t" in context:
        raise UserError(
            f'{where}: the model answers questions; write {{"question": "...", "context": '
            '"..."} as JSON, or question and document with a tab between.'
        )
    return question, context


def _recorded_options(recorded: Mapping[str, Any], max_seq_length: int) -> QuestionAnsweringConfig:
    """The options of training; by default Google's, scaled down for few positions."""
    room = max_seq_length - 3
    query = min(QuestionAnsweringConfig.max_query_length, max(1, room // 3))
    defaults = {
        "max_query_length": query,
        "doc_stride": min(QuestionAnsweringConfig.doc_stride, max(1, (room - query) // 2)),
    }
    names = ("doc_stride", "max_query_length", "max_answer_length")
    return QuestionAnsweringConfig(
        **{**defaults, **{name: recorded[name] for name in names if name in recorded}}
    )
