"""Rows of questions with choices: padding, and what it does not change."""

import functools

import jax
import numpy as np
import pytest

from bertjax.model import bert
from bertjax.tasks.multiple_choice import losses
from bertjax.tasks.multiple_choice.features import make_features
from bertjax.tasks.multiple_choice.questions import Question

QUESTIONS = [
    Question("", "the film", ("good", "very good", "bad plot")),
    Question("the plot is one", "it", ("was", "was not")),
]
KIND = "multiple_choice"
ANSWERS = np.array([2, 1], np.int32)


@pytest.fixture(scope="module")
def features(tiny_model):
    return make_features(QUESTIONS, tiny_model.tokenizer, 12, 4, ANSWERS)


def test_a_row_has_a_sequence_for_each_choice_and_padding(features, tiny_model):
    tokenizer = tiny_model.tokenizer
    assert features.counts.tolist() == [3, 2] and len(features) == 2
    batch = features.batch(np.array([1, -1]), 12)
    wanted = tokenizer.batch(["the plot is one"] * 2, ["it was", "it was not"], pad_to=12)
    for name, array in wanted.items():
        np.testing.assert_array_equal(batch[name][0, :2], array)
    assert features.lengths.tolist() == [
        tokenizer.batch(["the film"], ["very good"])["attention_mask"].sum(),
        wanted["attention_mask"].sum(1).max(),
    ]
    assert batch["choice_mask"][0].tolist() == [1, 1, 0, 0]
    assert batch["attention_mask"][0, 2:].sum(1).tolist() == [1, 1]
    assert (batch["input_ids"][0, 2:] == tokenizer.pad_id).all()
    assert batch["label"][0] == 1 and batch["example_weight"].tolist() == [1, 0]


def test_neither_width_nor_padding_choices_change_logits_and_loss(tiny_model, features):
    config = tiny_model.config
    params = {**tiny_model.params, **bert.init_head(config, jax.random.key(0), KIND, 1)}
    wide = make_features(QUESTIONS, tiny_model.tokenizer, 16, 6, ANSWERS)
    choice_logits = jax.jit(functools.partial(losses.choice_logits, config=config, name=KIND))
    loss = jax.jit(functools.partial(losses.multiple_choice_loss, config=config))
    logits, totals = [], []
    for each, width in ((features, 12), (wide, 16)):
        batch = each.batch(np.arange(2), width)
        found = choice_logits(params, batch)
        assert (np.asarray(found)[batch["choice_mask"] == 0] == -1e9).all()
        logits.append(np.asarray(found)[:, :3])
        totals.append(loss(params, batch)[0])
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    np.testing.assert_allclose(*totals, rtol=1e-5)
    # By hand: the mean over questions of -log softmax over their own choices.
    own = [logits[0][0], logits[0][1, :2]]
    by_hand = np.mean(
        [np.log(np.exp(row).sum()) - row[at] for row, at in zip(own, ANSWERS, strict=True)]
    )
    np.testing.assert_allclose(totals[0], by_hand, rtol=1e-5)
