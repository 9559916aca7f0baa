"""The configurations of `bertjax predict` and `bertjax embed`."""

import dataclasses
from typing import Literal

from tyro.conf import Positional


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Read lines from standard input and write a JSON line for each.

    A fine-tuned model answers each line. Models of pairs read two texts with a tab between. Models
    that answer questions read {"question": ..., "context": ...} as JSON, or both with a tab
    between; the context may have any length. A model that was only pre-trained fills in the [MASK]
    of each line.
    """

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    top_k: int | None = None
    """Number of words for a [MASK], or of answers to a question. Default: 5."""
    pseudo_log_likelihood: bool = False
    """Score each line with a pre-trained model: the sum over its tokens of
    log p(token | all others) in nats, each masked alone, and its pseudo-perplexity."""
    batch_size: int = 32
    """Maximum lines (or masked copies of them) per batch."""


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Read lines from standard input and write a vector for each, as a JSON list."""

    model: Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    layer: tuple[int, ...] = (-1,)
    """Layer to take (0: the embeddings, -1: the last); several are joined."""
    layer_weights: tuple[float, ...] | None = None
    """A weight for each layer, to sum the layers instead of joining them."""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """mean: of all tokens. cls: the first token. pooler: the pooled output."""
    batch_size: int = 32
    """Maximum lines per batch."""
