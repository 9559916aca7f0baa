"""BERT as pure functions of a nested dict of arrays, for use in other JAX code.

The functions work under jit, grad, vmap and shard_map. `config` and `execution` are hashable and
static; all other arguments may be traced.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig, Execution
from bertjax.model.heads import task_parts
from bertjax.model.input_checks import check
from bertjax.model.layers import LayerNorm, dense
from bertjax.model.linen import (
    BertEncoder,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    EncoderOutput,
)

Params = Mapping[str, Any]
Inputs = Mapping[str, jax.Array | np.ndarray]

_DEFAULT = Execution()

FIRST_TOKEN = np.zeros((1, 1), np.int32)
"""The positions of `encode` that are the first token of every row."""

PROJECTIONS = ("query", "key", "value")
"""The projections of `attention_projections`, in their order."""

_HEADS = ("mlm", "nsp", "classifier", "qa_outputs")
_TASKS = {
    "masked_lm": BertForMaskedLM,
    "next_sentence": BertForNextSentencePrediction,
    "sequence_classification": BertForSequenceClassification,
    "regression": BertForSequenceClassification,
    "multi_label_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
    "multiple_choice": BertForMultipleChoice,
}


def init_params(
    config: BertConfig,
    key: jax.Array,
    *,
    heads: Sequence[str] = ("mlm", "nsp"),
    num_labels: int = 2,
    add_pooler: bool = True,
) -> dict[str, Any]:
    """Draws random parameters as Google's `modeling.py`: truncated normal matrices, zero biases.

    Kernels of "classifier" and "qa_outputs" are normal without truncation, as in `transformers`.
    The key and the name of a subtree determine its values, which do not depend on other subtrees.

    Args:
        config: the shape.
        key: a JAX random key.
        heads: output layers to add to the encoder: "mlm", "nsp", "classifier", "qa_outputs".
        num_labels: columns C of the classifier; 1 for regression and for multiple choice.
        add_pooler: False leaves out the pooler, which only nsp and a classifier of whole sequences
            read; Hugging Face's models for masked words, tokens and questions have none.

    Returns:
        Nested dict of float32 arrays; its paths (`encoder/layer_0/attention/query/kernel`) are
        public.

    Raises:
        ValueError: a head is unknown, or nsp has no pooler to read.
    """
    if unknown := [head for head in heads if head not in _HEADS]:
        raise ValueError(f"heads has {unknown[0]!r}: use some of {', '.join(_HEADS)}.")
    if "nsp" in heads and not add_pooler:
        raise ValueError("The head nsp reads the pooler: leave add_pooler at True, or nsp out.")
    ids = jnp.zeros((1, 1), jnp.int32)
    params = dict(BertForPreTraining(config).init(key, {"input_ids": ids}, ids)["params"])
    for head in {"mlm", "nsp"} - set(heads):
        del params[head]
    of = "sequence_classification" if add_pooler else "token_classification"
    for head, kind in {"classifier": of, "qa_outputs": "question_answering"}.items():
        if head in heads:
            params |= init_head(config, key, kind, num_labels)
    if not add_pooler:
        del params["pooler"]
    return params


def init_head(config: BertConfig, key: jax.Array, kind: str, num_labels: int = 2) -> dict[str, Any]:
    """Draws the subtrees that `init_params` would draw for a task, without the rest of the model.

    The subtrees (`task_parts`) of the task must map [D] to outputs, so not mlm.
    """

    def top(model: Any, x: jax.Array) -> jax.Array:
        for part in task_parts(kind, config):
            x = getattr(model, part)(x)
        return x

    model = _TASKS[kind](config, **_sizes(kind, num_labels))
    return dict(model.init(key, jnp.zeros((1, config.hidden_size)), method=top)["params"])


def init_task_params(
    config: BertConfig, key: jax.Array, kind: str, outputs: int, *, whole: bool
) -> dict[str, Any]:
    """Draws random parameters of a task's model: all, or only the subtrees that the task adds.

    `kind` is a key of `bertjax.model.heads.TASK_PARTS`, and `outputs` the columns of its head.
    """
    parts = task_parts(kind, config)
    if not whole and "mlm" not in parts:
        return init_head(config, key, kind, outputs) if parts else {}
    heads = [part for part in parts if part not in ("pooler", "token_head")]
    return init_params(config, key, heads=heads, num_labels=outputs, add_pooler="pooler" in parts)


def encode(
    params: Params,
    inputs: Inputs,
    config: BertConfig,
    *,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    positions: jax.Array | np.ndarray | None = None,
) -> EncoderOutput:
    """Runs the encoder.

    Args:
        params: parameters as from `init_params`; heads are ignored.
        inputs: input_ids [B, T] int32 and, optionally, attention_mask, token_type_ids, position_ids
            [B, T]; segment_ids [B, T] and cls_positions [B, S] for rows that pack several examples.
            An attention_mask [B, T, T] says for each query what it attends to. Other keys of
            transformers' tokenizers, such as offset_mapping, are ignored.
        config: the shape.
        execution: how to compute.
        dropout_key: None for no dropout; one key (row b draws from fold_in(key, b)) or keys [B],
            of jax.random.key or as uint32 arrays of jax.random.PRNGKey.
        output_hidden_states: also return the outputs of the embeddings and of every layer.
        output_attentions: also return the attention probabilities of every layer.
        positions: [B, P] or [1, P]: the tokens whose last hidden state is wanted; None: all. The
            last layer computes these and what the pooler reads, and no other tokens, unless states
            or attentions are requested, the pooler reads the mean, these are as many as all, or
            execution.attention is "splash".

    Returns:
        last_hidden_state [B, T, D], or [B, P, D] at positions; pooled [B, D] (for params without a
        pooler, as in many masked LMs, reading it raises ValueError); and the requested outputs.

    Raises:
        ValueError: T is longer than the model's positions; or the inputs have other names, shapes
            or types or, outside of a trace, ids beyond the model's tables.
    """
    module = BertEncoder(config, execution, add_pooler="pooler" in params)
    options = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
    return _apply(module, params, inputs, dropout_key, positions=positions, **options)


def attention_projections(
    params: Params,
    inputs: Inputs,
    config: BertConfig,
    layer: int,
    *,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes the queries, keys and values of a layer's self-attention, and nothing that follows.

    Args:
        params: parameters as for `encode`; those above these projections may be missing.
        inputs: inputs as for `encode`.
        config: the shape.
        layer: number of the layer, from 1.
        execution: how to compute.
        dropout_key: None, one key or keys [B], as for `encode`.

    Returns:
        [3, B, T, D] in the compute type, neither scaled nor rotated nor split into heads.
    """
    if layer > 1:
        below = dataclasses.replace(config, num_hidden_layers=layer - 1, final_norm=False)
        x = encode(
            params, inputs, below, execution=execution, dropout_key=dropout_key
        ).last_hidden_state
    else:
        keys = row_keys(dropout_key, inputs["input_ids"].shape[0])
        module, embed = BertEncoder(config, execution), BertEncoder.embed
        x, _ = module.apply({"params": params}, inputs, keys, method=embed)  # type: ignore
    own = params["encoder"][f"layer_{layer - 1}"]
    if config.norm_placement == "pre" and "attention_layer_norm" in own:
        norm: Any = LayerNorm(config).apply
        x = norm({"params": own["attention_layer_norm"]}, x)
    bias = config.attention_bias
    project: Any = dense(config.hidden_size, config, execution, use_bias=bias).apply
    return jnp.stack([project({"params": own["attention"][name]}, x) for name in PROJECTIONS])


