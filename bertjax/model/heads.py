"""What every task adds to the encoder, and the one output layer that is more than a matrix."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.layers import LayerNorm, activation, dense

TASK_PARTS: dict[str, tuple[str, ...]] = {
    "pretraining": ("pooler", "mlm", "nsp"),
    "masked_lm": ("mlm",),
    "next_sentence": ("pooler", "nsp"),
    "sequence_classification": ("pooler", "classifier"),
    "regression": ("pooler", "classifier"),
    "token_classification": ("classifier",),
    "question_answering": ("qa_outputs",),
    "multiple_choice": ("pooler", "classifier"),
    "encoder": (),
}
"""Kinds of task -> the subtrees of the parameters that they have beside embeddings and encoder.
All but mlm are one dense layer; an encoder may have a pooler."""


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
