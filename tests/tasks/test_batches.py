import itertools

import numpy as np
import pytest

from bertjax.tasks import batches as b


def test_what_fills_a_batch_may_be_longer_than_its_rows():
    rows = [np.arange(9, dtype=np.int32), np.array([5, 6], np.int32)]
    types = [np.ones(9, np.int32), np.array([0, 1], np.int32)]
    batch = b.padded(rows, types, np.array([1, -1]), 4, 7)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 7], [0, 1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["example_weight"].tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="broadcast"):
        b.padded(rows, types, np.array([0, -1]), 4, 7)


@pytest.mark.parametrize("grouped", [False, True])
def test_every_epoch_sees_every_row_once_in_its_own_order(grouped):
    lengths, size = np.random.default_rng(0).integers(2, 60, 1003), 4

    def batches(seed, epoch):
        return b.epoch_batches(seed, epoch, lengths, size, grouped=grouped)

    for epoch in range(3):
        rows = batches(7, epoch).reshape(-1)
        assert len(rows) == 1004
        assert sorted(rows[rows >= 0].tolist()) == list(range(1003))
    assert batches(7, 0).tolist() != batches(7, 1).tolist()
    assert batches(7, 0).tolist() != batches(8, 0).tolist()
    assert batches(7, 0).tolist() == batches(7, 0).tolist()


def test_grouped_rows_are_of_like_length_and_their_steps_come_in_any_order():
    lengths, size = np.random.default_rng(0).integers(2, 60, 6400), 32
    plain = lengths[b.epoch_batches(0, 0, lengths, size)]
    grouped = lengths[b.epoch_batches(0, 0, lengths, size, grouped=True)]
    assert plain.max(1).mean() > 55
    assert (grouped.max(1) - grouped.mean(1)).mean() < 1.5
    steps = grouped.mean(1)
    # Of 200 steps in random order, neighbors correlate by 0 with a standard error of 0.07.
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 0.28
    assert b.epoch_batches(3, 1, np.array([5, 9, 2]), 2, grouped=True).shape == (2, 2)


def test_the_order_stays_what_it_was():
    # A resumed run depends on it: these numbers must never change.
    assert b.epoch_order(3, 1, 10).tolist() == [0, 6, 2, 1, 3, 7, 4, 9, 8, 5]
    lengths = np.array([4, 9, 2, 7, 7, 5, 8, 3, 6, 5])
    batches = b.epoch_batches(3, 1, lengths, 2, grouped=True)
    assert batches.tolist() == [[4, 9], [3, 7], [6, 0], [1, 2], [8, 5]]
    batches = [(rows.tolist(), width) for rows, width in b.token_batches(3, 1, lengths, 20)]
    assert batches == [([6, 1], 9), ([3, 4], 7), ([0, 2, 7], 4), ([9, 8, 5], 6)]


@pytest.mark.parametrize("longest", [8, 32, 100, 128, 512])
def test_buckets_hold_every_length_and_are_few(longest):
    buckets = b.length_buckets(longest)
    assert buckets[-1] == longest and list(buckets) == sorted(set(buckets))
    assert len(buckets) <= 11
    for length in range(1, longest + 1):
        width = b.width_of(np.array([1, length]), buckets)
        assert length <= width <= max(16, 1.5 * length)
    with pytest.raises(IndexError):
        b.width_of(np.array([longest + 1]), buckets)


def test_fitted_buckets_pad_an_epoch_least(monkeypatch):
    longest = np.random.default_rng(0).integers(2, 14, (300, 1))

    def padded(widths):
        return np.asarray(widths)[np.searchsorted(widths, longest)].sum()

    monkeypatch.setattr(b, "_PROGRAM_TOKENS", 1)
    fitted = b.fitted_buckets(longest)
    ways = itertools.combinations(range(2, 13), 7)
    assert len(fitted) == 8 and padded(fitted) == min(padded((*way, 13)) for way in ways)
    monkeypatch.setattr(b, "_PROGRAM_TOKENS", 10_000)
    assert b.fitted_buckets(longest) == (13,)


def test_sequences_of_a_row_have_widths_of_their_own():
    lengths = np.array([[3, 40], [20, 2], [16, 16]])
    buckets = b.row_buckets(lengths, 128)
    assert b.width_of(lengths, buckets) == (20, 40)
    assert b.width_of(lengths[2:], buckets) == (16, 16)
    assert b.width_of(np.array([[1, 17]]), buckets) == (16, 24)
    assert b.row_buckets(lengths[:, 0], 128) == b.length_buckets(128)


def test_length_batches_drop_nothing():
    lengths = np.random.default_rng(0).integers(2, 128, 45)
    chosen = b.length_batches(lengths, 8, b.length_buckets(128))
    rows = np.concatenate([indices for indices, _ in chosen])
    assert sorted(rows[rows >= 0].tolist()) == list(range(45))
    for indices, width in chosen:
        assert len(indices) == 8 and lengths[indices[indices >= 0]].max() <= width
    # The rows of padding cost least among the shortest rows.
    assert [(indices < 0).sum() for indices, _ in chosen] == [3, 0, 0, 0, 0, 0]
    assert chosen[0][0][-3:].tolist() == [-1, -1, -1]


