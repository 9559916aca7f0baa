"""JAX's Splash kernel, interpreted without a TPU, against plain attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model.attention import attention_context, attention_probs
from bertjax.model.splash import check_splash, splash_rows

PLAIN = bj.Execution(attention="plain")


def test_the_kernel_and_its_gradients_are_those_of_plain_attention():
    drawn = jax.random.normal(jax.random.key(0), (4, 2, 2, 256, 16))
    *inputs, gradient = drawn * jnp.array([0.25, 1.0, 1.0, 1.0]).reshape(4, 1, 1, 1, 1)
    real = jnp.arange(256) < jnp.array([[200], [256]])

    def plain(query, key, value):
        probs = attention_probs(query, key, real[:, None, None], PLAIN)
        return attention_context(probs, value, PLAIN)

    splash = functools.partial(splash_rows, real=real.astype(jnp.int32), interpret=True)
    found, backward = jax.vjp(splash, *inputs)
    wanted, plain_backward = jax.vjp(plain, *inputs)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    for own, other in zip(backward(gradient), plain_backward(gradient), strict=True):
        assert float(abs(other).max()) > 0.1
        np.testing.assert_allclose(own, other, atol=5e-6)  # of sums over 256 rows


def test_without_a_tpu_it_is_plain_attention():
    config = bj.BertConfig.named("tiny", vocab_size=50, num_hidden_layers=1)
    params = bj.init_params(config, jax.random.key(0), heads=())
    inputs = {"input_ids": jnp.arange(128)[None] % 50, "attention_mask": jnp.ones((1, 128))}
    plain, splash = (
        bj.encode(params, inputs, config, execution=bj.Execution(attention=each))
        for each in ("plain", "splash")
    )
    np.testing.assert_allclose(splash.pooler_output, plain.pooler_output, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((128, 128, 0.1), "drops no probabilities: set `model.attention_probs_dropout_prob` to 0"),
        ((128, 72, 0.0), "takes rows of a multiple of 128 tokens, and these have 72"),
        ((128, 128, 0.0, np.ones((1, 1, 128, 128))), "reads masks of padding alone"),
    ],
    ids=["dropout", "length", "packed"],
)
def test_what_it_cant_compute_is_refused(arguments, told):
    with pytest.raises(bj.UserError, match=told):
        check_splash(*arguments)
    check_splash(384, 128, 0.0, np.ones((2, 1, 1, 128)))
