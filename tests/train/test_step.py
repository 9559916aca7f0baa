"""The training step in every way to run it, and its handling of non-finite batches."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.train import sharding
from bertjax.train.step import Loss, StepConfig, init_state, make_eval_step, make_train_step
from bertjax.train.tree import named

# Float32 sums in another order; at most 2e-7 was measured over 20 steps.
BOUND = 1e-6


# Compiles one program per way, in about ten seconds each on an idle machine.
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(
    ("layers", "optimizer", "ways"),
    [
        (1, "adamw_google", ["data 4 x fsdp 2"]),
        *(
            pytest.param(
                *(1, optimizer),
                ["accumulated", "scanned", "data 8", "data 2 x tensor 4", "shard_map"],
                marks=pytest.mark.slow,
            )
            for optimizer in ("muon", "stable_adamw")
        ),
        pytest.param(
            2,
            "adamw_google",
            [
                *("accumulated", "scanned", "remat", "data 8", "data 4 x fsdp 2"),
                *("data 2 x tensor 4", "slices 2 x data 4", "shard_map", "pmap"),
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one layer", "muon", "stable_adamw", "two layers"],
)
def test_twenty_steps_are_the_same_in_every_way(run_python, layers, optimizer, ways):
    script = str(Path(__file__).with_name("equivalence.py"))
    words = (script, str(layers), optimizer, "plain", *ways)
    losses = json.loads(run_python(*words, devices=8, timeout=1200).splitlines()[-1])
    plain = np.asarray(losses["plain"])
    assert len(plain) == 20 and plain[-1] < plain[0] - 1  # it learns
    for way in ways:
        np.testing.assert_allclose(losses[way], plain, rtol=BOUND, err_msg=way)


_MAPPED = """
import itertools
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, Mesh, PartitionSpec as P
from bertjax.train.tree import named
from bertjax.train.step import Loss, StepConfig, init_state, make_train_step

def loss_fn(params, batch, *, normalizers, dropout_key, sample_key):
    noise = jax.vmap(jax.random.normal)(dropout_key)
    error = (batch["x"] @ params["w"] + noise - batch["y"]) ** 2
    return error.sum() / normalizers["n"], {"error": (error.sum(), jnp.float32(len(error)))}

def normalizers_fn(batch):
    return {"n": jnp.float32(len(batch["y"]))}

def step_of(axis_name, accumulation):
    config = StepConfig(axis_name=axis_name, accumulation=accumulation)
    return make_train_step(Loss(loss_fn, normalizers_fn), optimizer, config)

rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=16).astype(np.float32)
batch = {"x": x, "y": y}
optimizer = optax.sgd(0.1)  # unlike Adam, it shows gradients that are N times too large
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
from bertjax.train.schedules import make_schedule
from bertjax.train.tree import named, nested
from bertjax.train.step import Loss, StepConfig, init_state, jit_train_step, make_train_step

SHAPES = {}
for layer in ("encoder/layer_0", "encoder/layer_1"):
    SHAPES |= {f"{layer}/intermediate/kernel": (8, 16), f"{layer}/intermediate/bias": (16,)}
    SHAPES |= {f"{layer}/output/kernel": (16, 8), f"{layer}/output/bias": (8,)}
FROZEN = {"encoder/layer_0/intermediate/bias"}
rng = np.random.default_rng(0)
drawn = {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in SHAPES.items()}
params = nested(drawn)
batch = {name: rng.normal(size=(16, 8)).astype(np.float32) for name in "xy"}

def loss_fn(params, batch, *, normalizers, **keys):
    hidden = batch["x"]
    for layer in params["encoder"].values():
        for part in layer.values():
            hidden = jnp.tanh(hidden @ part["kernel"] + part["bias"])
    error = ((hidden - batch["y"]) ** 2).sum()
    return error / normalizers["n"], {"error": (error, normalizers["n"])}

config = OptimizerConfig("lamb", learning_rate=0.05, warmup_steps=0, layer_decay=0.5)
optimizer = make_optimizer(config, make_schedule(config, 10), layers=2)

