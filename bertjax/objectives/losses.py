"""Losses as sums and weights, so that any split of a batch adds up to the whole one.

Every loss takes the `normalizers` of the *global* batch: a microbatch, a device's shard or
a ragged last batch then differentiates its part of the same number. Where it is None, the batch at
hand is the whole one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax.config import BertConfig, Execution
from bertjax.model import bert

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]
Normalizers = dict[str, jax.Array]

_DEFAULT = Execution()
_EPSILON = 1e-5  # added to the sum of the masked weights, as in Google's run_pretraining.py


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats: logits [..., C] float32, labels [...] int32 -> [...]."""
    # A comparison instead of a gather: its gradient is elementwise, where a gather's is a scatter.
    chosen = jnp.arange(logits.shape[-1]) == labels[..., None]
    return jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0.0).sum(-1)


def pretraining_normalizers(batch: Batch) -> Normalizers:
    """The normalizers of `pretraining_loss`: predictions and examples of a masked batch."""
    examples = _example_weights(batch, "next_sentence_label").sum()
    return {**masked_lm_normalizers(batch), "nsp": examples}


def pretraining_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    sentence_task: str = "nsp",
    token_groups: Mapping[str, Any] | None = None,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Masked-LM loss + next-sentence loss, as Google's `run_pretraining.py`; or + the loss of the
    order of two segments, as ALBERT, whose head and label have the same places.

    Args:
        params: with heads mlm and nsp.
        batch: input_ids, attention_mask, token_type_ids [B, T]; masked_positions, masked_labels,
            masked_weights [B, P]; next_sentence_label [B] (0 = B follows A, 1 = B is random, or A
            and B are swapped); optional example_weight [B], which weighs predictions and label of
            an example. Packed rows have segment_ids, position_ids [B, T] and cls_positions [B, S]
            too; next_sentence_label and example_weight are then [B, S].
        config: the shape.
        sentence_task: names the metrics: "nsp", or "sop" for the order of segments.
        token_groups: {name: bool [V]}: more metrics, the accuracy where such a token is masked.
        normalizers: global ones (`pretraining_normalizers`); those of this batch where None.
        execution: how to compute.
        dropout_key: as `bertjax.encode` takes it.
        sample_key: not used.

    Returns:
        sum_mlm / (W_mlm + 1e-5) + sum_nsp / W_nsp, float32, and the metrics mlm_loss, mlm_accuracy,
        nsp_loss, nsp_accuracy (or sop_loss, sop_accuracy), each as (sum, weight).
    """
    normalizers = pretraining_normalizers(batch) if normalizers is None else normalizers
    mlm_logits, nsp_logits = bert.pretraining_logits(
        params,
        batch,
        batch["masked_positions"],
        config,
        execution=execution,
        dropout_key=dropout_key,
    )
    masked = _masked_scores(mlm_logits, batch, token_groups)
    sentences = _scores(
        sentence_task,
        nsp_logits,
        batch["next_sentence_label"],
        _example_weights(batch, "next_sentence_label"),
    )
    loss = masked["mlm_loss"][0] / (normalizers["mlm"] + _EPSILON)
    loss += sentences[f"{sentence_task}_loss"][0] / jnp.maximum(normalizers["nsp"], _EPSILON)
    return loss, {**masked, **sentences}


def masked_lm_normalizers(batch: Batch) -> Normalizers:
    """The normalizer of `masked_lm_loss`: the predictions of a masked batch."""
    return {"mlm": _masked_weights(batch).sum()}


def masked_lm_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    token_groups: Mapping[str, Any] | None = None,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Masked-LM loss alone; otherwise as `pretraining_loss`, without labels of sentences.

    Params need neither a pooler nor the head nsp. The metrics are mlm_loss and mlm_accuracy.
    """
    normalizers = masked_lm_normalizers(batch) if normalizers is None else normalizers
    logits = bert.mlm_logits(
        params,
        batch,
        config,
        positions=batch["masked_positions"],
        execution=execution,
        dropout_key=dropout_key,
    )
    metrics = _masked_scores(logits, batch, token_groups)
    return metrics["mlm_loss"][0] / (normalizers["mlm"] + _EPSILON), metrics


def classification_normalizers(batch: Batch) -> Normalizers:
    """The normalizer of `classification_loss`, `regression_loss` and `multi_label_loss`: the
    examples of the batch."""
    return {"examples": _row_weights(batch).sum()}


def classification_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy of the sequence classifier, as Google's `run_classifier.py`.

    Args:
        params: with the head classifier [D, C].
        batch: input_ids, attention_mask, token_type_ids [B, T]; label [B] int32; optional
            example_weight [B] (0 for the padding of a ragged last batch).
        config: the shape.
        normalizers: global ones (`classification_normalizers`); those of this batch where None.
        execution: how to compute.
        dropout_key: as `bertjax.encode` takes it.
        sample_key: not used.

    Returns:
        The loss, and the metrics loss and accuracy as (sum, weight).
    """
    normalizers = classification_normalizers(batch) if normalizers is None else normalizers
    logits = bert.task_logits(params, batch, config, execution=execution, dropout_key=dropout_key)
    scores = _scores("task", logits, batch["label"], _row_weights(batch))
    metrics = {"loss": scores["task_loss"], "accuracy": scores["task_accuracy"]}
    return metrics["loss"][0] / jnp.maximum(normalizers["examples"], _EPSILON), metrics


def regression_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Mean squared error of a classifier with one output; otherwise as `classification_loss`.

    The batch's label is [B] float32. The metric is loss as (sum, weight).
    """
    normalizers = classification_normalizers(batch) if normalizers is None else normalizers
    logits = bert.task_logits(params, batch, config, execution=execution, dropout_key=dropout_key)
    examples = _row_weights(batch)
    total = (jnp.square(logits[:, 0] - batch["label"]) * examples).sum()
    return total / jnp.maximum(normalizers["examples"], _EPSILON), {"loss": (total, examples.sum())}


