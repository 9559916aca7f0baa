"""Several corpora as one stream: exact shares, whole epochs, the same rows however asked for."""

import collections

import numpy as np
import pytest

from bertjax.data.corpora import Corpora
from bertjax.data.mixture import MixedStream, length_buckets, one_bucket
from bertjax.data.stream import ShardReader


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
    return MixedStream(readers, buckets, seed=seed, batch_size=batch_size)


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


@pytest.mark.parametrize("processes", [2, 5])
def test_same_rows_for_any_number_of_hosts(two, processes):
    whole = mixed(two)
    readers = [ShardReader(directory, "train") for directory in two]
    for step in (0, 17, 10**11):
        batch = whole.rows(step, np.arange(12))
        hosts = [mixed(two).rows(step, part) for part in np.array_split(np.arange(12), processes)]
        for name, array in batch.items():
            assert array.dtype == np.int32
            assert np.array_equal(array, np.concatenate([host[name] for host in hosts]))
        for row, (corpus, index) in enumerate(
            zip(*whole.examples(step, np.arange(12)), strict=True)
        ):
            alone = readers[corpus].rows(np.array([index]))
            assert all(np.array_equal(batch[name][row], alone[name][0]) for name in batch)
    again = whole.rows(17, np.array([5, 0, 5]))
    assert all(
        np.array_equal(again[name], array[[5, 0, 5]])
        for name, array in whole.rows(17, np.arange(12)).items()
    )
    assert whole.rows(0, np.array([], int))["input_ids"].shape == (0, 16)


def test_the_order_of_a_mixture_is_this_one(two):
    # A change of it breaks the resuming of runs: it needs another name in mixture.py.
    corpus, indices = mixed(two, seed=12345).examples(0, np.arange(8))
    assert corpus.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert indices.tolist() == [0, 0, 0, 0, 0, 0, 0, 0]


def test_the_fingerprint_covers_what_fixes_the_order(two, make_data, some_pairs):
    other = (two[0], make_data(some_pairs(7, seed=8), name="other"))
    found = {
        mixed(two).order_fingerprint(),
        mixed(two, seed=6).order_fingerprint(),
        mixed(two, batch_size=13).order_fingerprint(),
        mixed(two, weights=(0.7, 0.30001)).order_fingerprint(),
        mixed(two[::-1], weights=(0.3, 0.7)).order_fingerprint(),
        mixed(other).order_fingerprint(),
    }
    assert len(found) == 6
    assert mixed(two, weights=(70, 30)).order_fingerprint() in found  # the same shares
