"""The stack of layers of an encoder or a decoder, as a loop or a scan over one pure function."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.dropout import fold_keys
from bertjax.model.layers import Layer

_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Encoder(nn.Module):
    """`num_hidden_layers` Layers with the parameter subtrees layer_0, layer_1, ..."""

    config: BertConfig
    execution: Execution
    add_cross_attention: bool = False
    """Whether the layers attend to `memory`."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        keys: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]:
        """Applies the layers to x [B, T, D]; the other arguments are those of `Layer`.

        Returns:
            The last x, all L + 1 values of x or None, the L attention probabilities or None.
        """
        module = Layer(self.config, self.execution, self.add_cross_attention, parent=None)

        def draw(key: jax.Array) -> Any:
            return module.init(key, x[:1, :1], memory=None if memory is None else memory[:1, :1])[
                "params"
            ]

        names = [f"layer_{number}" for number in range(self.config.num_hidden_layers)]
        # `param` would trace `draw` for each layer to compare shapes, which `apply` does below.
        layers = [
            self.get_variable("params", name)
            if self.has_variable("params", name)
            else self.param(name, draw)
            for name in names
        ]

        given = {"mask": mask, "position_ids": position_ids}
        given |= {"memory": memory, "memory_mask": memory_mask}
        apply = _apply if keys is not None else _apply_compiled

        def layer(params: dict, x: jax.Array, number: jax.Array | int):
            return apply(
                module, output_attentions, params, x, {**given, "keys": fold_keys(keys, number)}
            )

        if self.execution.remat != "none":
            layer = jax.checkpoint(layer, policy=_REMAT_POLICIES[self.execution.remat])
        if self.execution.scan_layers:
            dtype = jnp.dtype(self.execution.dtype)
            return _scan(layer, layers, x, dtype, output_hidden_states)
        return _loop(layer, layers, x, output_hidden_states)


def _apply(module: Layer, with_probs: bool, params: dict, x: jax.Array, given: dict[str, Any]):
    out: Any = module.apply({"params": params}, x, **given)
    return out.x, out.probs if with_probs else None


_apply_compiled = jax.jit(_apply, static_argnums=(0, 1))
"""Is traced once for all layers of one shape, whose programs are inlined in that of the model."""


def _loop(layer: Callable, layers: list[dict], x: jax.Array, keep: bool):
    states, probs = [x], []
    for number, params in enumerate(layers):
        x, prob = layer(params, x, number)
        states.append(x)
        probs.append(prob)
    return x, tuple(states) if keep else None, None if probs[0] is None else tuple(probs)


def _scan(layer: Callable, layers: list[dict], x: jax.Array, dtype: jnp.dtype, keep: bool):
    """Scans one compiled layer over stacked parameters, with matrices in the compute type."""

    def stack(*leaves: jax.Array) -> jax.Array:
        narrow = dtype if leaves[0].ndim > 1 else leaves[0].dtype  # LayerNorm stays float32
        return jnp.stack([leaf.astype(narrow) for leaf in leaves])

    def body(x: jax.Array, scanned: tuple[dict, jax.Array]):
        params, number = scanned
        new_x, prob = layer(params, x, number)
        return new_x, (new_x if keep else None, prob)

    numbers = jnp.arange(len(layers), dtype=jnp.uint32)
    last, (states, probs) = jax.lax.scan(body, x, (jax.tree.map(stack, *layers), numbers))
    states = None if states is None else (x, *states)
    return last, states, None if probs is None else tuple(probs)
