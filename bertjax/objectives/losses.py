"""Losses: functions of logits that return sums and weights, and one adapter that runs the model.

A function of logits takes `(logits, batch)` and returns {name: (sum, weight)}. It never divides, so
the results of the parts of a batch add up to the result of the whole batch. `model_loss` turns it
into a function of parameters. That function divides by the normalizers of the *global* batch, so
the losses of microbatches and of devices' shards add up to the loss of the global batch.

Every batch may have example_weight [B]: 0 for the padding of a ragged last batch. Without it, every
example weighs 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model import bert
from bertjax.model.input_checks import check_ids, model_inputs

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]
Normalizers = dict[str, jax.Array]
ModelLoss = Callable[..., tuple[jax.Array, Metrics]]

_EPSILON = 1e-5


def mean_of_examples(metrics: Metrics, normalizers: Normalizers) -> jax.Array:
    """Returns the metric `loss` divided by the number of examples."""
    return divide(metrics["loss"][0], normalizers["examples"])


def model_loss(
    name: str,
    logits_fn: Callable[..., Any],
    metrics_fn: Callable[..., Metrics],
    normalizers_fn: Callable[[Batch], Normalizers],
    total_fn: Callable[[Metrics, Normalizers], jax.Array] = mean_of_examples,
) -> ModelLoss:
    """Makes a loss of parameters from a function of logits.

    Args:
        name: the name of the new function.
        logits_fn: (params, batch, config, *, execution, dropout_key, sample_key) -> logits.
        metrics_fn: (logits, batch, **options) -> {name: (sum, weight)}. The loss takes
            its docstring.
        normalizers_fn: batch -> normalizers.
        total_fn: (metrics, normalizers) -> loss.

    Returns:
        (params, batch, config, *, normalizers, execution, dropout_key, sample_key, distillation,
        **options) -> (float32 loss, metrics). `params` have the heads that logits_fn reads.
        `normalizers` are those of the global batch; by default, those of `batch`. `dropout_key` is
        as in `bertjax.encode`. `sample_key` [B] is for losses that draw samples. `distillation`, a
        `bertjax.objectives.distillation.Distillation`, adds a loss against a teacher's outputs.
    """

    def loss(
        params: bert.Params,
        batch: Batch,
        config: BertConfig,
        *,
        normalizers: Normalizers | None = None,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
        sample_key: jax.Array | None = None,
        distillation: Callable[[Metrics, Any, Batch], Metrics] | None = None,
        **options: Any,
    ) -> tuple[jax.Array, Metrics]:
        keys = {"dropout_key": dropout_key, "sample_key": sample_key}
        logits = logits_fn(params, batch, config, execution=execution, **keys)
        metrics = metrics_fn(logits, batch, **options)
        if distillation is not None:
            metrics = distillation(metrics, logits, batch)
        whole = normalizers_fn(batch) if normalizers is None else normalizers
        return total_fn(metrics, whole), metrics

    loss.__name__ = loss.__qualname__ = name
    loss.__doc__ = metrics_fn.__doc__
    return loss


def task_logits_fn(kind: str) -> Callable[..., jax.Array]:
    """Returns a `logits_fn` that calls `bertjax.task_logits` with a kind."""

    def logits_fn(params: bert.Params, batch: Batch, config: BertConfig, **how: Any) -> jax.Array:
        del how["sample_key"]
        return bert.task_logits(params, model_inputs(batch), config, kind, **how)

    return logits_fn


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats: logits [..., C] float32, labels [...] int32 -> [...]."""
    return smoothed_cross_entropy(logits, labels, 0.0)


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with label smoothing: (1 - eps) * -log p(label) + eps * mean over C of -log p.

    Source: Szegedy et al. 2015, section 7; `label_smoothing` of torch's CrossEntropyLoss. (Newer
    versions of fairseq spread eps over the C - 1 other classes, which is this loss with a larger
    eps, eps * C / (C - 1).) Nothing of shape [..., C] is kept beside the logits.

    Args:
        logits: [..., C] float32.
        labels: [...] int32.
        smoothing: eps, at least 0 and below 1; 0 gives `cross_entropy`.

    Returns:
        [...] float32 in nats.
    """
    # A comparison instead of a gather: its gradient is elementwise, where a gather's is a scatter.
    chosen = jnp.where(jnp.arange(logits.shape[-1]) == labels[..., None], logits, 0.0).sum(-1)
    if smoothing:
        chosen = (1.0 - smoothing) * chosen + smoothing * logits.mean(-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def divide(total: jax.Array, normalizer: jax.Array) -> jax.Array:
    """Divides a sum by its normalizer; 0 if nothing was weighed."""
    return total / jnp.maximum(normalizer, _EPSILON)


# Pre-training ------------------------------------------------------------------------------------


def masked_lm(
    logits: jax.Array, batch: Batch, token_groups: Mapping[str, Any] | None = None
) -> Metrics:
    """Cross-entropy and accuracy of masked tokens: mlm_loss, mlm_accuracy.

    Args:
        logits: [B, P, V] float32.
        batch: masked_labels, masked_weights [B, P].
        token_groups: {name: bool [V]}. Adds the accuracy over the tokens of each group.
    """
    labels, weights = batch["masked_labels"], prediction_weights(batch)
    used, size = batch["masked_weights"], logits.shape[-1]
    check_ids("masked_labels", labels, size, f"the vocabulary has {size} tokens", used)
    # The head computes logits [B * P, V]; on a TPU the shape [B, P, V] would copy them.
    logits, labels, weights = logits.reshape(-1, size), labels.reshape(-1), weights.reshape(-1)
    metrics = classify("mlm_", logits, labels, weights)
    for name, group in (token_groups or {}).items():
        metrics[name] = _accuracy(logits, labels, weights * jnp.asarray(group)[labels])
    return metrics


def masked_lm_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of the masked-LM loss: the number of predictions."""
    return {"mlm": prediction_weights(batch).sum()}


