"""Losses of sentence embeddings, as functions of the vectors of all rows of a step.

The losses are those of sentence-transformers, MultipleNegativesRankingLoss, CosineSimilarityLoss,
TripletLoss and MatryoshkaLoss.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model import bert
from bertjax.model.pooling import pool, unit
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    classify,
    example_weights,
    mean_of_examples,
)
from bertjax.tasks.embedding.config import EmbeddingConfig

_HIDDEN = -1e9  # the logit of a candidate that is none


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Computes the vectors of texts: `Head.outputs_fn` and `Head.forward`. Equal values share
    compiled programs."""

    pooling: str
    normalize: bool

    def __call__(
        self,
        params: bert.Params,
        inputs: Batch,
        config: BertConfig,
        name: str = "",
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
        sample_key: jax.Array | None = None,
    ) -> jax.Array:
        """Computes float32 [B, K, D] of a batch of `TextRows`; the arguments are those of
        `bertjax.task_logits`."""
        del name, sample_key
        count, length = inputs["input_ids"].shape[1:]
        names = ("input_ids", "attention_mask", "token_type_ids")
        texts = {name: inputs[name].reshape(-1, length) for name in names}
        if dropout_key is not None:  # a key for each text
            split = jax.vmap(jax.random.fold_in, (None, 0))
            keys = jax.vmap(split, (0, None))(dropout_key, jnp.arange(count, dtype=jnp.uint32))
            dropout_key = keys.reshape(-1)
        read = bert.FIRST_TOKEN if self.pooling == "cls" else None
        how = {"execution": execution, "dropout_key": dropout_key, "positions": read}
        out = bert.encode(params, texts, config, **how)
        mask = texts["attention_mask"].astype(jnp.float32)[..., None]
        vectors = pool(out.last_hidden_state.astype(jnp.float32), mask, self.pooling)
        vectors = unit(vectors) if self.normalize else vectors
        return vectors.reshape(-1, count, vectors.shape[-1])


def in_batch_negatives(vectors: jax.Array, batch: Batch, *, scale: float) -> Metrics:
    """Cross-entropy of finding the second text of a row by the first: loss, accuracy.

    The candidates are the second texts and the negatives of all rows of the global batch, and their
    logits are cosines times `scale`. A text that equals a text of the pair, and the second text of
    another row with the same first text, are no candidates: they would not be wrong.

    Source: Henderson et al. 2017 (arXiv 1705.00652), section 4.4; `MultipleNegativesRankingLoss`.

    Args:
        vectors: [B, K, D] float32.
        batch: text_ids [B, K] int32, equal for equal texts.
        scale: the inverse of the temperature.
    """
    rows, count = vectors.shape[:2]
    weights, ids = example_weights(batch, "text_ids", axes=1), batch["text_ids"]
    vectors = unit(vectors)
    candidates = vectors[:, 1:].swapaxes(0, 1).reshape(rows * (count - 1), -1)
    # A TPU would round the factors to bfloat16.
    cosines = jnp.matmul(vectors[:, 0], candidates.T, precision=jax.lax.Precision.HIGHEST)
    of_candidate = ids[:, 1:].T.reshape(-1)
    same = (of_candidate == ids[:, :1]) | (of_candidate == ids[:, 1:2])
    same |= jnp.tile(ids[:, :1] == ids[:, 0], (1, count - 1)) & (jnp.arange(same.shape[1]) < rows)
    is_padding = jnp.tile(weights == 0, count - 1)
    hidden = (same | is_padding) & ~jnp.eye(rows, same.shape[1], dtype=bool)
    logits = jnp.where(hidden, _HIDDEN, scale * cosines)
    return classify("", logits, jnp.arange(rows), weights)


def cosine(vectors: jax.Array, batch: Batch) -> Metrics:
    """Squared difference of the cosine of a pair and its score: loss.

    Source: `CosineSimilarityLoss`.

    Args:
        vectors: [B, 2, D] float32.
        batch: score [B] float32.
    """
    weights, vectors = example_weights(batch, "score"), unit(vectors)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(-1)
    return {"loss": ((jnp.square(cosines - batch["score"]) * weights).sum(), weights.sum())}


def triplet(vectors: jax.Array, batch: Batch, *, margin: float) -> Metrics:
    """Hinge loss of the Euclidean distances of the first text to the other two: loss, accuracy.

    Source: `TripletLoss`, with the distance of torch's `pairwise_distance`.

    Args:
        vectors: [B, 3, D] float32.
        batch: a batch of `TextRows`.
        margin: distance by which the third text must be farther than the second.
    """
    weights = example_weights(batch, "text_ids", axes=1)
    distances = jnp.linalg.norm(vectors[:, :1] - vectors[:, 1:] + 1e-6, axis=-1)
    further = distances[:, 1] - distances[:, 0]
    right = (further > 0).astype(jnp.float32)
    return {
        "loss": ((jnp.maximum(margin - further, 0) * weights).sum(), weights.sum()),
        "accuracy": ((right * weights).sum(), weights.sum()),
    }


@dataclasses.dataclass(frozen=True)
class LossOfVectors:
    """A `Head.loss`: the sum of a loss over the whole vectors and over their first numbers."""

    name: str
    option: float
    """The scale of in_batch_negatives, the margin of triplet; 0 for cosine."""
    sizes: tuple[int, ...]
    """Sizes of shorter vectors. They have length 1, as in `MatryoshkaLoss`."""

    def __call__(
        self, vectors: jax.Array, batch: Batch, *, normalizers: Normalizers
    ) -> tuple[jax.Array, Metrics]:
        """Computes the loss and the metrics of vectors [B, K, D]."""
        metrics_fn: Callable[..., Metrics] = {
            "in_batch_negatives": functools.partial(in_batch_negatives, scale=self.option),
            "cosine": cosine,
            "triplet": functools.partial(triplet, margin=self.option),
        }[self.name]
        metrics = metrics_fn(vectors, batch)
        total, weight = metrics["loss"]
        for size in self.sizes:
            total += metrics_fn(unit(vectors[..., :size]), batch)["loss"][0]
        metrics = {**metrics, "loss": (total, weight)}
        return mean_of_examples(metrics, normalizers), metrics


def loss_of(options: EmbeddingConfig) -> LossOfVectors:
    """Returns the loss that the options ask for."""
    values = {"in_batch_negatives": options.scale, "triplet": options.margin}
    name = options.trained_loss
    return LossOfVectors(name, values.get(name, 0.0), tuple(options.embedding_sizes))


def normalizers_fn(batch: Batch) -> Normalizers:
    """Returns the number of rows."""
    return {"examples": example_weights(batch, "text_ids", axes=1).sum()}