def step_of(axis_name=None):
    loss = Loss(loss_fn, lambda batch: {"n": jnp.float32(len(batch["y"]))})
    config = StepConfig(axis_name=axis_name, ema_decay=0.5)
    return make_train_step(loss, optimizer, config, frozen=FROZEN)

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


def test_lamb_layer_decay_freezing_and_ema_are_the_same_sharded_and_mapped(run_python):
    """The trust ratio belongs to a whole tensor, however devices share it."""
    assert run_python("-c", _SHARDED, devices=8) == "the same\n"


def toy_loss_fn(params, batch, *, normalizers, **keys):
    error = (params["w"] * batch["x"] - batch["target"]) ** 2
    return error.sum() / normalizers["n"], {"error": (error.sum(), jnp.float32(error.shape[0]))}


def toy_normalizers(batch):
    return {"n": jnp.float32(batch["target"].shape[0])}


TOY_LOSS = Loss(toy_loss_fn, toy_normalizers)


def toy_batch(poison=False):
    x = jnp.arange(1, 5, dtype=jnp.float32)
    return {"x": x, "target": jnp.full(4, jnp.nan if poison else 3.0)}


def test_a_step_that_is_not_finite_changes_nothing_but_counts():
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(TOY_LOSS, optimizer))
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


def test_the_moving_average_counts_applied_updates():
    """Compares with NumPy, with one skipped step and a frozen parameter."""
    optimizer = optax.sgd(0.01)
    loss = Loss(
        lambda params, batch, **more: toy_loss_fn(params["trained"], batch, **more), toy_normalizers
    )
    step = make_train_step(loss, optimizer, StepConfig(ema_decay=0.5), frozen={"frozen/w"})
    step = jax.jit(step, donate_argnums=0)  # donation fails if two leaves share a buffer
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


def test_without_an_average_the_params_are_evaluated():
    state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1))
    assert state.averaged_params() is state.params
    assert not any("ema" in name for name in named(state))
    step = make_train_step(TOY_LOSS, optax.sgd(0.1), StepConfig(ema_decay=0.9))
    with pytest.raises(ValueError, match="if the state keeps an average"):
        step(state, toy_batch())


def test_the_schedule_follows_updates_not_steps():
    optimizer = optax.sgd(0.0)
    step = make_train_step(TOY_LOSS, optimizer, schedule=lambda count: 10.0 + count)
    state = init_state({"w": jnp.ones(())}, optimizer)
    state, _ = step(state, toy_batch(poison=True))
    _, metrics = step(state, toy_batch())
    assert metrics["learning_rate"] == 10.0


def test_accumulation_must_divide():
    optimizer = optax.sgd(0.1)
    step = make_train_step(TOY_LOSS, optimizer, StepConfig(accumulation=3))
    with pytest.raises(ValueError, match="accumulation 3 does not divide the 4 rows"):
        step(init_state({"w": jnp.ones(())}, optimizer), toy_batch())


def test_a_traced_seed_gives_the_draws_of_the_same_number():
    """Several seeds share one compiled step."""

    def noisy_loss_fn(params, batch, *, dropout_key, sample_key, **more):
        noise = jax.vmap(jax.random.uniform)(dropout_key).sum()
        samples = jax.vmap(jax.random.uniform)(sample_key).sum()
        one = jnp.float32(1)
        return params["w"] * noise, {"noise": (noise, one), "samples": (samples, one)}

    def one_step(state, seed):
        loss = Loss(noisy_loss_fn, toy_normalizers)
        step = make_train_step(loss, optax.sgd(0.0), StepConfig(seed))
        metrics = step(state, toy_batch())[1]
        return metrics["noise"], metrics["samples"]

    state = init_state({"w": jnp.ones(())}, optax.sgd(0.0))
    compiled = jax.jit(one_step)
    own, same, other = one_step(state, 5), compiled(state, 5), compiled(state, 6)
    assert own == same
    assert not {*map(float, own)} & {*map(float, other)}
    assert compiled._cache_size() == 1


