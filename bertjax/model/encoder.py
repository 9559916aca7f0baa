"""The stack of layers of an encoder or a decoder, as a loop or a scan over one pure function."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.dropout import fold_keys
from bertjax.model.layers import Layer, LayerNorm
from bertjax.model.positions import View, chosen, gather_positions, views

_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Encoder(nn.Module):
    """`num_hidden_layers` Layers: subtrees layer_0, layer_1, ... and, if it is set, final_norm."""

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
        positions: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]:
        """Applies the layers to x [B, T, D]; the other arguments are those of `Layer`.

        `positions` [B, P] are those at which the last x is wanted. The last layer computes these
        alone if they are fewer than all. Splash attention takes whole rows, and decoders compute
        all tokens too.

        Returns:
            The last x, [B, T, D] or [B, P, D]; without positions, all L + 1 values of x and the L
            attention probabilities, or None.
        """
        assert positions is None or not (output_attentions or output_hidden_states)
        config, depth = self.config, self.config.num_hidden_layers
        read = None if self._computes_all(x, positions) else positions
        modules = self._modules()
        layers = self._parameters(modules, x, memory)
        given = {"memory": memory, "memory_mask": memory_mask}
        layer = self._layer(keys, given, output_attentions)
        if position_ids is None and config.position_embedding_type != "absolute":
            position_ids = jnp.arange(x.shape[1])[None]
        all_views = views(config, mask, position_ids)

        def of_number(params: dict, x: jax.Array, number: jax.Array | int, read: Any = None):
            if isinstance(number, int):
                view = all_views[config.is_local(number)]
                return layer(params, x, number, view, modules[number], read)
            return layer(params, x, number, chosen(all_views, config, number), modules[-1])

        # The parameters of a first layer without LayerNorm can't be stacked with those of others.
        whole = depth if read is None else depth - 1
        looped = whole if not self.execution.scan_layers else int(modules[0] != modules[-1])
        x, states, probs = _loop(of_number, layers[:looped], x)
        if looped < whole:
            dtype = jnp.dtype(self.execution.dtype)
            numbers = jnp.arange(looped, whole, dtype=jnp.uint32)
            scanned = layers[looped:whole]
            x, *more = _scan(of_number, scanned, x, dtype, numbers, output_hidden_states)
            states, probs = states + more[0], probs + more[1]
        if read is not None:
            x, _ = of_number(layers[whole], x, whole, read)
        elif positions is not None:
            x = gather_positions(x, positions)
        if config.final_norm:
            x = LayerNorm(config, name="final_norm")(x)
            states[-1] = x
        kept = tuple(states) if output_hidden_states else None
        return x, kept, tuple(probs) if output_attentions else None

    def _computes_all(self, x: jax.Array, positions: jax.Array | None) -> bool:
        """Whether the last layer computes all tokens."""
        if self.add_cross_attention or self.execution.attention == "splash":
            return True
        return positions is None or positions.shape[1] >= x.shape[1]

    def _layer(self, keys: jax.Array | None, given: dict[str, Any], with_probs: bool) -> Callable:
        """Returns a function that applies one layer: (new x, probabilities or None)."""
        apply = _apply if keys is not None else _apply_compiled

        def layer(
            params: dict,
            x: jax.Array,
            number: jax.Array | int,
            view: View,
            module: Layer,
            positions: jax.Array | None = None,
        ):
            own = {**given, **view._asdict(), "keys": fold_keys(keys, number)}
            return apply(module, with_probs, params, x, {**own, "positions": positions})

        if self.execution.remat == "none":
            return layer
        policy = _REMAT_POLICIES[self.execution.remat]
        return jax.checkpoint(layer, policy=policy, static_argnums=4)

    def _modules(self) -> list[Layer]:
        """Returns the module of each layer; all but the first are the same."""
        config = self.config
        module = Layer(config, self.execution, self.add_cross_attention, parent=None)
        first = module.clone(lacks_norm=True) if config.lacks_norm(0) else module
        return [first] + [module] * (config.num_hidden_layers - 1)

    def _parameters(
        self, modules: list[Layer], x: jax.Array, memory: jax.Array | None
    ) -> list[Any]:
        """Returns the parameters of each layer, or draws them."""

        def draw(key: jax.Array, module: Layer) -> Any:
            return module.init(key, x[:1, :1], memory=None if memory is None else memory[:1, :1])[
                "params"
            ]

        names = [f"layer_{number}" for number in range(len(modules))]
        # `param` would trace `draw` for each layer to compare shapes, which `apply` does below.
        return [
            self.get_variable("params", name)
            if self.has_variable("params", name)
            else self.param(name, draw, module)
            for name, module in zip(names, modules, strict=True)
        ]


def _apply(module: Layer, with_probs: bool, params: dict, x: jax.Array, given: dict[str, Any]):
    out: Any = module.apply({"params": params}, x, **given)
    return out.x, out.probs if with_probs else None


_apply_compiled = jax.jit(_apply, static_argnums=(0, 1))
"""Is traced once for all layers of one shape, whose programs are inlined in that of the model."""


def _loop(layer: Callable, layers: list[dict], x: jax.Array) -> tuple[jax.Array, list, list]:
    """Returns the last x, all values of x, and the probabilities of each layer."""
    states, probs = [x], []
    for number, params in enumerate(layers):
        x, prob = layer(params, x, number)
        states.append(x)
        probs.append(prob)
    return x, states, probs


def _scan(
    layer: Callable, layers: list[dict], x: jax.Array, dtype: Any, numbers: jax.Array, keep: bool
) -> tuple[jax.Array, list, list]:
    """Scans one compiled layer over stacked parameters, with matrices in the compute type."""

    def stack(*leaves: jax.Array) -> jax.Array:
        narrow = dtype if leaves[0].ndim > 1 else leaves[0].dtype  # LayerNorm stays float32
        return jnp.stack([leaf.astype(narrow) for leaf in leaves])

    def body(x: jax.Array, scanned: tuple[dict, jax.Array]):
        params, number = scanned
        new_x, prob = layer(params, x, number)
        return new_x, (new_x if keep else None, prob)

    last, (states, probs) = jax.lax.scan(body, x, (jax.tree.map(stack, *layers), numbers))
    states = [] if states is None else [*states]
    return last, states, [] if probs is None else [*probs]
