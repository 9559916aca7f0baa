"""The last layer at the positions that are read, against the last layer at all of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model.positions import gather_positions
from bertjax.objectives.rtd import ReplacedTokenDetection

CLASSIC = bj.BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=12,
    initializer_range=0.3,
)
MODERN = bj.BertConfig.named(
    "modern-tiny",
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.2,
    vocab_size=50,
    hidden_size=16,
    num_attention_heads=2,
    num_hidden_layers=3,  # the last one has windows
    intermediate_size=24,
    local_attention=4,
    initializer_range=0.3,
)
B, T = 3, 12
POSITIONS = np.array([[1, 3, 10], [2, 6, 0], [0, 3, 3]])
SCANNED = bj.Execution(scan_layers=True, remat="full")
CASES = {
    "classic": (CLASSIC, "padded", bj.Execution()),
    "classic, scanned": (CLASSIC, "padded", SCANNED),
    "classic, packed": (CLASSIC, "packed", bj.Execution()),
    "classic, causal": (CLASSIC, "causal", bj.Execution(attention="plain")),
    "one layer": (dataclasses.replace(CLASSIC, num_hidden_layers=1), "padded", SCANNED),
    "modern": (MODERN, "padded", bj.Execution()),
    "modern, packed and scanned": (MODERN, "packed", SCANNED),
}


def rows(kind):
    ids = np.random.default_rng(0).integers(5, 50, (B, T))
    if kind == "packed":
        segments = np.repeat([[1] * 5 + [2] * 4 + [0] * 3], B, axis=0)
        places = np.repeat([[*range(5), *range(4), 0, 0, 0]], B, axis=0)
        firsts = np.array([[0, 5]] * B)
        return {
            "input_ids": ids,
            "segment_ids": segments,
            "position_ids": places,
            "cls_positions": firsts,
        }
    mask = (np.arange(T) < np.array([T, 7, 4])[:, None]).astype(np.int32)
    if kind == "causal":
        mask = mask[:, None] * np.tril(np.ones((T, T), np.int32))
    return {"input_ids": ids, "attention_mask": mask}


@functools.partial(jax.jit, static_argnames=("config", "execution", "alone"))
@functools.partial(jax.value_and_grad, has_aux=True)
def run(params, inputs, positions, config, execution, alone):
    how = {"execution": execution, "positions": positions if alone else None}
    how["dropout_key"] = jax.random.key(7)
    out = bj.encode(params, inputs, config, **how)
    x = out.last_hidden_state if alone else gather_positions(out.last_hidden_state, positions)
    weights = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    return (x * weights).sum() + jnp.sin(out.pooled * 3).sum(), (x, out.pooled)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_all_tokens_dropout_included(case):
    config, kind, execution = CASES[case]
    params = jax.jit(lambda key: bj.init_params(config, key))(jax.random.key(0))
    given = params, jax.tree.map(jnp.asarray, rows(kind)), jnp.asarray(POSITIONS)
    how = {"config": config, "execution": execution}
    (_, whole), gradients = run(*given, **how, alone=False)
    (_, alone), others = run(*given, **how, alone=True)
    assert alone[0].shape == (B, 3, 16)
    for one, other in zip(whole, alone, strict=True):
        np.testing.assert_allclose(other, one, atol=5e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(other, one, atol=3e-6 * largest)


def test_all_tokens_are_computed_where_they_are_read():
    """The mean of all tokens, requested states, as many positions as tokens, and Splash attention,
    which is the plain one on a CPU, need them."""
    inputs = jax.tree.map(jnp.asarray, rows("padded"))
    mean = dataclasses.replace(CLASSIC, classifier_pooling="mean")
    params = jax.jit(lambda key: bj.init_params(CLASSIC, key))(jax.random.key(0))
    many = jnp.tile(jnp.arange(T - 1), (B, 1))
    splash = {"execution": bj.Execution(attention="splash")}
    long = {name: np.tile(array, (1, 11))[:, :128] for name, array in inputs.items()}
    long_config = dataclasses.replace(CLASSIC, max_position_embeddings=128)
    long_params = jax.jit(lambda key: bj.init_params(long_config, key))(jax.random.key(0))
    all_long = bj.encode(long_params, long, long_config, **splash)
    some_long = bj.encode(long_params, long, long_config, positions=POSITIONS, **splash)
    wanted = gather_positions(all_long.last_hidden_state, jnp.asarray(POSITIONS))
    np.testing.assert_array_equal(some_long.last_hidden_state, wanted)
    for config, positions, options in (
        (mean, POSITIONS, {}),
        (CLASSIC, POSITIONS, {"output_hidden_states": True, "output_attentions": True}),
        (CLASSIC, many, {}),
    ):
        whole = bj.encode(params, inputs, config, **options)
        some = bj.encode(params, inputs, config, positions=positions, **options)
        wanted = gather_positions(whole.last_hidden_state, jnp.asarray(positions))
        np.testing.assert_array_equal(some.last_hidden_state, wanted)
        np.testing.assert_array_equal(some.pooled, whole.pooled)
        if options:
            assert some.hidden_states[-1].shape == (B, T, 16)
            assert some.attentions[-1].shape == (B, 4, T, T)


@pytest.mark.parametrize("execution", [bj.Execution(), SCANNED], ids=["loop", "scan"])
def test_positions_may_be_shared_by_rows_and_counted_from_the_end(execution):
    inputs = jax.tree.map(jnp.asarray, rows("padded"))
    params = jax.jit(lambda key: bj.init_params(CLASSIC, key))(jax.random.key(0))
    how = {"execution": execution, "dropout_key": jax.random.key(3)}
    whole = bj.mlm_logits(params, inputs, CLASSIC, **how)[:, [1, 10]]
    for positions in ([[1, 10]], [[1, -2]], [[1, 10]] * B):
        some = bj.mlm_logits(params, inputs, CLASSIC, positions=np.array(positions), **how)
        np.testing.assert_allclose(some, whole, atol=1e-5)


def test_a_generator_takes_splash_attention():
    objective = ReplacedTokenDetection()
    config = dataclasses.replace(
        CLASSIC, attention_probs_dropout_prob=0.0, max_position_embeddings=128
    )
    params = jax.jit(lambda key: objective.init_params(config, key))(jax.random.key(0))
    places = jnp.asarray([[1, 5, 9]])
    batch = {
        "input_ids": jnp.ones((1, 128), jnp.int32),
        "masked_positions": places,
        "masked_labels": jnp.ones((1, 3), jnp.int32),
        "masked_weights": jnp.ones((1, 3)),
    }
    keys = jax.random.split(jax.random.key(1), 1)
    found = [
        objective.logits(
            params,
            batch,
            config,
            execution=bj.Execution(attention=attention),
            dropout_key=None,
            sample_key=keys,
        ).generator
        for attention in ("splash", "plain")
    ]
    np.testing.assert_allclose(*found, atol=1e-5)
