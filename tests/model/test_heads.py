"""Compares every head with NumPy applied to the outputs of `encode`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model import bert
from bertjax.model.dropout import LAYER_HEAD, Site, dropout, fold_keys
from bertjax.model.heads import TASK_PARTS

HEADLESS = {"pretraining", "encoder", "encoder_decoder", "sentence_extraction"}
"""Kinds that `task_logits` does not compute."""
CONFIG = bj.BertConfig(
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=9,
    hidden_dropout_prob=0.3,
    classifier_dropout=0.2,
)
FLOAT32_NOISE = 5e-6  # other orders of float32 sums; logits are near 5
HEADS = ("mlm", "nsp", "classifier", "qa_outputs")

task_logits = jax.jit(bj.task_logits, static_argnames=("config", "task"))
init_params = jax.jit(
    bj.init_params, static_argnames=("config", "heads", "num_labels", "add_pooler")
)


@pytest.fixture(scope="module")
def drawn():
    return init_params(CONFIG, jax.random.key(0), heads=HEADS, num_labels=3)


@pytest.fixture(scope="module")
def params(drawn):
    """All heads, with large weights and biases, so that an omitted one shows."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape).astype(np.float32), drawn
    )


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    return {
        "input_ids": jnp.asarray(rng.integers(0, 30, (3, 7))),
        "attention_mask": jnp.asarray([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4]),
        "token_type_ids": jnp.asarray(rng.integers(0, 2, (3, 7))),
    }


@pytest.fixture(scope="module")
def choices():
    """Rows of four choices, with masks and token types of their own: [B, C, T]."""
    rng = np.random.default_rng(2)
    return {
        "input_ids": jnp.asarray(rng.integers(0, 30, (2, 4, 6))),
        "attention_mask": jnp.asarray(np.arange(6) < rng.integers(3, 7, (2, 4, 1)), jnp.int32),
        "token_type_ids": jnp.asarray(rng.integers(0, 2, (2, 4, 6))),
    }


def of_one_output(params):
    """Keeps the first column of the classifier only."""
    return {**params, "classifier": jax.tree.map(lambda leaf: leaf[..., :1], params["classifier"])}


def only(params, kind):
    return {name: params[name] for name in ("embeddings", "encoder", *TASK_PARTS[kind])}


def linear(x, head):
    return np.asarray(x, np.float64) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def close(given, wanted):
    assert given.dtype == jnp.float32
    np.testing.assert_allclose(given, wanted, atol=FLOAT32_NOISE)


@pytest.mark.parametrize("key", [None, 5], ids=["plain", "dropout"])
def test_heads_are_dense_layers_over_what_encode_gives(params, inputs, key):
    kinds = (
        "next_sentence",
        "sequence_classification",
        "token_classification",
        "question_answering",
    )

    @jax.jit
    def outputs(params, inputs):
        out = bj.encode(params, inputs, CONFIG, dropout_key=key)
        keys = fold_keys(bert.row_keys(key, 3), LAYER_HEAD)
        rate = CONFIG.classifier_dropout
        pooled = dropout(out.pooled, keys, Site.POOLED, rate)
        tokens = dropout(out.last_hidden_state, keys, Site.SEQUENCE, rate)
        task_logits = functools.partial(bj.task_logits, config=CONFIG, dropout_key=key)
        # Each kind gets only its own subtrees, as in the classes of Hugging Face.
        logits = {kind: task_logits(only(params, kind), inputs, task=kind) for kind in kinds}
        return out, pooled, tokens, logits

    key = None if key is None else jax.random.key(key)
    out, pooled, tokens, logits = outputs(params, inputs)
    close(logits["next_sentence"], linear(out.pooled, params["nsp"]))  # [B, 2]
    close(logits["sequence_classification"], linear(pooled, params["classifier"]))  # [B, C]
    close(logits["token_classification"], linear(tokens, params["classifier"]))  # [B, T, C]
    close(logits["question_answering"], linear(out.last_hidden_state, params["qa_outputs"]))
    assert np.array_equal(pooled, out.pooled) == np.array_equal(tokens, out.last_hidden_state)
    assert np.array_equal(pooled, out.pooled) == (key is None)


def test_the_heads_of_pretraining_are_tasks_too(params, inputs):
    @jax.jit
    def outputs(params, inputs, key):
        everywhere = jnp.broadcast_to(jnp.arange(7), (3, 7))
        task_logits = functools.partial(bj.task_logits, config=CONFIG, dropout_key=key)
        return (
            bj.pretraining_logits(params, inputs, everywhere, CONFIG, dropout_key=key),
            [task_logits(params, inputs, task=kind) for kind in ("masked_lm", "next_sentence")],
        )

    for wanted, given in zip(*outputs(params, inputs, jax.random.key(3)), strict=True):
        close(given, wanted)


