"""Schedules and optimizers against NumPy, written from the sources they reproduce."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.train.optimizer import OptimizerConfig, decay_mask, make_optimizer, make_schedule
from bertjax.train.paths import named


def google_rate(step, peak, total, warmup):
    """create_optimizer of Google's optimization.py."""
    rate = peak * (1 - min(step, total) / total)
    return peak * step / warmup if step < warmup else rate


def hugging_face_rate(step, peak, total, warmup):
    """get_linear_schedule_with_warmup of transformers."""
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (total - step) / max(1, total - warmup))


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ("linear_google", google_rate),
        ("linear", hugging_face_rate),
        ("constant", lambda step, peak, total, warmup: peak * min(1, step / warmup)),
    ],
)
def test_schedules(schedule, reference):
    made = make_schedule(OptimizerConfig(learning_rate=0.3, schedule=schedule, warmup_steps=7), 50)
    for step in range(51):
        np.testing.assert_allclose(made(step), reference(step, 0.3, 50, 7), rtol=2e-6, atol=1e-8)


def test_warmup_is_a_tenth_unless_said():
    made = make_schedule(OptimizerConfig(learning_rate=1.0, schedule="linear"), 100)
    assert float(made(0)) == 0.0
    np.testing.assert_allclose([made(5), made(10)], [0.5, 1.0], rtol=1e-6)
    assert float(make_schedule(OptimizerConfig(learning_rate=1.0), 5)(0)) == 1.0


def numpy_adamw(name, params, grads, rates):
    """AdamWeightDecayOptimizer (Google) or torch.optim.AdamW, in float64, with clipping at 1."""
    params = {key: np.array(value, np.float64) for key, value in params.items()}
    mean = {key: np.zeros_like(value) for key, value in params.items()}
    square = {key: np.zeros_like(value) for key, value in params.items()}
    for number, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        norm = np.sqrt(sum((value**2).sum() for value in grad.values()))
        for key, g in grad.items():
            g = g / max(norm, 1.0)
            mean[key] = 0.9 * mean[key] + 0.1 * g
            square[key] = 0.999 * square[key] + 0.001 * g**2
            if name == "adamw_google":
                change = mean[key] / (np.sqrt(square[key]) + 1e-6)
            else:
                corrected = square[key] / (1 - 0.999**number)
                change = mean[key] / (1 - 0.9**number) / (np.sqrt(corrected) + 1e-8)
            if key == "kernel":
                change = change + 0.01 * params[key]
            params[key] = params[key] - rate * change
    return params


@pytest.mark.parametrize("name", ["adamw_google", "adamw"])
def test_optimizers_for_twenty_steps(name):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(5, 4)), "bias": rng.normal(size=4)}
    grads = [
        {
            key: rng.normal(size=value.shape) * (10 if i % 3 else 0.01)
            for key, value in params.items()
        }
        for i in range(20)
    ]
    config = OptimizerConfig(name=name, learning_rate=0.02, warmup_steps=3)
    optimizer, schedule = make_optimizer(config, 20), make_schedule(config, 20)
    wanted = numpy_adamw(name, params, grads, [float(schedule(i)) for i in range(20)])
    got = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = optimizer.init(got)
    update = jax.jit(optimizer.update)
    for grad in grads:
        change, state = update(jax.tree.map(jnp.float32, grad), state, got)
        got = optax.apply_updates(got, change)
    for key in params:
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-6, atol=1e-6)


def test_the_exact_set_that_does_not_decay():
    config = bj.BertConfig.named("tiny", vocab_size=9, hidden_size=64, num_attention_heads=1)
    params = jax.eval_shape(
        lambda key: bj.init_params(config, key, heads=("mlm", "nsp", "classifier")),
        jax.random.key(0),
    )
    undecayed = {name for name, decayed in named(decay_mask(params)).items() if not decayed}
    dense = ["query", "key", "value", "output"]
    assert undecayed == {
        *(
            f"{p}/{n}"
            for p in ("embeddings/layer_norm", "mlm/layer_norm")
            for n in ("scale", "bias")
        ),
        *(f"encoder/layer_{i}/attention/{name}/bias" for i in range(2) for name in dense),
        *(
            f"encoder/layer_{i}/{block}layer_norm/{n}"
            for i in range(2)
            for block in ("", "attention/")
            for n in ("scale", "bias")
        ),
        *(
            f"encoder/layer_{i}/{name}/bias"
            for i in range(2)
            for name in ("intermediate", "output")
        ),
        "pooler/bias",
        "mlm/bias",
        "mlm/transform/bias",
        "nsp/bias",
        "classifier/bias",
    }


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        *(({"beta1": value}, f"beta1 is {value}") for value in (-0.1, 1.0, float("nan"))),
        *(({"beta2": value}, f"beta2 is {value}") for value in (1.0, float("nan"))),
        *(({"eps": value}, f"eps is {value}") for value in (0.0, -1e-8, float("nan"))),
    ],
)
def test_bad_numbers(fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        OptimizerConfig(**fields)


def test_warmup_longer_than_training():
    with pytest.raises(bj.UserError, match="warmup_steps 20 is not less than the 20 steps"):
        make_schedule(OptimizerConfig(warmup_steps=20), 20)


def test_clipping_can_be_switched_off():
    params = {"kernel": jnp.ones(3)}
    big = {"kernel": jnp.full(3, 100.0)}
    for clip, norm in ((1.0, 1.0), (0.0, np.sqrt(3) * 100)):
        optimizer = make_optimizer(OptimizerConfig(clip_norm=clip), 10)
        _, state = optimizer.update(big, optimizer.init(params), params)
        np.testing.assert_allclose(optax.tree.norm(state[1].mu), 0.1 * norm, rtol=1e-6)
