"""The subtrees of parameters that each task adds to the encoder, and the masked-LM head."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, EncoderDecoderConfig, Execution
from bertjax.model.layers import LayerNorm, activation, dense

TASK_PARTS: dict[str, tuple[str, ...]] = {
    "pretraining": ("pooler", "mlm", "nsp"),
    "masked_lm": ("mlm",),
    "next_sentence": ("pooler", "nsp"),
    "sequence_classification": ("pooler", "classifier"),
    "regression": ("pooler", "classifier"),
    "multi_label_classification": ("pooler", "classifier"),
    "token_classification": ("classifier",),
    "question_answering": ("qa_outputs",),
    "multiple_choice": ("pooler", "classifier"),
    "encoder_decoder": ("decoder",),
    "sentence_extraction": ("sentence_scorer",),
    "encoder": (),
}
"""Kind of task -> its subtrees of parameters besides embeddings and encoder.

All except mlm, decoder and sentence_scorer are one dense layer. The kind encoder may have a pooler
too. In the parameters of the kind encoder_decoder, encoder is a BERT with its embeddings."""

_OF_TOKENS = ("token_classification", "question_answering")


def task_parts(kind: str, config: BertConfig | EncoderDecoderConfig) -> tuple[str, ...]:
    """Returns the subtrees of `TASK_PARTS`, and token_head before a classifier of tokens or of
    answers in a shape with prediction_head."""
    parts = TASK_PARTS[kind]
    if isinstance(config, BertConfig) and config.prediction_head and kind in _OF_TOKENS:
        return ("token_head", *parts)
    return parts


def kind_of_parts(params: Mapping[str, Any]) -> str:
    """Returns the kind of task, one of `TASK_PARTS`, that fits the subtrees of parameters.

    The name classifier alone does not determine what is classified.
    """
    if "decoder" in params:
        return "encoder_decoder"
    if "classifier" in params:
        if "pooler" not in params:
            return "token_classification"
        return "regression" if len(params["classifier"]["bias"]) == 1 else "sequence_classification"
    if "qa_outputs" in params:
        return "question_answering"
    if "sentence_scorer" in params:
        return "sentence_extraction"
    if "mlm" in params:
        return "pretraining" if {"pooler", "nsp"} <= params.keys() else "masked_lm"
    return "next_sentence" if {"pooler", "nsp"} <= params.keys() else "encoder"


class PredictionHead(nn.Module):
    """Dense layer, activation and LayerNorm: what the masked LM and, in ModernBERT, classifiers
    read."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes [..., D] of x [..., D]."""
        return _transformed(self.config, self.execution, x)


def _transformed(config: BertConfig, execution: Execution, x: jax.Array) -> jax.Array:
    """Applies the subtrees transform and layer_norm of the module that calls this."""
    bias = config.classifier_bias
    x = dense(config.hidden_size, config, execution, "transform", use_bias=bias)(x)
    return LayerNorm(config, name="layer_norm")(activation(config.hidden_act, x))


class MlmHead(nn.Module):
    """Dense layer, activation and LayerNorm, then the tied decoder with its own bias."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, decode: Callable[[jax.Array], jax.Array] | None) -> jax.Array:
        """Computes float32 logits [..., V] of x [..., D].

        `decode` is `Embeddings.attend`, or None for the vectors [..., D] that it would multiply, as
        rows [R, D].
        """
        config = self.config
        x = _transformed(config, self.execution, x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,), jnp.float32)
        if decode is None:
            return x
        # On a CPU, three axes would transpose the gradient in memory; on a TPU, copy the logits.
        logits = decode(x.reshape(-1, config.hidden_size)) + bias
        return logits.reshape(*x.shape[:-1], config.vocab_size)


class TokenDetectionHead(nn.Module):
    """Dense layer and activation, then one output per token: the discriminator head of ELECTRA."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes float32 logits [...] of x [..., D]."""
        config = self.config
        x = dense(config.hidden_size, config, self.execution, "transform")(x)
        x = activation(config.hidden_act, x)
        return dense(1, config, self.execution, "output")(x)[..., 0].astype(jnp.float32)
