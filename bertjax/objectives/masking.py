"""Masked-LM corruption, drawn on the device inside the train step.

Reproduces `create_masked_lm_predictions` of Google's `create_pretraining_data.py`: the budget, the
80/10/10 rule drawn for every chosen piece on its own, and whole words taken in random order while
they still fit the budget; or the spans of SpanBERT, each of which has one draw of that rule.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError

# Words of a span: geometric with p = 0.2 among 1 ... 10, 3.8 on average (SpanBERT, section 3.1).
_SPAN_P = 0.2
LONGEST_SPAN = 10


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
    """What the masked-LM objective hides; the defaults are Google's."""

    rate: float = 0.15
    """Share of tokens to predict, [CLS] and [SEP] counted."""
    max_predictions: int | None = None
    """Most predictions a row; left out: round(rate * sequence length), which cuts none."""
    whole_word: bool = False
    """Mask whole words."""
    span: bool = False
    """Mask runs of whole words, 3.8 long on average, as SpanBERT does."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise UserError(f"masking rate is {self.rate}: give a share between 0 and 1.")

    def predictions(self, max_seq_length: int) -> int:
        """P for rows of this length.

        Raises:
            UserError: max_predictions cuts what the rate asks for.
        """
        needed = _budget(self.rate, max_seq_length)
        if self.max_predictions is None:
            return needed
        if self.max_predictions < needed:
            raise UserError(
                f"max_predictions {self.max_predictions} is too small: a rate of {self.rate} of "
                f"{max_seq_length} tokens is {needed}, so a full row would be trained on "
                f"{self.max_predictions / max_seq_length:.0%} of its tokens; give at least "
                f"{needed}, or leave it out."
            )
        return self.max_predictions


def _budget(rate: float, length: int) -> int:
    """Predictions of a row, as Google's code counts them."""
    return max(1, round(rate * length))


def mask_tokens(
    keys: jax.Array,
    input_ids: jax.Array,
    *,
    mask_id: int,
    vocab_size: int,
    special: jax.Array,
    word_starts: jax.Array | None = None,
    rate: float = 0.15,
    max_predictions: int,
    whole_word: bool = False,
    span: bool = False,
    mask_prob: float = 0.8,
    random_prob: float = 0.1,
    attention_mask: jax.Array | None = None,
    pad_id: int = 0,
) -> dict[str, jax.Array]:
    """Chooses positions to predict and corrupts them.

    Args:
        keys: [B] random keys, one an example; a row's result depends on its key and ids alone.
        input_ids: [B, T] int32.
        mask_id: the id of [MASK].
        vocab_size: random replacements are uniform over all V ids, as in Google's code.
        special: bool [V]; these ids ([PAD], [CLS], [SEP], [MASK]) are never chosen.
        word_starts: bool [V], ids that begin a word (specials too); needed by whole_word and span.
        rate: share of tokens to predict, [CLS] and [SEP] counted: max(1, round(rate * length)).
        max_predictions: P, the most a row may predict.
        whole_word: choose words, all of whose pieces are predicted.
        span: choose runs of whole words, of which a piece of each is equally likely to be the
            first word's: as long as a geometric draw (p = 0.2, at most 10) says, but no further
            than the next special id, the next chosen word or the budget. (SpanBERT's budget is
            rounded up, and cuts its last word.)
        mask_prob: chance that a chosen piece (of spans: a whole span) becomes [MASK].
        random_prob: chance that it becomes a random id; the rest stays as it is.
        attention_mask: [B, T], 0 at padding; ids other than pad_id where it is None.
        pad_id: the id of padding.

    Returns:
        input_ids [B, T] corrupted; masked_positions, masked_labels [B, P] int32 in ascending
        position, and masked_weights [B, P] float32, 0 for the unused rest.

    Raises:
        ValueError: whole_word or span without word_starts.

    Source of span: facebookresearch/SpanBERT, pretraining/fairseq/data/masking.py.
    """
    if (whole_word or span) and word_starts is None:
        raise ValueError("whole_word and span need word_starts, the ids that begin a word.")
    real = input_ids != pad_id if attention_mask is None else attention_mask != 0
    candidates = real & ~jnp.asarray(special)[input_ids]
    # A table, because float32 rounds 0.15 * 190 to another whole number than Python does.
    budgets = [min(_budget(rate, n), max_predictions) for n in range(input_ids.shape[1] + 1)]
    budget = jnp.asarray(budgets, jnp.int32)[real.sum(-1)]
    words = None
    if whole_word or span:
        starts = jnp.asarray(word_starts)[input_ids]
        if span:  # [SEP] is no word with the rest of a cut one after it: no span runs across it
            starts |= jnp.pad(~candidates[:, :-1], ((0, 0), (1, 0)))
        words = jnp.cumsum(starts, axis=-1)

    def one_row(
        key: jax.Array,
        ids: jax.Array,
        candidates: jax.Array,
        budget: jax.Array,
        words: jax.Array | None,
    ) -> dict[str, jax.Array]:
        order_key, action_key, random_key = jax.random.split(key, 3)
        draw = jax.random.uniform(action_key, ids.shape)
        if words is None:
            chosen = _choose_pieces(order_key, candidates, budget)
        elif span:
            spans = _choose_spans(order_key, candidates, budget, words)
            chosen, draw = spans >= 0, draw[spans]
        else:
            chosen = _choose_words(order_key, candidates, budget, words)
        replacement = jax.random.randint(random_key, ids.shape, 0, vocab_size, ids.dtype)
        corrupted = jnp.where(draw < mask_prob + random_prob, replacement, ids)
        corrupted = jnp.where(draw < mask_prob, mask_id, corrupted)
        # Chosen positions first, in order: a stable sort of the negated choice.
        positions = jnp.argsort(~chosen, stable=True)[:max_predictions]
        return {
            "input_ids": jnp.where(chosen, corrupted, ids),
            "masked_positions": jnp.where(chosen[positions], positions, 0).astype(jnp.int32),
            "masked_labels": jnp.where(chosen[positions], ids[positions], 0),
            "masked_weights": chosen[positions].astype(jnp.float32),
        }

    masked = jax.vmap(one_row)(keys, input_ids, candidates, budget, words)
    return _padded(masked, max_predictions)


