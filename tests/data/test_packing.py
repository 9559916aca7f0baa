"""Packing: every example in one row, rows that hold it as it is, the same rows for any host."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjax.data.corpora import Corpora
from bertjax.data.mixture import TrainStream, packed_bucket
from bertjax.data.packing import pack, pack_lengths
from bertjax.data.pairs import Pair
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError


@given(st.lists(st.integers(1, 24), min_size=1, max_size=200), st.integers(1, 9))
def test_every_length_is_in_one_row_and_no_row_is_too_full(lengths, most):
    groups = pack_lengths(np.bincount(lengths), 24, most)
    packed = [length for number, row in groups for length in row for _ in range(number)]
    assert sorted(packed) == sorted(lengths)
    assert all(number > 0 and 0 < len(row) <= most and sum(row) <= 24 for number, row in groups)
    # No two rows could be one: best fit opens a row only if no other has the space.
    open_rows = [sum(row) for _, row in groups if len(row) == 1 < most]
    assert sum(sorted(open_rows)[:2]) > 24 or len(open_rows) < 2


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_nearly_full_where_examples_are_short(seed):
    rng = np.random.default_rng(seed)
    for lengths in (rng.integers(3, 513, 20_000), rng.integers(20, 200, 20_000)):
        most = 2 * -(-512 // int(lengths.mean()))
        groups = pack_lengths(np.bincount(lengths), 512, most)
        assert lengths.sum() / (512 * sum(number for number, _ in groups)) > 0.97


def packed_stream(directories, weights=(), *, seed=5, batch_size=6):
    corpora = Corpora.of(directories, weights)
    readers = pack(corpora.readers("train"), seed)
    buckets = packed_bucket(readers, corpora.weights)
    return TrainStream(readers, buckets, seed=seed, batch_size=batch_size)


@pytest.fixture
def two(make_data, some_pairs):
    return (
        make_data(some_pairs(61), some_pairs(9, seed=4), name="wiki", max_seq_length=32),
        make_data(some_pairs(17, seed=1), some_pairs(3, seed=5), name="books", max_seq_length=32),
    )


def test_a_row_holds_its_examples_as_they_are_alone(two):
    reader = ShardReader(two[0], "train")
    (packed,) = pack([reader], seed=3)
    chosen, batch = packed.examples(np.arange(len(packed))), packed.rows(np.arange(len(packed)))
    assert (chosen >= 0).sum(1).max() == packed.most > 1 and len(packed) < len(reader) / 2
    for row, examples in enumerate(chosen):
        end = 0
        for slot, example in enumerate(examples[examples >= 0]):
            alone = {name: own[0] for name, own in reader.rows(np.array([example])).items()}
            length = alone["attention_mask"].sum()
            here = slice(end, end + length)
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                assert batch[name][row, here].tolist() == alone[name][:length].tolist()
            assert batch["position_ids"][row, here].tolist() == list(range(length))
            assert set(batch["segment_ids"][row, here]) == {slot + 1}
            assert batch["cls_positions"][row, slot] == end
            assert batch["next_sentence_label"][row, slot] == alone["next_sentence_label"]
            end += length
        names = ("input_ids", "attention_mask", "token_type_ids", "segment_ids", "position_ids")
        assert not any(batch[name][row, end:].any() for name in names)  # pad_id is 0 here
        used = batch["example_weight"][row].sum()
        assert used == (examples >= 0).sum()
        assert not batch["cls_positions"][row, int(used) :].any()


def test_every_example_once_an_epoch_of_its_corpus_and_in_its_share(two):
    stream = packed_stream(two, (0.5, 0.5))
    seen = collections.defaultdict(list)
    steps = 200
    for step in range(steps):
        for corpus, row in zip(*stream.examples(step, np.arange(6)), strict=True):
            seen[int(corpus)].append(stream.readers[corpus].examples(int(row)))
    counts = {}
    for corpus, rows in seen.items():
        reader = stream.readers[corpus]
        for start in range(0, len(rows) - len(reader), len(reader)):
            epoch = np.concatenate(rows[start : start + len(reader)])
            assert sorted(epoch[epoch >= 0]) == list(range(len(reader.reader)))
        counts[corpus] = int((np.array(rows) >= 0).sum())
        # To within the examples of a row and a part of an epoch.
        epochs = counts[corpus] / len(reader.reader)
        assert stream.epochs(steps)[corpus] == pytest.approx(epochs, abs=0.5)
    assert counts[0] / sum(counts.values()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("processes", [2, 5])
def test_same_rows_for_any_number_of_hosts(two, processes):
    whole = packed_stream(two)
    for step in (0, 17, 10**9):
        batch = whole.rows(step, np.arange(6))
        parts = np.array_split(np.arange(6), processes)
        hosts = [packed_stream(two).rows(step, part) for part in parts]
        for name, array in batch.items():
            assert array.dtype == (np.float32 if name == "example_weight" else np.int32)
            assert np.array_equal(array, np.concatenate([host[name] for host in hosts]))


def test_the_rows_of_this_seed_are_these(two):
    # Changed rows break resuming: they need a new name in packing.py.
    (packed,) = pack([ShardReader(two[0], "train")], seed=12345)
    assert packed.examples(np.array([0, 7])).tolist() == [[9, 58, 21, -1], [53, 57, 51, -1]]


def test_the_fingerprint_covers_the_packing(two, make_data, some_pairs):
    other = make_data(some_pairs(61, seed=8), name="other", max_seq_length=32)
    found = {
        packed_stream(two).order_fingerprint(),
        packed_stream(two, seed=6).order_fingerprint(),
        packed_stream(two, (0.5, 0.5)).order_fingerprint(),
        packed_stream((other, two[1])).order_fingerprint(),
        TrainStream.of(ShardReader(two[0], "train"), seed=5, batch_size=6).order_fingerprint(),
        packed_stream(two[:1]).order_fingerprint(),
    }
    assert len(found) == 6


def test_single_sequences_have_no_label(make_data):
    singles = [Pair(np.arange(5, 5 + n), np.array([], int), False) for n in range(1, 9)]
    reader = ShardReader(make_data(singles, name="single", segments="single"), "train")
    (packed,) = pack([reader], seed=0)
    assert "next_sentence_label" not in packed.rows(np.array([0]))
    assert packed.rows(np.array([], int))["input_ids"].shape == (0, 16)


def test_an_example_longer_than_a_row_is_named(make_data, some_pairs):
    long = Pair(np.arange(5, 25), np.arange(5, 9), False)
    (packed,) = pack([ShardReader(make_data([*some_pairs(9), long]), "train")], seed=0)
    with pytest.raises(UserError, match=r"train-00007\.array_record, record 2: damaged \(an exam"):
        packed.rows(np.arange(len(packed)))
