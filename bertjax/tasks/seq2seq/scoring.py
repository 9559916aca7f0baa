"""Metrics of written texts: ROUGE or BLEU, and the likelihood of the references."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bertjax.tasks import bleu, rouge
from bertjax.tasks.report_tables import ReportTable, examples, scores_by_length
from bertjax.tasks.seq2seq.config import Scoring, Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures
from bertjax.tasks.seq2seq.pairs import Pairs
from bertjax.tasks.seq2seq.writing import texts_of
from bertjax.tasks.task import Outputs, Scores
from bertjax.text.sentences import split_sentences

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

METRICS: dict[str, tuple[str, ...]] = {
    "rouge": ("rougeL", "rouge1", "rouge2", "rougeLsum", "nll_loss"),
    "bleu": ("bleu", "chrf", "nll_loss"),
}
"""Metrics of each way of scoring, the main one first."""


class Written(NamedTuple):
    """What a model wrote for N sources, in their order."""

    texts: list[list[str]]
    """n texts for each source, the best first."""
    scores: np.ndarray
    """float32 [N, n]."""
    lengths: np.ndarray
    """int32 [N, n]: tokens of each text."""
    nll_loss: float | None
    """Mean cross-entropy of the tokens of the targets in nats; None without targets."""

    @property
    def best(self) -> list[str]:
        """The best text for each source."""
        return [texts[0] for texts in self.texts]


def gather(outputs: Outputs, tokenizer: "Tokenizer") -> Written:
    """Decodes the outputs of `Writer`, batch by batch."""
    rows, batches = zip(*outputs, strict=True)
    order = np.argsort(np.concatenate(rows))

    def whole(name: str) -> np.ndarray:
        return np.concatenate([batch[name] for batch in batches])[order]

    loss = None
    if "nll" in batches[0]:
        loss = float(whole("nll").sum(dtype=np.float64) / whole("count").sum())
    texts = [texts_of(tokens, tokenizer) for tokens in whole("tokens")]
    return Written(texts, whole("scores"), whole("lengths"), loss)


class Scorer(NamedTuple):
    """How texts are scored."""

    scoring: Scoring
    tokenize: Any
    lowercase: bool
    """Whether BLEU ignores the case, because the vocabulary has none."""

    @classmethod
    def of(cls, options: Seq2SeqConfig, tokenizer: "Tokenizer") -> "Scorer":
        """Returns the scorer of a run, whose targets have this tokenizer."""
        tokenize = options.tokenize or {"rouge": "english", "bleu": "13a"}[options.scoring]
        return cls(options.scoring, tokenize, tokenizer.lowercase)

    def check(self, pairs: Pairs) -> None:
        """Raises a `UserError`, which names the line, if a target can't be a reference."""
        where = pairs.places.__getitem__
        if self.scoring == "rouge":
            rouge.check_rouge(pairs.targets, self.tokenize, where)
        else:
            bleu.check_bleu(pairs.targets, self.tokenize, self.lowercase, where)

    def text_scores(self, texts: Sequence[str], references: Sequence[str]) -> Scores:
        """Computes the metrics of one text for each reference.

        For rougeLsum a text without a line break is split into sentences.
        """
        if self.scoring == "rouge":
            both = (list(map(_sentence_lines, each)) for each in (texts, references))
            return rouge.rouge_scores(*both, tokenize=self.tokenize)
        return self._bleu(texts, references).scores

    def notes(self, options: Seq2SeqConfig) -> dict[str, str]:
        """Returns how each metric is computed; see `Task.notes`."""
        if self.scoring == "rouge":
            notes = rouge.rouge_notes(self.tokenize)
            split = f"{notes['rougeLsum']}, sentences by sentencex {version('sentencex')}"
            return {**notes, "rougeLsum": split}
        direction = f"{options.source_column} to {options.target_column}"
        signatures = self._bleu(["1"], ["1"]).signatures
        return {name: f"{direction}, {signature}" for name, signature in signatures.items()}

    def _bleu(self, texts: Sequence[str], references: Sequence[str]) -> bleu.BleuScores:
        return bleu.bleu_scores(texts, references, tokenize=self.tokenize, lowercase=self.lowercase)

    def scores(self, written: Written, features: Seq2SeqFeatures) -> Scores:
        """Computes all metrics of rows with targets."""
        extra = {} if written.nll_loss is None else {"nll_loss": written.nll_loss}
        return {
            **self.text_scores(written.best, features.references),
            **extra,
            "length": float(np.mean(written.lengths[:, 0])),
        }


def _sentence_lines(text: str) -> str:
    """Returns a text with a line for each sentence; line breaks of its own stay as they are."""
    return text if "\n" in text else "\n".join(split_sentences(text))


def copied_beginnings(features: Seq2SeqFeatures, sources: Sequence[str]) -> list[str]:
    """Returns the first words of each source, as many as the references have on average."""
    words = sum(len(text.split()) for text in features.references) / len(features.references)
    return [" ".join(source.split()[: max(1, round(words))]) for source in sources]


def report_tables(
    sources: Sequence[str], features: Seq2SeqFeatures, written: Written, scorer: Scorer
) -> list[ReportTable]:
    """Returns source, reference and output side by side, and the scores by length of the source."""
    best, references = written.best, features.references

    def scores(rows: Sequence[int]) -> Scores:
        return scorer.text_scores([best[row] for row in rows], [references[row] for row in rows])

    given = {"source": sources, "reference": references}
    lengths = features.source.lengths
    return [
        examples("Examples of the dev rows", given, {"output": best}),
        scores_by_length("Scores by length of the source", "source tokens", lengths, scores),
    ]
