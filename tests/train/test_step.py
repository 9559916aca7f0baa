"""One step, in every way it can be run; and what it does with a batch that is not finite."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.train.step import init_state, make_eval_step, make_train_step
from bertjax.train.tree import named

# Float32 sums in another order. Measured over 20 steps: 2e-7 at most for every way.
BOUND = 1e-6


# A program a way is compiled, in ten seconds each where nothing else runs.
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(
    "ways",
    [
        ["data 4 x fsdp 2"],
        pytest.param(
            ["accumulated", "scanned", "remat", "data 8", "data 2 x tensor 4", "shard_map", "pmap"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=", ".join,
)
def test_twenty_steps_are_the_same_in_every_way(run_python, ways):
    script = str(Path(__file__).with_name("equivalence.py"))
    losses = json.loads(
        run_python(script, "plain", *ways, devices=8, timeout=1200).splitlines()[-1]
    )
    plain = np.asarray(losses["plain"])
    assert len(plain) == 20 and plain[-1] < plain[0] - 1  # it learns
    for way in ways:
        np.testing.assert_allclose(losses[way], plain, rtol=BOUND, err_msg=way)


_MAPPED = """
import itertools
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, Mesh, PartitionSpec as P
from bertjax.train.tree import named
from bertjax.train.step import init_state, make_train_step

def loss_fn(params, batch, *, weights, dropout_key):
    noise = jax.vmap(jax.random.normal)(dropout_key)
    error = (batch["x"] @ params["w"] + noise - batch["y"]) ** 2
    return error.sum() / weights["n"], {"error": (error.sum(), jnp.float32(len(error)))}

def normalizers_fn(batch):
    return {"n": jnp.float32(len(batch["y"]))}

def step_of(axis_name, accumulation):
    return make_train_step(
        loss_fn,
        optimizer,
        normalizers_fn=normalizers_fn,
        axis_name=axis_name,
        accumulation=accumulation,
    )

rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=16).astype(np.float32)
batch = {"x": x, "y": y}
optimizer = optax.sgd(0.1)  # what is N times too large shows
state = init_state({"w": jnp.ones(3)}, optimizer)
expected = jax.jit(step_of(None, 1))(state, batch)

def compare(result):
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # sums in another order

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
for accumulation, check in itertools.product((1, 2), (True, False)):
    mapped = jax.shard_map(
        step_of(("a", "b"), accumulation), mesh=mesh, in_specs=(P(), P(("a", "b"))),
        out_specs=P(), check_vma=check,
    )
    compare(jax.jit(mapped)(state, batch))
for accumulation in (1, 2):
    mapped = jax.pmap(step_of("rows", accumulation), axis_name="rows", in_axes=(None, 0))
    result = mapped(state, {"x": x.reshape(4, 4, 3), "y": y.reshape(4, 4)})
    for device in range(4):
        compare(jax.tree.map(lambda leaf: leaf[device], result))
print("the same")
"""


def test_a_mapped_step_sums_its_gradients_once(run_python):
    assert run_python("-c", _MAPPED, devices=4) == "the same\n"


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from bertjax.train import sharding
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.tree import named, nested
from bertjax.train.step import init_state, jit_train_step, make_train_step

SHAPES = {}
for layer in ("encoder/layer_0", "encoder/layer_1"):
    SHAPES |= {f"{layer}/intermediate/kernel": (8, 16), f"{layer}/intermediate/bias": (16,)}
    SHAPES |= {f"{layer}/output/kernel": (16, 8), f"{layer}/output/bias": (8,)}
FROZEN = {"encoder/layer_0/intermediate/bias"}
rng = np.random.default_rng(0)
drawn = {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in SHAPES.items()}
params = nested(drawn)
batch = {name: rng.normal(size=(16, 8)).astype(np.float32) for name in "xy"}

def loss_fn(params, batch, *, weights, dropout_key):
    hidden = batch["x"]
    for layer in params["encoder"].values():
        for part in layer.values():
            hidden = jnp.tanh(hidden @ part["kernel"] + part["bias"])
    error = ((hidden - batch["y"]) ** 2).sum()
    return error / weights["n"], {"error": (error, weights["n"])}

config = OptimizerConfig("lamb", learning_rate=0.05, warmup_steps=0, layer_decay=0.5)
optimizer = make_optimizer(config, 10, layers=2)

def step_of(axis_name=None):
    return make_train_step(
        loss_fn,
        optimizer,
        normalizers_fn=lambda batch: {"n": jnp.float32(len(batch["y"]))},
        axis_name=axis_name,
        frozen=FROZEN,
        ema_decay=0.5,
    )

def first():
    return init_state(jax.tree.map(jnp.asarray, params), optimizer, frozen=FROZEN, average=True)

def five(step, state):
    for _ in range(5):
        state, _ = step(state, batch)
    return jax.device_get(named(state))

plain = five(jax.jit(step_of()), first())
same = {name for name, leaf in drawn.items() if np.allclose(plain[f"params/{name}"], leaf, 1e-4)}
assert same == FROZEN
mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
where = sharding.state_shardings(mesh, jax.eval_shape(first))
assert len(set(where.params["encoder"]["layer_1"]["output"]["kernel"].spec)) == 2
sharded = five(jit_train_step(step_of(), mesh, where), jax.device_put(first(), where))
mesh = sharding.make_mesh(sharding.MeshConfig(data=8))
mapped = jax.shard_map(step_of("data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
for other in (sharded, five(jax.jit(mapped), first())):
    for name, leaf in plain.items():
        np.testing.assert_allclose(other[name], leaf, rtol=2e-6, atol=2e-7, err_msg=name)  # sums
print("the same")
"""