def test_every_choice_is_scored_as_a_sequence_by_itself(params, choices):
    params = of_one_output(params)
    logits = task_logits(params, choices, CONFIG, "multiple_choice")
    assert logits.shape == (2, 4)
    flat = {name: array.reshape(8, 6) for name, array in choices.items()}
    alone = task_logits(params, flat, CONFIG, "sequence_classification")
    close(logits.reshape(8, 1), alone)
    ids = {"input_ids": choices["input_ids"]}  # all else is optional
    shape = jax.eval_shape(lambda: bj.task_logits(params, ids, CONFIG, "multiple_choice"))
    assert shape.shape == (2, 4)


def test_dropout_of_a_choice_depends_on_its_row_and_its_place_alone(params, choices):
    params = of_one_output(params)
    keys = jax.random.split(jax.random.key(4), 2)
    whole = task_logits(params, choices, CONFIG, "multiple_choice", dropout_key=keys)
    turned = {name: array[::-1] for name, array in choices.items()}
    again = task_logits(params, turned, CONFIG, "multiple_choice", dropout_key=keys[::-1])
    close(again[::-1], whole)
    same = {name: jnp.repeat(array[:, :1], 4, axis=1) for name, array in choices.items()}
    logits = task_logits(params, same, CONFIG, "multiple_choice", dropout_key=keys)
    assert len(np.unique(logits)) == 8


def test_linen_modules_make_and_read_the_dict(params, inputs, choices):
    linen = bj.linen
    modules = {
        "masked_lm": linen.BertForMaskedLM(CONFIG),
        "next_sentence": linen.BertForNextSentencePrediction(CONFIG),
        "sequence_classification": linen.BertForSequenceClassification(CONFIG, num_labels=3),
        "token_classification": linen.BertForTokenClassification(CONFIG, num_labels=3),
        "question_answering": linen.BertForQuestionAnswering(CONFIG),
        "multiple_choice": linen.BertForMultipleChoice(CONFIG),
    }
    for kind, module in modules.items():
        given = choices if kind == "multiple_choice" else inputs
        made = jax.eval_shape(module.init, jax.random.key(0), given)["params"]
        wanted = only(of_one_output(params) if kind == "multiple_choice" else params, kind)
        shapes = jax.tree.map(lambda leaf: leaf.shape, made)
        assert shapes == jax.tree.map(lambda leaf: leaf.shape, wanted), kind


def test_heads_are_drawn_by_their_names(drawn):
    """A head does not depend on which other heads exist."""
    key = jax.random.key(0)
    assert set(drawn) == {"embeddings", "encoder", "pooler", *HEADS}
    heads = ("classifier", "qa_outputs")
    some = init_params(CONFIG, key, heads=heads, num_labels=3, add_pooler=False)
    assert set(some) == {"embeddings", "encoder", *heads}
    jax.tree.map(np.testing.assert_array_equal, some, {name: drawn[name] for name in some})
    assert drawn["qa_outputs"]["kernel"].shape == (16, 2)
    assert not np.asarray(drawn["qa_outputs"]["bias"]).any()
    assert 0.005 < float(drawn["qa_outputs"]["kernel"].std()) < 0.04
    assert "pooler" in jax.eval_shape(lambda: bj.init_params(CONFIG, key, heads=("mlm",)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": ("mlm", "qa")}, r"heads has 'qa': use some of mlm, nsp, classifier, qa_outputs"),
        ({"add_pooler": False}, "The head nsp reads the pooler"),
    ],
)
def test_impossible_heads_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        bj.init_params(CONFIG, jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("parsing", "The task 'parsing' has no head: use one of masked_lm, next_sentence, seq"),
        ({"kind": "encoder"}, "The task 'encoder' has no head"),
        ("encoder_decoder", "The task 'encoder_decoder' has no head"),
        ({}, "The task None has no head"),
        ("pretraining", "The task 'pretraining' has two heads: use pretraining_logits, or"),
        ("multiple_choice", r"input_ids has the shape \(3, 7\): give \[B, C, T\]"),
    ],
)
def test_tasks_without_one_head_are_refused(params, inputs, task, sentence):
    with pytest.raises(ValueError, match=sentence):
        bj.task_logits(params, inputs, CONFIG, task)


@pytest.mark.parametrize("kind", sorted(TASK_PARTS.keys() - HEADLESS))
def test_a_missing_subtree_is_named(params, inputs, kind):
    for part in TASK_PARTS[kind]:
        less = {name: tree for name, tree in params.items() if name != part}
        with pytest.raises(ValueError, match=f"The task '{kind}' needs the subtree {part}, which"):
            bj.task_logits(less, inputs, CONFIG, kind)
