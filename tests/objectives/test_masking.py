"""Masking: Google's budget and proportions, words whole, and every row on its own."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import bertjax as bj
from bertjax.objectives.masking import MaskingConfig

V, T, MASK = 1000, 64, 4
SPECIAL = np.zeros(V, bool)
SPECIAL[[0, 2, 3, 4]] = (
    True  # [PAD] [CLS] [SEP] [MASK]; [UNK] may be predicted, as in Google's code
)
WORD_STARTS = np.arange(V) % 3 != 0
WORD_STARTS[:5] = True


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
    def run(ids, seed=0, max_predictions=10, **more):
        keys = jax.random.split(jax.random.key(seed), len(ids))

        @jax.jit
        def masked(keys, ids):
            return bj.mask_tokens(
                keys,
                ids,
                mask_id=MASK,
                vocab_size=V,
                special=SPECIAL,
                max_predictions=max_predictions,
                **more,
            )

        return jax.tree.map(np.asarray, masked(keys, ids))

    return run


def within(count, total, share):
    """Within four standard errors of a binomial share."""
    return abs(count / total - share) < 4 * np.sqrt(share * (1 - share) / total)


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_masked_arrays_say_what_was_done(mask, whole_word):
    ids, lengths = rows(500)
    out = mask(ids, whole_word=whole_word, word_starts=WORD_STARTS)
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
        if whole_word:
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


def test_whole_words_are_whole(mask):
    ids, _ = rows(2000)
    out = mask(ids, whole_word=True, word_starts=WORD_STARTS)
    words = np.cumsum(WORD_STARTS[ids], 1)
    fuller = 0
    for row in range(len(ids)):
        used = out["masked_weights"][row].astype(bool)
        positions = out["masked_positions"][row][used]
        for word in set(words[row][positions]):
            pieces = np.flatnonzero((words[row] == word) & ~SPECIAL[ids[row]])
            assert np.isin(pieces, positions).all()
        fuller += used.sum()
    # Words are skipped only where they do not fit: nearly all of the budget is used.
    budgets = np.clip(np.round(0.15 * (ids != 0).sum(1)), 1, 10)
    assert fuller / budgets.sum() > 0.9


def test_pieces_of_a_word_are_corrupted_on_their_own(mask):
    ids, _ = rows(4000)
    out = mask(ids, whole_word=True, word_starts=WORD_STARTS)
    words = np.cumsum(WORD_STARTS[ids], 1)
    pairs = alike = 0
    for row in range(len(ids)):
        positions = out["masked_positions"][row][out["masked_weights"][row].astype(bool)]
        for one, two in itertools.pairwise(positions):
            if words[row][one] == words[row][two]:
                pairs += 1
                alike += (out["input_ids"][row][[one, two]] == MASK).all()
    assert within(alike, pairs, (0.8 + 0.1 / V) ** 2)


def test_a_row_depends_on_its_key_and_ids_alone():
    ids, _ = rows(6)
    keys = jax.random.split(jax.random.key(1), 6)
    masked = jax.jit(
        lambda keys, ids: bj.mask_tokens(
            keys, ids, mask_id=MASK, vocab_size=V, special=SPECIAL, max_predictions=10
        )
    )
    whole, part = masked(keys, ids), masked(keys[2:4], ids[2:4])
    for name, array in part.items():
        assert np.array_equal(array, whole[name][2:4])


@pytest.mark.parametrize("whole_word", [False, True])
def test_it_works_on_a_shard_that_knows_what_differs_between_devices(whole_word):
    ids, _ = rows(6)
    keys = jax.random.split(jax.random.key(1), 6)

    def masked(keys, ids):
        return bj.mask_tokens(
            keys,
            ids,
            mask_id=MASK,
            vocab_size=V,
            special=SPECIAL,
            word_starts=WORD_STARTS,
            whole_word=whole_word,
            max_predictions=10,
        )

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
        masked = bj.mask_tokens(
            keys, ids, mask_id=MASK, vocab_size=V, special=SPECIAL, rate=rate, max_predictions=103
        )
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


def test_whole_word_needs_its_table(mask):
    with pytest.raises(ValueError, match="word_starts"):
        mask(rows(1)[0], whole_word=True)


def test_predictions_follow_the_rate_or_refuse():
    assert MaskingConfig().predictions(128) == 19
    assert MaskingConfig(max_predictions=20).predictions(128) == 20
    with pytest.raises(bj.UserError, match=r"max_predictions 20 is too small.* 4% .*at least 77"):
        MaskingConfig(max_predictions=20).predictions(512)
    with pytest.raises(bj.UserError, match="rate"):
        MaskingConfig(rate=1.5)
