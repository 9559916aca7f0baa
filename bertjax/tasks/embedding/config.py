"""Options of sentence embeddings."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from bertjax.config import make_tuples
from bertjax.errors import UserError, refuse_unknown

EmbeddingLoss = Literal["in_batch_negatives", "cosine", "triplet"]
_Pooling = Literal["mean", "cls"]


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Train vectors of texts on pairs of similar texts, scored pairs or triplets.

    The files are .tsv, .csv or .jsonl, or TFDS data sets. The main metric is spearman, of the
    cosines of the dev pairs with their scores. If the dev file has no scores it is mrr, the mean
    reciprocal rank of the second text of a pair among those of all dev pairs. A text has at most
    128 tokens by default. `bertjax embed` gives the vectors of the trained model.
    """

    kind: ClassVar[str] = "embedding"

    text_column: str = "text"
    """Column of the first text of a pair, the anchor."""
    pair_column: str = "pair"
    """Column of the second text, which is similar to the first or has a score."""
    negative_columns: Sequence[str] = ()
    """Columns of the training file with texts that are not similar to the first text (hard
    negatives). triplet needs one."""
    score_column: str | None = None
    """Column of the similarity of the two texts: in all files for the loss cosine, else in the dev
    and test files alone."""
    score_range: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest score of the files, which become the cosines 0 and 1. For STS-B: 0 5."""
    dev_text_column: str | None = None
    """Column of the first text in the dev and test files. Default: as in the training file."""
    dev_pair_column: str | None = None
    """Column of the second text in the dev and test files. Default: as in the training file."""
    column_names: Sequence[str] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    loss: EmbeddingLoss | None = None
    """in_batch_negatives: the second text of a pair must be nearer to the first than those of all
    other pairs of the step and all negatives. cosine: the cosine of a pair must be its score.
    triplet: the second text must be nearer than the negative by a margin. Default:
    in_batch_negatives, or cosine if the training file has scores and no negatives."""
    scale: float = 20.0
    """Factor of the cosines in in_batch_negatives, the inverse of a temperature."""
    margin: float = 5.0
    """Margin of triplet, in Euclidean distance."""
    pooling: _Pooling | None = None
    """mean: the mean of the vectors of all tokens. cls: the vector of [CLS]. Default: that of the
    model if it has files of sentence-transformers, else mean."""
    normalize: bool = True
    """Scale the vectors to length 1, in training and in the trained model."""
    embedding_sizes: Sequence[int] = ()
    """Sizes to which vectors may be cut later (Matryoshka): the loss is summed over the whole
    vectors and over their first numbers, as many as each size."""

    def __post_init__(self) -> None:
        make_tuples(self)
        if self.loss is not None:
            refuse_unknown("`loss`", self.loss, get_args(EmbeddingLoss))
        if self.pooling is not None:
            refuse_unknown("`pooling`", self.pooling, get_args(_Pooling))
        for name in ("scale", "margin"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"`{name}` is {getattr(self, name)}: give a number above 0.")
        low, high = self.score_range
        if not -math.inf < low < high < math.inf:
            raise UserError(f"`score_range` is {low:g} {high:g}: give the lower number first.")
        if len(set(self.embedding_sizes)) < len(self.embedding_sizes):
            raise UserError(f"`embedding_sizes` are {self.embedding_sizes}: give each only once.")
        if self.trained_loss == "cosine":
            if self.score_column is None:
                raise UserError("The `loss` cosine needs scores: give `score_column`.")
            if self.negative_columns:
                raise UserError("The `loss` cosine has no `negative_columns`: leave them out.")
        if self.trained_loss == "triplet" and len(self.negative_columns) != 1:
            raise UserError("The `loss` triplet needs one column: give `negative_columns`.")
        if twice := [name for name in self.train_texts if self.train_texts.count(name) > 1]:
            raise UserError(f"The column {twice[0]!r} is two texts of a row: give different ones.")

    @property
    def trained_loss(self) -> EmbeddingLoss:
        """The loss."""
        if self.loss is not None:
            return self.loss
        has_scores = self.score_column is not None and not self.negative_columns
        return "cosine" if has_scores else "in_batch_negatives"

    @property
    def train_texts(self) -> tuple[str, ...]:
        """The columns of the texts of a training row."""
        return (self.text_column, self.pair_column, *self.negative_columns)

    @property
    def dev_texts(self) -> tuple[str, str]:
        """The columns of the texts of a dev row."""
        text, pair = self.dev_text_column, self.dev_pair_column
        return text or self.text_column, pair or self.pair_column

    @property
    def columns(self) -> list[str]:
        """The columns that all files have."""
        scores = [self.score_column] if self.score_column and self.trained_loss == "cosine" else []
        return [*(name for name in self.train_texts if name in self.dev_texts), *scores]

    def immutable(self) -> dict[str, Any]:
        """Returns the options that decide what is learned, beside those of the columns."""
        names = ("score_range", "scale", "margin", "normalize", "embedding_sizes")
        return {"loss": self.trained_loss, **{name: getattr(self, name) for name in names}}


@dataclasses.dataclass(frozen=True)
class EvaluationPairs:
    """Columns of a file of pairs. Default: those of the dev file of training."""

    text_column: str | None = None
    """Column of the first text. Default: as in training, else text."""
    pair_column: str | None = None
    """Column of the second text. Default: as in training, else pair."""
    score_column: str | None = None
    """Column of the similarity, for spearman and pearson. Default: as in training. Without it each
    first text must find its second text among those of the file: mrr and accuracy."""
    score_range: tuple[float, float] | None = None
    """Lowest and highest score of the file. Default: as in training, else 0 1."""
    column_names: Sequence[str] = ()
    """Names of all columns, for a file without a header."""
