import dataclasses

import jax
import numpy as np
import pytest

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.train import lora
from bertjax.train.lora import LoraConfig
from bertjax.train.tree import named

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=8,
)
LORA = LoraConfig(rank=2, alpha=3.0)


@pytest.fixture(scope="module")
def params():
    init = jax.jit(lambda key: bert.init_params(CONFIG, key, heads=("classifier",)))
    return jax.tree.map(lambda leaf: leaf * 10, init(jax.random.key(0)))


@pytest.fixture(scope="module")
def adapters(params):
    return lora.init_adapters(params, jax.random.key(1), LORA)


def filled(adapters):
    """Returns adapters with a product other than zero."""
    return jax.tree.map(lambda leaf: leaf + 0.5, adapters)


def test_adapters_have_the_shapes_of_their_layers(adapters):
    shapes = {name: leaf.shape for name, leaf in named(adapters).items()}
    assert shapes == {
        f"encoder/layer_{n}/attention/{layer}/{part}": {"a": (8, 2), "b": (2, 8)}[part]
        for n in range(2)
        for layer in ("query", "value")
        for part in "ab"
    }


def test_fresh_adapters_change_no_bit_of_the_model(params, adapters):
    jax.tree.map(np.testing.assert_array_equal, lora.merge(params, adapters, LORA.scale), params)
    draws = [leaf for name, leaf in named(adapters).items() if name.endswith("/a")]
    assert len({np.asarray(draw).tobytes() for draw in draws}) == len(draws)


def test_a_is_normal_of_variance_one_over_its_inputs():
    wide = {"encoder": {"layer_0": {"output": {"kernel": np.zeros((400, 300))}}}}
    config = LoraConfig(rank=100, layers=("output",))
    a = lora.init_adapters(wide, jax.random.key(3), config)["encoder"]["layer_0"]["output"]["a"]
    # With 40,000 draws, the standard error of the deviation is 0.35%, of the fourth moment 5%.
    assert np.std(a) * 20 == pytest.approx(1, abs=0.015)
    assert np.mean((np.asarray(a) * 20) ** 4) == pytest.approx(3, abs=0.3)


def test_merged_is_the_sum_and_nothing_else_changes(params, adapters):
    merged = named(lora.merge(params, filled(adapters), LORA.scale))
    low = named(filled(adapters))
    for name, before in named(params).items():
        path = name.removesuffix("/kernel")
        if f"{path}/a" not in low:
            np.testing.assert_array_equal(merged[name], before)
            continue
        product = np.asarray(low[f"{path}/a"], np.float64) @ np.asarray(low[f"{path}/b"])
        # float32 beside float64
        np.testing.assert_allclose(merged[name], before + 1.5 * product, rtol=1e-5, atol=1e-6)


def test_merging_equals_adapters_beside_their_layers(params, adapters):
    """x (W + s A B) = x W + s (x A) B, as an adapted layer computes it."""
    x = np.random.default_rng(0).normal(size=(5, 8))
    path = ("encoder", "layer_1", "attention", "value")
    merged, layer, low = lora.merge(params, filled(adapters), LORA.scale), params, filled(adapters)
    for name in path:
        merged, layer, low = merged[name], layer[name], low[name]
    beside = x @ layer["kernel"] + LORA.scale * (x @ low["a"]) @ low["b"]
    np.testing.assert_allclose(x @ merged["kernel"], beside, rtol=1e-5, atol=1e-5)  # float32


def test_only_trained_parameters_get_a_gradient(params, adapters):
    base = {name: params[name] for name in ("embeddings", "encoder")}
    on_top = {name: params[name] for name in ("pooler", "classifier")}
    trained = {lora.ADAPTERS: adapters, **on_top}
    ids = np.arange(12).reshape(2, 6)

    @jax.jit
    @jax.grad
    def gradient(trained):
        model = lora.combine(base, trained, LORA)
        return bert.task_logits(model, {"input_ids": ids}, CONFIG)[:, 0].sum()

    grads = named(gradient(trained))
    assert grads.keys() == named(trained).keys()
    # At first A has no gradient because its factor B is zero.
    assert not any(np.any(leaf) for name, leaf in grads.items() if name.endswith("/a"))
    assert all(np.any(leaf) for name, leaf in grads.items() if name.endswith("/b"))


@pytest.mark.parametrize(
    ("layers", "count"),
    [(("key",), 2), (("output",), 4), (("attention/output", "intermediate"), 4)],
)
def test_layers_are_named_by_the_end_of_their_path(params, layers, count):
    paths = lora.adapted(params, dataclasses.replace(LORA, layers=layers))
    assert len(paths) == count and all(path.endswith(layers) for path in paths)


@pytest.mark.parametrize("layers", [["key"], "key"], ids=str)
def test_layers_of_a_recipe_are_a_tuple(layers):
    config = LoraConfig(rank=2, layers=layers)
    assert config == LoraConfig(rank=2, layers=("key",))
    assert hash(config) == hash(LoraConfig(rank=2, layers=("key",)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"layers": ("query", "q_proj")},
            "has 'q_proj', which this model's encoder lacks: give some of attention/key, "
            "attention/output, attention/query, attention/value, intermediate, output",
        ),
        ({"layers": ("uery",)}, "has 'uery'"),
        ({"rank": 9}, "lora.rank` is 9, and an adapted matrix has rank 8"),
    ],
)
def test_layers_and_ranks_that_a_model_lacks_are_refused(params, change, sentence):
    with pytest.raises(UserError, match=sentence):
        lora.adapted(params, dataclasses.replace(LORA, **change))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rank": -1}, "lora.rank` is -1"),
        ({"rank": 2, "alpha": 0.0}, "lora.alpha` is 0.0"),
        ({"rank": 2, "layers": ()}, r"lora.layers` is \(\)"),
        ({"rank": 2, "layers": ("key", "key")}, "give each name once"),
        ({"alpha": 8.0}, "need adapters: set `lora.rank`"),
        ({"layers": ("key",)}, "need adapters: set `lora.rank`"),
    ],
)
def test_invalid_configurations_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        LoraConfig(**fields)
