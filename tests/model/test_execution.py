"""Executions: which operations stay float32, and the error of bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import Loss, init_state, make_train_step

CONFIG = bj.BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=12,
)
NARROW = bj.Execution(dtype="bfloat16")
# Operations of softmax, LayerNorm, GELU and losses, none of products, residuals, dropout, pooler.
DELICATE = ("exp", "exp2", "log", "log1p", "rsqrt", "sqrt", "erf", "logistic", "div")
REDUCTIONS = ("reduce_sum", "reduce_max", "argmax", "cumsum")
EPS = 2.0**-8  # spacing of bfloat16 at 1


@pytest.fixture(scope="module")
def params():
    """Weights ten times as large as initial ones, so that no output is near 0."""
    wide = bj.BertConfig(**{**CONFIG.to_dict(), "initializer_range": 0.2})
    return jax.jit(functools.partial(bj.init_params, wide))(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(5, 50, (4, 12)).astype(np.int32),
        "attention_mask": (np.arange(12)[None] < np.array([[12], [9], [12], [5]])).astype(np.int32),
        "token_type_ids": np.zeros((4, 12), np.int32),
        "masked_positions": np.tile(np.arange(1, 3, dtype=np.int32), (4, 1)),
        "masked_labels": rng.integers(5, 50, (4, 2)).astype(np.int32),
        "masked_weights": np.ones((4, 2), np.float32),
        "next_sentence_label": rng.integers(0, 2, 4).astype(np.int32),
    }


def loss_of(params, batch, execution, key=None):
    return bj.pretraining_loss(params, batch, CONFIG, execution=execution, dropout_key=key)[0]


def equations(jaxpr):
    """Yields the equations of a jaxpr and of its inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def narrow_operations(function, *arguments):
    """Returns the primitives with bfloat16 inputs, and the shapes of their first input."""
    return [
        (equation.primitive.name, equation.invars[0].aval.shape)
        for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if any(getattr(var.aval, "dtype", None) == jnp.bfloat16 for var in equation.invars)
    ]


@pytest.mark.parametrize(
    "execution",
    [NARROW, bj.Execution(dtype="bfloat16", scan_layers=True, remat="full", attention="plain")],
    ids=["loop", "scan"],
)
def test_softmax_layer_norm_and_loss_are_float32_in_bfloat16(params, batch, execution):
    loss = functools.partial(loss_of, execution=execution, key=jax.random.key(0))
    forward = narrow_operations(loss, params, batch)
    names = {name for name, _ in forward}
    assert "dot_general" in names  # the products are in bfloat16, and the search finds them
    assert not names & {*DELICATE, *REDUCTIONS}
    both = narrow_operations(jax.value_and_grad(loss), params, batch)
    assert not {name for name, _ in both} & {*DELICATE, "reduce_max", "argmax", "cumsum"}


def test_master_weights_moments_and_gradients_are_float32_in_bfloat16(params, batch):
    optimizer = make_optimizer(OptimizerConfig(), 1e-4)
    loss = functools.partial(bj.pretraining_loss, config=CONFIG, execution=NARROW)
    step = make_train_step(Loss(loss, bj.pretraining_normalizers), optimizer)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    new, metrics = jax.eval_shape(step, state, batch)
    grads = jax.eval_shape(jax.grad(functools.partial(loss_of, execution=NARROW)), params, batch)
    leaves = jax.tree.leaves((new.params, new.opt_state, metrics, grads))
    kinds = {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.dtype, new) == jax.tree.map(
        lambda leaf: leaf.dtype, state
    )


def dtype_of(leaf):
    return leaf.dtype


def value_and_grad(params, batch, execution):
    both = jax.jit(jax.value_and_grad(functools.partial(loss_of, execution=execution)))
    loss, grads = both(params, batch)
    return float(loss), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])


def test_bfloat16_is_within_its_rounding_of_float32(params, batch):
    exact, exact_grad = value_and_grad(params, batch, bj.Execution())
    loss, grad = value_and_grad(params, batch, NARROW)
    assert abs(loss - exact) < EPS * exact
    # Forward and backward through two layers round about twenty times, by at most EPS / 2 each.
    assert np.linalg.norm(grad - exact_grad) < 10 * EPS * np.linalg.norm(exact_grad)
    assert np.linalg.norm(grad - exact_grad) > 1e-4 * np.linalg.norm(exact_grad)  # not float32
    # The same products of the same bfloat16 numbers, fused in other ways.
    other = bj.Execution(dtype="bfloat16", scan_layers=True, remat="dots", attention="plain")
    again, again_grad = value_and_grad(params, batch, other)
    assert abs(again - loss) < EPS * exact
    assert np.linalg.norm(again_grad - grad) < 10 * EPS * np.linalg.norm(grad)
