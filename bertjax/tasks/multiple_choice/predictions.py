"""Answers to questions with choices, and the metrics of a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.batches import gather
from bertjax.tasks.multiple_choice import losses
from bertjax.tasks.multiple_choice.config import (
    ChoiceColumns,
    ChoiceEvaluation,
    MultipleChoiceConfig,
)
from bertjax.tasks.multiple_choice.features import ChoiceFeatures, make_features
from bertjax.tasks.multiple_choice.questions import (
    Question,
    parse_question,
    read_questions,
    require_choices,
)
from bertjax.tasks.multiple_choice.reading import scores
from bertjax.tasks.tables import read_json
from bertjax.tasks.task import Run, Scores, TrainedModel, trained_length

MAX_SEQ_LENGTH = 128
"""Default maximum tokens of a choice with its question and context."""


class ChoicePredictor:
    """Chooses among the answers to questions.

    An answer is {"question", "choice": the number of the choice from 0, "answer": its text,
    "score": its probability, "scores": the probabilities of all choices}.
    """

    forward = staticmethod(losses.choice_logits)
    chunk_lines: int | None = None
    max_line: int | None = None

    def __init__(self, model: TrainedModel, options: Any) -> None:
        self.model, self.options = model, options
        self.max_seq_length = trained_length(model, MAX_SEQ_LENGTH)

    def parse_line(self, line: str, where: str) -> Question:
        """A line is a JSON object with question, choices and, if there is one, context."""
        fields = read_json(line)
        if not isinstance(fields, Mapping):
            raise UserError(
                f'{where}: the model chooses among answers; write {{"question": "...", "choices": '
                '["...", "..."]} as JSON, with the names of the columns of training.'
            )
        return self._parse(fields, where)

    def predict(
        self,
        inputs: Sequence[Mapping[str, Any] | Question],
        run: Run,
        *,
        where: Callable[[int], str] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers questions, each a mapping like the objects of lines; see `Predictor.predict`."""
        name = where or (lambda index: f"Question {index + 1}")
        questions = [self._parse(each, name(index)) for index, each in enumerate(inputs)]
        logits = gather(run(self._features(questions)))
        answers = []
        for question, values in zip(questions, logits.astype(np.float64), strict=True):
            own = values[: len(question.choices)]
            exponents = np.exp(own - own.max())
            probabilities = (exponents / exponents.sum()).tolist()
            best = int(own.argmax())
            answers.append(
                {
                    "question": question.question,
                    "choice": best,
                    "answer": question.choices[best],
                    "score": probabilities[best],
                    "scores": probabilities,
                }
            )
        return answers

    def evaluate(self, path: epath.PathLike, run: Run) -> Scores:
        """Computes the metrics of a .tsv, .csv or .jsonl file."""
        evaluation: ChoiceEvaluation = self.options
        given = {name: value for name, value in vars(evaluation).items() if value}
        if "choices_column" in given and "choice_columns" not in given:
            given["choice_columns"] = ()
        options = dataclasses.replace(recorded_options(self.model), **given)
        source = read_questions(path, options)
        features = self._features(source.questions, source.answers)
        return {"examples": len(source), **scores(features, run(features))}

    def _parse(self, fields: Mapping[str, Any] | Question, where: str) -> Question:
        if not isinstance(fields, Question):
            if not isinstance(fields, Mapping):
                raise UserError(
                    f"{where}: the model chooses among answers; give a dict with question and "
                    "choices."
                )
            columns: ChoiceColumns = self.options
            fields = parse_question(fields, columns, where)
        return require_choices(fields, where)

    def _features(
        self, questions: Sequence[Question], answers: np.ndarray | None = None
    ) -> ChoiceFeatures:
        """Pads to the choices of training, so that few programs are compiled."""
        most = max(len(question.choices) for question in questions)
        choices = (self.model.task or {}).get("choices")
        if not isinstance(choices, int) or choices < most:
            choices = 1 << (most - 1).bit_length()
        return make_features(questions, self.model.tokenizer, self.max_seq_length, choices, answers)


def defaults(options: type, model: TrainedModel) -> Any:
    """Returns the columns that a model was trained with."""
    if options is not ChoiceColumns:
        return options()
    recorded = recorded_options(model)
    names = [field.name for field in dataclasses.fields(ChoiceColumns)]
    return ChoiceColumns(**{name: getattr(recorded, name) for name in names})


def recorded_options(model: TrainedModel) -> MultipleChoiceConfig:
    """Returns the options that a model's export records; defaults for other models."""
    recorded = model.task or {}
    names = {field.name for field in dataclasses.fields(MultipleChoiceConfig)}
    kept = {name: value for name, value in recorded.items() if name in names}
    if "choice_columns" in kept:
        kept["choice_columns"] = tuple(kept["choice_columns"])
    return MultipleChoiceConfig(**kept)
