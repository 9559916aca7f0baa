"""Wrong arguments of the functions on arrays are one sentence each, also under jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj

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


@pytest.mark.parametrize("wrong", [30, -1])
def test_ids_beyond_the_vocabulary_are_refused_outside_of_jit(params, wrong):
    ids = jnp.asarray(IDS).at[1, 2].set(wrong)
    with pytest.raises(ValueError, match="and the vocabulary 30 tokens"):
        bj.encode(params, {"input_ids": ids}, CONFIG)


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
