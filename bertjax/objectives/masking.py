"""Masked-LM corruption, drawn on the device inside the train step.

Reproduces `create_masked_lm_predictions` of Google's `create_pretraining_data.py`: the budget, one
80/10/10 draw for each chosen piece, and whole words taken in random order while they fit the
budget. Spans follow SpanBERT and have one 80/10/10 draw each.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.model.input_checks import check_ids

# Folded into the key of a row, so that the choice of causal rows shares no draw with their masks.
_CAUSAL_KEYS = 1 << 22
# The number of words in a span is geometric with p = 0.2 on 1 ... 10 (SpanBERT, section 3.1).
_SPAN_P = 0.2
LONGEST_SPAN = 10


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
    """The tokens that masked-LM training predicts, and what replaces them. Google's defaults."""

    rate: float = 0.15
    """Share of tokens to predict. [CLS] and [SEP] count as tokens."""
    max_predictions: int | None = None
    """Maximum number of predictions in a row. Default: round(rate * sequence length), and what
    rounding adds for the examples of a packed row."""
    whole_word: bool = False
    """Choose whole words instead of single pieces."""
    span: bool = False
    """Choose runs of whole words, 3.8 words on average (SpanBERT)."""
    mask_prob: float = 0.8
    """Probability that a chosen piece (or span) becomes [MASK]."""
    random_prob: float = 0.1
    """Probability that it becomes a random token. Otherwise it is kept."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise UserError(f"`masking.rate` is {self.rate}: give a share between 0 and 1.")
        if self.whole_word and self.span:
            raise UserError(
                "`masking.whole_word` and `masking.span` are both set: choose one. Spans already "
                "consist of whole words."
            )
        mask, random = self.mask_prob, self.random_prob
        if min(mask, random) < 0 or mask + random > 1 + 1e-9:
            raise UserError(
                f"`masking.mask_prob` {mask} and `masking.random_prob` {random} are not two "
                "probabilities with a sum of at most 1."
            )

    def budget(self, length: int) -> int:
        """Returns the number of predictions in a row of tokens, counted as in Google's code."""
        return max(1, round(self.rate * length))

    def predictions(self, max_seq_length: int, examples: int = 1) -> int:
        """Returns P for rows of this length, in which up to so many examples are packed.

        Raises:
            UserError: max_predictions is smaller than the rate needs.
        """
        needed = self.budget(max_seq_length)
        if examples > 1:  # most that each adds by rounding; the shortest has 3 tokens
            lengths = range(3, max_seq_length + 1)
            excess = max(self.budget(length) - self.rate * length for length in lengths)
            needed = int(self.rate * max_seq_length + examples * excess + 1e-6)
        if self.max_predictions is None:
            return needed
        if self.max_predictions < needed:
            raise UserError(
                f"`masking.max_predictions` {self.max_predictions} is too small: a rate of "
                f"{self.rate} of {max_seq_length} tokens is {needed}, so a full row would be "
                f"trained on {self.max_predictions / max_seq_length:.0%} of its tokens; give at "
                f"least {needed}, or leave it out."
            )
        return self.max_predictions


class Vocabulary(NamedTuple):
    """The properties of a vocabulary that masking needs."""

    size: int
    pad_id: int
    mask_id: int
    special: np.ndarray
    """bool [V]. These ids ([PAD], [CLS], [SEP], [MASK]) are never chosen."""
    word_starts: np.ndarray | None = None
    """bool [V]. Ids that begin a word, special ids included; needed by whole_word and span."""

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":
        """Reads the tables of a tokenizer (`bertjax.load_tokenizer`)."""
        numbers = tokenizer.vocab_size, tokenizer.pad_id, tokenizer.mask_id
        return cls(*numbers, tokenizer.special(), tokenizer.word_starts())


