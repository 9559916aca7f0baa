"""Compiled programs over rows. Batches have few shapes, so that few programs are compiled."""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.inference.config import Pooling
from bertjax.model import bert
from bertjax.model.pooling import pool
from bertjax.tasks.batches import Width, length_batches, length_buckets, row_buckets
from bertjax.tasks.task import Features
from bertjax.tasks.texts import TextFeatures
from bertjax.train import sharding


def output_batches(
    params: bert.Params,
    features: Features,
    config: Any,
    *,
    head: str,
    batch_size: int,
    max_seq_length: int,
    forward: Callable[..., Any],
    execution: Execution = Execution(),
    mesh: Mesh | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (row numbers, outputs) of batches of rows of similar length.

    Batches have `batch_size` rows over all devices, padded to one of the `row_buckets`. The
    parameters lie on the mesh, if there is one. `forward` is a `Head.forward`.
    """
    program = _forward_program(forward, config, head, execution, mesh)
    lengths = features.lengths
    buckets = row_buckets(lengths, max_seq_length)
    for indices, width in length_batches(lengths, batch_size, buckets):
        outputs = jax.device_get(program(params, _place(features, indices, width, mesh)))
        real = indices >= 0
        yield indices[real], jax.tree.map(operator.itemgetter(real), outputs)


def _place(
    features: Features, indices: np.ndarray, width: Width, mesh: Mesh | None
) -> dict[str, Any]:
    def read(rows: Any) -> dict[str, np.ndarray]:
        return features.batch(indices[rows], width)

    if mesh is None:
        return read(slice(None))
    return sharding.make_global_batch(mesh, len(indices), read)


@functools.lru_cache(maxsize=8)
def _forward_program(
    forward: Callable, config: Any, head: str, execution: Execution, mesh: Mesh | None
) -> Callable:
    """Keeps the jitted function, which all seeds and calls share."""

    def outputs(params: bert.Params, inputs: dict[str, jax.Array]) -> Any:
        return forward(params, inputs, config, head, execution=execution)

    if mesh is None:
        return jax.jit(outputs)
    return jax.jit(sharding.on_mesh(mesh, outputs), out_shardings=sharding.replicated(mesh))


@functools.partial(jax.jit, static_argnames=("pieces", "top_k", "config", "execution"))
def likeliest_tokens(
    params: bert.Params,
    inputs: dict[str, jax.Array],
    positions: jax.Array,
    pieces: int,
    top_k: int,
    config: BertConfig,
    execution: Execution,
) -> tuple[jax.Array, jax.Array]:
    """Returns probabilities and ids [B, P, top_k] of the likeliest tokens at positions [B, P].

    The embedding table may have rows beyond the `pieces` of the vocabulary. They are left out.
    """
    logits = bert.mlm_logits(params, inputs, config, positions=positions, execution=execution)
    scores, ids = jax.lax.top_k(jax.nn.softmax(logits)[..., :pieces], top_k)
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
    pooling: tuple[Pooling, ...],
    config: BertConfig,
    execution: Execution,
) -> jax.Array:
    """Returns the vectors of layers, joined [B, D * layers] or weighted and summed [B, D], float32.

    layer_weights is float32 [layers] or None. The vectors of several poolings are joined.
    """
    is_last = layers in ((-1,), (config.num_hidden_layers,)) and layer_weights is None
    if pooling == ("pooler",) or (pooling == ("cls",) and is_last):
        how = {"execution": execution, "positions": bert.FIRST_TOKEN}
        out = bert.encode(params, inputs, config, **how)
        vectors = out.pooled if pooling == ("pooler",) else out.last_hidden_state[:, 0]
        return vectors.astype(jnp.float32)
    out = bert.encode(params, inputs, config, execution=execution, output_hidden_states=True)
    assert out.hidden_states is not None
    states = jnp.stack([out.hidden_states[layer] for layer in layers], axis=2)  # [B, T, layers, D]
    states = states.astype(jnp.float32)
    if layer_weights is None:
        states = states.reshape(*states.shape[:2], -1)
    else:
        # A TPU would round the factors of an einsum to bfloat16.
        states = (states * layer_weights[:, None]).sum(2)
    mask = inputs["attention_mask"].astype(jnp.float32)[..., None]
    return jnp.concatenate([pool(states, mask, each) for each in pooling], axis=1)


def batches(
    features: TextFeatures, batch_size: int, max_length: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields (row numbers, inputs of the model) of rows of similar length."""
    size, buckets = row_bucket(len(features), batch_size), length_buckets(max_length)
    for indices, width in length_batches(features.lengths, size, buckets):
        yield indices[indices >= 0], model_inputs(features.batch(indices, width))


def mesh_of_all_devices() -> Mesh | None:
    """Returns a mesh whose devices share the rows of a batch; None for a single device."""
    return sharding.make_mesh(sharding.MeshConfig()) if jax.device_count() > 1 else None


def row_bucket(rows: int, batch_size: int) -> int:
    """Returns the rows of a batch for few rows: a power of two, at most the batch size."""
    if batch_size < 1:
        raise UserError(f"`batch_size` is {batch_size}: give at least 1.")
    return min(batch_size, 1 << max(rows - 1, 0).bit_length())


def model_inputs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch that the model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
