"""Sentence scores: linear in the vectors of [CLS] without layers, blind to padding with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.config import BertConfig
from bertjax.model import extractive
from bertjax.model.flops import encoder_flops

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=24,
    initializer_range=0.3,
)


@pytest.fixture(scope="module")
def inputs():
    return {
        "input_ids": jnp.asarray(np.random.default_rng(0).integers(0, 30, (2, 16))),
        "attention_mask": jnp.asarray([[1] * 16, [1] * 9 + [0] * 7]),
        "token_type_ids": jnp.asarray([[0] * 6 + [1] * 10, [0] * 9 + [0] * 7]),
        "cls_positions": jnp.asarray([[0, 6], [0, 0]]),
        "sentence_positions": jnp.asarray([[4, 5], [0, 0]]),
        "sentence_mask": jnp.asarray([[1, 1], [1, 0]]),
    }


def draw(layers):
    make = functools.partial(
        extractive.init_params, CONFIG, whole=True, inter_sentence_layers=layers
    )
    return jax.jit(make)(jax.random.key(0))


@functools.partial(jax.jit, static_argnames="dropped")
def logits(params, inputs, dropped=False):
    key = jax.random.key(1) if dropped else None
    return extractive.sentence_logits(params, inputs, CONFIG, dropout_key=key)


def test_without_layers_each_sentence_is_judged_by_the_vector_of_its_cls(inputs):
    params = draw(0)
    assert set(params["sentence_scorer"]) == {"classifier"}
    read = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    encode = jax.jit(functools.partial(bj.encode, config=CONFIG))
    states = encode(params, read).last_hidden_state
    head = params["sentence_scorer"]["classifier"]
    found = logits(params, inputs)
    for row, sentence, token in ((0, 0, 0), (0, 1, 6), (1, 0, 0)):
        wanted = np.asarray(states[row, token], np.float64) @ np.asarray(head["kernel"])[:, 0]
        assert found[row, sentence] == pytest.approx(wanted + float(head["bias"][0]), abs=1e-5)


def test_layers_mix_sentences_but_not_padding(inputs):
    params = draw(2)
    assert set(params["sentence_scorer"]["inter_sentence"]) == {"layer_0", "layer_1"}
    found = logits(params, inputs)
    # The vector at the unused place of row 1 changes, and the other place does not see it.
    moved = {**inputs, "cls_positions": inputs["cls_positions"].at[1, 1].set(5)}
    assert logits(params, moved)[1, 0] == found[1, 0]
    # Both sentences of row 0 are real: one depends on the other, and on its place in the document.
    for name, value in (("cls_positions", 9), ("sentence_positions", 9)):
        changed = logits(params, {**inputs, name: inputs[name].at[0, 1].set(value)})
        assert abs(changed[0, 0] - found[0, 0]) > 1e-4
    assert not np.array_equal(logits(params, inputs, dropped=True), found)


def test_new_parts_are_drawn_without_the_model_under_them():
    whole = draw(2)
    part = jax.jit(functools.partial(extractive.init_params, CONFIG, whole=False))(
        jax.random.key(0)
    )
    assert set(part) == {"sentence_scorer"} and set(whole) == {"embeddings", "encoder", *part}
    jax.tree.map(np.testing.assert_array_equal, part["sentence_scorer"], whole["sentence_scorer"])


def test_sinusoids_are_presumms():
    """The table of `PositionalEncoding`, in its own words."""
    table = np.zeros((20, 7))
    position = np.arange(0, 20)[:, None]
    rates = np.exp(np.arange(0, 7, 2) * -(np.log(10000.0) / 7))
    table[:, 0::2] = np.sin(position * rates)
    table[:, 1::2] = np.cos(position * rates)[:, :3]
    found = extractive.sinusoids(jnp.arange(20), 7)
    np.testing.assert_allclose(found, table, atol=2e-6)  # float32 angles up to 20


def test_flops_count_the_layers_over_places():
    count = functools.partial(extractive.sentence_flops, CONFIG, extractive.KIND, 1, 16)
    per_layer = encoder_flops(CONFIG, 2)
    difference = count(inter_sentence_layers=3) - count(inter_sentence_layers=1)
    assert difference == 2 * per_layer
    assert count(inter_sentence_layers=0) == encoder_flops(CONFIG, 16, 2) + 2 * 2 * 12
