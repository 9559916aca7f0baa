"""The configurations of `bertjax evaluate`, `predict`, `embed`, `search` and `probe`."""

import dataclasses
from typing import Any, Literal

from tyro.conf import Positional

from bertjax.errors import UserError
from bertjax.train.hosts_config import HostsConfig

Pooling = Literal[
    "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "pooler"
]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Score a fine-tuned model on every row of a labeled file, or a pre-trained one on shards.

    Prints one JSON object. For shards of `bertjax prepare` it has the losses and accuracies of
    pre-training on their held-out examples.

    The help of `bertjax evaluate MODEL` shows the options of the model's task.
    """

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    data: Positional[str]
    """Labeled file, in a format of the model's task, or a directory of shards."""
    task: Any = None
    """Options of the task, a `TaskKind.evaluation`."""
    batch_size: int = 32
    """Maximum rows per batch."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Several hosts that run the same command."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Read lines from a file or from standard input and write a JSON line for each.

    A fine-tuned model answers each line. Models of pairs read two texts with a tab between, or a
    JSON object of both; classifiers from elsewhere have an option for that. Models that answer
    questions read {"question": ..., "context": ...} as JSON, or both with a tab between; the
    context may have any length. Models that choose among answers read a JSON object like a row of
    their training file. Models that translate or summarize write a text for each line. A
    model that was only pre-trained fills in the [MASK] of each line.

    A line that is blank or can't be read gives {"error": what is wrong}, and the lines after it are
    answered. The exit code is then 2. The help of `bertjax predict MODEL`
    shows the options of the model's task.
    """

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    lines: Positional[str | None] = None
    """File of lines, which may be compressed. Default: standard input."""
    task: Any = None
    """Options of the task, a `TaskKind.prediction` or `MaskedLmOptions`."""
    batch_size: int = 32
    """Maximum lines (or masked copies of them) per batch."""


@dataclasses.dataclass(frozen=True)
class MaskedLmOptions:
    """The answers of a model that was only pre-trained."""

    top_k: int | None = None
    """Number of words for a [MASK]. Default: 5."""
    pseudo_log_likelihood: bool = False
    """Score each line instead: the sum over its tokens of log p(token | all others) in nats, each
    masked alone, and its pseudo-perplexity."""

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"`top_k` is {self.top_k}: give at least 1.")
        if self.pseudo_log_likelihood and self.top_k is not None:
            raise UserError("`pseudo_log_likelihood` has no alternatives: leave out `top_k`.")


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Read lines from a file or from standard input and write a vector for each, as a JSON list.

    A model of sentence-transformers has files that say how its vectors are made: pooling, dense
    layers, normalization and maximum length. They are followed, unless an option gives layers or a
    pooling; its maximum length always is.
    """

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    lines: Positional[str | None] = None
    """File of lines, which may be compressed. Default: standard input."""
    output: str | None = None
    """File to write instead: a NumPy array [lines, D] of float32, which ends with .npy."""
    normalize: bool = False
    """Scale each vector to length 1."""
    size: int | None = None
    """Keep so many first numbers of each vector, for models trained with `embedding_sizes`."""
    layer: tuple[int, ...] | None = None
    """Layer to take (0: the embeddings, -1: the last); several are joined. Default: the last."""
    layer_weights: tuple[float, ...] | None = None
    """A weight for each layer, to sum the layers instead of joining them."""
    pooling: Pooling | None = None
    """mean: of all tokens. cls: the first token. pooler: the pooled output. Others: as in
    sentence-transformers. Default: mean."""
    batch_size: int = 32
    """Maximum lines per batch."""

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".npy"):
            raise UserError(f"`output` is {self.output}: give a name that ends with .npy.")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Find the lines of a text that are most similar to each query, by the cosine of vectors.

    Reads queries from a file or from standard input, one a line. Writes a JSON object for each,
    with the query and its results, which have line, text and score. A query that is blank or can't
    be read gives {"error": what is wrong}; the exit code is then 2.

    The vectors of the text's lines are computed on first use and kept beside it, in
    TEXTS.vectors.npy. They are computed again if the text or the model has changed.
    """

    texts: Positional[str]
    """File to search, one text a line; blank lines are skipped."""
    queries: Positional[str | None] = None
    """File of queries, which may be compressed. Default: standard input."""
    model: str | None = None
    """Run directory, export, directory of sentence-transformers, or name on the hub; its vectors
    are those of `bertjax embed`. Default: the model of the vectors that are there."""
    top_k: int = 5
    """Number of lines to find for a query."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"`top_k` is {self.top_k}: give at least 1.")


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Fit a linear model to the vectors of a frozen model, and score it on labeled rows.

    The linear model is scikit-learn's logistic regression or ridge regression on standardized
    vectors. Cross-validation on the training rows chooses the regularization. Prints one JSON
    object.
    """

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    train: str
    """Rows to fit to, in a .tsv, .csv or .jsonl file."""
    dev: str
    """Rows to score on. They choose nothing."""
    text_column: str = "text"
    """Column of the text."""
    pair_column: str | None = None
    """Column of the second text, for pairs."""
    label_column: str = "label"
    """Column of the label, or of the number."""
    column_names: tuple[str, ...] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    drop_unlabeled: bool = False
    """Leave out rows without a label: with an empty value, nan, or - as in SNLI."""
    regression: bool = False
    """Predict a number instead of a label."""
    layer: tuple[int, ...] | None = None
    """Layer to take (0: the embeddings, -1: the last); several are joined. Default: the last."""
    layer_weights: tuple[float, ...] | None = None
    """A weight for each layer, to sum the layers instead of joining them."""
    pooling: Pooling | None = None
    """mean: of all tokens. cls: the first token. pooler: the pooled output. Others: as in
    sentence-transformers. Default: mean, or what the files of sentence-transformers say."""
    seed: int = 0
    """Seed of the folds of the cross-validation."""
    batch_size: int = 32
    """Maximum rows per batch."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"`seed` is {self.seed}: give a number from 0 to {2**32 - 1}.")
