"""Summaries of documents of any length, and the metrics of a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.model import extractive
from bertjax.tasks import tables
from bertjax.tasks.rouge import rouge_notes
from bertjax.tasks.summarization_extractive import metrics
from bertjax.tasks.summarization_extractive.config import (
    ExtractiveSummarizationConfig,
    PickingOptions,
)
from bertjax.tasks.summarization_extractive.documents import (
    Document,
    parse_sentences,
    read_documents,
)
from bertjax.tasks.summarization_extractive.features import make_windows
from bertjax.tasks.task import Run, TrainedModel, trained_length

MAX_SEQ_LENGTH = 512
"""Default maximum tokens of a window, as in the paper."""


class ExtractivePredictor:
    """Picks the sentences of documents.

    An answer is {"summary": the picked sentences in the order of the document, "sentences": their
    numbers from 0, "scores": their probabilities}.
    """

    forward = staticmethod(extractive.sentence_logits)
    chunk_lines: int | None = 64  # documents may be long
    max_line: int | None = None

    def __init__(self, model: TrainedModel, options: PickingOptions) -> None:
        self.tokenizer = model.tokenizer
        self.max_seq_length = trained_length(model, MAX_SEQ_LENGTH)
        given = {name: value for name, value in vars(options).items() if value is not None}
        if given.get("summary_column") and "label_column" not in given:
            given["label_column"] = None
        self.options = dataclasses.replace(recorded_options(model), **given)

    def parse_line(self, line: str, where: str) -> tuple[str, ...]:
        """A line is running text, a JSON list of sentences, or JSON {"document": either}."""
        fields = tables.read_json(line)
        value = fields.get("document") if isinstance(fields, Mapping) else line
        if not isinstance(value, str | list):
            raise UserError(
                f'{where}: the model summarizes documents; write {{"document": "..."}} as JSON, a '
                "JSON list of sentences, or the text alone."
            )
        return parse_sentences(value, where, self.options.language)

    def predict(
        self,
        inputs: Sequence[str | Sequence[str]],
        run: Run,
        *,
        where: Callable[[int], str] | None = None,
    ) -> list[dict[str, Any]]:
        """Summarizes documents, each a text or a list of sentences; see `Predictor.predict`."""
        if isinstance(inputs, str):
            raise UserError("The documents are one string: give a list of documents.")
        name = where or (lambda index: f"Document {index + 1}")
        documents = [
            Document(parse_sentences(each, name(index), self.options.language))
            for index, each in enumerate(inputs)
        ]
        windows = make_windows(documents, self.tokenizer, self.max_seq_length)
        every = windows.by_document(run(windows))
        answers = []
        for document, logits in zip(documents, every, strict=True):
            picked = metrics.pick_sentences(document, logits, self.options)
            probabilities = np.exp(-np.logaddexp(0, -logits[list(picked)]))
            answers.append(
                {
                    "summary": " ".join(document.sentences[index] for index in picked),
                    "sentences": list(picked),
                    "scores": probabilities.tolist(),
                }
            )
        return answers

    def evaluate(self, path: epath.PathLike, run: Run) -> dict[str, Any]:
        """Computes the metrics of a .jsonl, .csv or .tsv file, with its Lead-k and its oracle."""
        documents = read_documents(path, self.options)
        windows = make_windows(documents, self.tokenizer, self.max_seq_length)
        scores = metrics.scores(windows, run(windows), self.options)
        notes = rouge_notes(self.options.tokenize)
        return {"examples": len(documents), **scores, "notes": notes}


def defaults(options: type[PickingOptions], model: TrainedModel) -> PickingOptions:
    """Returns the options that a model was trained with."""
    recorded = recorded_options(model)
    return options(recorded.sentences, recorded.trigram_blocking)


def recorded_options(model: TrainedModel) -> ExtractiveSummarizationConfig:
    """Returns the options that a model's export records; defaults for other models."""
    recorded = model.task or {}
    names = {field.name for field in dataclasses.fields(ExtractiveSummarizationConfig)}
    kept = {name: value for name, value in recorded.items() if name in names - {"column_names"}}
    return ExtractiveSummarizationConfig(**kept)