def multi_label_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Mean binary cross-entropy over examples and labels, each label a decision of its own, as
    PyTorch's `BCEWithLogitsLoss`; otherwise as `classification_loss`.

    The batch's label is [B, C] int32, 1 for every label that the example has. The metrics are loss
    and exact_match (all labels right, by a probability of 0.5), as (sum, weight).
    """
    normalizers = classification_normalizers(batch) if normalizers is None else normalizers
    logits = bert.task_logits(params, batch, config, execution=execution, dropout_key=dropout_key)
    label, examples = batch["label"], _row_weights(batch)
    binary = optax.sigmoid_binary_cross_entropy(logits, label.astype(logits.dtype)).mean(-1)
    right = ((logits >= 0) == (label > 0)).all(-1).astype(jnp.float32)
    total, weight = (binary * examples).sum(), examples.sum()
    loss = total / jnp.maximum(normalizers["examples"], _EPSILON)
    return loss, {"loss": (total, weight), "exact_match": ((right * examples).sum(), weight)}


def question_answering_normalizers(batch: Batch) -> Normalizers:
    """The normalizer of `question_answering_loss`: the examples of the batch."""
    return {"examples": _example_weights(batch, "start_position").sum()}


def question_answering_loss(
    params: bert.Params,
    batch: Batch,
    config: BertConfig,
    *,
    normalizers: Normalizers | None = None,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    sample_key: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Mean of the cross-entropies of an answer's start and end, as Google's `run_squad.py`.

    The softmax is over all tokens of a row, those of the question too, as Google's. Google's is
    over the padding besides; here that has no part in it, so that the loss does not depend on how
    wide a batch is padded. Of a row without padding both are the same.

    Args:
        params: with the head qa_outputs.
        batch: input_ids, attention_mask, token_type_ids [B, T]; start_position, end_position [B]
            int32, the places in the row of the answer's first and last token, or 0 twice where it
            has none; optional example_weight [B] (0 for the padding of a ragged last batch).
        config: the shape.
        normalizers: global ones (`question_answering_normalizers`); by default this batch's.
        execution: how to compute.
        dropout_key: as `bertjax.encode` takes it.
        sample_key: not used.

    Returns:
        The loss, and the metrics loss and accuracy (both places are right) as (sum, weight).
    """
    normalizers = question_answering_normalizers(batch) if normalizers is None else normalizers
    logits = bert.task_logits(
        params,
        batch,
        config,
        "question_answering",
        execution=execution,
        dropout_key=dropout_key,
    )
    # Far below any logit, and finite: 0 times infinity would be no number in the gradient.
    logits = jnp.where(batch["attention_mask"][..., None] != 0, logits, -1e9)  # [B, T, 2]
    start, end = logits[..., 0], logits[..., 1]
    examples = _example_weights(batch, "start_position")
    total = cross_entropy(start, batch["start_position"]) + cross_entropy(
        end, batch["end_position"]
    )
    total = (0.5 * total * examples).sum()
    right = (start.argmax(-1) == batch["start_position"]) & (
        end.argmax(-1) == batch["end_position"]
    )
    metrics = {
        "loss": (total, examples.sum()),
        "accuracy": ((right * examples).sum(), examples.sum()),
    }
    return total / jnp.maximum(normalizers["examples"], _EPSILON), metrics


def _example_weights(batch: Batch, label: str) -> jax.Array:
    weights = batch.get("example_weight")
    return jnp.ones(batch[label].shape, jnp.float32) if weights is None else weights


def _row_weights(batch: Batch) -> jax.Array:
    """[B]: of a row of text one, however many labels it has."""
    weights = batch.get("example_weight")
    return jnp.ones(batch["label"].shape[:1], jnp.float32) if weights is None else weights


def _masked_weights(batch: Batch) -> jax.Array:
    """[B, P]: the padding of a ragged last batch predicts nothing."""
    weights, examples = batch["masked_weights"], batch.get("example_weight")
    # Of a packed row ([B, S]), what is padding has no tokens, and so no predictions.
    return weights if examples is None or examples.ndim > 1 else weights * examples[:, None]


def _masked_scores(
    logits: jax.Array, batch: Batch, token_groups: Mapping[str, Any] | None
) -> Metrics:
    labels, weights = batch["masked_labels"], _masked_weights(batch)
    metrics = _scores("mlm", logits, labels, weights)
    for name, group in (token_groups or {}).items():
        metrics[name] = _accuracy(logits, labels, weights * jnp.asarray(group)[labels])
    return metrics


def _scores(name: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Metrics:
    return {
        f"{name}_loss": ((cross_entropy(logits, labels) * weights).sum(), weights.sum()),
        f"{name}_accuracy": _accuracy(logits, labels, weights),
    }


def _accuracy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return (correct * weights).sum(), weights.sum()
