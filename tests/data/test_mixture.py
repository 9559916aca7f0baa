"""Several corpora as one stream: exact shares, whole epochs, the same rows for any request."""

import collections

import numpy as np
import pytest

from bertjax.data.corpora import Corpora
from bertjax.data.mixture import TrainStream, length_buckets, one_bucket
from bertjax.data.order import in_epochs
from bertjax.data.pairs import Pair
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError


@pytest.fixture
def two(make_data, some_pairs):
    return (
        make_data(some_pairs(31), some_pairs(9, seed=4), name="wiki"),
        make_data(some_pairs(7, seed=1), some_pairs(3, seed=5), name="books"),
    )


def mixed(directories, weights=(0.7, 0.3), *, lengths=(), seed=5, batch_size=12):
    corpora = Corpora.of(directories, weights)
    readers = corpora.readers("train")
    buckets = one_bucket(readers, corpora.weights)
    if lengths:
        buckets = length_buckets(readers, corpora.weights, lengths)
    return TrainStream(readers, buckets, seed=seed, batch_size=batch_size)


def test_every_example_once_an_epoch_of_its_corpus(two):
    stream = mixed(two)
    seen = collections.defaultdict(list)
    for step in range(100):
        for corpus, index in zip(*stream.examples(step, np.arange(12)), strict=True):
            seen[int(corpus)].append(int(index))
    assert {corpus: len(indices) for corpus, indices in seen.items()} == {0: 840, 1: 360}
    for corpus, size in ((0, 31), (1, 7)):
        epochs = [seen[corpus][start:][:size] for start in range(0, len(seen[corpus]), size)]
        whole = [epoch for epoch in epochs if len(epoch) == size]
        assert all(sorted(epoch) == list(range(size)) for epoch in whole)
        assert len({tuple(epoch) for epoch in whole}) == len(whole)


@pytest.mark.parametrize("lengths", [(), (8, 12)])
@pytest.mark.parametrize("processes", [2, 5])
def test_same_rows_for_any_number_of_hosts(two, processes, lengths):
    whole = mixed(two, lengths=lengths)
    readers = [ShardReader(directory, "train") for directory in two]
    for step in (0, 17, 10**11):
        batch = whole.rows(step, np.arange(12))
        hosts = [
            mixed(two, lengths=lengths).rows(step, part)
            for part in np.array_split(np.arange(12), processes)
        ]
        for name, array in batch.items():
            assert array.dtype == np.int32
            assert np.array_equal(array, np.concatenate([host[name] for host in hosts]))
        length = batch["input_ids"].shape[1]
        examples = zip(*whole.examples(step, np.arange(12)), strict=True)
        for row, (corpus, index) in enumerate(examples):
            alone = readers[corpus].rows(np.array([index]))
            assert batch["next_sentence_label"][row] == alone["next_sentence_label"][0]
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                assert batch[name][row].tolist() == alone[name][0, :length].tolist()
                assert not alone[name][0, length:].any()  # padding alone is left out
    again = whole.rows(17, np.array([5, 0, 5]))
    assert all(
        np.array_equal(again[name], array[[5, 0, 5]])
        for name, array in whole.rows(17, np.arange(12)).items()
    )
    length = whole.buckets[whole.bucket(0)].length
    assert whole.rows(0, np.array([], int))["input_ids"].shape == (0, length)


def test_the_order_of_a_mixture_is_this_one(two):
    # A changed order breaks resuming: it needs a new name in order.py.
    corpus, indices = mixed(two, seed=12345).examples(0, np.arange(8))
    assert corpus.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert indices.tolist() == [13, 6, 25, 7, 5, 2, 10, 1]
    stream = mixed(two, lengths=(8, 12), seed=12345)
    assert [stream.bucket(step) for step in range(8)] == [1, 1, 0, 2, 1, 1, 1, 1]
    corpus, indices = stream.examples(3, np.arange(8))
    assert corpus.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert indices.tolist() == [4, 1, 16, 18, 15, 1, 6, 4]


