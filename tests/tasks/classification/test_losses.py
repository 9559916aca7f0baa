"""The losses of classification, beside numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj

CONFIG = bj.BertConfig(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
)


@pytest.fixture(scope="module")
def params():
    init_params = jax.jit(bj.init_params, static_argnames=("config", "heads", "num_labels"))
    tree = init_params(CONFIG, jax.random.key(0), heads=("classifier",), num_labels=3)
    return jax.tree.map(lambda leaf: leaf * 10, tree)  # logits far enough apart to matter


@pytest.mark.parametrize("kind", ["classification", "regression", "multi_label"])
def test_padding_of_a_ragged_batch_counts_nothing(params, kind):
    head = {"regression": 1}.get(kind, 3)
    model = {
        **params,
        "classifier": jax.tree.map(lambda leaf: leaf[..., :head], params["classifier"]),
    }
    loss_fn = jax.jit(getattr(bj, f"{kind}_loss"), static_argnames="config")
    rng = np.random.default_rng(1)
    label = jnp.asarray([0, 2, 1, 1]).astype(jnp.float32 if kind == "regression" else jnp.int32)
    if kind == "multi_label":
        label = jnp.asarray([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    batch = {"input_ids": jnp.asarray(rng.integers(5, 40, (4, 8))), "label": label}
    whole, metrics = loss_fn(model, batch, CONFIG)
    task_logits = jax.jit(bj.task_logits, static_argnames="config")
    logits = np.asarray(task_logits(model, batch, CONFIG))
    if kind == "classification":
        nll = -np.asarray(jax.nn.log_softmax(logits))[np.arange(4), np.asarray(label)]
        assert metrics["accuracy"][0] == (logits.argmax(1) == np.asarray(label)).sum()
    elif kind == "regression":
        nll = (logits[:, 0] - np.asarray(label)) ** 2
    else:  # every label's own -log p, or -log (1 - p)
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        nll = -np.log(np.where(label == 1, chances, 1 - chances)).mean(1)
        right = ((chances >= 0.5) == (np.asarray(label) == 1)).all(1)
        assert metrics["exact_match"] == (right.sum(), 4)
    np.testing.assert_allclose(whole, nll.mean(), rtol=1e-6)
    ragged = {**batch, "example_weight": jnp.asarray([1.0, 1.0, 0.0, 0.0])}
    half, metrics = loss_fn(model, ragged, CONFIG)
    np.testing.assert_allclose(half, nll[:2].mean(), rtol=1e-6)
    assert metrics["loss"][1] == 2
    # With other weights it is the weighted mean, as in PyTorch's CrossEntropyLoss(weight=...).
    weights = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
    weighted, _ = loss_fn(model, {**batch, "example_weight": jnp.asarray(weights)}, CONFIG)
    np.testing.assert_allclose(weighted, (weights * nll).sum() / weights.sum(), rtol=1e-6)