def test_rows_of_two_sequences_share_a_step_by_both_lengths():
    lengths = np.array([[9, 4], [3, 3], [5, 8], [2, 4], [8, 5], [2, 4]])
    batches = b.length_batches(lengths, 2, ((8, 16), (8, 16)))
    # By the sum, then by the first length; rows 3 and 5 are equal and keep their order.
    assert [indices.tolist() for indices, _ in batches] == [[3, 5], [1, 2], [4, 0]]
    assert [width for _, width in batches] == [(8, 8), (8, 8), (16, 8)]
    batches = b.epoch_batches(1, 2, lengths, 2, grouped=True)
    assert sorted(sorted(rows) for rows in batches.tolist()) == [[0, 4], [1, 2], [3, 5]]
    assert batches.tolist() != b.epoch_batches(1, 3, lengths, 2, grouped=True).tolist()
    plain = b.epoch_batches(1, 2, lengths, 2)
    assert plain.tolist() == b.epoch_batches(1, 2, lengths[:, 0], 2).tolist()


def test_one_column_is_grouped_as_one_length():
    lengths = np.random.default_rng(0).integers(2, 60, 1003)
    for grouped in (False, True):
        one, column = (
            b.epoch_batches(7, 0, each, 4, grouped=grouped) for each in (lengths, lengths[:, None])
        )
        assert one.tolist() == column.tolist()


@pytest.fixture(scope="module")
def two_lengths():
    rng = np.random.default_rng(0)
    source = rng.gamma(6.0, 4.0, 5003).astype(np.int64) + 2
    return np.stack([source, np.maximum(source + rng.integers(-6, 3, 5003), 1)], 1)


def test_steps_of_a_number_of_tokens(two_lengths):
    """Every epoch of every seed has each row once, and the same shapes, in its own order."""
    epochs = [b.token_batches(*each, two_lengths, 2048) for each in ((7, 0), (7, 1), (8, 0))]
    for batches in epochs:
        rows = np.concatenate([indices for indices, _ in batches])
        assert sorted(rows[rows >= 0].tolist()) == list(range(5003))
        for indices, width in batches:
            assert len(indices) * max(width) <= 2048 and len(indices) % 8 == 0
            real = two_lengths[indices[indices >= 0]]
            assert len(real) and (real <= width).all()
    shapes = [sorted((len(indices), width) for indices, width in batches) for batches in epochs]
    assert shapes[0] == shapes[1] == shapes[2] and len(set(shapes[0])) == 8
    orders = [[indices.tolist() for indices, _ in batches] for batches in epochs]
    assert orders[0] != orders[1] and orders[0] != orders[2]
    repeated = b.token_batches(7, 0, two_lengths, 2048)
    assert [indices.tolist() for indices, _ in repeated] == orders[0]


def test_steps_of_a_number_of_tokens_have_less_padding_than_steps_of_rows(two_lengths):
    def padding(batches):
        return 1 - two_lengths.sum() / sum(len(rows) * sum(width) for rows, width in batches)

    buckets = b.row_buckets(two_lengths, 0)
    by_rows = [
        (rows, b.width_of(two_lengths[rows[rows >= 0]], buckets))
        for rows in b.epoch_batches(0, 0, two_lengths, 64, grouped=True)
    ]
    assert padding(b.token_batches(0, 0, two_lengths, 2048)) < 0.18 < 0.25 < padding(by_rows)


def test_the_last_step_of_a_group_takes_its_share_of_the_rows():
    def sizes(length, rows, tokens):
        batches = b.token_batches(0, 0, np.full(rows, length), tokens)
        assert {width for _, width in batches} == {length}
        return sorted((len(indices), (indices >= 0).sum()) for indices, _ in batches)

    assert sizes(5, 150, 500) == [(80, 70), (80, 80)]  # 96 and 54 rows would fit
    assert sizes(50, 9, 399) == [(5, 4), (5, 5)]
    assert sizes(50, 3, 99) == [(1, 1)] * 3


@pytest.mark.parametrize("tokens", [10, 33, 120])
def test_groups_need_the_fewest_steps_and_then_pad_least(tokens, monkeypatch):
    """Compared with every choice of at most three widths."""
    monkeypatch.setattr(b, "_GROUPS", 3)
    lengths = np.random.default_rng(1).integers(3, 11, 40)
    *values, longest = sorted(set(lengths.tolist()))

    def cost(widths):
        groups = np.array(widths)[np.searchsorted(widths, lengths)]
        rows = [(width, (groups == width).sum()) for width in widths]
        return sum(-(-n // b._rows_per_step(width, tokens)) for width, n in rows), groups.sum()

    choices = (each for count in range(3) for each in itertools.combinations(values, count))
    wanted = min(cost([*each, longest]) for each in choices)
    assert cost(b._group_widths(lengths, tokens)) == wanted


def test_a_row_of_one_sequence_may_have_one_column():
    lengths = np.random.default_rng(1).integers(3, 30, 200)
    one, column = (b.token_batches(1, 2, each, 300) for each in (lengths, lengths[:, None]))
    for (rows, width), (same, wide) in zip(one, column, strict=True):
        assert rows.tolist() == same.tolist() and (width,) == wide


def test_outputs_are_put_in_the_order_of_their_rows():
    outputs = [(np.array([2, 0]), np.array([[2.0], [0.0]])), (np.array([1]), np.array([[1.0]]))]
    assert b.gather(outputs).tolist() == [[0.0], [1.0], [2.0]]
