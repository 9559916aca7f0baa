"""Masking: Google's budget and proportions, whole words and spans, independent rows."""

import functools
import itertools
import random

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import bertjax as bj
from bertjax.objectives.masking import (
    LONGEST_SPAN,
    MaskingConfig,
    Vocabulary,
    make_causal,
    span_lengths,
)

V, T, MASK = 1000, 64, 4
SPECIAL = np.zeros(V, bool)
SPECIAL[[0, 2, 3, 4]] = (
    True  # [PAD] [CLS] [SEP] [MASK]; [UNK] may be predicted, as in Google's code
)
WORD_STARTS = np.arange(V) % 3 != 0
WORD_STARTS[:5] = True


VOCABULARY = Vocabulary(V, 0, MASK, SPECIAL, WORD_STARTS)


def rows(count, seed=0):
    """[CLS] A [SEP] B [SEP] with padding; ids 0..4 are special."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, V, (count, T)).astype(np.int32)
    lengths = rng.integers(12, T + 1, count)
    place = np.arange(T)[None]
    ids[:, 0] = 2
    ids[place == lengths[:, None] // 2] = 3
    ids[place == lengths[:, None] - 1] = 3
    ids[place >= lengths[:, None]] = 0
    return ids, lengths


@pytest.fixture(scope="module")
def mask():
    def run(ids, seed=0, vocabulary=VOCABULARY, **masking):
        keys = jax.random.split(jax.random.key(seed), len(ids))

        @jax.jit
        def masked(keys, ids):
            return bj.mask_tokens(keys, ids, vocabulary, MaskingConfig(**masking))

        return jax.tree.map(np.asarray, masked(keys, ids))

    return run


def within(count, total, share):
    """Within four standard errors of a binomial share."""
    return abs(count / total - share) < 4 * np.sqrt(share * (1 - share) / total)


@pytest.mark.parametrize("units", [None, "whole_word", "span"])
def test_the_masked_arrays_say_what_was_done(mask, units):
    ids, lengths = rows(500)
    out = mask(ids, **({units: True} if units else {}))
    for row in range(len(ids)):
        used = out["masked_weights"][row].astype(bool)
        positions = out["masked_positions"][row][used]
        assert used[: used.sum()].all()  # the unused rest comes last
        assert (np.diff(positions) > 0).all()
        assert np.array_equal(out["masked_labels"][row][used], ids[row][positions])
        assert not SPECIAL[ids[row][positions]].any()
        untouched = np.setdiff1d(np.arange(T), positions)
        assert np.array_equal(out["input_ids"][row][untouched], ids[row][untouched])
        budget = min(10, max(1, round(0.15 * lengths[row])))
        if units:
            assert used.sum() <= budget
        else:
            assert used.sum() == budget


def test_eighty_ten_ten_over_a_hundred_thousand_tokens(mask):
    ids, _ = rows(16_000)
    out = mask(ids)
    used = out["masked_weights"].astype(bool)
    new = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)[used]
    old = out["masked_labels"][used]
    total = used.sum()
    assert total > 80_000
    kept = 0.1 + 0.1 / V  # a random id may be the old one
    assert within((new == MASK).sum(), total, 0.8 + 0.1 / V)
    assert within((new == old).sum(), total, kept)
    random = new[(new != MASK) & (new != old)]
    assert within((random < V // 2).sum(), len(random), 0.5)  # over the whole vocabulary
    assert (random < 5).any()  # the special ids included, as in Google's code


def test_every_candidate_is_equally_likely(mask):
    ids = np.tile(rows(1)[0], (20_000, 1))
    out = mask(ids)
    chosen = out["masked_positions"][out["masked_weights"].astype(bool)]
    counts = np.bincount(chosen, minlength=T)[~SPECIAL[ids[0]]]
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()


@pytest.mark.parametrize("units", ["whole_word", "span"])
def test_whole_words_are_whole(mask, units):
    ids, _ = rows(2000)
    out = mask(ids, **{units: True})
    words = np.cumsum(WORD_STARTS[ids], 1)
    fuller = 0
    for row in range(len(ids)):
        used = out["masked_weights"][row].astype(bool)
        positions = out["masked_positions"][row][used]
        for word in set(words[row][positions]):
            pieces = np.flatnonzero((words[row] == word) & ~SPECIAL[ids[row]])
            assert np.isin(pieces, positions).all()
        fuller += used.sum()
    # A word is skipped only if it does not fit, so nearly all of the budget is used.
    budgets = np.clip(np.round(0.15 * (ids != 0).sum(1)), 1, 10)
    assert fuller / budgets.sum() > 0.9


def test_pieces_of_a_word_are_corrupted_on_their_own(mask):
    ids, _ = rows(4000)
    out = mask(ids, whole_word=True)
    words = np.cumsum(WORD_STARTS[ids], 1)
    pairs = alike = 0
    for row in range(len(ids)):
        positions = out["masked_positions"][row][out["masked_weights"][row].astype(bool)]
        for one, two in itertools.pairwise(positions):
            if words[row][one] == words[row][two]:
                pairs += 1
                alike += (out["input_ids"][row][[one, two]] == MASK).all()
    assert within(alike, pairs, (0.8 + 0.1 / V) ** 2)


def masking(**units):
    """Returns the masking function of (keys, ids) with these units."""
    return functools.partial(bj.mask_tokens, vocabulary=VOCABULARY, masking=MaskingConfig(**units))


@pytest.mark.parametrize("span", [False, True])
def test_a_row_depends_on_its_key_and_ids_alone(span):
    ids, _ = rows(6)
    keys = jax.random.split(jax.random.key(1), 6)
    masked = jax.jit(masking(span=span))
    whole, part = masked(keys, ids), masked(keys[2:4], ids[2:4])
    for name, array in part.items():
        assert np.array_equal(array, whole[name][2:4])


@pytest.mark.parametrize("units", [{}, {"whole_word": True}, {"span": True}])
def test_it_works_on_a_shard_that_knows_what_differs_between_devices(units):
    ids, _ = rows(6)
    keys = jax.random.split(jax.random.key(1), 6)

    masked = masking(**units)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    mapped = jax.shard_map(masked, mesh=mesh, in_specs=split, out_specs=split, check_vma=True)
    got, plain = jax.jit(mapped)(keys, ids), jax.jit(masked)(keys, ids)
    jax.tree.map(np.testing.assert_array_equal, got, plain)


@pytest.mark.parametrize("rate", [0.15, 0.2])
def test_the_budget_of_every_length_is_the_one_python_counts(rate):
    lengths = np.arange(1, 513)
    ids = np.where(np.arange(512) < lengths[:, None], 7, 0).astype(np.int32)
    keys = jax.random.split(jax.random.key(0), len(ids))

    @jax.jit
    def predicted(keys, ids):
        masked = bj.mask_tokens(keys, ids, VOCABULARY, MaskingConfig(rate))
        return masked["masked_weights"].sum(-1)

    wanted = [max(1, round(rate * length)) for length in lengths.tolist()]
    assert predicted(keys, ids).tolist() == wanted


def test_short_rows_and_a_wide_budget(mask):
    ids = np.zeros((2, 8), np.int32)
    ids[:, :3] = [2, 7, 3]
    ids[1, 1] = 3  # nothing to predict here
    out = mask(ids, max_predictions=20)
    assert out["masked_positions"].shape == (2, 20)
    assert out["masked_weights"].sum(1).tolist() == [1.0, 0.0]
    assert out["masked_labels"][0, 0] == 7


@pytest.mark.parametrize("units", ["whole_word", "span"])
def test_whole_words_need_their_table(mask, units):
    with pytest.raises(ValueError, match="word_starts"):
        mask(rows(1)[0], vocabulary=VOCABULARY._replace(word_starts=None), **{units: True})


def test_a_span_is_as_long_as_a_geometric_draw_below_eleven():
    lengths = np.asarray(span_lengths(jax.random.key(0), 100_000))
    chances = 0.2 * 0.8 ** np.arange(LONGEST_SPAN)
    chances /= chances.sum()
    assert (np.unique(lengths) == np.arange(1, LONGEST_SPAN + 1)).all()
    for words, chance in enumerate(chances, start=1):
        assert within((lengths == words).sum(), len(lengths), chance)
    mean = chances @ np.arange(1, LONGEST_SPAN + 1)
    assert mean == pytest.approx(3.797, abs=0.001)  # the 3.8 of the paper
    assert abs(lengths.mean() - mean) < 4 * lengths.std() / np.sqrt(len(lengths))


def spanbert(row, budget, rng):
    """The spans of SpanBERT's masking.py as lists of positions, computed by a plain loop.

    A word that does not fit and a special id end a span.
    """
    chances = [0.2 * 0.8**n for n in range(LONGEST_SPAN)]
    open_to = [not SPECIAL[token] for token in row]
    words, word_of = [], {}
    for place, token in enumerate(row):
        if open_to[place]:
            if WORD_STARTS[token] or not open_to[place - 1]:
                words.append([])
            words[-1].append(place)
            word_of[place] = len(words) - 1
    spans, taken = [], set()
    for anchor in rng.sample(sorted(word_of), len(word_of)):
        wanted = rng.choices(range(1, LONGEST_SPAN + 1), chances)[0]
        span = []
        for word in range(word_of[anchor], min(word_of[anchor] + wanted, len(words))):
            follows = not span or words[word][0] == span[-1] + 1
            if word in taken or not follows or budget < len(words[word]):
                break
            taken.add(word)
            span += words[word]
            budget -= len(words[word])
        spans += [span] if span else []
    return spans


def runs(chosen):
    """Returns the lengths of runs of consecutive True in rows [n, T]."""
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
    return np.nonzero(edges < 0)[1] - np.nonzero(edges > 0)[1]


def test_spans_over_a_hundred_thousand_tokens_are_those_of_a_plain_loop(mask):
    ids, lengths = rows(8000)
    out = mask(ids, span=True)
    used = out["masked_weights"].astype(bool)
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, out["masked_positions"], True, 1)
    chosen[:, 0] = False  # where the unused rest points to
    assert used.sum() == chosen.sum() and lengths.sum() > 100_000
    plain = np.zeros_like(chosen)
    rng = random.Random(1)
    for row, length in enumerate(lengths.tolist()):
        for span in spanbert(ids[row].tolist(), min(10, max(1, round(0.15 * length))), rng):
            plain[row, span] = True
    ours, theirs = runs(chosen), runs(plain)
    for power in (1, 2):
        error = np.hypot(*((each**power).std() / np.sqrt(len(each)) for each in (ours, theirs)))
        assert abs((ours**power).mean() - (theirs**power).mean()) < 4 * error
    # Compare the used budget, and its position. Rows are independent.
    for first, second in ((chosen, plain), (chosen[:, :32], plain[:, :32])):
        difference = first.sum(1) - second.sum(1).astype(float)
        assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(ids))
    assert chosen.sum() / np.clip(np.round(0.15 * lengths), 1, 10).sum() > 0.9


def test_a_span_is_corrupted_as_a_whole(mask):
    # Words of one piece, and rows that one span can fill: then a row has one 80/10/10 draw.
    ids = np.full((30_000, 34), 7, np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    out = mask(ids, span=True, max_predictions=5)
    used = out["masked_weights"].astype(bool)
    assert used.all() and used.sum() > 100_000
    new = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)
    apart = np.diff(out["masked_positions"], axis=1) != 1
    masked, kept = new == MASK, new == 7
    one = ~apart.any(1)  # one run: one span, or two that touch
    assert one.sum() > 8_000
    all_masked, all_kept = masked.all(1), kept.all(1)
    other = ~masked.any(1) & ~all_kept  # replaced: an id may still be the old one, or [MASK]
    # With a draw for each piece, 0.8 ** 5 = 33% of the rows would be all [MASK]. In a few rows, two
    # spans touch.
    assert all_masked[one].mean() > 0.72
    assert other[one].mean() > 0.07 and all_kept[one].mean() > 0.07
    # All spans together have shares 80/10/10. Tokens of a span are dependent: use means of rows.
    for tokens, share in ((masked, 0.8 + 0.1 / V), (kept, 0.1 + 0.1 / V)):
        by_row = tokens.mean(1)
        assert abs(by_row.mean() - share) < 4 * by_row.std() / np.sqrt(len(by_row))
    replaced = new[~masked & ~kept]
    assert within((replaced < V // 2).sum(), len(replaced), 0.5)


def test_no_span_runs_across_a_special_id(mask):
    # [CLS] a b [SEP] ##c d [SEP], a B cut inside a word: word numbers alone would join them.
    ids = np.tile(np.array([2, 7, 8, 3, 9, 10, 3], np.int32), (4000, 1))
    starts = WORD_STARTS.copy()
    starts[9] = False
    vocabulary = VOCABULARY._replace(word_starts=starts)
    out = mask(ids, vocabulary=vocabulary, span=True, rate=0.3)
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, out["masked_positions"], out["masked_weights"].astype(bool), 1)
    assert not chosen[:, [0, 3, 6]].any() and (chosen.sum(1) == 2).all()
    # If the first choice is a or ##c and its span is `longer` than one word, that span has both.
    # Otherwise the second choice is any of the three others.
    longer = 1 - 0.2 / (1 - 0.8**LONGEST_SPAN)
    one_span = 1 / 4 * (longer + (1 - longer) / 3) + 1 / 4 / 3
    assert within((chosen[:, 1] & chosen[:, 2]).sum(), len(ids), one_span)
    assert within((chosen[:, 4] & chosen[:, 5]).sum(), len(ids), one_span)
    across = 1 / 4 / 3 + 1 / 4 * (1 - longer) / 3
    assert within((chosen[:, 2] & chosen[:, 4]).sum(), len(ids), across)


def test_predictions_follow_the_rate_or_refuse():
    assert MaskingConfig().predictions(128) == 19
    assert MaskingConfig(max_predictions=20).predictions(128) == 20
    with pytest.raises(bj.UserError, match=r"max_predictions` 20 is too small.* 4% .*at least 77"):
        MaskingConfig(max_predictions=20).predictions(512)
    with pytest.raises(bj.UserError, match="rate"):
        MaskingConfig(rate=1.5)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(bj.UserError, match=r"`masking.whole_word` and `masking.span` are both"):
        MaskingConfig(whole_word=True, span=True)
    for masked, replaced in ((0.9, 0.2), (-0.1, 0.1), (1.1, 0.0), (0.5, -0.1)):
        with pytest.raises(bj.UserError, match="two probabilities with a sum of at most 1"):
            MaskingConfig(mask_prob=masked, random_prob=replaced)


def test_the_mix_of_replacements_is_a_setting(mask):
    ids, _ = rows(2000)
    out = mask(ids, mask_prob=0.5, random_prob=0.2)
    used = out["masked_weights"].astype(bool)
    new = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)[used]
    total = used.sum()
    assert within((new == MASK).sum(), total, 0.5 + 0.2 / V)
    assert within((new == out["masked_labels"][used]).sum(), total, 0.3 + 0.2 / V)
    kept = mask(ids, mask_prob=0.0, random_prob=0.0)
    assert np.array_equal(kept["input_ids"], ids) and kept["masked_weights"].any()
    # The positions don't depend on the mix.
    assert np.array_equal(kept["masked_positions"], mask(ids)["masked_positions"])


def test_a_share_of_the_rows_is_causal_and_the_others_are_as_before(mask):
    ids, lengths = rows(400)
    real = np.arange(T) < lengths[:, None]
    keys, masked = jax.random.split(jax.random.key(0), len(ids)), mask(ids)
    made = jax.jit(functools.partial(make_causal, share=0.25))(keys, ids, real, masked)
    found = jax.tree.map(np.asarray, made)
    causal = ~found["attention_mask"][:, 0, 1]
    assert within(causal.sum(), len(ids), 0.25)
    earlier = np.where(causal[:, None, None], np.tril(np.ones((T, T), bool)), True)
    np.testing.assert_array_equal(found["attention_mask"], real[:, None] & earlier)
    np.testing.assert_array_equal(
        found["input_ids"], np.where(causal[:, None], ids, masked["input_ids"])
    )
    used = masked["masked_weights"] > 0
    moved = masked["masked_positions"] - (used & causal[:, None])
    np.testing.assert_array_equal(found["masked_positions"], moved)
    assert moved.min() == 0  # the first token is special, and never chosen
    for name in ("masked_labels", "masked_weights"):
        np.testing.assert_array_equal(found[name], masked[name])
