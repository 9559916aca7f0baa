"""Options of sequence-to-sequence tasks."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from bertjax.config import make_tuples
from bertjax.errors import UserError, refuse_unknown
from bertjax.model.generation_config import GenerationConfig

Architecture = Literal["encoder_decoder", "prefix"]
Scoring = Literal["rouge", "bleu"]
_Weights = Literal["pretrained", "random"]
_Share = Literal["none", "embeddings", "all"]


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig:
    """Write a text for each text: a summary, a translation, or any other.

    The files are .tsv, .csv or .jsonl, or two parallel files of lines: with the columns de and en,
    data/train means the files data/train.de and data/train.en. The main metric is rougeL, or bleu.
    """

    kind: ClassVar[str] = "seq2seq"

    source_column: str = "source"
    """Column of the text to read, or suffix of its parallel file. In .jsonl, translation.de is the
    field de of the object translation."""
    target_column: str = "target"
    """Column of the text to write, or suffix of its file."""
    column_names: Sequence[str] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    architecture: Architecture = "encoder_decoder"
    """encoder_decoder: the BERT reads, and a second one with cross-attention writes (Rothe et al.
    2020). prefix: the BERT alone reads and writes, in one row with a causal mask for the target
    (UniLM, s2s-ft); it has no new parameters."""
    decoder: str | None = None
    """BERT that the decoder starts from, with its own vocabulary. For a random decoder also a
    config.json, with the vocabulary of `model`. Default: `model`."""
    encoder_weights: _Weights = "pretrained"
    """random: new weights, in the shape of `model`."""
    decoder_weights: _Weights = "pretrained"
    """random: the decoder has the shape of `decoder` and new weights. Cross-attention always has
    new weights."""
    share: _Share = "none"
    """Weights that encoder and decoder share. embeddings: the word embeddings. all: everything
    except cross-attention and output head (BERTSHARE)."""
    max_target_length: int = 128
    """Maximum tokens of a target, with its [SEP]. A prefix model has source and target in a row of
    `max_seq_length` tokens."""
    truncate_targets: bool = False
    """Truncate targets that are longer. Without it they are an error. Sources are always truncated
    and counted."""
    label_smoothing: float = 0.0
    """Probability that the loss spreads over the vocabulary."""
    scoring: Scoring = "rouge"
    """rouge: ROUGE-1, ROUGE-2 and ROUGE-L with stemming, for summaries. bleu: BLEU and chrF of
    sacreBLEU, for translations."""
    tokenize: str | None = None
    """How the scores split texts. For rouge: english (the default: a-z and 0-9, stemmed), words (of
    any script) or characters. For bleu a tokenization of sacreBLEU: 13a (the default), intl, zh,
    ja-mecab, char, flores200, ..."""
    eval_rows: int = 0
    """Number of dev rows, from the first, for evaluations during training, by which `select` best
    and `patience` judge; 0: all. The result of a seed is always that of all rows."""
    generation: GenerationConfig = GenerationConfig()
    """How texts are written in evaluation and, unless told otherwise, in prediction."""

    @property
    def columns(self) -> tuple[str, str]:
        """The columns of a table."""
        return self.source_column, self.target_column

    def __post_init__(self) -> None:
        make_tuples(self)
        for name, choices in (
            ("architecture", Architecture),
            ("scoring", Scoring),
            ("encoder_weights", _Weights),
            ("decoder_weights", _Weights),
            ("share", _Share),
        ):
            refuse_unknown(f"`{name}`", getattr(self, name), get_args(choices))
        if self.max_target_length < 2:
            raise UserError(f"`max_target_length` is {self.max_target_length}: give at least 2.")
        if self.eval_rows < 0:
            raise UserError(f"`eval_rows` is {self.eval_rows}: give at least 0.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"`label_smoothing` is {self.label_smoothing}: give at least 0 and less than 1."
            )
        if self.source_column == self.target_column:
            raise UserError(
                f"`source_column` and `target_column` are both {self.source_column!r}: name two."
            )
        if self.architecture == "prefix":
            for name in ("decoder", "decoder_weights", "encoder_weights", "share"):
                if getattr(self, name) != getattr(Seq2SeqConfig, name):
                    raise UserError(
                        f"`{name}` is {getattr(self, name)!r}, and the architecture prefix has one "
                        "BERT for both: leave it out, or choose encoder_decoder."
                    )
        elif self.decoder and self.share == "all":
            raise UserError(
                "`decoder` names another model, and with `share` all the decoder has the weights "
                "of the encoder: leave out one of them."
            )
        weights = (self.encoder_weights, self.decoder_weights)
        if self.share != "none" and weights == ("random", "pretrained"):
            raise UserError(
                "`encoder_weights` is random, and with `share` the decoder has weights of the "
                "encoder: let `decoder_weights` be random too, or share nothing."
            )

    @property
    def longest_target(self) -> int:
        """Maximum tokens of a target in training and in generation."""
        return max(self.max_target_length, self.generation.max_length)