def test_the_fingerprint_covers_what_fixes_the_order(two, make_data, some_pairs):
    other = (two[0], make_data(some_pairs(7, seed=8), name="other"))
    found = {
        mixed(two).order_fingerprint(),
        mixed(two, seed=6).order_fingerprint(),
        mixed(two, batch_size=13).order_fingerprint(),
        mixed(two, weights=(0.7, 0.30001)).order_fingerprint(),
        mixed(two[::-1], weights=(0.3, 0.7)).order_fingerprint(),
        mixed(other).order_fingerprint(),
        mixed(two, lengths=(8,)).order_fingerprint(),
        mixed(two, lengths=(9,)).order_fingerprint(),
    }
    assert len(found) == 8
    assert mixed(two, weights=(70, 30)).order_fingerprint() in found  # the same shares


def test_every_example_is_in_the_shortest_rows_that_hold_it_and_as_often_as_without(two):
    stream = mixed(two, lengths=(8, 12))
    assert [length for length, _ in stream.lengths] == [8, 12, 16]
    assert sum(share for _, share in stream.lengths) == pytest.approx(1)
    lengths = [reader.lengths() for reader in stream.readers]
    shortest = {8: 0, 12: 9, 16: 13}
    drawn = collections.defaultdict(list)
    steps = 2000
    for step in range(steps):
        bucket = stream.bucket(step)
        length = stream.buckets[bucket].length
        for corpus, index in zip(*stream.examples(step, np.arange(12)), strict=True):
            assert shortest[length] <= lengths[corpus][index] <= length
            drawn[bucket, int(corpus)].append(int(index))
    for (bucket, corpus), indices in drawn.items():
        (part,) = (part for part in stream.buckets[bucket].sources if part.corpus == corpus)
        for start in range(0, len(indices) - part.size, part.size):
            assert sorted(indices[start:][: part.size]) == part.examples.tolist()
        # Its share of all examples: to within a step of its bucket and an example of the corpus.
        expected = steps * 12 * (0.7, 0.3)[corpus] * part.size / len(lengths[corpus])
        assert abs(len(indices) - expected) <= 12 + 1
    assert drawn.keys() == {
        (b, part.corpus) for b in range(3) for part in stream.buckets[b].sources
    }


def test_one_corpus_in_buckets_has_all_of_its_examples(two):
    stream = mixed(two[:1], (), lengths=(10,), batch_size=3)
    parts = [part for bucket in stream.buckets for part in bucket.sources]
    assert sorted(np.concatenate([part.examples for part in parts]).tolist()) == list(range(31))
    # Without buckets, one corpus has one order of epochs.
    rows, size = np.arange(3), len(stream.readers[0])
    for step in (0, 7, 1000):
        _, indices = mixed(two[:1], (), batch_size=3).examples(step, rows)
        assert indices.tolist() == in_epochs(3 * step + rows, size, seed=5).tolist()


def test_a_bucket_that_would_be_empty_is_not_made(two):
    assert mixed(two, lengths=(4,)).lengths == [(16, 1.0)]  # no example is so short


@pytest.mark.parametrize("lengths", [(16, 8), (8, 8), (8, 17), (0, 8)])
def test_lengths_that_cannot_be_right(two, lengths):
    with pytest.raises(UserError, match=r"give ascending lengths of up to 16"):
        mixed(two, lengths=lengths)


def test_lengths_are_those_of_the_rows(make_data, some_pairs):
    directory = make_data(some_pairs(40))
    reader = ShardReader(directory, "train")
    expected = reader.rows(np.arange(40))["attention_mask"].sum(1)
    assert reader.lengths().tolist() == expected.tolist()
    singles = [Pair(np.arange(5, 5 + n), np.array([], int), False) for n in range(1, 9)]
    reader = ShardReader(make_data(singles, name="single", segments="single"), "train")
    assert reader.lengths().tolist() == list(range(3, 11))

    shard = directory / "train-00014.array_record"
    pair = some_pairs(40)[17]
    record = pair.a.astype("<u2").tobytes() + pair.b.astype("<u2").tobytes()
    data = bytearray(shard.read_bytes())
    data[data.index(record)] ^= 4
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"train-00014\.array_record, record 3: damaged"):
        ShardReader(directory, "train").lengths()
