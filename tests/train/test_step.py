"""One step, in every way it can be run; and what it does with a batch that is not finite."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.train.step import init_state, make_eval_step, make_train_step

# Float32 sums in another order. Measured over 20 steps: 2e-7 at most for every way.
BOUND = 1e-6


@pytest.fixture(scope="module")
def losses(run_python):
    script = Path(__file__).with_name("equivalence.py")
    return json.loads(run_python(str(script), devices=8).splitlines()[-1])


@pytest.mark.parametrize(
    "way",
    [
        "accumulated",
        "scanned",
        "remat",
        "data 8",
        "data 4 x fsdp 2",
        "data 2 x tensor 4",
        "shard_map",
        "pmap",
    ],
)
def test_twenty_steps_are_the_same_in_every_way(losses, way):
    plain = np.asarray(losses["plain"])
    assert len(plain) == 20 and plain[-1] < plain[0] - 1  # it learns
    np.testing.assert_allclose(losses[way], plain, rtol=BOUND)


def toy_loss(params, batch, *, weights, dropout_key):
    del dropout_key
    error = (params["w"] * batch["input_ids"][:, 0] - batch["target"]) ** 2
    return error.sum() / weights["n"], {"error": (error.sum(), jnp.float32(error.shape[0]))}


def toy_weights(batch):
    return {"n": jnp.float32(batch["target"].shape[0])}


def toy_batch(poison=False):
    x = jnp.arange(1, 5, dtype=jnp.float32)[:, None]
    return {"input_ids": x, "target": jnp.full(4, jnp.nan if poison else 3.0)}


def test_a_step_that_is_not_finite_changes_nothing_but_counts():
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(toy_loss, optimizer, weights_fn=toy_weights))
    state = init_state({"w": jnp.ones(())}, optimizer)
    state, metrics = step(state, toy_batch())
    assert metrics["skipped"] == 0
    before = state
    for count in (1, 2):
        state, metrics = step(state, toy_batch(poison=True))
        assert metrics["skipped"] == 1
        assert (state.step, state.updates, state.bad_steps) == (1 + count, 1, count)
    for old, new in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((state.params, state.opt_state)),
        strict=True,
    ):
        assert np.array_equal(old, new)
    state, _ = step(state, toy_batch())
    assert (state.step, state.updates, state.bad_steps) == (4, 2, 0)
    assert np.isfinite(state.params["w"])


def test_the_schedule_follows_updates_not_steps():
    optimizer = optax.sgd(0.0)
    step = make_train_step(
        toy_loss, optimizer, weights_fn=toy_weights, schedule=lambda count: 10.0 + count
    )
    state = init_state({"w": jnp.ones(())}, optimizer)
    state, _ = step(state, toy_batch(poison=True))
    _, metrics = step(state, toy_batch())
    assert metrics["learning_rate"] == 10.0


def test_accumulation_must_divide():
    optimizer = optax.sgd(0.1)
    step = make_train_step(toy_loss, optimizer, weights_fn=toy_weights, accumulation=3)
    with pytest.raises(ValueError, match="accumulation 3 does not divide the 4 rows"):
        step(init_state({"w": jnp.ones(())}, optimizer), toy_batch())


def test_a_batch_can_carry_the_seed():
    """Several seeds share one compiled step."""

    def noisy_loss(params, batch, *, weights, dropout_key):
        noise = jax.vmap(jax.random.uniform)(dropout_key).sum()
        return params["w"] * noise, {"noise": (noise, jnp.float32(1))}

    step = make_train_step(noisy_loss, optax.sgd(0.0), weights_fn=toy_weights, seed=5)
    state = init_state({"w": jnp.ones(())}, optax.sgd(0.0))
    own = step(state, toy_batch())[1]["noise"]
    same, other = (
        step(state, {**toy_batch(), "seed": jnp.int32(seed)})[1]["noise"] for seed in (5, 6)
    )
    assert own == same != other


def test_evaluation_masks_never_change():
    def prepare(batch, keys):
        return {**batch, "noise": jax.vmap(jax.random.uniform)(keys)}

    def metrics_fn(params, batch, *, weights, dropout_key):
        assert dropout_key is None
        return jnp.zeros(()), {"noise": (batch["noise"].sum(), weights["n"])}

    evaluate = make_eval_step(metrics_fn, weights_fn=toy_weights, prepare=prepare)
    one, again, next_one = (evaluate({}, toy_batch(), index)["noise"][0] for index in (0, 0, 1))
    assert one == again != next_one
