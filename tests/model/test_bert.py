"""The encoder against a NumPy BERT, and against itself run in other ways."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model import bert, layers
from bertjax.model.dropout import Site, dropout
from bertjax.model.heads import TASK_PARTS
from bertjax.model.layers import Attention
from bertjax.model.positions import views
from bertjax.train.tree import named

CONFIG = bj.BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=12,
)
FLOAT32_NOISE = 2e-6  # a few units in the last place of values near 3

# Compiled: run operation by operation, these tests take minutes.
encode = jax.jit(
    bj.encode,
    static_argnames=("config", "execution", "output_hidden_states", "output_attentions"),
)
pretraining_logits = jax.jit(bj.pretraining_logits, static_argnames=("config", "execution"))
mlm_logits = jax.jit(bj.mlm_logits, static_argnames="config")
init_params = jax.jit(bj.init_params, static_argnames=("config", "heads", "num_labels"))


@pytest.fixture(scope="module")
def params():
    """Random weights, biases and LayerNorms away from 0 and 1, so that an omitted one shows."""
    tree = init_params(CONFIG, jax.random.key(0))
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    lengths = np.array([12, 7, 4])
    mask = (np.arange(12)[None] < lengths[:, None]).astype(np.int32)
    return {
        "input_ids": jnp.asarray(rng.integers(0, 50, (3, 12)) * mask),
        "attention_mask": jnp.asarray(mask),
        "token_type_ids": jnp.asarray(rng.integers(0, 2, (3, 12))),
    }


def numpy_bert(params, inputs):
    """Computes BERT in float64 as the paper describes it, one layer, row and head at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, weights):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + 1e-12) * weights["scale"] + weights["bias"]

    def linear(x, weights):
        return x @ weights["kernel"] + weights["bias"]

    erf = np.vectorize(math.erf)

    def gelu(x):
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))

    e = p["embeddings"]
    ids, types = np.asarray(inputs["input_ids"]), np.asarray(inputs["token_type_ids"])
    x = e["word_embeddings"]["embedding"][ids] + e["token_type_embeddings"]["embedding"][types]
    x = norm(x + e["position_embeddings"]["embedding"][: ids.shape[1]], e["layer_norm"])
    for number in range(2):
        layer = p["encoder"][f"layer_{number}"]
        a = layer["attention"]
        q, k, v = (linear(x, a[name]) for name in ("query", "key", "value"))
        context = np.zeros_like(x)
        for row in range(len(x)):
            real = np.asarray(inputs["attention_mask"])[row].astype(bool)
            for head in range(4):
                part = slice(4 * head, 4 * head + 4)
                scores = q[row][:, part] @ k[row][real][:, part].T / 2.0
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                context[row][:, part] = weights @ v[row][real][:, part]
        x = norm(x + linear(context, a["output"]), layer["attention_layer_norm"])
        hidden = gelu(linear(x, layer["intermediate"]))
        x = norm(x + linear(hidden, layer["output"]), layer["output_layer_norm"])
    pooled = np.tanh(linear(x[:, 0], p["pooler"]))
    hidden = norm(gelu(linear(x, p["mlm"]["transform"])), p["mlm"]["layer_norm"])
    mlm = hidden @ e["word_embeddings"]["embedding"].T + p["mlm"]["bias"]
    return x, pooled, mlm, linear(pooled, p["nsp"])


def test_forward_agrees_with_numpy(params, inputs):
    x, pooled, mlm, nsp = numpy_bert(params, inputs)
    out = encode(params, inputs, CONFIG)
    real = np.asarray(inputs["attention_mask"]).astype(bool)
    np.testing.assert_allclose(np.asarray(out.last_hidden_state)[real], x[real], atol=2e-5)
    np.testing.assert_allclose(out.pooled, pooled, atol=1e-5)
    positions = jnp.asarray([[1, 3], [2, 6], [0, 3]])
    got_mlm, got_nsp = pretraining_logits(params, inputs, positions, CONFIG)
    wanted = np.take_along_axis(mlm, np.asarray(positions)[..., None], axis=1)
    np.testing.assert_allclose(got_mlm, wanted, atol=5e-5)
    np.testing.assert_allclose(got_nsp, nsp, atol=1e-5)
    everywhere = mlm_logits(params, inputs, CONFIG)
    np.testing.assert_allclose(np.asarray(everywhere)[real], mlm[real], atol=5e-5)


