"""Texts written for raw texts, and the metrics of a file of sources and targets."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bertjax.config import EncoderDecoderConfig
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks import tables
from bertjax.tasks.seq2seq import scoring
from bertjax.tasks.seq2seq.architectures import (
    ENCODER_DECODER,
    encoder_decoder_head,
    prefix_head,
    source_length,
)
from bertjax.tasks.seq2seq.config import Scoring, Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures, add_targets, read_sources
from bertjax.tasks.seq2seq.pairs import read_pairs
from bertjax.tasks.seq2seq.scoring import Scorer
from bertjax.tasks.task import Run, TrainedModel, trained_length
from bertjax.tasks.texts import check_texts, name_text


@dataclasses.dataclass(frozen=True)
class WritingOptions(GenerationConfig):
    """How a trained model writes. Default: as in training."""


def defaults(options: type[WritingOptions], model: TrainedModel) -> WritingOptions:
    """Returns the options that a model was trained with."""
    return options(**vars(recorded_config(model).generation))


@dataclasses.dataclass(frozen=True)
class ScoringOptions(WritingOptions):
    """How a file of sources and targets is read, and how texts are written. Default: as in
    training."""

    source_column: str | None = None
    """Column of the source."""
    target_column: str | None = None
    """Column of the target."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, for a file without a header."""
    scoring: Scoring | None = None
    """rouge: for summaries. bleu: BLEU and chrF, for translations."""
    tokenize: str | None = None
    """How the scores split texts. For rouge: english, words or characters. For bleu: a tokenization
    of sacreBLEU, such as 13a, intl, zh or char."""


class Seq2SeqPredictor:
    """Writes a text for each text.

    An answer is {"source", "text", "score", "n_best": n of {"text", "score"}, the best first}. A
    score is the log probability of a text in nats, divided by the length penalty.
    """

    chunk_lines: int | None = None
    max_line: int | None = tables.MAX_FIELD

    def __init__(self, model: TrainedModel, options: WritingOptions) -> None:
        self.given = options
        names = [field.name for field in dataclasses.fields(GenerationConfig)]
        generation = GenerationConfig(**{name: getattr(options, name) for name in names})
        self.options = dataclasses.replace(recorded_config(model), generation=generation)
        self.tokenizer = model.tokenizer
        self.target_tokenizer = model.decoder_tokenizer or model.tokenizer
        self.max_seq_length = trained_length(model)
        self.max_source_length = source_length(self.options, model.config, self.max_seq_length)
        make = encoder_decoder_head if model.kind == ENCODER_DECODER else prefix_head
        self.forward: Any = make(self.options, self.target_tokenizer).forward
        if "task" not in (model.task or {}):
            # Other models may write [CLS]: targets in transformers' examples begin with it.
            everything = dataclasses.replace(self.forward.vocabulary, suppressed_ids=())
            self.forward = dataclasses.replace(self.forward, vocabulary=everything)

    def parse_line(self, line: str, where: str) -> str:
        """A line is a source."""
        return line

    def predict(
        self, inputs: Sequence[str], run: Run, *, where: Callable[[int], str] | None = None
    ) -> list[dict[str, Any]]:
        """Writes a text for each source; see `Predictor.predict`."""
        check_texts(inputs, where or name_text)
        written = scoring.gather(run(self._read(inputs)), self.target_tokenizer)
        return [
            {"source": source, **best[0], "n_best": best}
            for source, texts, scores in zip(inputs, written.texts, written.scores, strict=True)
            for best in [_candidates(texts, scores.tolist())]
        ]

    def evaluate(self, path: epath.PathLike, run: Run) -> dict[str, Any]:
        """Writes a text for each source of a file, and scores them against its targets.

        The metrics have notes on how they are computed beside them.
        """
        names = ("source_column", "target_column", "column_names", "scoring", "tokenize")
        given = {name: value for name in names if (value := getattr(self.given, name)) is not None}
        if "scoring" in given:
            given.setdefault("tokenize", None)
        options = dataclasses.replace(self.options, **given)
        pairs = read_pairs(path, options)
        features = add_targets(
            self._read(pairs.sources),
            pairs.targets,
            self.target_tokenizer,
            options.max_target_length,
        )
        scorer = Scorer.of(options, self.target_tokenizer)
        scorer.check(pairs)  # what is missing shows before anything is written
        notes = scorer.notes(options)
        if long := len(features.truncated_targets):
            longest = options.max_target_length
            notes["nll_loss"] = f"{long:,} of {len(pairs):,} targets truncated to {longest} tokens"
        written = scoring.gather(run(features), self.target_tokenizer)
        scores = scorer.scores(written, features)
        return {"examples": len(pairs), **scores, "notes": notes}

    def _read(self, sources: Sequence[str]) -> Seq2SeqFeatures:
        seed = self.options.generation.sample_seed
        return read_sources(sources, self.tokenizer, self.max_source_length, seed)


def _candidates(texts: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Returns the texts that a search found; if no token was allowed, an empty one."""
    found = [
        {"text": text, "score": score}
        for text, score in zip(texts, scores, strict=True)
        if score > -math.inf
    ]
    return found or [{"text": "", "score": None}]


def recorded_config(model: TrainedModel) -> Seq2SeqConfig:
    """Returns the options that a model's export records.

    Other models have the defaults, with lengths that the positions of their decoders allow, and
    what their generation_config.json says.
    """
    recorded = model.task or {}
    names = [field.name for field in dataclasses.fields(Seq2SeqConfig)]
    given = {name: recorded[name] for name in names if name in recorded}
    generation = recorded.get("generation") or {}
    if "max_length" not in generation and isinstance(model.config, EncoderDecoderConfig):
        length = min(GenerationConfig.max_length, model.config.decoder.max_position_embeddings)
        generation = {"max_length": length, **generation}
        given.setdefault("max_target_length", length)
    if generation:
        given["generation"] = GenerationConfig(**generation)
    return Seq2SeqConfig(**given)