def mask_tokens(
    keys: jax.Array,
    input_ids: jax.Array,
    vocabulary: Vocabulary,
    masking: MaskingConfig = MaskingConfig(),
    *,
    attention_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Chooses positions to predict and corrupts them.

    A span begins at the word of a random piece. It ends after as many words as it draws, or before
    the next special id, the next chosen word or the end of the budget. SpanBERT's own code rounds
    its budget up and cuts the last word.

    Args:
        keys: [B] random keys. A row's result depends only on its key and its ids.
        input_ids: [B, T] int32.
        vocabulary: random replacements are uniform over all of its V ids, as in Google's code.
        masking: the tokens to choose. A row has max(1, round(rate * length)) predictions, at most
            P = masking.predictions(T).
        attention_mask: [B, T], 0 at padding; by default, all ids but pad_id are tokens.

    Returns:
        input_ids [B, T] corrupted; masked_positions, masked_labels [B, P] int32 in ascending
        position; masked_weights [B, P] float32, 0 for unused entries.

    Raises:
        ValueError: whole_word or span without vocabulary.word_starts; or, outside of a trace, an id
            beyond the vocabulary.

    Source of spans: facebookresearch/SpanBERT, pretraining/fairseq/data/masking.py.
    """
    in_words = masking.whole_word or masking.span
    if in_words and vocabulary.word_starts is None:
        raise ValueError("whole_word and span need word_starts, the ids that begin a word.")
    size = vocabulary.size
    check_ids("input_ids", input_ids, size, f"the vocabulary has {size} tokens")
    predictions = masking.predictions(input_ids.shape[1])
    real = input_ids != vocabulary.pad_id if attention_mask is None else attention_mask != 0
    candidates = real & ~jnp.asarray(vocabulary.special)[input_ids]
    # A table, because float32 rounds 0.15 * 190 to another whole number than Python does.
    budgets = [min(masking.budget(n), predictions) for n in range(input_ids.shape[1] + 1)]
    budget = jnp.asarray(budgets, jnp.int32)[real.sum(-1)]
    words = None
    if in_words:
        starts = jnp.asarray(vocabulary.word_starts)[input_ids]
        if masking.span:  # no span runs across [SEP] into the rest of a truncated word
            starts |= jnp.pad(~candidates[:, :-1], ((0, 0), (1, 0)))
        words = jnp.cumsum(starts, axis=-1)

    mask_row = functools.partial(
        _mask_row, vocabulary=vocabulary, masking=masking, predictions=predictions
    )
    return jax.vmap(mask_row)(keys, input_ids, candidates, budget, words)


def mask_packed_tokens(
    keys: jax.Array,
    input_ids: jax.Array,
    vocabulary: Vocabulary,
    masking: MaskingConfig = MaskingConfig(),
    *,
    segment_ids: jax.Array,
    cls_positions: jax.Array,
) -> dict[str, jax.Array]:
    """Masks each example of packed rows as `mask_tokens` masks it alone in a row of T tokens.

    Args:
        keys: [B] random keys. Example s of a row, counted from 0, has the key fold_in(key, s).
        input_ids: [B, T] int32.
        vocabulary: as of `mask_tokens`.
        masking: as of `mask_tokens`; P = masking.predictions(T, S) in a row.
        segment_ids: [B, T] int32, the example of each token, from 1; 0 at padding.
        cls_positions: [B, S] int32, where the examples begin.

    Returns as `mask_tokens`.
    """
    (rows, length), count = input_ids.shape, cls_positions.shape[1]
    numbers = jnp.arange(count)
    keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))(keys)
    columns = cls_positions[..., None] + jnp.arange(length)  # [B, S, T]
    own = jnp.take_along_axis(segment_ids[:, None], columns, axis=-1, mode="fill", fill_value=0)
    own = own == 1 + numbers[:, None]
    ids = jnp.take_along_axis(input_ids[:, None], columns, axis=-1, mode="clip")
    ids = jnp.where(own, ids, vocabulary.pad_id)
    alone = mask_tokens(
        keys.reshape(-1),
        ids.reshape(-1, length),
        vocabulary,
        masking,
        attention_mask=own.reshape(-1, length),
    )
    alone = {name: array.reshape(rows, count, -1) for name, array in alone.items()}
    # Used predictions first; their order is that of the examples and of the positions in each.
    weights = alone["masked_weights"].reshape(rows, -1)
    first = jnp.argsort(weights == 0, axis=-1, stable=True)
    first = first[:, : masking.predictions(length, count)]
    positions = alone["masked_positions"] + cls_positions[..., None]
    found = {"masked_positions": positions, "masked_labels": alone["masked_labels"]}
    found = {name: array.reshape(rows, -1) for name, array in found.items()}
    found = {name: jnp.where(weights > 0, array, 0) for name, array in found.items()}
    found["masked_weights"] = weights
    found = {name: jnp.take_along_axis(array, first, 1) for name, array in found.items()}
    # Back to the row: the example of a token, and the token's place in it.
    number = jnp.maximum(segment_ids - 1, 0)
    place = jnp.arange(length) - jnp.take_along_axis(cls_positions, number, axis=1)
    corrupted = alone["input_ids"].reshape(rows, -1)
    corrupted = jnp.take_along_axis(corrupted, number * length + place, axis=1, mode="clip")
    return {"input_ids": jnp.where(segment_ids > 0, corrupted, input_ids), **found}


def make_causal(
    keys: jax.Array,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    masked: dict[str, jax.Array],
    share: float,
) -> dict[str, jax.Array]:
    """Turns rows of a masked batch into causal LM, each with the probability `share`.

    GPT-BERT (Charpentier and Samuel 2024, arXiv 2410.24159) shifts the predictions of masked rows
    too. Here only those of causal rows stand one place earlier, so that the head fills masks as
    BERT's does.

    Args:
        keys: [B], those that masked the rows.
        input_ids: [B, T] uncorrupted. The first token of an example is special.
        attention_mask: [B, T], 0 at padding.
        masked: what `mask_tokens` or `mask_packed_tokens` returned.
        share: the probability.

    Returns `masked` with the ids and positions of causal rows, and attention_mask bool [B, T, T].
    """
    draw = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, _CAUSAL_KEYS), share))
    causal = draw(keys)[:, None]
    earlier = jnp.tril(jnp.ones((input_ids.shape[1],) * 2, bool))
    positions = masked["masked_positions"] - (causal & (masked["masked_weights"] > 0))
    return {
        **masked,
        "input_ids": jnp.where(causal, input_ids, masked["input_ids"]),
        "attention_mask": (attention_mask != 0)[:, None] & (earlier | ~causal[..., None]),
        "masked_positions": positions,
    }


def _mask_row(
    key: jax.Array,
    ids: jax.Array,
    candidates: jax.Array,
    budget: jax.Array,
    words: jax.Array | None,
    *,
    vocabulary: Vocabulary,
    masking: MaskingConfig,
    predictions: int,
) -> dict[str, jax.Array]:
    """Masks one row: ids, candidates and words [T]; words numbers the word of each piece."""
    order_key, action_key, random_key = jax.random.split(key, 3)
    draw = jax.random.uniform(action_key, ids.shape)
    if words is None:
        chosen = _choose_pieces(order_key, candidates, budget)
    elif masking.span:
        spans = _choose_spans(order_key, candidates, budget, words)
        chosen, draw = spans >= 0, draw[spans]
    else:
        chosen = _choose_words(order_key, candidates, budget, words)
    replacement = jax.random.randint(random_key, ids.shape, 0, vocabulary.size, ids.dtype)
    corrupted = jnp.where(draw < masking.mask_prob + masking.random_prob, replacement, ids)
    corrupted = jnp.where(draw < masking.mask_prob, vocabulary.mask_id, corrupted)
    # Chosen positions first, in order: a stable sort of the negated choice.
    positions = jnp.argsort(~chosen, stable=True)[:predictions]
    masked = {
        "masked_positions": jnp.where(chosen[positions], positions, 0).astype(jnp.int32),
        "masked_labels": jnp.where(chosen[positions], ids[positions], 0),
        "masked_weights": chosen[positions].astype(jnp.float32),
    }
    padding = (0, predictions - positions.shape[0])
    padded = {name: jnp.pad(array, padding) for name, array in masked.items()}
    return {"input_ids": jnp.where(chosen, corrupted, ids), **padded}


def _choose_pieces(key: jax.Array, candidates: jax.Array, budget: jax.Array) -> jax.Array:
    """Returns bool [T]: `budget` of the candidates; every subset is equally likely."""
    order = _random_order(key, candidates)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0]))
    return candidates & (rank < budget)


def _choose_words(
    key: jax.Array, candidates: jax.Array, budget: jax.Array, words: jax.Array
) -> jax.Array:
    """Returns bool [T]: whole words, numbered by words [T], in random order while they fit."""
    count = words.shape[0] + 1  # word numbers run from 0 to T
    sizes = jnp.zeros(count, jnp.int32).at[words].add(candidates.astype(jnp.int32))
    order = _random_order(key, sizes > 0)

    def take(left: jax.Array, word: jax.Array):
        fits = (sizes[word] > 0) & (sizes[word] <= left)
        return left - jnp.where(fits, sizes[word], 0), fits

    # Count down from the budget: under shard_map, a carry that starts as a constant is the same on
    # all devices and can't become device-varying.
    _, fits = jax.lax.scan(take, budget, order)
    taken = jnp.zeros(count, bool).at[order].set(fits)
    return candidates & taken[words]


def _choose_spans(
    key: jax.Array, candidates: jax.Array, budget: jax.Array, words: jax.Array
) -> jax.Array:
    """Returns int32 [T]: the number in [0, T) of the span that chose a piece, or -1.

    Pieces come in random order. If the word of a piece isn't chosen yet, it begins a span.
    """
    order_key, length_key = jax.random.split(key)
    length = candidates.shape[0]
    # Padding after the last word has size 0, like special ids.
    sizes = jnp.zeros(length + 1 + LONGEST_SPAN, jnp.int32)
    sizes = sizes.at[words].add(candidates.astype(jnp.int32))
    first_words = words[_random_order(order_key, candidates)]
    wanted = span_lengths(length_key, length)
    attempts = candidates.sum(dtype=jnp.int32)

    # The carry: the next entry of the random order, the rest of the budget, and the attempt that
    # chose each word or -1 (int32 [words + LONGEST_SPAN]).
    def may_continue(carry: tuple[jax.Array, ...]) -> jax.Array:
        attempt, left, _ = carry
        return (attempt < attempts) & (left > 0)

    def begin_span(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        attempt, left, of_word = carry
        run = first_words[attempt] + jnp.arange(LONGEST_SPAN)
        free = (sizes[run] > 0) & (of_word[run] < 0)
        free &= jnp.arange(LONGEST_SPAN) < wanted[attempt]
        fits = jnp.cumsum(sizes[run]) <= left
        taken = jnp.cumprod(free & fits).astype(bool)
        left -= jnp.where(taken, sizes[run], 0).sum()
        of_word = of_word.at[run].set(jnp.where(taken, attempt, of_word[run]))
        return attempt + 1, left, of_word

    # The carry starts from device-varying values, not from constants: see `_choose_words`.
    start = (attempts * 0, budget, sizes * 0 - 1)
    _, _, of_word = jax.lax.while_loop(may_continue, begin_span, start)
    return jnp.where(candidates, of_word[words], -1)


def span_lengths(key: jax.Array, count: int) -> jax.Array:
    """Draws numbers of words, int32 [count] in 1 ... LONGEST_SPAN.

    The geometric distribution (p = 0.2) is truncated, not clipped; its mean is 3.8.
    """
    chances = _SPAN_P * (1 - _SPAN_P) ** np.arange(LONGEST_SPAN)
    below = np.cumsum(chances / chances.sum())[:-1].astype(np.float32)
    draws = jax.random.uniform(key, (count,))
    return 1 + (draws[:, None] >= below).sum(-1, dtype=jnp.int32)


def _random_order(key: jax.Array, eligible: jax.Array) -> jax.Array:
    """Returns int32 [T]: the indices of all entries in random order, eligible ones first."""
    draws = jax.random.bits(key, eligible.shape, jnp.uint32) >> 1
    return jnp.argsort(jnp.where(eligible, draws, draws | jnp.uint32(1 << 31)))