def test_exact_and_tanh_gelu_differ():
    x = jnp.linspace(-3, 3, 7)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.linspace(-3, 3, 7)])
    np.testing.assert_allclose(layers.activation("gelu", x), exact, atol=1e-6)
    tanh = layers.activation("gelu_new", x)
    assert 1e-5 < np.abs(tanh - exact).max() < 1e-2


@functools.partial(jax.jit, static_argnames="execution")
@jax.value_and_grad
def value_and_grad(params, inputs, execution):
    out = bj.encode(params, inputs, CONFIG, execution=execution, dropout_key=jax.random.key(5))
    return jnp.square(out.last_hidden_state).mean() + out.pooled.sum()


@pytest.mark.parametrize(
    "execution",
    [
        bj.Execution(attention="plain"),
        bj.Execution(scan_layers=True),
        bj.Execution(remat="full"),
        bj.Execution(remat="dots", scan_layers=True),
    ],
    ids=lambda execution: f"{execution.attention}-{execution.remat}-{execution.scan_layers}",
)
def test_other_executions_give_the_same_values_and_gradients(params, inputs, execution):
    one, grad_one = value_and_grad(params, inputs, execution=bj.Execution())
    two, grad_two = value_and_grad(params, inputs, execution=execution)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grad_one))
    for a, b in zip(jax.tree.leaves(grad_one), jax.tree.leaves(grad_two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * largest)  # float32 sums in another order


def test_bfloat16_is_near_and_keeps_float32_outside(params, inputs):
    narrow = bj.Execution(dtype="bfloat16")
    exact = encode(params, inputs, CONFIG).pooled
    out = encode(params, inputs, CONFIG, execution=narrow)
    assert out.last_hidden_state.dtype == jnp.bfloat16
    assert (
        np.abs(np.asarray(out.pooled, np.float32) - exact).max() < 0.2
    )  # 8 bits, weights near 0.3
    mlm, nsp = pretraining_logits(
        params, inputs, jnp.zeros((3, 1), jnp.int32), CONFIG, execution=narrow
    )
    assert mlm.dtype == nsp.dtype == jnp.float32


def test_padding_changes_nothing(params, inputs):
    other = {
        **inputs,
        "input_ids": jnp.where(inputs["attention_mask"] == 1, inputs["input_ids"], 9),
    }
    one, two = (encode(params, x, CONFIG) for x in (inputs, other))
    real = np.asarray(inputs["attention_mask"]).astype(bool)
    assert np.array_equal(one.last_hidden_state[real], two.last_hidden_state[real])
    short = {name: array[2:, :4] for name, array in inputs.items()}
    alone = encode(params, short, CONFIG)
    np.testing.assert_allclose(alone.pooled, one.pooled[2:], atol=FLOAT32_NOISE)


def test_a_row_without_any_token_is_finite(params, inputs):
    nothing = {**inputs, "attention_mask": jnp.zeros((3, 12), jnp.int32)}
    for dtype in ("float32", "bfloat16"):
        out = encode(params, nothing, CONFIG, execution=bj.Execution(dtype=dtype))
        assert jnp.isfinite(out.last_hidden_state).all()


def test_a_packed_row_is_its_examples(params):
    rng = np.random.default_rng(3)
    one, two = rng.integers(5, 50, 5), rng.integers(5, 50, 4)
    packed = {
        "input_ids": jnp.asarray([[*one, *two, 0, 0, 0]]),
        "segment_ids": jnp.asarray([[1] * 5 + [2] * 4 + [0] * 3]),
        "position_ids": jnp.asarray([[*range(5), *range(4), 0, 0, 0]]),
        "cls_positions": jnp.asarray([[0, 5]]),
    }
    out = encode(params, packed, CONFIG)
    first = encode(params, {"input_ids": jnp.asarray([one])}, CONFIG)
    second = encode(params, {"input_ids": jnp.asarray([two])}, CONFIG)
    np.testing.assert_allclose(out.pooled[0, 0], first.pooled[0], atol=FLOAT32_NOISE)
    np.testing.assert_allclose(out.pooled[0, 1], second.pooled[0], atol=FLOAT32_NOISE)
    np.testing.assert_allclose(
        out.last_hidden_state[0, 5:9], second.last_hidden_state[0], atol=2 * FLOAT32_NOISE
    )


def test_dropout_of_a_row_does_not_depend_on_its_batch(params, inputs):
    keys = jax.random.split(jax.random.key(2), 3)
    whole = encode(params, inputs, CONFIG, dropout_key=keys).last_hidden_state
    for row in range(3):
        part = {name: array[row : row + 1] for name, array in inputs.items()}
        alone = encode(params, part, CONFIG, dropout_key=keys[row : row + 1])
        np.testing.assert_allclose(alone.last_hidden_state[0], whole[row], atol=2 * FLOAT32_NOISE)
    other = encode(params, inputs, CONFIG, dropout_key=jax.random.key(3)).last_hidden_state
    assert np.abs(other - whole).max() > 0.1


def test_one_dropout_key_is_folded_with_the_row(params, inputs):
    key = jax.random.key(7)
    folded = jnp.stack([jax.random.fold_in(key, row) for row in range(3)])
    one = encode(params, inputs, CONFIG, dropout_key=key).pooled
    two = encode(params, inputs, CONFIG, dropout_key=folded).pooled
    # The same draws in two programs, which XLA fuses in different ways.
    np.testing.assert_allclose(one, two, atol=2 * FLOAT32_NOISE)


def test_raw_keys_are_accepted(params, inputs):
    for raw, key in (
        (jax.random.PRNGKey(7), jax.random.key(7)),
        (jax.random.split(jax.random.PRNGKey(2), 3), jax.random.split(jax.random.key(2), 3)),
    ):
        assert raw.dtype == jnp.uint32
        one, two = (encode(params, inputs, CONFIG, dropout_key=each).pooled for each in (raw, key))
        assert np.array_equal(one, two)


def test_dropout_keeps_its_rate_and_its_mean():
    keys = jax.random.split(jax.random.key(0), 64)
    dropped = dropout(jnp.ones((64, 1601)), keys, site=1, rate=0.1)
    count = dropped.size
    share = float((dropped == 0).mean())
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / count)
    np.testing.assert_allclose(float(dropped.max()), 1 / 0.9, rtol=1e-6)
    assert np.array_equal(dropout(jnp.ones((2, 3)), None, 0, 0.5), jnp.ones((2, 3)))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_is_independent_between_entries_rows_and_sites(rate):
    keys = jax.random.split(jax.random.key(0), 128)
    draws = [dropout(jnp.ones((128, 32, 64)), keys, site, rate) for site in (1, 2)]
    one, two = ((np.asarray(each) == 0) - rate for each in draws)
    variance = rate * (1 - rate)
    neighbors = [(one, two)]
    for axis in range(3):
        for lag in (1, 2, 16):
            neighbors.append((one, np.roll(one, lag, axis)))
    for pair in neighbors:
        correlation = np.mean(pair[0] * pair[1]) / variance
        assert abs(correlation) < 4 / math.sqrt(one.size)
    for axes in [(1, 2), (0, 2), (0, 1), (0,), (2,)]:  # sums of n draws have a variance of n
        sums = one.sum(axes) / math.sqrt(variance * math.prod(one.shape[axis] for axis in axes))
        assert abs(np.mean(sums**2) - 1) < 5 * math.sqrt(2 / sums.size)


