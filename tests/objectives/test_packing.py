"""Packed rows: each example has the masks, the loss and the gradient that it has alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model.input_checks import model_inputs
from bertjax.objectives import losses
from bertjax.objectives.masking import MaskingConfig, Vocabulary, mask_tokens
from bertjax.objectives.minilm import RelationDistillation
from bertjax.objectives.objective import TEACHER
from bertjax.objectives.table import OBJECTIVES
from bertjax.train.tree import named

T, V, S = 24, 40, 3
LENGTHS = ((9, 12, 3), (24,), (11, 8))  # of the examples of each row; the second has no padding
CONFIG = bj.BertConfig(
    vocab_size=V,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=T,
)
# Larger weights than initial ones, so that tokens attend to some more than to others.
CONFIG = dataclasses.replace(CONFIG, initializer_range=0.2)
SPECIAL = np.isin(np.arange(V), (0, 2, 3, 4))
VOCABULARY = Vocabulary(V, 0, 4, SPECIAL, SPECIAL | (np.arange(V) % 3 > 0))
KEYS = jax.random.split(jax.random.key(1), len(LENGTHS))
PLACES = [(row, slot) for row, lengths in enumerate(LENGTHS) for slot in range(len(lengths))]


def texts():
    """Returns packed rows, and their examples alone, each in a row [CLS] A [SEP] B [SEP]."""
    rng = np.random.default_rng(0)
    tokens = ("input_ids", "attention_mask", "token_type_ids")
    alone = {name: np.zeros((len(PLACES), T), np.int32) for name in tokens}
    alone["next_sentence_label"] = rng.integers(0, 2, len(PLACES)).astype(np.int32)
    names = (*tokens, "segment_ids", "position_ids")
    packed = {name: np.zeros((len(LENGTHS), T), np.int32) for name in names}
    for name in ("cls_positions", "next_sentence_label"):
        packed[name] = np.zeros((len(LENGTHS), S), np.int32)
    packed["example_weight"] = np.zeros((len(LENGTHS), S), np.float32)
    for number, (row, slot) in enumerate(PLACES):
        length, start = LENGTHS[row][slot], sum(LENGTHS[row][:slot])
        place = slice(start, start + length)
        ids = rng.integers(5, V, length)
        ids[0], ids[-1] = 2, 3
        if length > 4:
            ids[length // 2] = 3
        alone["input_ids"][number, :length] = ids
        alone["attention_mask"][number, :length] = 1
        alone["token_type_ids"][number, length // 2 + 1 : length] = 1
        for name in tokens:
            packed[name][row, place] = alone[name][number, :length]
        packed["segment_ids"][row, place] = slot + 1
        packed["position_ids"][row, place] = np.arange(length)
        packed["cls_positions"][row, slot] = start
        packed["example_weight"][row, slot] = 1
        packed["next_sentence_label"][row, slot] = alone["next_sentence_label"][number]
    return packed, alone


PACKED, ALONE = texts()
KEYS_ALONE = jnp.stack([jax.random.fold_in(KEYS[row], slot) for row, slot in PLACES])


def corrupted(objective, masking=MaskingConfig(rate=0.3)):
    """Returns the packed rows and the examples alone, as training masks them."""
    masked = functools.partial(objective.corrupt, vocabulary=VOCABULARY, masking=masking)
    return [jax.jit(masked)(*one) for one in ((PACKED, KEYS), (ALONE, KEYS_ALONE))]


@pytest.mark.parametrize(
    "kind", [{}, {"whole_word": True}, {"span": True}], ids=["pieces", "words", "spans"]
)
def test_an_example_has_the_masks_that_it_has_alone(kind):
    masking = MaskingConfig(rate=0.3, **kind)
    packed, alone = corrupted(OBJECTIVES["mlm"], masking)
    assert packed["masked_positions"].shape == (len(LENGTHS), masking.predictions(T, S))
    for number, (row, slot) in enumerate(PLACES):
        length, start = LENGTHS[row][slot], sum(LENGTHS[row][:slot])
        here = packed["input_ids"][row, start : start + length]
        assert here.tolist() == alone["input_ids"][number, :length].tolist()
        used = alone["masked_weights"][number] > 0
        inside = (packed["masked_positions"][row] >= start) & (packed["masked_weights"][row] > 0)
        inside &= packed["masked_positions"][row] < start + length
        positions = alone["masked_positions"][number][used] + start
        assert packed["masked_positions"][row][inside].tolist() == positions.tolist()
        labels = alone["masked_labels"][number][used]
        assert packed["masked_labels"][row][inside].tolist() == labels.tolist()
        assert used.sum() == inside.sum() >= 1
    padding = PACKED["segment_ids"] == 0
    assert np.array_equal(packed["input_ids"][padding], PACKED["input_ids"][padding])
    unused = np.asarray(packed["masked_weights"] == 0)
    assert not packed["masked_positions"][unused].any()


def test_the_predictions_of_a_packed_row_are_enough_for_any_examples():
    for rate in (0.15, 0.2, 0.4):
        masking = MaskingConfig(rate=rate)
        most = np.zeros((5, T + 1), int)  # of up to so many examples in so many tokens
        for count in range(1, 5):
            for total in range(T + 1):
                choices = range(3, total + 1)
                found = [masking.budget(n) + most[count - 1][total - n] for n in choices]
                most[count][total] = max([most[count - 1][total], *found])
            assert most[count][T] <= masking.predictions(T, count) <= most[count][T] + 1
    with pytest.raises(bj.UserError, match="is too small"):
        MaskingConfig(max_predictions=4).predictions(T, S)


def params_of(objective):
    return jax.jit(functools.partial(objective.init_params, CONFIG))(jax.random.key(0))


@jax.jit
def each_loss(params, batch):
    """Returns the losses of predictions [B, P], and those of sentences [B] or [B, S]."""
    inputs, positions = model_inputs(batch), batch["masked_positions"]
    words, sentences = bj.pretraining_logits(params, inputs, positions, CONFIG)
    return (
        losses.cross_entropy(words, batch["masked_labels"]),
        losses.cross_entropy(sentences, batch["next_sentence_label"]),
    )


def test_every_example_has_the_loss_that_it_has_alone():
    params = params_of(OBJECTIVES["nsp"])
    packed, alone = corrupted(OBJECTIVES["nsp"])
    (words, sentences), (words_alone, sentences_alone) = (
        each_loss(params, batch) for batch in (packed, alone)
    )
    words = words[packed["masked_weights"] > 0]  # in the order of the examples
    weights = np.asarray(alone["masked_weights"])
    of_example = np.nonzero(weights)[0]
    means = [np.bincount(of_example, each) for each in (words, words_alone[weights > 0])]
    means = [total / weights.sum(1) for total in means]
    sentences = sentences[packed["example_weight"] > 0]
    np.testing.assert_allclose(means[0] + sentences, means[1] + sentences_alone, rtol=1e-6)


@pytest.mark.parametrize("name", ["nsp", "mlm", "rtd", "minilm"])
def test_the_loss_and_its_gradient_are_those_of_the_examples_alone(name):
    objective = OBJECTIVES[name]
    if name == "rtd":  # its samples are then the likeliest tokens, in any row
        objective = dataclasses.replace(objective, temperature=1e-5)
    teacher = {}
    if name == "minilm":
        objective = RelationDistillation(layer=1, relation_heads=4).taught_by(CONFIG, CONFIG)
        teacher = {TEACHER: jax.tree.map(lambda leaf: -leaf, params_of(objective))}

    def loss(params, batch, keys):
        return objective.loss({**params, **teacher}, batch, CONFIG, sample_key=keys)

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params = params_of(objective)
    packed, alone = corrupted(objective)
    (one, sums), grads = graded(params, packed, KEYS)
    (other, sums_alone), grads_alone = graded(params, alone, KEYS_ALONE)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    for metric, pair in sums.items():
        np.testing.assert_allclose(pair, sums_alone[metric], rtol=1e-6, err_msg=metric)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads_alone))
    assert largest > 0
    grads_alone = named(grads_alone)
    for path, leaf in named(grads).items():
        # Sums of float32 over other rows, in another order.
        np.testing.assert_allclose(leaf, grads_alone[path], atol=1e-5 * largest, err_msg=path)


def test_no_token_attends_to_another_example():
    params, encode = params_of(OBJECTIVES["nsp"]), jax.jit(bj.encode, static_argnames="config")
    inputs = {name: jnp.asarray(PACKED[name]) for name in PACKED if "label" not in name}
    del inputs["example_weight"]
    before = encode(params, inputs, config=CONFIG)
    second = PACKED["segment_ids"] == 2
    changed = np.where(second, (PACKED["input_ids"] + 7) % V, PACKED["input_ids"])
    after = encode(params, {**inputs, "input_ids": jnp.asarray(changed)}, config=CONFIG)
    moved = np.asarray((before.last_hidden_state != after.last_hidden_state).any(-1))
    real = PACKED["segment_ids"] > 0
    assert np.array_equal(moved[real], second[real])  # to the bit
    pooled = (before.pooled != after.pooled).any(-1)
    assert np.array_equal(pooled, [[False, True, False], [False] * 3, [False, True, False]])


def test_a_key_masks_any_length_of_row_alike():
    """The same draws in a row of another length: an example's place in a row changes nothing."""
    ids = jnp.asarray(ALONE["input_ids"][:1])
    short = mask_tokens(KEYS[:1], ids[:, :16], VOCABULARY, MaskingConfig(rate=0.3))
    long = mask_tokens(KEYS[:1], ids, VOCABULARY, MaskingConfig(rate=0.3))
    assert np.array_equal(short["input_ids"], long["input_ids"][:, :16])
