import dataclasses

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference.embed import embed, embed_lines, write_vectors
from bertjax.model import bert

# Three lengths, as the reference compiles a program for each.
TEXTS = ["the film was good", "bad plot is awful", "", "very " * 20 + "poor", "a film , two"]

encode = jax.jit(bert.encode, static_argnums=2)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_embeddings_are_those_of_every_text_alone(tiny_model, pooling):
    vectors = embed(tiny_model, TEXTS, pooling=pooling, batch_size=4)
    assert vectors.shape == (5, 16) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        batch = tiny_model.tokenizer.batch([text], max_length=40)
        out = encode(tiny_model.params, batch, tiny_model.config)
        expected = {
            "mean": out.last_hidden_state[0].mean(0),
            "cls": out.last_hidden_state[0, 0],
            "pooler": out.pooled[0],
        }[pooling]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_embeddings_of_several_layers_are_joined(tiny_model):
    both = embed(tiny_model, TEXTS, layer=(0, 1), pooling="cls")
    assert both.shape == (5, 32)
    of_all_tokens = embed(tiny_model, TEXTS, pooling="cls", layer_weights=(1.0,))
    np.testing.assert_array_equal(both[:, 16:], of_all_tokens)
    of_first_alone = embed(tiny_model, TEXTS, pooling="cls")
    np.testing.assert_allclose(both[:, 16:], of_first_alone, atol=2e-6)
    np.testing.assert_array_equal(both[:, :16], embed(tiny_model, TEXTS, -2, "cls"))
    assert embed(tiny_model, [("a", "b")]).shape == (1, 16)
    assert embed(tiny_model, []).shape == (0, 16)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_layers_are_summed_with_their_weights(tiny_model, pooling):
    joined = embed(tiny_model, TEXTS, (0, -1), pooling)
    summed = embed(tiny_model, TEXTS, (0, -1), pooling, layer_weights=(0.25, -2))
    assert summed.shape == (5, 16) and summed.dtype == np.float32
    # Pooling before or after the sum changes the order of float32 sums.
    np.testing.assert_allclose(summed, joined[:, :16] / 4 - 2 * joined[:, 16:], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layer": 2}, "the model has 1 layers; give -2 to 1"),
        ({"layer": ()}, "`layer` is empty"),
        ({"pooling": "sum"}, "`pooling` .sum. is unknown: give one of mean, cls"),
        ({"pooling": "pooler", "layer": 0}, "`pooling` pooler needs"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"layer_weights": (0.5, 0.5)}, "`layer_weights` has 2 numbers for 1 layers"),
        ({"layer": (0, 1), "layer_weights": ()}, "`layer_weights` has 0 numbers for 2 layers"),
        ({"layer_weights": (float("nan"),)}, "`layer_weights` has nan: give finite"),
        ({"layer_weights": (1e39,)}, "`layer_weights` has 1e\\+39: give finite"),
        ({"pooling": "pooler", "layer_weights": (1.0,)}, "leave out `layer_weights`"),
    ],
)
def test_what_embed_refuses(tiny_model, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        embed(tiny_model, ["a"], **arguments)


def test_a_missing_pooler_is_not_made_up(tiny_model):
    parts = {n: v for n, v in tiny_model.params.items() if n != "pooler"}
    model = dataclasses.replace(tiny_model, params=parts)
    np.testing.assert_array_equal(embed(model, TEXTS), embed(tiny_model, TEXTS))
    with pytest.raises(UserError, match="has a pooler"):
        embed(model, TEXTS, pooling="pooler")


def test_one_string_gives_one_vector(tiny_model):
    vector = embed(tiny_model, TEXTS[0], normalize=True)
    expected = embed(tiny_model, TEXTS[:1])[0]
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-6)


def test_vectors_are_written_as_an_array(tiny_model, tmp_path):
    file = tmp_path / "vectors.npy"
    words = write_vectors(file, embed_lines(tiny_model, TEXTS, pooling="cls"))
    assert words == "5 vectors of 16 numbers"
    np.testing.assert_array_equal(np.load(file), embed(tiny_model, TEXTS, pooling="cls"))
    assert write_vectors(file, iter(())) == "0 vectors of 0 numbers"
