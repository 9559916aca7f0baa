"""Tests the count of FLOPs of traced functions, and the roofline."""

import jax
import jax.numpy as jnp
import pytest

from bertjax.plan.roofline import Roofline, traced_flops

ONE = 2 * 4 * 8 * 8  # [4, 8] @ [8, 8]


def product(x):
    return jnp.tanh(x @ jnp.ones((8, 8)))


def flops(function):
    return traced_flops(jax.make_jaxpr(function)(jnp.ones((4, 8))).jaxpr)


def scanned(x):
    return jax.lax.scan(lambda x, _: (product(x), None), x, length=5)[0]


def both(x):
    return jax.lax.cond(x[0, 0] > 0, product, lambda x: product(product(x)), x)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (product, 1),
        (jax.jit(product), 1),
        (scanned, 5),
        (both, 2),
        (jax.jit(lambda x: (product(x), product(product(x)))[0]), 1),
        (jax.grad(lambda x: product(x).sum()), 2),
        (jax.value_and_grad(lambda x: jax.checkpoint(product)(x).sum()), 3),
    ],
    ids=["product", "jit", "scan", "cond", "unread", "gradient", "recomputed"],
)
def test_products_count_as_often_as_they_run(function, products):
    assert flops(function) == products * ONE


def test_the_slowest_resource_bounds_the_step():
    assert Roofline(2.0, 1.0, None) == (2.0, 1.0, None)
    assert Roofline(2.0, 1.0, None).bound == "matrix products"
    assert (Roofline(2.0, 3.0, 1.0).bound, Roofline(2.0, 3.0, 1.0).seconds) == ("HBM traffic", 3.0)
    assert Roofline(2.0, 3.0, 4.0).bound == "exchange between chips"
