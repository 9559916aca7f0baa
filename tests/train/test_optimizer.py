"""Compares optimizers with NumPy code written from their sources."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.parsing import parse_recipe
from bertjax.train.optimizer import OPTIMIZERS, OptimizerConfig, decay_mask, make_optimizer
from bertjax.train.param_groups import ParamGroup
from bertjax.train.schedules import make_schedule
from bertjax.train.tree import named, nested

KERNEL, BIAS = "encoder/layer_0/output/kernel", "encoder/layer_0/output_layer_norm/bias"
ZEROS = "mlm/transform/kernel"  # a matrix of zeros: its trust ratio is 1


def numpy_optimizer(name, params, grads, rates):
    """Runs AdamWeightDecayOptimizer (Google), torch.optim.AdamW, FusedLAMB (apex's
    multi_tensor_lamb.cu), StableAdamW (arXiv 2304.13013, algorithm 2) or Muon (MoonshotAI's
    Moonlight, examples/toy_train.py) in float64, with clipping at 1."""
    params = {key: np.array(value, np.float64) for key, value in params.items()}
    mean = {key: np.zeros_like(value) for key, value in params.items()}
    square = {key: np.zeros_like(value) for key, value in params.items()}
    momentum = {key: np.zeros_like(value) for key, value in params.items()}
    for number, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in grad.values()))
        for key, g in grad.items():
            g = g / max(norm, 1.0)
            mean[key] = 0.9 * mean[key] + 0.1 * g
            square[key] = 0.999 * square[key] + 0.001 * g**2
            if name == "adamw_google":
                change = mean[key] / (np.sqrt(square[key]) + 1e-6)
            elif name == "muon" and key == KERNEL:
                momentum[key] = 0.95 * momentum[key] + g
                change = 0.2 * np.sqrt(5) * newton_schulz(g + 0.95 * momentum[key])
            else:
                eps = 1e-8 if name in ("adamw", "muon") else 1e-6
                corrected = square[key] / (1 - 0.999**number)
                change = mean[key] / (1 - 0.9**number) / (np.sqrt(corrected) + eps)
            if key != BIAS:
                change = change + 0.01 * params[key]
            if name == "lamb" and key != BIAS:
                sizes = np.linalg.norm(params[key]), np.linalg.norm(change)
                change = change * (sizes[0] / sizes[1] if all(sizes) else 1)
            if name == "stable_adamw":
                change = change / max(1, np.sqrt(np.mean(g**2 / np.maximum(corrected, 1e-12))))
            params[key] = params[key] - rate * change
    return params


def newton_schulz(matrix):
    """Moonlight's zeropower_via_newtonschulz5 of a tall matrix."""
    x = matrix.T / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_for_twenty_steps(name):
    rng = np.random.default_rng(0)
    params = {
        KERNEL: rng.normal(size=(5, 4)).astype(np.float32),
        BIAS: rng.normal(size=4).astype(np.float32),
        ZEROS: np.zeros((3, 3), np.float32),
    }
    grads = [
        {
            key: (rng.normal(size=value.shape) * (10 if i % 3 else 0.01)).astype(np.float32)
            for key, value in params.items()
        }
        for i in range(20)
    ]
    config = OptimizerConfig(name=name, learning_rate=0.02, warmup_steps=3, schedule="polynomial")
    schedule = make_schedule(config, 20)
    optimizer = make_optimizer(config, schedule)
    wanted = numpy_optimizer(name, params, grads, [float(schedule(i)) for i in range(20)])
    got = nested(jax.tree.map(jnp.asarray, params))
    state = optimizer.init(got)
    update = jax.jit(optimizer.update)
    for grad in grads:
        change, state = update(nested(grad), state, got)
        got = optax.apply_updates(got, change)
    for key, value in named(got).items():
        # Rounding of float32: at most 2e-7 was measured, and 1e-5 with optax.scale_by_adam.
        error = np.linalg.norm(np.asarray(value, np.float64) - wanted[key])
        assert error < 1e-6 * np.linalg.norm(wanted[key]), key


def test_a_gradient_of_zeros_moves_lamb_by_nothing_but_decay():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay, moved in (
        (0.0, 0.0),
        (0.01, 0.5),
    ):  # the trust ratio compensates the size of the decay
        optimizer = make_optimizer(OptimizerConfig("lamb", weight_decay=decay), 0.5)
        change, _ = optimizer.update(zeros, optimizer.init(params), params)
        np.testing.assert_allclose(change["kernel"], -moved, rtol=1e-6)
        np.testing.assert_array_equal(change["bias"], 0)


def test_beta_of_zero_needs_no_correction():
    optimizer = make_optimizer(OptimizerConfig("adamw", beta1=0.0, weight_decay=0), 0.1)
    params = {"kernel": jnp.ones(3)}
    change, _ = optimizer.update({"kernel": jnp.full(3, 0.2)}, optimizer.init(params), params)
    np.testing.assert_allclose(change["kernel"], -0.1, rtol=1e-6)


