import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.model import logits_processing
from bertjax.model.generation_config import GenerationConfig

POINTS = 1 << 12


@functools.partial(jax.jit, static_argnames="config")
def counts(logits, config):
    """Draws at equidistant points of [0, 1), and counts every token."""
    uniform = (jnp.arange(POINTS) + 0.5) / POINTS
    ids = logits_processing.choose(uniform, jnp.broadcast_to(logits, (POINTS, logits.size)), config)
    return jnp.bincount(ids, length=logits.size)


def kept_probs(logits, temperature, top_k, top_p):
    """Hugging Face's warpers, in NumPy and float64."""
    logits = np.asarray(logits, np.float64) / temperature
    if top_k:
        logits = np.where(logits < np.sort(logits)[-top_k], -np.inf, logits)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    order = np.argsort(probs)
    removed = np.cumsum(probs[order]) <= 1 - top_p
    removed[-1] = False
    probs[order[removed]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 7, 1.0), (1.0, 0, 0.8), (2.0, 40, 0.6), (1.0, 1, 1.0),
     (1.0, 0, 1e-6), (1.0, 500, 0.999)],
)  # fmt: skip
def test_tokens_are_drawn_in_proportion_from_those_that_are_kept(temperature, top_k, top_p):
    # 300 tokens are three blocks; of the last one, and of the end of the first, none is allowed.
    logits = np.random.default_rng(0).normal(size=300).astype(np.float32) * 2
    logits[100:140] = logits[250:] = -np.inf
    config = GenerationConfig(
        num_beams=1, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p
    )
    probs = kept_probs(logits, temperature, min(top_k, 300), top_p)
    found = np.asarray(counts(jnp.asarray(logits), config))
    assert (found[probs == 0] == 0).all()
    # Both ends of a token's interval fall between two points. 0.2: rounding of the cumulative sums.
    assert np.abs(found - probs * POINTS).max() < 1.2


def test_the_ends_of_the_interval_draw_the_first_and_the_last_token_that_is_allowed():
    # Neither the first nor the last of three blocks has an allowed token.
    logits = jnp.full((2, 300), -jnp.inf).at[:, 150:170].set(0.0)
    uniform = jnp.asarray([0.0, np.nextafter(np.float32(1), np.float32(0))])
    config = GenerationConfig(num_beams=1, do_sample=True)
    assert logits_processing.choose(uniform, logits, config).tolist() == [150, 169]


def test_n_grams_that_would_occur_twice():
    history = jnp.asarray([[[1, 5, 6, 5, 7, 5, 9, 9], [1, 1, 1, 1, 1, 1, 9, 9]]])
    index = jnp.int32(5)  # the 9s are not generated yet

    def repeated(ngram):
        found = jax.jit(logits_processing.repeating_tokens, static_argnums=(2, 3))(
            history, index, ngram, 99
        )
        return [sorted(set(beam) - {99}) for beam in found[0].tolist()]

    assert repeated(1) == [[1, 5, 6, 7], [1]]
    assert repeated(2) == [[6, 7], [1]]  # after 5
    assert repeated(3) == [[], [1]]  # after 7 5 and after 1 1
    assert repeated(6) == [[], [1]] and repeated(7) == [[], []] and repeated(20) == [[], []]
