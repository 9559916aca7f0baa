"""Compiled programs over examples: batches of few sizes, so that few programs are compiled."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.tasks.batches import length_batches, length_buckets
from bertjax.tasks.classification import features
from bertjax.tasks.task import Examples
from bertjax.train import sharding

Pooling = Literal["mean", "cls", "pooler"]

_DEFAULT = Execution()


def task_outputs(
    params: bert.Params,
    examples: features.Examples,
    config: BertConfig,
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> np.ndarray:
    """Logits [N, C] float32 of the classifier for every example, in order; none is dropped.

    Args:
        params: with the head classifier [D, C].
        examples: N rows.
        config: the shape.
        batch_size: most rows at a time.
        execution: how to compute.
    """
    outputs = params["classifier"]["bias"].shape[0]  # type: ignore[index]
    result = np.zeros((len(examples), outputs), np.float32)
    for rows, logits in output_batches(
        params,
        examples,
        config,
        batch_size=row_bucket(len(examples), batch_size),
        buckets=length_buckets(config.max_position_embeddings),
        execution=execution,
    ):
        result[rows] = logits
    return result


def output_batches(
    params: bert.Params,
    examples: Examples,
    config: BertConfig,
    *,
    batch_size: int,
    buckets: Sequence[int],
    kind: str = "sequence_classification",
    execution: Execution = _DEFAULT,
    mesh: Mesh | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, their logits) a batch at a time, those of like length together.

    Args:
        params: with the parts of the task; on the mesh, if there is one.
        examples: the rows.
        config: the shape.
        batch_size: rows at a time, over all devices.
        buckets: widths that batches may be padded to.
        kind: the task, as `bertjax.task_logits` takes it.
        execution: how to compute.
        mesh: over which the parameters are spread, if they are.
    """
    program = _logits_program(config, kind, execution, mesh)
    for indices, width in length_batches(examples.lengths, batch_size, buckets):
        logits = np.asarray(program(params, _place(examples, indices, width, mesh)))
        real = indices >= 0
        yield indices[real], logits[real]


def _place(
    examples: Examples, indices: np.ndarray, width: int, mesh: Mesh | None
) -> dict[str, Any]:
    if mesh is None:
        return model_inputs(examples.batch(indices, width))
    return sharding.make_global_batch(
        mesh, len(indices), lambda rows: model_inputs(examples.batch(indices[rows], width))
    )


@functools.lru_cache(maxsize=8)
def _logits_program(
    config: BertConfig, kind: str, execution: Execution, mesh: Mesh | None
) -> Callable:
    """Compiled once for a shape, whatever the seed: the jitted function is kept."""

    def logits(params: bert.Params, inputs: dict[str, jax.Array]) -> jax.Array:
        return bert.task_logits(params, inputs, config, kind, execution=execution)

    return jax.jit(logits, out_shardings=None if mesh is None else sharding.replicated(mesh))


@functools.partial(jax.jit, static_argnames=("pieces", "k", "config", "execution"))
def likeliest_tokens(
    params: bert.Params,
    inputs: dict[str, jax.Array],
    positions: jax.Array,
    pieces: int,
    k: int,
    config: BertConfig,
    execution: Execution,
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and ids [B, P, k] of the likeliest of the first `pieces` tokens at positions
    [B, P]; rows of the table beyond the vocabulary have no token to show.
    """
    logits = bert.mlm_logits(params, inputs, config, positions=positions, execution=execution)
    scores, ids = jax.lax.top_k(jax.nn.softmax(logits)[..., :pieces], k)
    return scores, ids


@functools.partial(jax.jit, static_argnames=("config", "execution"))
def token_log_likelihoods(
    params: bert.Params,
    inputs: dict[str, jax.Array],
    positions: jax.Array,
    targets: jax.Array,
    config: BertConfig,
    execution: Execution,
) -> jax.Array:
    """Log-probabilities [B, P] float32 of the tokens `targets` [B, P] at positions [B, P]."""
    logits = bert.mlm_logits(params, inputs, config, positions=positions, execution=execution)
    scores = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnames=("layers", "pooling", "config", "execution"))
def pooled_vectors(
    params: bert.Params,
    inputs: dict[str, jax.Array],
    layer_weights: jax.Array | None,
    layers: tuple[int, ...],
    pooling: Pooling,
    config: BertConfig,
    execution: Execution,
) -> jax.Array:
    """[B, D * layers] float32, or [B, D]: their sum with layer_weights [layers] float32."""
    out = bert.encode(params, inputs, config, execution=execution, output_hidden_states=True)
    if pooling == "pooler":
        assert out.pooled is not None
        return out.pooled.astype(jnp.float32)
    assert out.hidden_states is not None
    states = jnp.stack([out.hidden_states[layer] for layer in layers], axis=2)  # [B, T, layers, D]
    states = states.astype(jnp.float32)
    if layer_weights is None:
        states = states.reshape(*states.shape[:2], -1)
    else:
        # No einsum: a TPU rounds the factors of a matrix product to bfloat16.
        states = (states * layer_weights[:, None]).sum(2)
    if pooling == "cls":
        return states[:, 0]
    mask = inputs["attention_mask"].astype(jnp.float32)[..., None]
    return (states * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)


def batches(
    examples: features.Examples, batch_size: int, max_length: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(row numbers, batch) with the rows padded to a few sizes; like lengths go together."""
    buckets = length_buckets(max_length)
    size = row_bucket(len(examples), batch_size)
    for indices, width in length_batches(examples.lengths, size, buckets):
        yield indices[indices >= 0], examples.batch(indices, width)


def row_bucket(rows: int, batch_size: int) -> int:
    """A batch of one text should not cost as much as one of 32: powers of two up to the limit."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1.")
    return min(batch_size, 1 << max(rows - 1, 0).bit_length())


def model_inputs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model reads of a batch."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