def test_the_exact_set_of_parameters_without_decay():
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
            f"encoder/layer_{i}/{block}_layer_norm/{n}"
            for i in range(2)
            for block in ("attention", "output")
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
        ({"learning_rate": 0.0}, "learning_rate` is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate` is nan"),
        (
            {"name": "lam"},
            "optimizer.name` 'lam' is unknown: give one of adamw_google, adamw, lamb, "
            "stable_adamw, muon",
        ),
        ({"warmup_steps": -1}, "warmup_steps` is -1"),
        ({"cooldown_steps": -1}, "cooldown_steps` is -1"),
        ({"end_ratio": 1.0}, "end_ratio` is 1.0"),
        ({"schedule": "polynomial", "power": 0.0}, "power` is 0.0"),
        ({"schedule": "wsd", "decay_share": 1.5}, "decay_share` is 1.5"),
        ({"ema_decay": 1.0}, "ema_decay` is 1.0"),
        *(({"layer_decay": value}, "layer_decay` is") for value in (0.0, 1.1, float("nan"))),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        *(({"beta1": value}, f"beta1` is {value}") for value in (-0.1, 1.0, float("nan"))),
        *(({"beta2": value}, f"beta2` is {value}") for value in (1.0, float("nan"))),
        *(({"eps": value}, f"eps` is {value}") for value in (0.0, -1e-8, float("nan"))),
    ],
)
def test_bad_numbers(fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        OptimizerConfig(**fields)


def test_clipping_can_be_switched_off():
    params = {"kernel": jnp.ones(3)}
    big = {"kernel": jnp.full(3, 100.0)}
    for clip, norm in ((1.0, 1.0), (0.0, np.sqrt(3) * 100)):
        optimizer = make_optimizer(OptimizerConfig(clip_norm=clip), 1e-4)
        _, state = optimizer.update(big, optimizer.init(params), params)
        mu = optax.tree.get(state, "mu")
        np.testing.assert_allclose(optax.tree.norm(mu), 0.1 * norm, rtol=1e-6)


def test_layer_decay_by_the_number_of_the_layer():
    """`layer_1` is a prefix of `layer_10`. Heads and pooler have the full rate."""
    parts = ("embeddings/word_embeddings/embedding", "embeddings/layer_norm/bias", "pooler/kernel")
    heads = ("mlm/transform/kernel", "classifier/bias", "mlm/layer_norm/scale")
    layers = [f"encoder/layer_{n}/attention_layer_norm/scale" for n in range(12)]
    params = nested({name: jnp.ones(2) for name in (*parts, *heads, *layers)})
    grads = jax.tree.map(jnp.ones_like, params)
    changes = []
    for decay in (1.0, 0.5):
        optimizer = make_optimizer(OptimizerConfig(layer_decay=decay), 1e-4, layers=12)
        changes.append(optimizer.update(grads, optimizer.init(params), params)[0])
    scales = named(jax.tree.map(lambda a, b: float((b / a)[0]), *changes))
    wanted = dict.fromkeys((*heads, "pooler/kernel"), 1.0) | dict.fromkeys(parts[:2], 0.5**13)
    wanted |= {name: 0.5 ** (12 - number) for number, name in enumerate(layers)}
    assert scales == wanted  # powers of two: exact
    with pytest.raises(ValueError, match="layers"):
        make_optimizer(OptimizerConfig(layer_decay=0.5), 1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_differ_from_one_rate_only_in_the_rate(name):
    """Of each group, three updates are those of an optimizer with its rate for all parameters."""
    groups = (ParamGroup("encoder", 0.002, 4), ParamGroup("decoder", 0.1), ParamGroup("pooler", 3))
    config = OptimizerConfig(
        *(name, 0.5),
        schedule="linear",
        warmup_steps=2,
        layer_decay=0.5,
        clip_norm=0.1,
        groups=groups,
    )
    rng = np.random.default_rng(0)
    parts = {"embeddings/bias": None, "mlm/bias": None, "pooler/bias": groups[2]}
    parts |= {f"encoder/layer_{n}/output/kernel": groups[0] for n in range(2)}
    parts |= {f"decoder/layer_{n}/output/kernel": groups[1] for n in range(2)}
    shapes = {part: (3,) if part.endswith("bias") else (4, 3) for part in parts}
    params, *grads = (
        nested({part: jnp.asarray(rng.normal(size=shape)) for part, shape in shapes.items()})
        for _ in range(4)
    )

    def updates(config):
        optimizer = make_optimizer(config, make_schedule(config, 10), layers=2)
        update, state = jax.jit(optimizer.update), optimizer.init(params)
        found = []
        for grad in grads:
            change, state = update(grad, state, params)
            found.append(named(change))
        return found, state

    grouped, state = updates(config)
    assert (grouped[0]["mlm/bias"] == 0).all()  # the warm-up begins at 0
    for group in (None, *groups):
        alone = dataclasses.replace(config, groups=())
        if group:
            warmup = 2 if group.warmup_steps is None else group.warmup_steps
            alone = dataclasses.replace(
                alone, learning_rate=group.learning_rate, warmup_steps=warmup
            )
        wanted, plain = updates(alone)
        # A run may therefore take groups, or drop them, when it is resumed.
        assert jax.tree.structure(state) == jax.tree.structure(plain)
        for part in (part for part, owner in parts.items() if owner is group):
            for found, change in zip(grouped, wanted, strict=True):
                # A few roundings: XLA may compile the two programs differently.
                np.testing.assert_allclose(found[part], change[part], rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="groups need a schedule"):
        make_optimizer(config, 1e-4, layers=2)


@pytest.fixture
def small():
    """Parameters as in a model, and their gradients."""
    rng = np.random.default_rng(0)
    shapes = {KERNEL: (6, 4), BIAS: (4,), "embeddings/word_embeddings/embedding": (7, 4)}
    return [
        nested({name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()})
        for _ in range(2)
    ]


def test_muon_orthogonalizes_the_matrices_of_the_encoder_alone(small):
    params, grads = small
    muon = make_optimizer(OptimizerConfig("muon", weight_decay=0.0, clip_norm=0.0), 1.0)
    adam = make_optimizer(OptimizerConfig("adamw", weight_decay=0.0, clip_norm=0.0), 1.0)
    changes, others = (
        named(optimizer.update(grads, optimizer.init(params), params)[0])
        for optimizer in (muon, adam)
    )
    gradient, change = named(grads)[KERNEL], changes[KERNEL]
    sizes = jnp.linalg.svd(gradient, compute_uv=False), jnp.linalg.svd(change, compute_uv=False)
    ratios = [float(size.max() / size.min()) for size in sizes]
    # Five Newton-Schulz steps bring singular values to between 0.68 and 1.13.
    assert ratios[0] > 3 > 1.13 / 0.68 > ratios[1]
    assert (change * gradient).sum() < 0
    assert float(jnp.sqrt(jnp.square(change).mean())) == pytest.approx(0.2, rel=0.4)  # AdamW's size
    for name in others.keys() - {KERNEL}:
        np.testing.assert_allclose(changes[name], others[name], rtol=1e-6)


def test_muon_decays_weights_as_adamw(small):
    params, grads = small
    zeros = jax.tree.map(jnp.zeros_like, grads)
    optimizer = make_optimizer(OptimizerConfig("muon", weight_decay=0.5), 0.1)
    changes = named(optimizer.update(zeros, optimizer.init(params), params)[0])
    for name, leaf in named(params).items():
        decay = 0.0 if name == BIAS else 0.05
        np.testing.assert_allclose(changes[name], -decay * leaf, rtol=1e-5, atol=1e-7)


def test_a_recipe_can_add_an_optimizer(small, monkeypatch):
    """Any Optax transformation works under a new name, with clipping and schedule around it."""
    params, grads = small
    with pytest.raises(bj.UserError, match="'lion' is unknown"):
        OptimizerConfig("lion")
    lion = lambda config: optax.scale_by_lion(config.beta1, config.beta2)  # noqa: E731
    monkeypatch.setitem(bj.OPTIMIZERS, "lion", lion)
    optimizer = make_optimizer(OptimizerConfig("lion", clip_norm=0.0), 1e-3)
    theirs = optax.lion(1e-3, 0.9, 0.999, weight_decay=0.0)
    changes, _ = optimizer.update(grads, optimizer.init(params), params)
    wanted, _ = theirs.update(grads, theirs.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, changes, wanted)


def test_a_recipe_file_adds_an_optimizer_and_the_command_line_changes_its_settings(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(bj.OPTIMIZERS, "lion", None)  # removed again after the test
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import bertjax as bj\n"
        "import optax\n"
        'bj.OPTIMIZERS["lion"] = lambda config: optax.scale_by_lion(config.beta1, config.beta2)\n'
        'optimizer = bj.OptimizerConfig("lion", beta2=0.99)\n'
        'config = bj.PretrainConfig(data=("shards",), workdir="run", optimizer=optimizer)\n'
    )
    words = [str(recipe), "--optimizer.beta1", "0.8"]
    found = parse_recipe(bj.PretrainConfig, "pretrain", words).optimizer
    assert (found.name, found.beta1, found.beta2) == ("lion", 0.8, 0.99)
    assert make_optimizer(found, 1e-4).init({"kernel": jnp.ones(2)})


def test_freeze_takes_one_name_or_a_list():
    assert OptimizerConfig(freeze="pooler").freeze == ("pooler",)
    assert hash(OptimizerConfig(freeze=["pooler", "nsp"]))
