"""Attention with dropout has its own derivative; LayerNorm of bfloat16 has its own variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.model.attention import attention_context, attention_probs, dropped_attention
from bertjax.model.dropout import Site, dropout
from bertjax.model.layers import LayerNorm

EXECUTION = bj.Execution()


def plain(query, key, value, mask, keys, rate):
    probs = dropout(attention_probs(query, key, mask, EXECUTION), keys, Site.ATTENTION_PROBS, rate)
    return attention_context(probs, value, EXECUTION)


def ours(query, key, value, mask, keys, rate):
    how = Site.ATTENTION_PROBS, rate, EXECUTION
    return dropped_attention(query, key, value, mask, keys, None, *how)


@functools.partial(jax.jit, static_argnums=(0, 5))
def value_and_gradients(function, arrays, weights, mask, keys, rate):
    def loss(arrays):
        context = function(*arrays, mask, keys, rate)
        return (context * weights).sum(), context

    (_, context), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
    return context, gradients


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_derivative_of_attention_is_that_of_jax(rate):
    draw = np.random.default_rng(0).standard_normal
    rows, heads, queries, keys, size = 2, 3, 5, 7, 4
    arrays = tuple(
        jnp.asarray(draw((rows, heads, length, size)), jnp.float32)
        for length in (queries, keys, keys)
    )
    weights = jnp.asarray(draw((rows, heads, queries, size)), jnp.float32)
    mask = jnp.arange(keys) < jnp.array([[7], [4]])
    given = arrays, weights, mask[:, None, None], jax.random.split(jax.random.key(1), rows), rate
    context, gradients = value_and_gradients(ours, *given)
    expected, expected_gradients = value_and_gradients(plain, *given)
    np.testing.assert_array_equal(context, expected)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_layer_norm_of_bfloat16_is_as_exact_as_its_input():
    config = bj.BertConfig(hidden_size=768)
    wide = np.random.default_rng(0).standard_normal((4, 768)) * [[1], [1], [0.1], [0]]
    wide += np.array([[0], [30], [8], [100]])  # the last row is constant
    x = jnp.asarray(wide, jnp.bfloat16)
    norm = LayerNorm(config)
    params = {"params": {"scale": jnp.ones(768), "bias": jnp.zeros(768)}}

    def loss(x):
        out = norm.apply(params, x)
        return (out.astype(jnp.float32) * jnp.arange(768)).sum(), out

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    exact = np.asarray(x, np.float64)
    centered = exact - exact.mean(-1, keepdims=True)
    exact = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + config.layer_norm_eps)
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8, atol=2**-8)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