@pytest.fixture(scope="module")
def attention():
    """A module, its parameters, x [2, 6, D] and kv [2, 5, D]."""
    module = Attention(CONFIG, bj.Execution(), Site.ATTENTION_PROBS)
    x, kv = (jax.random.normal(jax.random.key(n), (2, n, 16)) for n in (6, 5))
    return module, jax.jit(module.init)(jax.random.key(1), x), x, kv


def test_attention_is_its_projections_and_nothing_else(attention):
    """Against NumPy, with keys and values of another length and a mask: no residual, no norm."""
    module, variables, x, kv = attention
    mask = np.random.default_rng(0).random((2, 1, 6, 5)) < 0.7
    mask[..., 0] = True
    found, found_probs = jax.jit(module.apply)(variables, x, kv, mask=mask)
    params = variables["params"]
    assert params.keys() == {"query", "key", "value", "output"}
    query, key, value = (
        (np.asarray(source, np.float64) @ params[name]["kernel"]).reshape(2, -1, 4, 4)
        for name, source in (("query", x), ("key", kv), ("value", kv))
    )
    scores = np.where(mask, np.einsum("btnh,bsnh->bnts", query, key) / 2, -np.inf)
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    context = np.einsum("bnts,bsnh->btnh", probs, value).reshape(2, 6, 16)
    np.testing.assert_allclose(found_probs, probs, atol=FLOAT32_NOISE)
    output = context @ params["output"]["kernel"]
    np.testing.assert_allclose(found, output, atol=FLOAT32_NOISE)