def _choose_pieces(key: jax.Array, candidates: jax.Array, budget: jax.Array) -> jax.Array:
    """bool [T]: `budget` of the candidates, every subset equally likely."""
    order = _random_order(key, candidates)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0]))
    return candidates & (rank < budget)


def _choose_words(
    key: jax.Array, candidates: jax.Array, budget: jax.Array, words: jax.Array
) -> jax.Array:
    """bool [T]: whole words in random order, each taken if it still fits; words [T]: numbers."""
    count = words.shape[0] + 1  # word numbers run from 0 to T
    sizes = jnp.zeros(count, jnp.int32).at[words].add(candidates.astype(jnp.int32))
    order = _random_order(key, sizes > 0)

    def take(left: jax.Array, word: jax.Array):
        fits = (sizes[word] > 0) & (sizes[word] <= left)
        return left - jnp.where(fits, sizes[word], 0), fits

    # From the budget down, not from 0 up: under shard_map a constant can't become a device's own.
    _, fits = jax.lax.scan(take, budget, order)
    taken = jnp.zeros(count, bool).at[order].set(fits)
    return candidates & taken[words]


class _Spans(NamedTuple):
    """What `_choose_spans` has chosen so far."""

    attempt: jax.Array
    """The next place in the random order."""
    left: jax.Array
    """What remains of the budget."""
    of_word: jax.Array
    """The attempt that chose each word, or -1; int32 [words + LONGEST_SPAN]."""


def _choose_spans(
    key: jax.Array, candidates: jax.Array, budget: jax.Array, words: jax.Array
) -> jax.Array:
    """int32 [T]: which span a piece is chosen by, a number in [0, T), or -1.

    Pieces in random order; the word of each, where it isn't chosen yet, begins a span.
    """
    order_key, length_key = jax.random.split(key)
    length = candidates.shape[0]
    # No word follows the last one: the padding has the size 0, as special ids have.
    sizes = jnp.zeros(length + 1 + LONGEST_SPAN, jnp.int32)
    sizes = sizes.at[words].add(candidates.astype(jnp.int32))
    first_words = words[_random_order(order_key, candidates)]
    wanted = span_lengths(length_key, length)
    attempts = candidates.sum(dtype=jnp.int32)

    def going_on(state: _Spans) -> jax.Array:
        return (state.attempt < attempts) & (state.left > 0)

    def begin_span(state: _Spans) -> _Spans:
        run = first_words[state.attempt] + jnp.arange(LONGEST_SPAN)
        free = (sizes[run] > 0) & (state.of_word[run] < 0)
        free &= jnp.arange(LONGEST_SPAN) < wanted[state.attempt]
        fits = jnp.cumsum(sizes[run]) <= state.left
        taken = jnp.cumprod(free & fits).astype(bool)
        return _Spans(
            state.attempt + 1,
            state.left - jnp.where(taken, sizes[run], 0).sum(),
            state.of_word.at[run].set(jnp.where(taken, state.attempt, state.of_word[run])),
        )

    # From what differs between devices, not from constants: see `_choose_words`.
    start = _Spans(attempts * 0, budget, sizes * 0 - 1)
    chosen = jax.lax.while_loop(going_on, begin_span, start).of_word[words]
    return jnp.where(candidates, chosen, -1)


def span_lengths(key: jax.Array, count: int) -> jax.Array:
    """Words of spans, int32 [count] in 1 ... LONGEST_SPAN: a geometric distribution, p = 0.2, that
    has lost its longer ones, not one that has them all at 10 (so the mean is 3.8)."""
    chances = _SPAN_P * (1 - _SPAN_P) ** np.arange(LONGEST_SPAN)
    below = np.cumsum(chances / chances.sum())[:-1].astype(np.float32)
    draws = jax.random.uniform(key, (count,))
    return 1 + (draws[:, None] >= below).sum(-1, dtype=jnp.int32)


def _random_order(key: jax.Array, eligible: jax.Array) -> jax.Array:
    """int32 [T]: the numbers of all entries in a random order, the eligible ones first."""
    draws = jax.random.bits(key, eligible.shape, jnp.uint32) >> 1
    return jnp.argsort(jnp.where(eligible, draws, draws | jnp.uint32(1 << 31)))


def _padded(masked: dict[str, jax.Array], width: int) -> dict[str, jax.Array]:
    """Brings the masked_* arrays to [B, width] where the rows are shorter than that."""

    def pad(name: str, array: jax.Array) -> jax.Array:
        missing = width - array.shape[1] if name.startswith("masked_") else 0
        return jnp.pad(array, ((0, 0), (0, max(missing, 0))))

    return {name: pad(name, array) for name, array in masked.items()}
