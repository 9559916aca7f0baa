"""Decides which tokens a search may write next, and finds the most probable of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.model.generation_config import GenerationConfig

_BLOCK = 128
_FEW = 16


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

    def __post_init__(self) -> None:
        if self.config.num_beams > self.vocabulary.size:
            raise UserError(
                f"`num_beams` {self.config.num_beams} exceeds the {self.vocabulary.size} entries "
                "of the vocabulary: give fewer beams."
            )

    def allow(self, logits: jax.Array, history: jax.Array, index: jax.Array) -> jax.Array:
        """Returns logits [B, K, V] with -inf for the tokens that may not come next.

        `history`, int32 [B, K, T + 1], is the start token and the tokens generated so far; those
        after position `index` do not count. Forced tokens are `forced`'s matter.
        """
        size = logits.shape[-1]
        forbidden = self._never(size)
        if self.config.min_length:
            forbidden = forbidden | self._ends_early(np.arange(size), index)
            logits = jnp.where(forbidden, -jnp.inf, logits)
        elif forbidden.any():
            logits = jnp.where(forbidden, -jnp.inf, logits)
        if ngram := self.config.no_repeat_ngram_size:
            repeated = repeating_tokens(history, index, ngram, size)
            forbid = jax.vmap(jax.vmap(lambda row, ids: row.at[ids].set(-jnp.inf, mode="drop")))
            logits = forbid(logits, repeated)
        return logits

    def _never(self, size: int) -> np.ndarray:
        """Returns bool [size]: the ids that are never generated."""
        never = np.arange(size) >= self.vocabulary.size
        never[list(self.vocabulary.suppressed_ids)] = True
        return never

    def _ends_early(self, ids: np.ndarray | jax.Array, index: jax.Array) -> jax.Array:
        """Returns which ids are the end token before the minimum length."""
        is_end = ids == self.vocabulary.end_id
        return jnp.logical_and(is_end, index < self.config.min_length)

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
        # In another shape than that of the matrix of `_best`, XLA:CPU would add the bias twice.
        rows = logits.reshape(-1, logits.shape[-1])
        normalizer = jax.nn.logsumexp(rows, axis=-1).reshape(*logits.shape[:-1], 1)
        values, ids = self._best(logits, history, index, count)
        is_forced, token = self.forced(index)
        only = np.where(np.arange(count) == 0, 0.0, -np.inf).astype(np.float32)
        return jnp.where(is_forced, only, values - normalizer), jnp.where(is_forced, token, ids)

    def _best(
        self, logits: jax.Array, history: jax.Array, index: jax.Array, count: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the `count` largest logits of tokens that may come next, and their ids."""
        size = logits.shape[-1]
        never = np.flatnonzero(self._never(size))
        if self.config.no_repeat_ngram_size or len(never) > _FEW:
            return jax.lax.top_k(self.allow(logits, history, index), count)
        # Take a few more and drop the forbidden ones, which needs no second copy of the logits.
        best = jax.lax.top_k(logits.reshape(-1, size), min(count + len(never) + 1, size))
        values, ids = (each.reshape(*logits.shape[:-1], -1) for each in best)
        forbidden = (ids[..., None] == never).any(-1) | self._ends_early(ids, index)
        values, places = jax.lax.top_k(jnp.where(forbidden, -jnp.inf, values), count)
        return values, jnp.take_along_axis(ids, places, axis=-1)

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
        uniform = jax.vmap(jax.vmap(jax.random.uniform))(keys)
        ids = choose(uniform, self.allow(logits, history, index), self.config)
        is_forced, token = self.forced(index)
        chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
        return jnp.where(is_forced, 0.0, log_probs), jnp.where(is_forced, token, ids)


def choose(uniform: jax.Array, logits: jax.Array, config: GenerationConfig) -> jax.Array:
    """Returns ids, int32 [...], drawn from logits [..., V] / temperature by inverting their CDF.

    It draws from the top_k, and then from the top_p of these: from the tokens of which the more
    probable ones have a sum below top_p, as Hugging Face's `TopPLogitsWarper` does. Of equal tokens
    at the limit of top_k the lower ids are kept, and at the limit of top_p all.

    Args:
        uniform: float32 [...], numbers in [0, 1).
        logits: float32 [..., V].
        config: has temperature, top_k and top_p.
    """
    ids = None
    if config.top_k:
        logits, ids = jax.lax.top_k(logits, min(config.top_k, logits.shape[-1]))
    weights = jax.nn.softmax(logits / config.temperature, axis=-1)
    if config.top_p < 1:
        weights = jnp.where(weights < _least(weights, config.top_p), 0.0, weights)
    places = _invert(uniform, weights)
    return places if ids is None else jnp.take_along_axis(ids, places[..., None], -1)[..., 0]


def _least(probs: jax.Array, top_p: float) -> jax.Array:
    """Returns the least number, [..., 1], above which probs [..., V] have a sum below top_p.

    It bisects the bits of a float32, whose order is that of the numbers. Sorting takes 50 times as
    long on a CPU.
    """

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        above = probs > jax.lax.bitcast_convert_type(middle, jnp.float32)
        small = jnp.sum(probs, axis=-1, keepdims=True, where=above) < top_p
        return jnp.where(small, low, middle + 1), jnp.where(small, middle, high)

    low = jnp.zeros((*probs.shape[:-1], 1), jnp.int32)
    one = jnp.full_like(low, np.float32(1).view(np.int32))
    least, _ = jax.lax.fori_loop(0, 30, halve, (low, one))  # 1.0 is below 2 ** 30 in bits
    return jax.lax.bitcast_convert_type(least, jnp.float32)


def _invert(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the places, int32 [...], where the CDF of weights [..., V] passes `uniform`.

    It finds the block of weights first, because a cumulative sum over V is slow. A place with
    weight 0 is never returned.
    """
    size = weights.shape[-1]
    weights = jnp.pad(weights, [(0, 0)] * uniform.ndim + [(0, -size % _BLOCK)])
    blocks = weights.reshape(*uniform.shape, -1, _BLOCK)
    cumulative = jnp.cumsum(blocks.sum(-1), axis=-1)
    target = uniform[..., None] * cumulative[..., -1:]
    block = jnp.sum(cumulative <= target, axis=-1, keepdims=True)
    before = jnp.take_along_axis(cumulative, jnp.maximum(block - 1, 0), -1)
    target = target - jnp.where(block > 0, before, 0.0)
    inside = jnp.cumsum(jnp.take_along_axis(blocks, block[..., None], -2)[..., 0, :], axis=-1)
    # Rounding may put the target past the end of its block.
    target = jnp.minimum(target, inside[..., -1:] * (1 - np.finfo(np.float32).eps))
    return block[..., 0] * _BLOCK + jnp.sum(inside <= target, axis=-1)


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
