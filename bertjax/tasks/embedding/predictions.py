"""The similarity of two texts, and the metrics of a file of pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.batches import gather
from bertjax.tasks.embedding.config import EvaluationPairs
from bertjax.tasks.embedding.features import tokenize_rows
from bertjax.tasks.embedding.losses import Vectors
from bertjax.tasks.embedding.metrics import cosines, pair_metrics
from bertjax.tasks.embedding.reading import read_scores, read_texts
from bertjax.tasks.tables import MAX_FIELD, check_text, read_json
from bertjax.tasks.task import Run, Scores, TrainedModel, trained_length
from bertjax.tasks.texts import Text, name_text, parse_pair, split_pairs


class SimilarityPredictor:
    """Compares the texts of pairs: {"text", "pair", "score"}, the cosine of their vectors."""

    chunk_lines: int | None = None
    max_line: int | None = MAX_FIELD

    def __init__(self, model: TrainedModel, options: Any) -> None:
        """Takes a model whose files of sentence-transformers say how it makes vectors.

        Raises:
            UserError: it has none, or makes vectors with other layers than a pooling.
        """
        modules = model.sentence_modules
        if modules is None or modules.only_pooling is None:
            raise UserError(
                "The model does not say how it makes vectors, or makes them with more than a "
                "pooling: use embed."
            )
        self.model, self.options = model, options
        self.recorded: dict[str, Any] = model.task or {}
        self.lowercase = modules.lowercase
        self.max_seq_length = min(trained_length(model), modules.max_seq_length or 1 << 31)
        self.forward = Vectors(modules.only_pooling, bool(modules.after))

    def parse_line(self, line: str, where: str) -> tuple[str, str]:
        """A line is a pair with a tab between, or a JSON object with text and pair."""
        if not isinstance(fields := read_json(line), Mapping):
            return parse_pair(line, where)
        texts = [fields.get(name) for name in ("text", "pair")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{where}: the object lacks a text 'text' or 'pair'; write both.")
        first, second = (check_text(str(text), where) for text in texts)
        return first, second

    def predict(
        self, inputs: Sequence[Text], run: Run, *, where: Callable[[int], str] | None = None
    ) -> list[dict[str, Any]]:
        """Compares the texts of each pair; see `Predictor.predict`."""
        firsts, seconds = split_pairs(inputs, paired=True, where=where or name_text)
        assert seconds is not None
        found = cosines(gather(run(self._tokenize([firsts, seconds], None))))
        return [
            {"text": text, "pair": pair, "score": float(score)}
            for text, pair, score in zip(firsts, seconds, found, strict=True)
        ]

    def evaluate(self, path: epath.PathLike, run: Run) -> Scores:
        """Computes the metrics of a file of pairs."""
        options: EvaluationPairs = self.options
        recorded = {"text_column": "text", "pair_column": "pair", "score_column": None}
        recorded |= {"score_range": (0.0, 1.0)} | self.recorded
        asked = {
            name: getattr(options, name) or recorded[name]
            for name in recorded
            if name in vars(options)
        }
        texts, score = (asked["text_column"], asked["pair_column"]), asked["score_column"]
        table = read_texts(path, texts, score, options.column_names)
        low, high = asked["score_range"]
        scores = read_scores(table, score, (low, high))
        features = self._tokenize([table.columns[name] for name in texts], scores)
        sizes = self.recorded.get("embedding_sizes") or ()
        vectors = gather(run(features))
        return {
            "examples": len(table),
            **pair_metrics(vectors, scores, features.text_ids, sizes),
        }

    def _tokenize(self, columns: Sequence[Sequence[str]], scores: Any) -> Any:
        return tokenize_rows(
            columns,
            self.model.tokenizer,
            self.max_seq_length,
            lowercase=self.lowercase,
            scores=scores,
        )
