"""Answers for raw texts, and the metrics of a labeled file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.tasks.classification.config import EvaluationColumns, LineOptions
from bertjax.tasks.classification.features import Reading
from bertjax.tasks.classification.targets import targets_of_model
from bertjax.tasks.labels import read_labeled
from bertjax.tasks.tables import MAX_FIELD, check_text, read_json
from bertjax.tasks.task import Run, Scores, TrainedModel, trained_length
from bertjax.tasks.texts import Text, name_text, parse_pair, split_pairs


class TextPredictor:
    """Labels texts, or pairs of texts.

    A text's answer is {"text", "label", "score", "scores": {label: probability}}. For label sets it
    is {"text", "labels", "scores"}, and for numbers {"text", "score"}. Pairs add "pair".
    """

    forward = staticmethod(bert.task_logits)
    chunk_lines: int | None = None
    max_line: int | None = MAX_FIELD

    def __init__(self, model: TrainedModel, options: Any) -> None:
        self.model, self.options = model, options
        self.targets = targets_of_model(model)
        self.max_seq_length = trained_length(model)
        self.recorded: dict[str, Any] = model.task or {}
        self.reading = _recorded_reading(self.recorded, self.max_seq_length)
        # Whether the model was trained on pairs; None: models from elsewhere do not tell.
        self.paired: bool | None = None
        if "pair_column" in self.recorded:
            self.paired = self.recorded["pair_column"] is not None
        if isinstance(options, LineOptions) and options.pair:
            if self.paired is False:
                raise UserError("The model was trained on one text per row: leave out `pair`.")
            self.paired = True

    def parse_line(self, line: str, where: str) -> Text:
        """A line is a text, a pair with a tab between, or a JSON object of either."""
        options: LineOptions = self.options
        if isinstance(fields := read_json(line), Mapping):
            columns = {"text_column": options.text_column, "pair_column": options.pair_column}
            texts = [
                _text_of(fields, name, field, where)
                for field, name in columns.items()
                if self.paired or field == "text_column"
            ]
            return (texts[0], texts[1]) if self.paired else texts[0]
        if self.paired:
            return parse_pair(line, where)
        if self.paired is None and "\t" in line.strip():
            raise UserError(
                f"{where} has a tab: set `pair` if it separates the two texts of a pair, or write "
                "a space."
            )
        return line

    def predict(
        self, inputs: Sequence[Text], run: Run, *, where: Callable[[int], str] | None = None
    ) -> list[dict[str, Any]]:
        """Labels each text; see `Predictor.predict`."""
        firsts, seconds = split_pairs(inputs, paired=self.paired, where=where or name_text)
        features = self.reading.tokenize(firsts, seconds, self.model.tokenizer)
        logits = self.reading.logits(features, run(features))
        results = []
        for index, text in enumerate(firsts):
            pair = {} if seconds is None else {"pair": seconds[index]}
            results.append({"text": text, **pair, **self.targets.answer(logits[index])})
        return results

    def evaluate(self, path: epath.PathLike, run: Run) -> Scores:
        """Computes the metrics of a .tsv, .csv or .jsonl file."""
        options: EvaluationColumns = self.options
        for name, default in (
            ("text_column", "text"),
            ("pair_column", None),
            ("label_column", "label"),
            ("drop_unlabeled", False),
        ):
            if not getattr(options, name):
                value = self.recorded.get(name) or default
                options = dataclasses.replace(options, **{name: value})
        table = read_labeled(path, options)
        targets = self.targets.read(table, options.label_column or "")
        texts = table.columns[options.text_column or ""]
        pairs = table.columns[options.pair_column] if options.pair_column else None
        features = self.reading.tokenize(texts, pairs, self.model.tokenizer, targets)
        scores = self.targets.metrics(self.reading.logits(features, run(features)), targets)
        return {"examples": len(table), **scores}


def defaults(options: type, model: TrainedModel) -> Any:
    """Returns the form of lines that a model was trained for."""
    recorded = model.task or {}
    if options is not LineOptions or "pair_column" not in recorded:
        return options()
    text, pair = recorded.get("text_column"), recorded["pair_column"]
    return LineOptions(pair is not None, text or LineOptions.text_column, pair or "pair")


def _text_of(fields: Mapping[str, Any], name: str, field: str, where: str) -> str:
    text = fields.get(name)
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"{where}: the object has no text {name!r}; write one, or name its key by `{field}`."
        )
    return check_text(text, where)


def _recorded_reading(recorded: dict[str, Any], max_seq_length: int) -> Reading:
    """Values that can't be right, in a file that others wrote, are as if they were absent."""
    if recorded.get("long_documents") != "windows":
        return Reading(max_seq_length)
    overlap = recorded.get("window_overlap")
    if not isinstance(overlap, int) or not 0 <= overlap < max_seq_length - 2:
        overlap = max_seq_length // 4
    logits = "max" if recorded.get("window_logits") == "max" else "mean"
    return Reading(max_seq_length, overlap, logits)
