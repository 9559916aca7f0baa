"""Wrong arguments of the functions on arrays are one sentence each, also under jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.objectives import losses

CONFIG = bj.BertConfig(30, 16, 1, 2, 24, max_position_embeddings=9)
IDS = np.zeros((2, 5), np.int32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(bj.init_params, CONFIG))(jax.random.key(0))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"input_ids": IDS, "attention_mask": np.ones((2, 4))}, r"attention_mask has the shape"),
        ({"input_ids": IDS[0]}, r"input_ids has the shape \(5,\): give \[B, T\]"),
        ({"input_ids": IDS, "token_types": IDS}, "did you mean 'token_type_ids'"),
        ({"input_ids": IDS, "inputs_embeds": IDS}, "'inputs_embeds', which the model does not r"),
        ({"input_ids": IDS, "encoder_hidden_states": IDS}, "does not read: leave it out"),
        ({"input_ids": IDS, "example_weight": IDS, "token_type": IDS}, "mean 'token_type_ids'"),
        ({"ids": IDS}, "inputs has no input_ids, only 'ids'"),
        ({"input_ids": IDS.astype(np.float32)}, "has the type float32: give integers"),
        ({"input_ids": IDS, "token_type_ids": IDS[:, :3]}, "token_type_ids has the shape"),
    ],
)
def test_wrong_inputs_are_named(params, inputs, sentence, traced):
    function = functools.partial(bj.encode, config=CONFIG)
    with pytest.raises(ValueError, match=sentence):
        (jax.jit(function) if traced else function)(params, inputs)


def test_what_is_no_dict_of_arrays_is_named(params):
    with pytest.raises(ValueError, match="input_ids is of the type list: give an array"):
        bj.encode(params, {"input_ids": [[1, 2]]}, CONFIG)
    with pytest.raises(ValueError, match="inputs is of the type ndarray: give a dict"):
        bj.encode(params, IDS, CONFIG)
    with pytest.raises(ValueError, match="params and inputs are swapped"):
        bj.encode({"input_ids": IDS}, params, CONFIG)
    with pytest.raises(ValueError, match="params has no subtree embeddings"):
        bj.mlm_logits({}, {"input_ids": IDS}, CONFIG)


@pytest.mark.parametrize("extra", [("offset_mapping", "length", "labels"), ("example_weight", "x")])
def test_keys_of_tokenizers_and_of_training_batches_are_ignored(params, extra):
    encode = jax.jit(functools.partial(bj.encode, config=CONFIG))
    expected = encode(params, {"input_ids": IDS}).last_hidden_state
    found = encode(params, {"input_ids": IDS, **dict.fromkeys(extra, np.ones(2))})
    np.testing.assert_array_equal(found.last_hidden_state, expected)


@pytest.mark.parametrize("wrong", [30, -1])
def test_ids_beyond_the_vocabulary_are_refused_outside_of_jit(params, wrong):
    ids, batch = jnp.asarray(IDS).at[1, 2].set(wrong), {"input_ids": IDS}
    sentence = rf"ids\[1, 2\] is {wrong}, but .* 30 tokens"
    with pytest.raises(ValueError, match=sentence):
        bj.encode(params, {"input_ids": ids}, CONFIG)
    with pytest.raises(ValueError, match=sentence):
        bj.start_decoding(params, {"input_ids": ids}, CONFIG, bj.Prefix(4), beams=1, max_length=1)
    vocabulary = bj.Vocabulary(30, 0, 4, np.zeros(30, bool))
    with pytest.raises(ValueError, match=sentence):
        bj.mask_tokens(jax.random.split(jax.random.key(0), 2), ids, vocabulary)
    logits = np.zeros((2, 5, 30), np.float32)
    used = {"masked_labels": ids, "masked_weights": np.ones((2, 5))}
    with pytest.raises(ValueError, match=rf"masked_labels\[1, 2\] is {wrong}"):
        losses.masked_lm(logits, {**batch, **used})
    unused = {"masked_labels": ids, "masked_weights": np.zeros((2, 5))}
    assert losses.masked_lm(logits, {**batch, **unused})["mlm_loss"][1] == 0


@pytest.mark.parametrize(("name", "size"), [("token_type_ids", 2), ("position_ids", 9)])
def test_ids_beyond_the_other_tables_are_refused_outside_of_jit(params, name, size):
    with pytest.raises(ValueError, match=rf"{name}\[0, 0\] is {size}, but the model has {size}"):
        bj.encode(params, {"input_ids": IDS, name: IDS + size}, CONFIG)


def test_a_mesh_with_explicit_axes_is_named(params):
    axis = jax.sharding.AxisType.Explicit
    mesh = jax.make_mesh((1,), ("data",), axis_types=(axis,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with pytest.raises(ValueError, match=r"AxisType.Auto"):
        bj.encode(params, {"input_ids": jax.device_put(IDS, split)}, CONFIG)


def test_outputs_and_public_names_are_short(params, tiny_model):
    out = bj.encode(params, {"input_ids": IDS}, CONFIG, output_hidden_states=True)
    assert repr(out) == (
        "EncoderOutput(last_hidden_state=float32[2, 5, 16], pooler_output=float32[2, 16], "
        "hidden_states=2 x float32[2, 5, 16], attentions=None)"
    )
    assert repr(tiny_model) == "Pretrained(pretraining: BertConfig with 1 layers)"
    assert "Any" not in dir(bj) and "encode" in dir(bj)