def test_two_attentions_of_a_layer_draw_different_dropout(attention):
    _, variables, x, _ = attention
    keys = jax.random.split(jax.random.key(4), 2)

    def output(site, source, keys):
        module = Attention(CONFIG, bj.Execution(), site)
        return jax.jit(module.apply)(variables, x, source, keys=keys)[0]

    own, again, cross = (
        output(site, x, keys)
        for site in (Site.ATTENTION_PROBS, Site.ATTENTION_PROBS, Site.CROSS_ATTENTION_PROBS)
    )
    assert np.array_equal(own, again) and not np.allclose(own, cross)
    assert len({site.value for site in Site}) == len(Site) == 8


def test_positions_reach_every_attention(params, inputs, monkeypatch):
    config = dataclasses.replace(CONFIG, position_embedding_type="rotary")
    seen, attend = [], Attention.__call__

    def record(self, x, kv=None, *, rotation=None, **options):
        if rotation is not None:  # None where Linen checks the shapes of parameters
            seen.append(rotation)
        return attend(self, x, kv, rotation=rotation, **options)

    monkeypatch.setattr(Attention, "__call__", record)
    given = {**inputs, "position_ids": jnp.flip(jnp.arange(12))[None].repeat(3, 0)}
    with jax.disable_jit():  # which traces equal layers once
        for each in (inputs, given):
            bj.encode(params, each, config)
    rotations = [
        views(config, None, ids)[0].rotation for ids in (np.arange(12)[None], given["position_ids"])
    ]
    wanted = [rotations[0]] * 2 + [rotations[1]] * 2
    jax.tree.map(np.testing.assert_array_equal, seen, wanted)


def test_works_under_jit_grad_and_vmap(params, inputs):
    jitted = jax.jit(lambda p, x: bj.encode(p, x, CONFIG).pooled)
    np.testing.assert_allclose(
        jitted(params, inputs), bj.encode(params, inputs, CONFIG).pooled, atol=FLOAT32_NOISE
    )
    one_row = jax.jit(
        jax.vmap(lambda x: bj.encode(params, {k: v[None] for k, v in x.items()}, CONFIG).pooled[0])
    )
    np.testing.assert_allclose(
        one_row(inputs), encode(params, inputs, CONFIG).pooled, atol=FLOAT32_NOISE
    )
    slope = jax.jit(jax.grad(lambda p: bj.encode(p, inputs, CONFIG).pooled.sum()))(params)
    assert float(jnp.abs(slope["embeddings"]["word_embeddings"]["embedding"]).sum()) > 0


def test_hidden_states_and_attentions_are_returned_on_request(params, inputs):
    for execution in (bj.Execution(), bj.Execution(scan_layers=True)):
        out = encode(
            params,
            inputs,
            CONFIG,
            execution=execution,
            output_hidden_states=True,
            output_attentions=True,
        )
        assert len(out.hidden_states) == 3 and len(out.attentions) == 2
        assert np.array_equal(out.hidden_states[-1], out.last_hidden_state)
        np.testing.assert_allclose(out.attentions[0].sum(-1), 1.0, atol=1e-6)
        assert float(out.attentions[1][2, :, :, 4:].max()) == 0.0  # row 2 has 4 tokens


def test_linen_modules_share_the_dict(params, inputs):
    module = bj.linen.BertForPreTraining(CONFIG)
    positions = jnp.zeros((3, 1), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs, positions)
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(params)
    mlm, _ = jax.jit(module.apply)({"params": params}, inputs, positions)
    wanted, _ = pretraining_logits(params, inputs, positions, CONFIG)
    assert np.array_equal(mlm, wanted)
    pooled = jax.jit(bj.linen.BertEncoder(CONFIG).apply)({"params": params}, inputs).pooled
    assert np.array_equal(pooled, encode(params, inputs, CONFIG).pooled)


def test_too_long_is_refused(params):
    with pytest.raises(ValueError, match="13 tokens long; the model has 12 positions"):
        encode(params, {"input_ids": jnp.zeros((1, 13), jnp.int32)}, CONFIG)


