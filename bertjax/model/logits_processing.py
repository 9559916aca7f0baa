"""Decides which tokens a search may write next, and finds the most probable of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.model.generation_config import GenerationConfig


@dataclasses.dataclass(frozen=True)
class OutputVocabulary:
    """The ids that generation writes. It is hashable, so it can be a static argument of `jit`."""

    size: int
    """Number of ids. Those from here to V, which pad a model's vocabulary, are never generated."""
    start_id: int
    """The first input of the model; no part of a generated sequence."""
    end_id: int
    """The token that ends a sequence."""
    pad_id: int
    """What follows the end of a sequence."""
    forced_start_id: int | None = None
    """The first token of every generated sequence, if it is given."""
    force_end: bool = False
    """A sequence of the maximum length has the end token as its last one."""
    suppressed_ids: tuple[int, ...] = ()
    """Ids that are never generated, unless they are forced."""


@dataclasses.dataclass(frozen=True)
class TokenRules:
    """The tokens that a search may write at each step."""

    config: GenerationConfig
    vocabulary: OutputVocabulary

    def allow(self, logits: jax.Array, history: jax.Array, index: jax.Array) -> jax.Array:
        """Returns logits [B, K, V] with -inf for the tokens that may not come next.

        `history`, int32 [B, K, T + 1], is the start token and the tokens generated so far; those
        after position `index` do not count. Forced tokens are `forced`'s matter.
        """
        size = logits.shape[-1]
        forbidden = np.arange(size) >= self.vocabulary.size
        forbidden[list(self.vocabulary.suppressed_ids)] = True
        if self.config.min_length:
            ends = np.arange(size) == self.vocabulary.end_id
            early = jnp.logical_and(ends, index < self.config.min_length)
            logits = jnp.where(early | forbidden, -jnp.inf, logits)
        elif forbidden.any():
            logits = jnp.where(forbidden, -jnp.inf, logits)
        if ngram := self.config.no_repeat_ngram_size:
            rows, beams = np.indices(history.shape[:2], sparse=True)
            repeated = repeating_tokens(history, index, ngram, size)
            logits = logits.at[rows[..., None], beams[..., None], repeated].set(
                -jnp.inf, mode="drop"
            )
        return logits

    def forced(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns whether a token is forced at this step, bool [], and which, int32 []."""
        vocabulary = self.vocabulary
        start = vocabulary.forced_start_id
        first = jnp.logical_and(index == 0, start is not None)
        last = jnp.logical_and(index == self.config.max_length - 1, vocabulary.force_end)
        token = jnp.where(last, vocabulary.end_id, vocabulary.end_id if start is None else start)
        return first | last, token

    def candidates(
        self, logits: jax.Array, history: jax.Array, index: jax.Array, count: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the `count` most probable tokens of every beam, and their log probabilities.

        Probabilities are those before any token is forbidden, as in Hugging Face's search; a forced
        token has log probability 0. Equal ones are in the order of their ids.

        Returns:
            log_probs: float32 [B, K, count], in descending order; -inf for tokens that may not come
                next, which are there if fewer than `count` may.
            ids: int32 [B, K, count].
        """
        normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        values, ids = jax.lax.top_k(self.allow(logits, history, index), count)
        is_forced, token = self.forced(index)
        only = np.where(np.arange(count) == 0, 0.0, -np.inf).astype(np.float32)
        return jnp.where(is_forced, only, values - normalizer), jnp.where(is_forced, token, ids)

    def draw(
        self, logits: jax.Array, history: jax.Array, index: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Draws the next token of every sample.

        Args:
            logits: float32 [B, K, V].
            history: int32 [B, K, T + 1], as in `allow`.
            index: int32 [], the number of the step.
            keys: random keys [B].

        Returns:
            log_probs: float32 [B, K], before temperature, top_k, top_p and forbidden tokens; a
                forced token has 0.
            ids: int32 [B, K].
        """
        beams = jnp.arange(logits.shape[1])
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys = jax.vmap(lambda key: fold(jax.random.fold_in(key, index), beams))(keys)  # [B, K]
        kept = truncate(self.allow(logits, history, index), self.config)
        ids = jax.vmap(jax.vmap(jax.random.categorical))(keys, kept)
        is_forced, token = self.forced(index)
        chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
        return jnp.where(is_forced, 0.0, log_probs), jnp.where(is_forced, token, ids)


def truncate(logits: jax.Array, config: GenerationConfig) -> jax.Array:
    """Returns logits [..., V] / temperature, with -inf outside the top_k and then the top_p."""
    logits = logits / config.temperature
    if config.top_k:
        top_k = min(config.top_k, logits.shape[-1])
        logits = jnp.where(logits < jax.lax.top_k(logits, top_k)[0][..., -1:], -jnp.inf, logits)
    if config.top_p < 1:
        descending = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        least = jnp.min(jnp.where(before < config.top_p, descending, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def repeating_tokens(history: jax.Array, index: jax.Array, ngram: int, none: int) -> jax.Array:
    """Returns the tokens that would complete an n-gram of the history a second time.

    It compares the last n - 1 tokens with every window of the history, as Hugging Face's
    `NoRepeatNGramLogitsProcessor` does.

    Args:
        history: int32 [B, K, T + 1]; positions after `index` do not count.
        index: int32 [], the position of the last token.
        ngram: n, at least 1.
        none: stands for "no token" in the result.

    Returns:
        int32 [B, K, T + 2 - n]: for each window the token that it forbids, or `none`.
    """
    windows = history.shape[-1] - ngram + 1
    if windows <= 0:
        return jnp.full((*history.shape[:2], 1), none, history.dtype)
    repeated = jnp.arange(windows) + ngram - 1 <= index
    for place in range(ngram - 1):
        # If the history is shorter than n - 1, this clamps, and every window is beyond it anyway.
        last = jax.lax.dynamic_slice_in_dim(history, index - ngram + 2 + place, 1, axis=-1)
        repeated &= history[..., place : place + windows] == last
    return jnp.where(repeated, history[..., ngram - 1 :], none)