def test_samples_do_not_depend_on_how_rows_are_split():
    def sampling_loss_fn(params, batch, *, normalizers, sample_key, **more):
        drawn = jax.vmap(jax.random.randint, (0, None, None, None))(sample_key, (), 0, 1 << 20)
        total = (drawn * batch["x"]).sum()
        return params["w"] * total, {"drawn": (total, jnp.float32(len(drawn)))}

    def drawn(accumulation):
        loss = Loss(sampling_loss_fn, toy_normalizers)
        step = make_train_step(loss, optax.sgd(0.0), StepConfig(accumulation=accumulation))
        return step(init_state({"w": jnp.ones(())}, optax.sgd(0.0)), toy_batch())[1]["drawn"]

    assert drawn(1) == drawn(2) == drawn(4)


def test_corruption_dropout_and_samples_never_share_draws():
    draw = jax.vmap(jax.random.uniform)

    def corrupt(batch, keys):
        return {**batch, "noise": draw(keys)}

    def loss_fn(params, batch, *, dropout_key, sample_key, **more):
        drawn = {"corruption": batch["noise"], "samples": draw(sample_key)}
        if dropout_key is not None:
            drawn["dropout"] = draw(dropout_key)
        rows = (
            (name, row, value) for name, each in drawn.items() for row, value in enumerate(each)
        )
        return params["w"] * 0.0, {f"{name} {row}": (value, 1.0) for name, row, value in rows}

    loss, state = Loss(loss_fn, toy_normalizers, corrupt), init_state({"w": 1.0}, optax.sgd(0.0))
    trained = make_train_step(loss, optax.sgd(0.0))(state, toy_batch())[1]
    evaluated = make_eval_step(loss)(state.params, toy_batch(), state.step)
    drawn = [float(value) for name, value in trained.items() if name[-1].isdigit()]
    drawn += [float(value) for value, _ in evaluated.values()]
    assert len(drawn) == len(set(drawn)) == 3 * 4 + 2 * 4


def test_evaluation_draws_never_change():
    def corrupt(batch, keys):
        return {**batch, "noise": jax.vmap(jax.random.uniform)(keys)}

    def metrics_fn(params, batch, *, normalizers, dropout_key, sample_key):
        assert dropout_key is None
        samples = jax.vmap(jax.random.uniform)(sample_key)
        noise = (batch["noise"].sum(), normalizers["n"])
        return jnp.zeros(()), {"noise": noise, "samples": (samples.sum(), normalizers["n"])}

    evaluate = make_eval_step(Loss(metrics_fn, toy_normalizers, corrupt), seed=0)
    found = [evaluate({}, toy_batch(), index) for index in (0, 0, 1)]
    for name in ("noise", "samples"):
        one, again, next_one = (metrics[name][0] for metrics in found)
        assert one == again != next_one


def test_kernels_in_the_compute_type_give_the_same_step():
    config = bj.BertConfig.named("tiny", vocab_size=50, num_hidden_layers=1)
    params = bj.init_params(config, jax.random.key(0))
    ids = np.arange(32).reshape(2, 16)
    batch = {
        "input_ids": ids,
        "masked_positions": np.array([[1, 2], [3, 4]]),
        "masked_labels": ids[:, :2],
        "masked_weights": np.ones((2, 2), np.float32),
        "next_sentence_label": np.array([0, 1]),
    }
    execution = bj.Execution(dtype="bfloat16")
    loss = Loss(
        functools.partial(bj.pretraining_loss, config=config, execution=execution),
        bj.pretraining_normalizers,
    )
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    plain, placed = (
        jax.jit(make_train_step(loss, optax.sgd(1.0), placement=placement))(
            init_state(params, optax.sgd(1.0)), batch
        )[0].params
        for placement in (None, sharding.Placement(mesh, "bfloat16"))
    )
    changed = 0
    for name, before in named(params).items():
        np.testing.assert_array_equal(named(placed)[name], named(plain)[name], err_msg=name)
        changed += not np.array_equal(named(plain)[name], before)
    assert changed > 20
