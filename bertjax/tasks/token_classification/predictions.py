"""Entities of raw text, tags of words, and the metrics of a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.tasks import tables
from bertjax.tasks.task import Run, TrainedModel, trained_length
from bertjax.tasks.token_classification import metrics
from bertjax.tasks.token_classification.config import TaggedFileOptions, TokenClassificationConfig
from bertjax.tasks.token_classification.features import make_windows
from bertjax.tasks.token_classification.files import read_tagged
from bertjax.tasks.token_classification.reading import RECORDED, check_labels
from bertjax.tasks.token_classification.schemes import Entity, find_entities, has_scheme, write_tags
from bertjax.tasks.token_classification.words import Splitting, Word, split_words

Input = str | Sequence[str]
"""Raw text, or its words."""


class TokenPredictor:
    """Finds the entities of texts, and tags their words.

    The answer to raw text is {"text", "entities": [{"start", "end", "text", "label", "score"}]}:
    the first character of each entity, one past its last, and the mean probability of the tags of
    its words. Tags without a scheme give "words" instead of entities, in the same form. The answer
    to words is {"tokens", "tags", "scores"}; the tags of a scheme are in IOB2.
    """

    forward = staticmethod(bert.task_logits)
    chunk_lines: int | None = 64  # texts may be long
    max_line: int | None = None

    def __init__(self, model: TrainedModel, options: Any) -> None:
        self.options, self.recorded = options, model.task or {}
        self.tokenizer = model.tokenizer
        self.max_seq_length = trained_length(model)
        outputs = model.shapes["classifier"]["bias"].shape[0]
        self.labels = self.recorded.get("labels") or [f"LABEL_{at}" for at in range(outputs)]
        self.has_scheme = has_scheme(self.labels)
        is_fine = self.recorded.get("splitting") == "punctuation"
        self.splitting: Splitting = "punctuation" if is_fine else "words"

    def parse_line(self, line: str, where: str) -> Input:
        """A line is a text, or a JSON object of a text or of its words."""
        if isinstance(fields := tables.read_json(line), Mapping):
            value = fields.get("tokens", fields.get("text"))
            if not isinstance(value, str | list):
                raise UserError(
                    f'{where}: the object has no text; write {{"text": "..."}} or {{"tokens": '
                    '["...", "..."]}}.'
                )
            return _checked(value, where)
        return line

    def predict(
        self, inputs: Sequence[Input], run: Run, *, where: Callable[[int], str] | None = None
    ) -> list[dict[str, Any]]:
        """Answers each text; see `Predictor.predict`."""
        if isinstance(inputs, str):
            raise UserError("The inputs are one string: give a list of texts or of lists of words.")
        name = where or (lambda index: f"Text {index + 1}")
        checked = [_checked(each, name(index)) for index, each in enumerate(inputs)]
        if self.options.pre_split:
            checked = [each.split() if isinstance(each, str) else each for each in checked]
        words = [
            split_words(each, self.splitting)
            if isinstance(each, str)
            else [Word(word, 0, 0) for word in each]
            for each in checked
        ]
        sentences = [[word.text for word in each] for each in words]
        windows = make_windows(sentences, self.tokenizer, self.max_seq_length)
        logits = windows.word_logits(run(windows)).astype(np.float64)
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        scores = (exponents.max(-1) / exponents.sum(-1)).tolist()
        tags = windows.by_sentence(metrics.predicted_tags(logits, self.labels))
        answers = []
        for given, *each in zip(checked, words, tags, windows.by_sentence(scores), strict=True):
            if isinstance(given, str):
                answers.append(self._of_text(given, *each))
            else:
                answers.append(self._of_words(given, *each[1:]))
        return answers

    def _of_text(
        self, text: str, words: Sequence[Word], tags: Sequence[str], scores: Sequence[float]
    ) -> dict[str, Any]:
        spans = [Entity(at, at + 1, tag) for at, tag in enumerate(tags)]
        if self.has_scheme:
            spans = find_entities(tags)
        found = []
        for first, end, label in spans:
            start, stop = words[first].start, words[end - 1].end
            span = {"start": start, "end": stop, "text": text[start:stop], "label": label}
            found.append({**span, "score": sum(scores[first:end]) / (end - first)})
        return {"text": text, "entities" if self.has_scheme else "words": found}

    def _of_words(
        self, given: Sequence[str], tags: Sequence[str], scores: Sequence[float]
    ) -> dict[str, Any]:
        if self.has_scheme:
            tags = write_tags(find_entities(tags), len(tags))
        return {"tokens": [*given], "tags": [*tags], "scores": [*scores]}

    def evaluate(self, path: epath.PathLike, run: Run) -> dict[str, Any]:
        """Computes the metrics of a file with tags; counts what `read_tagged` had to change."""
        given: TaggedFileOptions = self.options
        kept = {name: self.recorded[name] for name in RECORDED if name in self.recorded}
        kept |= {name: value for name, value in vars(given).items() if value is not None}
        options = TokenClassificationConfig(**kept)
        tagged = read_tagged(path, options)
        check_labels(tagged, self.labels)
        windows = make_windows(
            tagged.words,
            self.tokenizer,
            self.max_seq_length,
            documents=tagged.documents if options.document_context else None,
            tags=tagged.tags,
        )
        counts = {
            "misfit_tags": tagged.misfits,
            "comment_lines": tagged.comments,
            "widened_entities": tagged.widened,
            "unreadable_words": windows.unreadable,
            "split_sentences": windows.split,
        }
        scores = metrics.tag_scores(windows, run(windows), self.labels)
        changed = {name: float(count) for name, count in counts.items() if count}
        return {"examples": len(tagged), **changed, **scores}


def _checked(value: Input, where: str) -> Input:
    """Returns a text or a list of words that a tokenizer can read."""
    if isinstance(value, str):
        return tables.check_text(value, where, max_length=None)
    if not value or not all(isinstance(word, str) for word in value):
        raise UserError(f"{where}: the words are no list of texts; write at least one text.")
    for word in value:
        tables.check_text(word, where, max_length=None)
    return value