def masked_lm_total(metrics: Metrics, normalizers: Normalizers) -> jax.Array:
    """Returns the masked-LM loss, divided as in Google's `run_pretraining.py`."""
    return metrics["mlm_loss"][0] / (normalizers["mlm"] + _EPSILON)


def with_z_loss(
    scores: Callable[..., Metrics],
    total: Callable[[Metrics, Normalizers], jax.Array],
    weight: float,
) -> tuple[Callable[..., Metrics], Callable[[Metrics, Normalizers], jax.Array]]:
    """Adds the metric z_loss, log(Z)^2 of the masked-LM softmax, and its weighted mean to the loss.

    Args:
        scores: a `metrics_fn` of `model_loss`; its logits, or the first of them, are [B, P, V].
        total: a `total_fn` of normalizers as `masked_lm_normalizers` gives them.
        weight: the weight; 1e-4 in PaLM (arXiv 2204.02311, section 5).
    """

    def metrics_fn(logits: Any, batch: Batch, **options: Any) -> Metrics:
        masked, weights = jax.tree.leaves(logits)[0], prediction_weights(batch)
        squares = jnp.square(jax.nn.logsumexp(masked.reshape(-1, masked.shape[-1]), axis=-1))
        found = (squares * weights.reshape(-1)).sum(), weights.sum()
        return {**scores(logits, batch, **options), "z_loss": found}

    def total_fn(metrics: Metrics, normalizers: Normalizers) -> jax.Array:
        return total(metrics, normalizers) + weight * divide(
            metrics["z_loss"][0], normalizers["mlm"]
        )

    return metrics_fn, total_fn


def prediction_weights(batch: Batch) -> jax.Array:
    """Returns the weights [B, P] of the predictions; padding examples predict nothing."""
    return weigh_rows(batch["masked_weights"], batch)


# Parts -------------------------------------------------------------------------------------------


def weigh_rows(weights: jax.Array, batch: Batch) -> jax.Array:
    """Multiplies weights [B, ?] of tokens or predictions by those of the examples, if any."""
    examples = batch.get("example_weight")
    # In a packed row ([B, S]), padding examples have no tokens, and so no predictions.
    return weights if examples is None or examples.ndim > 1 else weights * examples[:, None]


def example_weights(batch: Batch, label: str, axes: int | None = None) -> jax.Array:
    """Returns example_weight, or ones in the shape of the first `axes` axes of a label."""
    weights = batch.get("example_weight")
    return jnp.ones(batch[label].shape[:axes], jnp.float32) if weights is None else weights


def classify(prefix: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Metrics:
    """Returns the cross-entropy and the accuracy as {prefix}loss and {prefix}accuracy."""
    return {
        f"{prefix}loss": ((cross_entropy(logits, labels) * weights).sum(), weights.sum()),
        f"{prefix}accuracy": _accuracy(logits, labels, weights),
    }


def _accuracy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return (correct * weights).sum(), weights.sum()
