"""Losses computed by hand, and parts of a batch that add up to the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.objectives import losses
from bertjax.objectives.mlm import MaskedLM
from bertjax.objectives.nsp import NextSentence
from bertjax.objectives.sop import SentenceOrder

CONFIG = bj.BertConfig(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
)


# Compiled, because these tests take minutes operation by operation.
pretraining_loss = jax.jit(bj.pretraining_loss, static_argnames="config")
pretraining_value_and_grad = jax.jit(
    jax.value_and_grad(bj.pretraining_loss, has_aux=True), static_argnames="config"
)
init_params = jax.jit(bj.init_params, static_argnames=("config", "heads", "num_labels"))


@pytest.fixture(scope="module")
def params():
    tree = init_params(CONFIG, jax.random.key(0), heads=("mlm", "nsp", "classifier"), num_labels=3)
    return jax.tree.map(lambda leaf: leaf * 10, tree)  # logits far enough apart to matter


def pretraining_batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": jnp.asarray(rng.integers(5, 40, (4, 8))),
        "attention_mask": jnp.ones((4, 8), jnp.int32),
        "token_type_ids": jnp.zeros((4, 8), jnp.int32),
        "masked_positions": jnp.asarray([[1, 2], [3, 0], [4, 5], [6, 0]]),
        "masked_labels": jnp.asarray([[7, 8], [9, 0], [10, 11], [12, 0]]),
        "masked_weights": jnp.asarray([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]),
        "next_sentence_label": jnp.asarray([0, 1, 1, 0]),
    }


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.asarray([[0.2, 0.3, 0.5]]))
    np.testing.assert_allclose(
        losses.cross_entropy(logits, jnp.asarray([1])), [-np.log(0.3)], rtol=1e-6
    )


def test_smoothed_cross_entropy_by_hand():
    """Of the log-probabilities in float64: 0.9 of the label's and 0.1 of the mean of all."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4, 50)) * 5, rng.integers(0, 50, (3, 4))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    likelihood = np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    given = jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
    smoothed = losses.smoothed_cross_entropy(*given, 0.1)
    # Roundings of float32; the losses are about 10.
    np.testing.assert_allclose(smoothed, -0.9 * likelihood - 0.1 * logs.mean(-1), rtol=1e-6)
    plain = losses.cross_entropy(*given)
    np.testing.assert_allclose(plain, -likelihood, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(losses.smoothed_cross_entropy(*given, 0.0), plain)


def test_the_gradient_of_a_smoothed_loss_is_the_distance_from_the_smoothed_label():
    """Its memory is that of the unsmoothed loss: nothing else has the size of the vocabulary."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(64, 1000)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 1000, 64))

    def compiled(smoothing):
        loss = lambda logits: losses.smoothed_cross_entropy(logits, labels, smoothing).sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(logits).compile()

    wanted = jax.nn.softmax(logits) - (0.9 * jax.nn.one_hot(labels, 1000) + 0.1 / 1000)
    np.testing.assert_allclose(compiled(0.1)(logits), wanted, atol=1e-6)  # float32
    sizes = [compiled(s).memory_analysis().temp_size_in_bytes for s in (0.0, 0.1)]
    assert sizes[1] <= sizes[0] + 4096, sizes  # one array [64, 1000] is 256,000 bytes


def test_pretraining_loss_by_hand(params):
    batch = pretraining_batch()
    logits = jax.jit(bj.pretraining_logits, static_argnames="config")
    mlm, nsp = logits(params, batch, batch["masked_positions"], CONFIG)
    log_mlm = np.asarray(jax.nn.log_softmax(mlm))
    log_nsp = np.asarray(jax.nn.log_softmax(nsp))
    wanted_mlm = wanted_nsp = hits = 0.0
    for row in range(4):
        wanted_nsp -= log_nsp[row, int(batch["next_sentence_label"][row])]
        for place in range(2):
            if batch["masked_weights"][row, place]:
                label = int(batch["masked_labels"][row, place])
                wanted_mlm -= log_mlm[row, place, label]
                hits += label == log_mlm[row, place].argmax()
    loss, metrics = pretraining_loss(params, batch, CONFIG)
    np.testing.assert_allclose(loss, wanted_mlm / (6 + 1e-5) + wanted_nsp / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["mlm_loss"][0], wanted_mlm, rtol=1e-6)
    assert metrics["mlm_loss"][1] == metrics["mlm_accuracy"][1] == 6
    assert metrics["mlm_accuracy"][0] == hits
    np.testing.assert_allclose(metrics["nsp_loss"][0], wanted_nsp, rtol=1e-6)
    assert metrics["nsp_accuracy"][1] == 4


@pytest.mark.parametrize("dropout", [False, True])
def test_masked_lm_alone_is_that_part_of_pretraining(params, dropout):
    batch = pretraining_batch()
    batch["example_weight"] = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    key = jax.random.key(3) if dropout else None
    _, both = pretraining_loss(params, batch, CONFIG, dropout_key=key)
    alone = {part: params[part] for part in ("embeddings", "encoder", "mlm")}
    del batch["next_sentence_label"]
    masked_lm_loss = jax.jit(MaskedLM().loss, static_argnames="config")
    loss, metrics = masked_lm_loss(alone, batch, CONFIG, dropout_key=key)
    assert metrics.keys() == {"mlm_loss", "mlm_accuracy"}
    for name, (total, weight) in metrics.items():
        # The program without the other head adds sums in another order.
        np.testing.assert_allclose(total, both[name][0], rtol=1e-6)
        assert weight == both[name][1] == 5
    np.testing.assert_allclose(loss, metrics["mlm_loss"][0] / (5 + 1e-5), rtol=1e-6)
    assert losses.masked_lm_normalizers(batch) == {"mlm": 5}
    half = {"mlm": jnp.asarray(10.0)}
    whole, _ = masked_lm_loss(alone, batch, CONFIG, normalizers=half, dropout_key=key)
    np.testing.assert_allclose(whole, loss / 2, rtol=1e-5)


def test_accuracies_of_groups_of_tokens_add_up_to_the_whole(params):
    batch = pretraining_batch()
    read = jax.jit(bj.pretraining_logits, static_argnames="config")
    logits, _ = read(params, batch, batch["masked_positions"], CONFIG)
    # Make half of the predictions right; unused predictions stay as they are.
    batch["masked_labels"] = batch["masked_labels"].at[:2].set(logits.argmax(-1)[:2])
    first = np.arange(40) < 10
    groups = {"low": first, "high": ~first, "none": np.zeros(40, bool)}
    (_, metrics), (_, alone) = (
        jax.jit(functools.partial(loss, config=CONFIG, token_groups=groups))(params, batch)
        for loss in (bj.pretraining_loss, MaskedLM().loss)
    )
    low, high, none, whole = (metrics[name] for name in (*groups, "mlm_accuracy"))
    assert [float(a + b) for a, b in zip(low, high, strict=True)] == [float(x) for x in whole]
    counted = np.asarray(batch["masked_labels"])[np.asarray(batch["masked_weights"]) > 0]
    assert float(low[1]) == (counted < 10).sum() and 0 < float(whole[0]) < float(whole[1])
    assert [float(x) for x in none] == [0, 0]
    assert {name: alone[name] for name in groups} == {name: metrics[name] for name in groups}


def test_the_order_of_segments_is_the_same_loss_by_another_name(params):
    batch = pretraining_batch()
    loss, metrics = pretraining_loss(params, batch, CONFIG)
    ordered = jax.jit(SentenceOrder().loss, static_argnames="config")
    other, named = ordered(params, batch, CONFIG)
    assert float(loss) == float(other)
    assert {name.replace("sop", "nsp"): value for name, value in named.items()} == metrics
    assert "sop_accuracy" in named and "nsp_accuracy" not in named


def test_parts_add_up_to_the_whole(params):
    batch = pretraining_batch()
    normalizers = bj.pretraining_normalizers(batch)

    def grad_of(batch):
        (value, _), grad = pretraining_value_and_grad(
            params, batch, CONFIG, normalizers=normalizers
        )
        return value, grad

    whole, whole_grad = grad_of(batch)
    # Parts with 4 and 2 predictions: means of means would be wrong.
    parts = [jax.tree.map(lambda leaf, p=p: leaf[p::2], batch) for p in range(2)]
    assert [float(part["masked_weights"].sum()) for part in parts] == [4, 2]
    added = [grad_of(part) for part in parts]
    np.testing.assert_allclose(sum(value for value, _ in added), whole, rtol=1e-6)
    # Float32 sums in another order differ by some units in the last place of the largest value of
    # all tensors: softmax ignores the bias of the keys, so its own gradient is only rounding.
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole_grad))
    for one, two, both in zip(
        *(jax.tree.leaves(g) for _, g in added), jax.tree.leaves(whole_grad), strict=True
    ):
        np.testing.assert_allclose(one + two, both, rtol=2e-6, atol=2e-6 * largest)


def test_padding_of_a_ragged_pretraining_batch_counts_nothing(params):
    batch = pretraining_batch()
    ragged = {**batch, "example_weight": jnp.asarray([1.0, 1.0, 1.0, 0.0])}
    short = {name: array[:3] for name, array in batch.items()}
    for one, two in zip(
        jax.tree.leaves(pretraining_loss(params, ragged, CONFIG)),
        jax.tree.leaves(pretraining_loss(params, short, CONFIG)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-6)  # float32 sums of another shape
    assert bj.pretraining_normalizers(ragged) == {"mlm": 5, "examples": 3}


@pytest.mark.parametrize("objective", [NextSentence, MaskedLM])
def test_z_loss_adds_the_mean_square_of_the_log_normalizers(params, objective):
    batch = pretraining_batch()
    plain, with_z = objective(), objective(z_loss=0.01)
    logits = plain.logits(
        params, batch, CONFIG, execution=bj.Execution(), dropout_key=None, sample_key=None
    )
    (loss, before), (total, after) = (
        jax.jit(functools.partial(each.loss, config=CONFIG))(params, batch)
        for each in (plain, with_z)
    )
    masked = np.asarray(jax.tree.leaves(logits)[0], np.float64)
    squares = np.log(np.exp(masked).sum(-1)) ** 2
    wanted = np.average(squares, weights=batch["masked_weights"])
    assert wanted > 1
    np.testing.assert_allclose(after["z_loss"][0] / after["z_loss"][1], wanted, rtol=1e-5)
    np.testing.assert_allclose(total - loss, 0.01 * wanted, rtol=1e-4)  # a difference of float32
    assert after.keys() - before.keys() == {"z_loss"}