def pretraining_logits(
    params: Params,
    inputs: Inputs,
    masked_positions: jax.Array | np.ndarray,
    config: BertConfig,
    *,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes masked-LM logits [B, P, V] at masked_positions, and next-sentence logits [B, 2].

    Both are float32. The positions [B, P] are gathered before the head, as in Google's
    `run_pretraining.py`.
    """
    module = BertForPreTraining(config, execution)
    return _apply(module, params, inputs, dropout_key, masked_positions=masked_positions)


def mlm_logits(
    params: Params,
    inputs: Inputs,
    config: BertConfig,
    *,
    positions: jax.Array | np.ndarray | None = None,
    decode: bool = True,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes float32 masked-LM logits: [B, P, V] at positions [B, P], or [B, T, V] at all.

    Without `decode`, it computes the vectors [..., D] whose products with the word embeddings, plus
    the bias of the head, are the logits.

    Parameters need neither a pooler nor a next-sentence head. For the parameters of a decoder,
    inputs have encoder_hidden_states [B, S, D] and, optionally, encoder_attention_mask [B, S].
    """
    module = BertForMaskedLM(
        config, execution, add_cross_attention="encoder_hidden_states" in inputs
    )
    return _apply(module, params, inputs, dropout_key, positions=positions, decode=decode)


def task_logits(
    params: Params,
    inputs: Inputs,
    config: BertConfig,
    task: str | Mapping[str, Any] = "sequence_classification",
    *,
    execution: Execution = _DEFAULT,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes float32 logits of a task.

    | kind | subtrees that params need | logits |
    |---|---|---|
    | masked_lm | mlm | [B, T, V]; `mlm_logits` computes them at some positions only |
    | next_sentence | pooler, nsp | [B, 2]: segment B follows A, B is random |
    | sequence_classification, regression | pooler, classifier | [B, C]; C is 1 for regression |
    | multi_label_classification | pooler, classifier | [B, C], one binary logit per label |
    | token_classification | classifier | [B, T, C] |
    | question_answering | qa_outputs | [B, T, 2]: start and end of the answer |
    | multiple_choice | pooler, classifier with one column | [B, C] of inputs [B, C, T] |

    Args:
        params: parameters with these subtrees; others are ignored.
        inputs: inputs as for `encode`; for multiple choice each is [B, C, T].
        config: the shape.
        task: a kind, or the dict `Pretrained.task`, which has a "kind".
        execution: how to compute.
        dropout_key: None, one key or keys [B], as for `encode`.

    Raises:
        ValueError: the task does not have exactly one head, params lack a subtree, or the inputs
            have another shape.
    """
    kind = task.get("kind") if isinstance(task, Mapping) else task
    if kind == "pretraining":
        raise ValueError(
            "The task 'pretraining' has two heads: use pretraining_logits, or name one of them, "
            "'masked_lm' or 'next_sentence'."
        )
    if kind not in _TASKS:
        raise ValueError(f"The task {kind!r} has no head: use one of {', '.join(_TASKS)}.")
    if missing := [part for part in task_parts(kind, config) if part not in params]:
        raise ValueError(
            f"The task {kind!r} needs the subtree {missing[0]}, which the parameters lack "
            f"({', '.join(params)})."
        )
    outputs = params["classifier"]["bias"].shape[0] if "classifier" in params else 0
    module = _TASKS[kind](config, execution, **_sizes(kind, outputs))
    return _apply(module, params, inputs, dropout_key)


def _sizes(kind: str, num_labels: int) -> dict[str, int]:
    """Returns the fields of a task's module besides config and execution."""
    sized = (BertForSequenceClassification, BertForTokenClassification)
    return {"num_labels": num_labels} if _TASKS[kind] in sized else {}


def row_keys(key: jax.Array | None, rows: int) -> jax.Array | None:
    """Makes one key per row, fold_in(key, b) for row b; keys [B] and None stay as they are."""
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # the last axis holds the words of a key
    if key is None or key.ndim:
        return key
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows, dtype=jnp.uint32))


def _apply(
    module: BertEncoder, params: Params, inputs: Inputs, key: jax.Array | None, **options: Any
) -> Any:
    rank = 3 if isinstance(module, BertForMultipleChoice) else 2
    check(params, inputs, module.config, rank=rank, is_decoder=module.add_cross_attention)
    keys = row_keys(key, inputs["input_ids"].shape[0])
    return module.apply({"params": params}, inputs, dropout_keys=keys, **options)
