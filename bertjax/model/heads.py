"""Output layers that are more than one matrix; pooler, nsp and classifier are plain dense."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.layers import LayerNorm, activation, dense


class MlmHead(nn.Module):
    """Dense + activation + LayerNorm, then the tied decoder with a bias of its own."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, decode: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """x [..., D] -> float32 logits [..., V]; decode is `Embeddings.attend`."""
        config = self.config
        x = activation(
            config.hidden_act,
            dense(config.hidden_size, config, self.execution, "transform")(x),
        )
        x = LayerNorm(config, name="layer_norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), jnp.float32)
        return decode(x) + bias