def test_a_task_is_a_name_or_the_task_of_a_loaded_model(inputs):
    params = init_params(CONFIG, jax.random.key(0), heads=("classifier",), num_labels=1)
    plain, *others = (
        jax.jit(functools.partial(bj.task_logits, config=CONFIG, task=task))(params, inputs)
        for task in ("sequence_classification", "regression", {"kind": "regression", "labels": []})
    )
    assert plain.shape == (3, 1)
    assert all(np.array_equal(plain, other) for other in others)


def test_a_new_head_is_drawn_without_the_model_under_it(monkeypatch):
    key = jax.random.key(0)
    whole = init_params(CONFIG, key, heads=("classifier", "qa_outputs"), num_labels=3)
    for kind in ("sequence_classification", "token_classification", "question_answering"):
        head = functools.partial(bert.init_head, CONFIG, kind=kind, num_labels=3)
        alone = jax.jit(head)(key)
        assert tuple(sorted(alone)) == tuple(sorted(TASK_PARTS[kind]))
        for name, tree in alone.items():
            jax.tree.map(np.testing.assert_array_equal, tree, whole[name])
    monkeypatch.setattr(bj.linen.BertForSequenceClassification, "__call__", pytest.fail)
    jax.eval_shape(lambda key: bj.init_params(CONFIG, key, heads=("classifier",)), key)


def test_a_new_head_is_normal_and_the_rest_is_truncated_at_two_deviations():
    params = init_params(CONFIG, jax.random.key(0), heads=("classifier",), num_labels=10_000)
    scale = CONFIG.initializer_range
    head, pooler = (params[name]["kernel"] / scale for name in ("classifier", "pooler"))
    assert abs(float(head.std()) - 1) < 0.01  # of 160,000; truncated 0.88
    assert abs(head).max() > 4 > 2 > abs(pooler).max()


def test_parameter_paths_and_shapes_are_public():
    tree = jax.eval_shape(
        lambda key: bj.init_params(CONFIG, key, heads=("mlm", "nsp", "classifier"), num_labels=3),
        jax.random.key(0),
    )
    shapes = {name: leaf.shape for name, leaf in named(tree).items()}
    layer = {
        **{f"attention/{n}/kernel": (16, 16) for n in ("query", "key", "value", "output")},
        **{f"attention/{n}/bias": (16,) for n in ("query", "key", "value", "output")},
        "attention_layer_norm/scale": (16,),
        "attention_layer_norm/bias": (16,),
        "intermediate/kernel": (16, 32),
        "intermediate/bias": (32,),
        "output/kernel": (32, 16),
        "output/bias": (16,),
        "output_layer_norm/scale": (16,),
        "output_layer_norm/bias": (16,),
    }
    assert shapes == {
        "embeddings/word_embeddings/embedding": (50, 16),
        "embeddings/position_embeddings/embedding": (12, 16),
        "embeddings/token_type_embeddings/embedding": (2, 16),
        "embeddings/layer_norm/scale": (16,),
        "embeddings/layer_norm/bias": (16,),
        **{f"encoder/layer_{i}/{name}": shape for i in range(2) for name, shape in layer.items()},
        "pooler/kernel": (16, 16),
        "pooler/bias": (16,),
        "mlm/transform/kernel": (16, 16),
        "mlm/transform/bias": (16,),
        "mlm/layer_norm/scale": (16,),
        "mlm/layer_norm/bias": (16,),
        "mlm/bias": (50,),
        "nsp/kernel": (16, 2),
        "nsp/bias": (2,),
        "classifier/kernel": (16, 3),
        "classifier/bias": (3,),
    }
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} == {"float32"}
    encoder = jax.eval_shape(lambda key: bj.init_params(CONFIG, key, heads=()), jax.random.key(0))
    assert set(encoder) == {"embeddings", "encoder", "pooler"}


def test_initial_weights_are_a_truncated_normal():
    config = bj.BertConfig.named("tiny", vocab_size=4000)
    table = np.asarray(
        init_params(config, jax.random.key(0))["embeddings"]["word_embeddings"]["embedding"]
    )
    assert np.abs(table).max() <= 0.04 + 1e-6  # two deviations
    # The deviation of a normal cut at two deviations is 0.8796 of the normal's.
    assert abs(table.std() / (0.02 * 0.8796) - 1) < 0.01
