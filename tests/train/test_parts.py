"""Parts of a model by name, and a step that trains only some of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.train import parts
from bertjax.train.paths import named, nested

NAMES = (
    *(f"embeddings/{name}/embedding" for name in ("word_embeddings", "position_embeddings")),
    *(f"encoder/layer_{n}/{name}/kernel" for n in range(12) for name in ("output", "attention")),
    "pooler/kernel",
    "classifier/kernel",
)
PARAMS = nested({name: jax.ShapeDtypeStruct((2, 3), jnp.float32) for name in NAMES})


def of_layers(*numbers):
    return {name for name in NAMES if any(f"layer_{n}/" in name for n in numbers)}


@pytest.mark.parametrize(
    ("freeze", "wanted"),
    [
        ((), set()),
        (("embeddings",), set(NAMES[:2])),
        (("embeddings/word_embeddings",), {NAMES[0]}),
        (("layer_1",), of_layers(1)),  # and not layer_10
        (("encoder/layer_11", "pooler"), of_layers(11) | {"pooler/kernel"}),
        (("layer_8-10",), of_layers(8, 9, 10)),
        (("layer_0-layer_1",), of_layers(0, 1)),
        (("encoder",), of_layers(*range(12))),
        (("layer_3/output",), {"encoder/layer_3/output/kernel"}),
    ],
    ids=str,
)
def test_what_is_frozen(freeze, wanted):
    frozen = parts.frozen_names(freeze, PARAMS)
    assert frozen == wanted
    trained, rest = parts.split(PARAMS, frozen)
    assert named(trained).keys() == set(NAMES) - wanted and named(rest).keys() == wanted
    assert parts.join(trained, rest) == PARAMS
    assert parts.trained_share(PARAMS, frozen) == (
        f"{6 * (len(NAMES) - len(wanted))} of {6 * len(NAMES)} parameters are trained, the rest is "
        "frozen."
    )


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        (("layer_12",), "no part 'layer_12' in this model; it has embeddings, encoder, pooler, cl"),
        (("layer_8-12",), "no part 'layer_12'.*, layer_10, layer_11.$"),
        (("layer_5-3",), "no part 'layer_5-3'"),
        (("embedding",), "no part 'embedding'"),
        (("",), "no part ''"),
        (("/",), "no part '/'"),
        (("embeddings", "encoder", "pooler", "classifier"), "leaves nothing to train"),
    ],
    ids=str,
)
def test_parts_that_are_not_there(freeze, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        parts.frozen_names(freeze, PARAMS)


CONFIG = bj.BertConfig(
    vocab_size=11,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
BATCH = {
    "input_ids": np.arange(16, dtype=np.int32).reshape(2, 8) % 11,
    "attention_mask": np.ones((2, 8), np.int32),
    "label": np.array([0, 1], np.int32),
    "example_weight": np.ones(2, np.float32),
}
