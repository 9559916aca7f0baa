"""Rotary positions and windows of attention: what a layer sees besides its input.

Sources: `RoFormer` (Su et al. 2021, arXiv 2104.09864) in the layout of transformers, which rotates
the first half of a head with the second; `ModernBertModel` of transformers for the windows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig


class Rotation(NamedTuple):
    """The angles by which heads are rotated."""

    cos: jax.Array
    """float32 [B or 1, 1, T, H / 2]."""
    sin: jax.Array
    """float32 [B or 1, 1, T, H / 2]."""


class View(NamedTuple):
    """A view says which tokens a layer attends to, and by which angles heads are rotated."""

    mask: jax.Array | None
    """bool, broadcastable to [B, 1, T, T]; None: all tokens."""
    rotation: Rotation | None
    """None without rotary positions."""

    def at(self, positions: jax.Array) -> "View":
        """Returns the view of the queries at positions [B, P]."""
        mask, rotation, chosen = self.mask, self.rotation, positions[:, None, :, None]
        if mask is not None and mask.shape[2] > 1:
            mask = jnp.take_along_axis(mask, chosen, axis=2)
        if rotation is not None:
            rotation = Rotation(*(jnp.take_along_axis(each, chosen, axis=2) for each in rotation))
        return View(mask, rotation)


def gather_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Gathers x [B, T, D] at positions [B, P]: [B, P, D]."""
    return jnp.take_along_axis(x, positions[..., None], axis=1)


def views(config: BertConfig, mask: jax.Array | None, position_ids: jax.Array | None) -> list[View]:
    """Returns the view of layers that attend to all tokens and, if there are any, of local ones.

    Args:
        config: the shape.
        mask: as in `View`.
        position_ids: [B, T] or [1, T]; windows and rotations follow them.
    """
    found = [View(mask, _rotation(config, position_ids, config.global_rope_theta))]
    if config.local_attention:
        assert position_ids is not None
        near = jnp.abs(position_ids[:, None, :, None] - position_ids[:, None, None, :])
        window = near <= config.local_attention // 2
        local = window if mask is None else window & mask
        found.append(View(local, _rotation(config, position_ids, config.local_rope_theta)))
    return found


def chosen(all_views: list[View], config: BertConfig, layer: jax.Array) -> View:
    """Returns the view of a layer whose number is traced, as in a scan."""
    if len(all_views) == 1:
        return all_views[0]
    everywhere, local = all_views
    assert local.mask is not None
    if everywhere.mask is None:
        everywhere = everywhere._replace(mask=jnp.ones((1, 1, 1, 1), bool))
    is_local = layer % config.global_attn_every_n_layers != 0
    return jax.tree.map(lambda one, other: jnp.where(is_local, other, one), everywhere, local)


def _rotation(
    config: BertConfig, position_ids: jax.Array | None, theta: float | None
) -> Rotation | None:
    if config.position_embedding_type != "rotary":
        return None
    assert position_ids is not None and theta is not None
    rates = theta ** (-jnp.arange(0, config.head_size, 2, dtype=jnp.float32) / config.head_size)
    angles = position_ids[:, None, :, None].astype(jnp.float32) * rates
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: jax.Array, rotation: Rotation | None) -> jax.Array:
    """Rotates heads x [B, N, T, H] in float32; the result has the type of x."""
    if rotation is None:
        return x
    cos, sin = rotation
    one, other = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)
    return rotated.astype(x.dtype)
