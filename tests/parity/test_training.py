"""Tests that gradients and training curves equal PyTorch's."""

import jax
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.train import optimizer, schedules
from bertjax.train.optimizer import OptimizerConfig

CONFIGS = {"huggingface": ("adamw", "linear"), "google": ("adamw_google", "linear_google")}
CURVE = 1e-5


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "case",
    [
        *("tiny_erf", "tiny_new", "odd"),
        # Their outputs are compared by default, and their gradients by `make parity`.
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("long", "heads", "base")),
    ],
)
def test_the_gradient_of_every_tensor(case, cases, golden, ours, hold):
    arrays = golden.load(golden.FOLDER / f"{case}.npz")
    batch = cases.pretraining_batch(case)
    loss, grads = ours.loss_and_gradients(ours.params(case), batch, config=ours.config(case))
    hold(f"loss, {case}", abs(float(loss) - arrays["loss"]) / arrays["loss"], 1e-5, "relative")
    found = ours.by_their_names(grads)
    expected = {n.removeprefix("gradients/"): a for n, a in arrays.items() if "gradients/" in n}
    assert set(found) == set(expected)
    worst, noise = (0.0, ""), 0.0
    for name, array in expected.items():
        if name.endswith("key.bias"):  # exactly zero apart from rounding
            query = np.linalg.norm(found[name.replace("key", "query")])
            noise = max(noise, np.linalg.norm(found[name]) / query)
            continue
        gradient = cases.sample(name, found[name]) if case in cases.SAMPLED else found[name]
        assert np.linalg.norm(array) > 0, name
        worst = max(worst, (relative(gradient, array), name))
    of = "sampled entries of each; " if case in cases.SAMPLED else ""
    hold(f"gradients, {case}, every tensor", worst[0], 1e-5, f"{of}worst: {worst[1]}")
    # The exact gradient is 0. The rounding errors of a sum of n terms grow as the root of n.
    bound = np.finfo(np.float32).eps * np.sqrt(batch["input_ids"].size)
    hold(f"gradients, {case}, key biases / query biases", noise, bound, "truly 0")


def curve(recipe, cases, ours, **changes):
    """Returns the losses of STEPS steps with bertjax's step and optimizer."""
    name, schedule = CONFIGS[recipe]
    config = ours.config("tiny_erf")
    fields = {
        "name": name,
        "schedule": schedule,
        "learning_rate": cases.PEAK,
        "warmup_steps": cases.WARMUP,
        "weight_decay": cases.DECAY,
        **changes,
    }
    optimizer = make_optimizer(fields, cases.STEPS)

    def loss_fn(params, batch, **options):
        return bj.pretraining_loss(params, batch, config, execution=ours.EXECUTION, **options)

    def without_dropout(params, batch, *, normalizers, **keys):
        return loss_fn(params, batch, normalizers=normalizers)

    loss = bj.Loss(without_dropout, bj.pretraining_normalizers)
    step = jax.jit(bj.make_train_step(loss, optimizer))
    state = bj.init_state(ours.params("tiny_erf"), optimizer)
    losses = []
    for batch in cases.training_batches():
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def make_optimizer(fields, steps) -> optax.GradientTransformation:
    config = OptimizerConfig(**fields)
    return optimizer.make_optimizer(config, schedules.make_schedule(config, steps))


@pytest.mark.parametrize("recipe", ["huggingface", "google"])
def test_fifty_steps_of_training(recipe, cases, golden, ours, hold):
    expected = golden.load(golden.FOLDER / "training.npz")[recipe]
    found = curve(recipe, cases, ours)
    assert len(found) == len(expected) == cases.STEPS
    assert expected[-5:].mean() < 0.9 * expected[:5].mean()  # the loss falls
    difference = np.abs(found / expected - 1).max()
    hold(f"{cases.STEPS} training steps, {recipe}", difference, CURVE, "loss curve, relative")


def test_the_recipes_differ(cases, golden):
    expected = golden.load(golden.FOLDER / "training.npz")
    assert np.abs(expected["google"] / expected["huggingface"] - 1).max() > 100 * CURVE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"clip_norm": 0}, marks=pytest.mark.slow),
        pytest.param({"weight_decay": 0.0}, marks=pytest.mark.slow),
        pytest.param({"eps": 1e-8}, marks=pytest.mark.slow),
        pytest.param({"schedule": "linear"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_another_recipe_gives_another_curve(change, cases, golden, ours):
    """The curves depend on clipping, decay, epsilon and schedule, so they can prove them."""
    expected = golden.load(golden.FOLDER / "training.npz")["google"]
    assert np.abs(curve("google", cases, ours, **change) / expected - 1).max() > 10 * CURVE
