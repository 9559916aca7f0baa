"""The options of the modern encoder: windows, rotations, packing, scan, devices and FLOPs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model import extractive, flops
from bertjax.model.linen import attention_mask
from bertjax.model.positions import views

CONFIG = bj.BertConfig.named(
    "modern-tiny",
    vocab_size=50,
    hidden_size=32,
    num_attention_heads=2,
    num_hidden_layers=4,
    intermediate_size=48,
    local_attention=6,
    initializer_range=0.2,
)
B, T = 3, 24
NOISE = 2e-5  # of float32, after four layers without a LayerNorm of their sum

encode = jax.jit(
    bj.encode, static_argnames=("config", "execution", "output_hidden_states", "output_attentions")
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: bj.init_params(CONFIG, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def inputs():
    lengths = np.array([T, 17, 9])
    ids = np.random.default_rng(0).integers(5, 50, (B, T))
    mask = np.arange(T)[None] < lengths[:, None]
    return {"input_ids": jnp.asarray(ids * mask), "attention_mask": jnp.asarray(mask, jnp.int32)}


def test_tokens_attend_within_their_windows(params, inputs):
    out = encode(params, inputs, CONFIG, output_attentions=True, output_hidden_states=True)
    distance = np.abs(np.arange(T)[:, None] - np.arange(T))
    real = np.asarray(inputs["attention_mask"]) > 0
    for layer, probs in enumerate(out.attentions):
        seen = (np.asarray(probs) > 0).any((0, 1)) if layer else None
        assert CONFIG.is_local(layer) == (layer % 3 != 0)
        reach = 3 if CONFIG.is_local(layer) else T
        wanted = (distance <= reach)[None] & real[:, None]
        found = (np.asarray(probs) > 0).all(1)[real]
        np.testing.assert_array_equal(found, wanted[real], err_msg=f"{layer} {seen is None}")
    assert len(out.hidden_states) == 5
    np.testing.assert_array_equal(out.hidden_states[-1], out.last_hidden_state)


def test_rotary_positions_are_relative(params, inputs):
    def states(positions):
        return encode(params, {**inputs, "position_ids": positions}, CONFIG).last_hidden_state

    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    shifted = states(positions + 7)
    np.testing.assert_allclose(shifted, states(positions), atol=10 * NOISE)
    assert np.abs(states(2 * positions) - shifted).max() > 0.1


def test_a_packed_row_is_its_examples_alone(params):
    lengths = (9, 12, 3)
    ids = np.random.default_rng(1).integers(5, 50, (1, T))
    segments = np.repeat([1, 2, 3], lengths)[None]
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    packed = {"input_ids": ids, "segment_ids": segments, "position_ids": positions}
    whole = encode(params, jax.tree.map(jnp.asarray, packed), CONFIG).last_hidden_state[0]
    for number in (1, 2, 3):
        own = segments[0] == number
        alone = {"input_ids": jnp.asarray(ids[:, own])}
        np.testing.assert_allclose(
            whole[own], encode(params, alone, CONFIG).last_hidden_state[0], atol=NOISE
        )


@pytest.mark.parametrize("how", [{"scan_layers": True}, {"scan_layers": True, "remat": "full"}])
def test_scanned_layers_are_the_loop(params, inputs, how):
    def run(execution):
        def loss(params):
            key = jax.random.key(1)
            config = dataclasses.replace(CONFIG, hidden_dropout_prob=0.1)
            out = bj.encode(params, inputs, config, execution=execution, dropout_key=key)
            return jnp.square(out.last_hidden_state).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    (one, gradients), (other, scanned) = run(bj.Execution()), run(bj.Execution(**how))
    np.testing.assert_allclose(other, one, rtol=1e-5)
    norm = float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients))))
    for a, b in zip(*map(jax.tree.leaves, (gradients, scanned)), strict=True):
        assert float(jnp.linalg.norm(a - b)) <= 1e-5 * norm


def test_flops_count_the_pairs_within_windows():
    rows = np.arange(T)[None]
    for width in (6, 2 * T):
        config = dataclasses.replace(CONFIG, local_attention=width)
        pairs = [int(np.broadcast_to(view.mask, (1, 1, T, T)).sum()) if view.mask is not None
                 else T * T for view in views(config, None, rows)]  # fmt: skip
        attended = sum(pairs[config.is_local(layer)] for layer in range(4))
        weights = 2 * T * (4 * 32 * 32 + 3 * 32 * 48)
        assert flops.encoder_flops(config, T) == 4 * weights + 2 * 2 * attended * 32
    assert attended == 4 * T * T


def test_a_head_of_tokens_counts_its_dense_layer():
    count = flops.task_flops(CONFIG, "token_classification", 5, T)
    assert count - flops.encoder_flops(CONFIG, T) == 2 * T * (32 * 32 + 32 * 5)


def test_the_mean_of_the_real_tokens_is_classified(params, inputs):
    config = dataclasses.replace(CONFIG, classifier_pooling="mean")
    short = {name: array[2:, :9] for name, array in inputs.items()}
    one, other = (encode(params, each, config).pooled[-1] for each in (inputs, short))
    np.testing.assert_allclose(one, other, atol=NOISE)
    packed = {**inputs, "cls_positions": jnp.zeros((B, 1), jnp.int32)}
    with pytest.raises(bj.UserError, match="classifier_pooling 'cls'"):
        bj.encode(params, packed, config)


def test_token_types_are_not_read(params, inputs):
    typed = {**inputs, "token_type_ids": jnp.ones((B, T), jnp.int32)}
    one, other = (encode(params, each, CONFIG).last_hidden_state for each in (inputs, typed))
    np.testing.assert_array_equal(one, other)


def test_masks_are_those_of_the_inputs(inputs):
    mask = attention_mask(inputs)
    everywhere, local = views(CONFIG, mask, np.arange(T)[None])
    assert everywhere.mask is mask
    near = np.abs(np.arange(T)[:, None] - np.arange(T)) <= 3
    np.testing.assert_array_equal(local.mask, np.asarray(mask) & near)


PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import bertjax as bj
from bertjax.train import sharding
from bertjax.train.sharding import MeshConfig, make_mesh, param_shardings

config = bj.BertConfig(**json.loads(sys.argv[1]))
params = bj.init_params(config, jax.random.key(0))
ids = np.random.default_rng(0).integers(5, 50, (8, 24)).astype(np.int32)

def loss(params, ids):
    return jnp.square(bj.mlm_logits(params, {"input_ids": ids}, config)).mean()

step = jax.jit(jax.value_and_grad(loss))
one, gradients = step(params, ids)
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
placed = jax.device_put(params, param_shardings(mesh, params))
rows = jax.device_put(ids, sharding.batch_sharding(mesh))
other, split = step(placed, rows)
gate = placed["encoder"]["layer_1"]["gate"]["kernel"].sharding.spec
assert gate == jax.sharding.PartitionSpec("fsdp", "tensor"), gate
norm = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(gradients)) ** 0.5
error = max(
    float(np.linalg.norm(np.asarray(a) - np.asarray(b)))
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(split))
)
print(abs(float(one - other)) / float(one), error / norm)
"""


def test_eight_devices_give_what_one_gives(run_python):
    printed = run_python("-c", PROGRAM, json.dumps(CONFIG.to_dict()), devices=8)
    loss, gradients = map(float, printed.split())
    assert loss < 1e-6 and gradients < 1e-5


def test_sentences_are_scored_by_layers_of_the_encoder():
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    drawn = extractive.init_params(config, jax.random.key(0), whole=True)
    assert sorted(drawn["sentence_scorer"]["inter_sentence"]) == ["layer_0", "layer_1"]
    ones = jnp.ones((1, 3), jnp.int32)
    row = {"input_ids": jnp.full((1, 9), 7), "cls_positions": jnp.array([[0, 3, 6]])}
    row |= {"sentence_positions": jnp.array([[0, 1, 2]]), "sentence_mask": ones}
    logits = extractive.sentence_logits(drawn, row, config)
    assert logits.shape == (1, 3) and np.isfinite(logits).all()
