"""Compares the analytic count with the products of the traced program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import BertConfig, Execution
from bertjax.model import bert, flops
from bertjax.model.prefix import Prefix
from bertjax.objectives.objective import TEACHER
from bertjax.objectives.table import OBJECTIVES
from bertjax.tasks.classification.losses import classification_loss
from bertjax.tasks.embedding.losses import Vectors
from bertjax.tasks.question_answering.losses import question_answering_loss

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=16,
)
B, T, P, C = 3, 12, 5, 4


def inner(value):
    """Yields the traced programs in a parameter of an equation."""
    for each in value if isinstance(value, list | tuple) else [value]:
        each = getattr(each, "jaxpr", each)
        if hasattr(each, "eqns"):
            yield each


def products(jaxpr):
    """Counts the operations of all dot_generals of a program, inner programs included.

    Of branches, such as those for a CPU and for other platforms, it counts the one with the most.
    """
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = int(np.prod([left[axis] for axis in contracted]))
            total += 2 * depth * int(np.prod(equation.outvars[0].aval.shape))
        parts = [products(each) for value in equation.params.values() for each in inner(value)]
        total += times * (max(parts) if equation.primitive.name == "cond" else sum(parts))
    return total


def batch():
    rows = jnp.ones((B, T), jnp.int32)
    return {
        **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), rows),
        "masked_positions": jnp.ones((B, P), jnp.int32),
        "masked_labels": jnp.ones((B, P), jnp.int32),
        "masked_weights": jnp.ones((B, P), jnp.float32),
        "next_sentence_label": jnp.zeros(B, jnp.int32),
        **dict.fromkeys(("label", "start_position", "end_position"), jnp.zeros(B, jnp.int32)),
    }


def task(kind, head, outputs):
    """The parameters, the loss and the FLOPs of a fine-tuning task."""
    pooler = kind == "sequence_classification"
    make = functools.partial(bert.init_params, heads=(head,), add_pooler=pooler, num_labels=outputs)
    loss = classification_loss if pooler else question_answering_loss
    return make, loss, flops.task_flops(CONFIG, kind, outputs, T)


COUNTED = {
    name: (objective.init_params, objective.loss, objective.flops(CONFIG, T, P))
    for name, objective in OBJECTIVES.items()
    if not objective.needs_teacher
} | {
    "classification": task("sequence_classification", "classifier", C),
    "question answering": task("question_answering", "qa_outputs", 2),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_count_is_that_of_the_traced_program(name):
    make, loss, forward = COUNTED[name]
    key = jax.random.key(0)
    params = jax.eval_shape(functools.partial(make, CONFIG), key)
    execution, keys = Execution(attention="plain"), jax.random.split(key, B)
    of = functools.partial(loss, config=CONFIG, execution=execution, sample_key=keys)
    traced = jax.make_jaxpr(lambda params: of(params, batch())[0])(params)
    assert products(traced.jaxpr) == B * forward
    both = jax.make_jaxpr(jax.grad(lambda params: of(params, batch())[0]))(params)
    assert products(both.jaxpr) == B * flops.training_flops(forward)


def test_the_counts_of_a_prefix_model_and_of_vectors_are_those_of_the_traced_programs():
    config = dataclasses.replace(CONFIG, max_position_embeddings=24)
    make = functools.partial(bert.init_params, config, heads=("mlm",), add_pooler=False)
    params = jax.eval_shape(make, jax.random.key(0))
    execution = Execution(attention="plain")
    rows = jnp.ones((B, T), jnp.int32)
    inputs = {"input_ids": rows, "attention_mask": rows, "decoder_input_ids": rows[:, :P]}
    hidden = functools.partial(Prefix(4).hidden, config=config, execution=execution)
    traced = jax.make_jaxpr(lambda params: hidden(params, inputs))(params)
    decoder = 2 * P * config.hidden_size * config.vocab_size
    counted = flops.seq2seq_flops(config, "", 0, T, P) - decoder
    assert products(traced.jaxpr) == B * counted

    texts = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), rows[:, None])
    for pooling, count in (("cls", flops.first_token_flops), ("mean", flops.task_flops)):
        vectors = functools.partial(Vectors(pooling, True), config=config, execution=execution)
        traced = jax.make_jaxpr(lambda params: vectors(params, texts))(params)  # noqa: B023
        assert products(traced.jaxpr) == B * count(config, "encoder", 0, T)


def test_the_count_of_a_model_with_a_teacher():
    teaching = BertConfig(**{**CONFIG.to_dict(), "hidden_size": 48, "num_hidden_layers": 3})
    minilm = OBJECTIVES["minilm"].taught_by(teaching, CONFIG)
    student = jax.eval_shape(functools.partial(minilm.init_params, CONFIG), jax.random.key(0))
    params = {**student, TEACHER: minilm.teacher_shapes()}
    of = functools.partial(minilm.loss, config=CONFIG, execution=Execution(attention="plain"))
    traced = jax.make_jaxpr(lambda params: of(params, batch())[0])(params)
    forward, both = minilm.flops(CONFIG, T, P), minilm.training_flops(CONFIG, T, P)
    assert products(traced.jaxpr) == B * forward
    gradient = jax.grad(lambda own, teacher: of({**own, TEACHER: teacher}, batch())[0])
    traced = jax.make_jaxpr(gradient)(student, params[TEACHER])
    # The backward pass computes the relations again, which doesn't count.
    again = 3 * 2 * T * T * (teaching.hidden_size + CONFIG.hidden_size)
    assert products(traced.jaxpr) == B * (both + again)
    assert both < flops.training_flops(forward)


def test_bert_base_takes_545_million_a_token_less_what_no_head_reads():
    """The millions of the whole model were counted independently, with 19 predictions at 128
    tokens. Of the last layer, tokens that are not read lack query, output, feed-forward, attention.
    """
    base, large = (BertConfig.named(size) for size in ("base", "large"))
    for config, length, millions in ((base, 128, 545), (base, 512, 588), (large, 128, 1880)):
        predictions = round(0.15 * length)
        forward = flops.pretraining_flops(config, length, predictions)
        wide = config.hidden_size
        unread = (length - predictions - 1) * (2 * 10 * wide * wide + 4 * length * wide)
        whole = flops.training_flops(forward + unread)
        assert whole / length / 1e6 == pytest.approx(millions, rel=3e-3)
