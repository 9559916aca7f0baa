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


def test_every_epoch_sees_every_row_once_in_its_own_order():
    rows, size = 23, 4
    steps = -(-rows // size)
    epochs = [
        np.concatenate([b.batch_indices(7, epoch * steps + s, rows, size) for s in range(steps)])
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(rows))
        assert (epoch < 0).sum() == steps * size - rows
    assert epochs[0].tolist() != epochs[1].tolist()
    # A function of its arguments, not of what was asked before.
    assert b.batch_indices(7, 9, rows, size).tolist() == b.batch_indices(7, 9, rows, size).tolist()
    assert b.batch_indices(7, 0, rows, size).tolist() != b.batch_indices(8, 0, rows, size).tolist()


def test_the_order_stays_what_it_was():
    # A resumed run depends on it: these numbers must never change.
    assert b.epoch_order(3, 1, 10).tolist() == [0, 6, 2, 1, 3, 7, 4, 9, 8, 5]


@pytest.mark.parametrize("longest", [8, 32, 100, 128, 512])
def test_buckets_hold_every_length_and_are_few(longest):
    buckets = b.length_buckets(longest)
    assert buckets[-1] == longest and list(buckets) == sorted(set(buckets))
    assert len(buckets) <= 8
    for length in range(1, longest + 1):
        width = b.bucket_of(length, buckets)
        assert length <= width <= max(32, 2 * length)


def test_length_batches_drop_nothing():
    lengths = np.random.default_rng(0).integers(2, 128, 45)
    chosen = b.length_batches(lengths, 8, b.length_buckets(128))
    rows = np.concatenate([indices for indices, _ in chosen])
    assert sorted(rows[rows >= 0].tolist()) == list(range(45))
    for indices, width in chosen:
        assert len(indices) == 8 and lengths[indices[indices >= 0]].max() <= width