def test_lamb_and_what_goes_with_it_are_the_same_sharded_and_mapped(run_python):
    """The ratio is of a whole tensor, whatever part of it a device has."""
    assert run_python("-c", _SHARDED, devices=8) == "the same\n"


def toy_loss(params, batch, *, weights, dropout_key):
    del dropout_key
    error = (params["w"] * batch["x"] - batch["target"]) ** 2
    return error.sum() / weights["n"], {"error": (error.sum(), jnp.float32(error.shape[0]))}


def toy_weights(batch):
    return {"n": jnp.float32(batch["target"].shape[0])}


def toy_batch(poison=False):
    x = jnp.arange(1, 5, dtype=jnp.float32)
    return {"x": x, "target": jnp.full(4, jnp.nan if poison else 3.0)}


def test_a_step_that_is_not_finite_changes_nothing_but_counts():
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(toy_loss, optimizer, normalizers_fn=toy_weights))
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


def test_the_moving_average_is_of_applied_updates():
    """Against NumPy, with a step that is skipped, and with a part that is frozen."""
    optimizer = optax.sgd(0.01)
    step = make_train_step(
        lambda params, batch, **more: toy_loss(params["trained"], batch, **more),
        optimizer,
        normalizers_fn=toy_weights,
        frozen={"frozen/w"},
        ema_decay=0.5,
    )
    step = jax.jit(step, donate_argnums=0)  # no two leaves are one buffer
    first = {"trained": {"w": jnp.full((), 2.0)}, "frozen": {"w": jnp.full((), 7.0)}}
    state = jax.jit(lambda: init_state(first, optimizer, frozen={"frozen/w"}, average=True))()
    average, updates = 2.0, 0
    for poison in [False] * 4 + [True] + [False] * 6:
        state, _ = step(state, toy_batch(poison))
        if not poison:
            decay = min(0.5, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * float(state.params["trained"]["w"])
            updates += 1
        assert float(state.ema["trained"]["w"]) == pytest.approx(average, rel=1e-6)
    assert decay == 0.5
    assert state.ema.keys() == {"trained"}
    found = state.averaged_params()
    assert (found["frozen"]["w"], found["trained"]["w"]) == (7.0, state.ema["trained"]["w"])
    assert found["trained"]["w"] != state.params["trained"]["w"]


def test_without_an_average_the_params_are_what_is_evaluated():
    state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1))
    assert state.averaged_params() is state.params
    assert not any("ema" in name for name in named(state))
    step = make_train_step(toy_loss, optax.sgd(0.1), normalizers_fn=toy_weights, ema_decay=0.9)
    with pytest.raises(ValueError, match="a state that keeps an average"):
        step(state, toy_batch())


def test_the_schedule_follows_updates_not_steps():
    optimizer = optax.sgd(0.0)
    step = make_train_step(
        toy_loss, optimizer, normalizers_fn=toy_weights, schedule=lambda count: 10.0 + count
    )
    state = init_state({"w": jnp.ones(())}, optimizer)
    state, _ = step(state, toy_batch(poison=True))
    _, metrics = step(state, toy_batch())
    assert metrics["learning_rate"] == 10.0


def test_accumulation_must_divide():
    optimizer = optax.sgd(0.1)
    step = make_train_step(toy_loss, optimizer, normalizers_fn=toy_weights, accumulation=3)
    with pytest.raises(ValueError, match="accumulation 3 does not divide the 4 rows"):
        step(init_state({"w": jnp.ones(())}, optimizer), toy_batch())


def test_a_batch_can_carry_the_seed():
    """Several seeds share one compiled step."""

    def noisy_loss(params, batch, *, weights, dropout_key):
        noise = jax.vmap(jax.random.uniform)(dropout_key).sum()
        return params["w"] * noise, {"noise": (noise, jnp.float32(1))}

    step = make_train_step(noisy_loss, optax.sgd(0.0), normalizers_fn=toy_weights, seed=5)
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

    evaluate = make_eval_step(metrics_fn, normalizers_fn=toy_weights, prepare=prepare)
    one, again, next_one = (evaluate({}, toy_batch(), index)["noise"][0] for index in (0, 0, 1))
    assert one == again != next_one
