"""Losses of vectors against sentence-transformers; gradients in parts against the whole."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.config import BertConfig, Execution
from bertjax.model import bert
from bertjax.tasks.embedding.losses import (
    LossOfVectors,
    Vectors,
    in_batch_negatives,
    normalizers_fn,
)
from bertjax.train import sharding
from bertjax.train.step import Loss, StepConfig, init_state, make_train_step

GOLDEN = json.loads(pathlib.Path(__file__).with_name("golden.json").read_text())
VECTORS = np.array(GOLDEN["vectors"], np.float32)
ROWS, TEXTS, _ = VECTORS.shape


def batch_of(rows, texts):
    ids = np.arange(rows * texts, dtype=np.int32).reshape(rows, texts)
    return {"text_ids": ids, "example_weight": np.ones(rows, np.float32)}


@pytest.mark.parametrize(
    ("case", "loss", "texts"),
    [
        ("in_batch_negatives", LossOfVectors("in_batch_negatives", 20.0, ()), 2),
        ("hard_negatives", LossOfVectors("in_batch_negatives", 20.0, ()), 3),
        ("cosine", LossOfVectors("cosine", 0.0, ()), 2),
        ("triplet", LossOfVectors("triplet", 5.0, ()), 3),
        ("matryoshka", LossOfVectors("in_batch_negatives", 20.0, (4,)), 2),
    ],
)
def test_losses_and_gradients_are_those_of_sentence_transformers(case, loss, texts):
    vectors, golden = VECTORS[:, :texts], GOLDEN["cases"][case]
    batch = {**batch_of(ROWS, texts), "score": np.array(GOLDEN["scores"], np.float32)}
    normalizers = normalizers_fn(batch)

    def value(vectors):
        return loss(vectors, batch, normalizers=normalizers)[0]

    found, grads = jax.jit(jax.value_and_grad(value))(vectors)
    # The golden values are of float64.
    assert float(found) == pytest.approx(golden["loss"], rel=1e-5)
    np.testing.assert_allclose(grads, golden["grad"], atol=2e-6, rtol=1e-4)


in_batch_negatives_of = jax.jit(functools.partial(in_batch_negatives, scale=20.0))


def ranking(vectors, batch):
    return float(in_batch_negatives_of(vectors, batch)["loss"][0])


def test_padding_rows_are_no_negatives():
    vectors, whole = jnp.asarray(VECTORS[:, :2]), batch_of(ROWS, 2)
    padded = batch_of(ROWS + 1, 2)
    padded["example_weight"][-1] = 0.0
    found = ranking(jnp.concatenate([vectors, vectors[:1]]), padded)
    assert found == pytest.approx(ranking(vectors, whole), rel=1e-6)


@pytest.mark.parametrize("same", [(0,), (1,), (0, 1)])
def test_equal_texts_are_no_negatives(same):
    vectors, batch = jnp.asarray(VECTORS[:2, :2]), batch_of(2, 2)
    assert ranking(vectors, batch) > 1e-3
    batch["text_ids"][1, same] = batch["text_ids"][0, same]
    assert ranking(vectors, batch) == 0.0


SHAPE = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)


@functools.cache
def first_params():
    init = functools.partial(bert.init_params, SHAPE, heads=(), add_pooler=False)
    return jax.device_get(jax.jit(init)(jax.random.key(0)))


def gradients(accumulation, mesh=None):
    """Gradients and metrics of a step with dropout over 16 rows of 3 texts (SGD of rate 1)."""
    params = first_params()
    draw = np.random.default_rng(0)
    batch = {
        **batch_of(16, 3),
        "input_ids": draw.integers(5, 40, (16, 3, 8)).astype(np.int32),
        "attention_mask": (np.arange(8) < draw.integers(3, 9, (16, 3, 1))).astype(np.int32),
        "token_type_ids": np.zeros((16, 3, 8), np.int32),
    }
    batch["example_weight"][-1] = 0.0
    outputs_fn = functools.partial(Vectors("mean", True), config=SHAPE, execution=Execution())
    loss = Loss(
        LossOfVectors("in_batch_negatives", 20.0, (8,)), normalizers_fn, outputs_fn=outputs_fn
    )
    step = make_train_step(loss, optax.sgd(1.0), StepConfig(accumulation=accumulation))
    state = init_state(params, optax.sgd(1.0))
    if mesh is not None:
        whole = batch
        batch = sharding.make_global_batch(
            mesh, 16, lambda rows: {name: array[rows] for name, array in whole.items()}
        )
        state = jax.device_put(state, sharding.replicated(mesh))
    after, metrics = jax.jit(step)(state, batch)
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, after.params), metrics


def assert_equal(found, expected):
    (grads, metrics), (other, other_metrics) = found, expected
    whole = float(other_metrics["grad_norm"])
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one / whole, two / whole, rtol=0, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(other_metrics["loss"]), rel=1e-6)
    assert float(metrics["accuracy"]) == float(other_metrics["accuracy"])


@pytest.fixture(scope="module")
def plain():
    return gradients(1)


def test_cached_gradients_are_those_of_the_whole_batch(plain):
    assert float(plain[1]["grad_norm"]) > 0.1
    assert_equal(gradients(4), plain)


def test_eight_devices_give_the_gradients_of_one(run_python):
    assert run_python(__file__, devices=8) == "the same\n"


def test_a_loss_of_several_rows_needs_jit():
    loss = Loss(LossOfVectors("cosine", 0.0, ()), normalizers_fn, outputs_fn=Vectors("cls", True))
    step = make_train_step(loss, optax.sgd(1.0), StepConfig(axis_name="data"))
    state = init_state({"w": jnp.zeros(2)}, optax.sgd(1.0))
    with pytest.raises(ValueError, match="needs jit"):
        step(state, batch_of(2, 2))


if __name__ == "__main__":
    eight = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    one = gradients(1)
    for microbatches in (1, 2):
        assert_equal(gradients(microbatches, eight), one)
    print("the same")
