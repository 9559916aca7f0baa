"""Attention by JAX's Splash kernel for TPUs (Pallas), which keeps no array [B, N, T, S] in HBM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bertjax.errors import UserError

_BLOCKS = (512, 384, 256, 128)


def check_splash(length: int, width: int, rate: float, mask: jax.Array | None = None) -> None:
    """Raises `UserError` for what the kernel can't compute.

    Args:
        length: queries T of a row.
        width: keys S of a row.
        rate: probability of dropout of probabilities.
        mask: as in `bertjax.model.attention.attention_probs`.
    """
    problem = None
    if rate:
        problem = "drops no probabilities: set `model.attention_probs_dropout_prob` to 0"
    elif wrong := next((n for n in (length, width) if n % _BLOCKS[-1]), None):
        problem = f"takes rows of a multiple of {_BLOCKS[-1]} tokens, and these have {wrong}"
    elif mask is not None and mask.shape[-2] > 1:
        problem = "reads masks of padding alone, and rows are packed or causal"
    if problem:
        raise UserError(f'`execution.attention` "splash" {problem}; or use "auto".')


def splash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """Computes the context [B, N, T, H] of attention on a TPU. It has no forward-mode derivative.

    Under `bertjax.train.sharding.on_mesh` each device computes its rows and heads.

    Args:
        query: [B, N, T, H], already scaled.
        key: [B, N, S, H].
        value: [B, N, S, H].
        mask: bool [B or 1, 1, 1, S], or None.
    """
    shape = (key.shape[0], key.shape[2])
    real = jnp.ones(shape) if mask is None else jnp.broadcast_to(mask[:, 0, 0], shape)
    arguments = (query, key, value, real.astype(jnp.int32))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return splash_rows(*arguments)
    rows, heads = tuple(axis for axis in mesh.axis_names if axis != "tensor"), "tensor"
    split = PartitionSpec(rows, heads)
    return jax.shard_map(
        splash_rows,
        mesh=mesh,
        in_specs=(split, split, split, PartitionSpec(rows)),
        out_specs=split,
        check_vma=False,  # kernels have no rule for it
    )(*arguments)


def splash_rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    real: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Runs the kernel for the rows of one device; `real` int32 [B, S] is 0 for padding.

    `interpret` runs it without a TPU, for tests.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    heads, length, width = query.shape[1], query.shape[2], key.shape[2]
    rows, columns = (next(b for b in _BLOCKS if n % b == 0) for n in (length, width))
    sizes = splash.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        use_fused_bwd_kernel=True,
    )
    mask = splash.MultiHeadMask([splash.FullMask((length, width))] * heads)
    kernel = splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )

    def row(q: jax.Array, k: jax.Array, v: jax.Array, real: jax.Array) -> Any:
        # Queries of padding attend to the real keys too, as elsewhere: nothing reads their context.
        segments = splash.SegmentIds(jnp.ones(length, jnp.int32), real)
        return kernel(q, k, v, segment_ids=segments)

    return jax.vmap(row)(query, key, value, real).astype(value.dtype)
