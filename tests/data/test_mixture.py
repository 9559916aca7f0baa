"""Several corpora as one stream: exact shares, whole epochs, the same rows however asked for."""

import collections
import fractions
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bertjax.data.mixture import Corpora, MixedStream, deal
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=9),
    st.one_of(st.just(0), st.integers(0, 10**12)),
    st.integers(1, 200),
)
def test_shares_hold_at_every_place(weights, start, count):
    parts, draws = deal(np.arange(start, start + count), weights)
    most = fractions.Fraction(math.ceil(math.log2(len(weights))), 2)
    for part, weight in enumerate(weights):
        share = fractions.Fraction(weight, sum(weights))
        before = None
        for place, draw in zip(np.flatnonzero(parts == part), draws[parts == part], strict=True):
            # Exactly: a float would hide a drift at place 10**12.
            assert abs(int(draw) - (start + int(place)) * share) <= most
            assert before is None or draw == before + 1
            before = draw
    if start == 0:
        for part in set(parts.tolist()):
            assert draws[parts == part][0] == 0
    chosen = np.random.default_rng(0).integers(0, count, 7)
    for here, alone in zip((parts, draws), deal(start + chosen, weights), strict=True):
        assert here[chosen].tolist() == alone.tolist()


def test_seven_to_three_by_hand():
    parts, draws = deal(np.arange(10), [7, 3])
    assert parts.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert draws.tolist() == [0, 0, 1, 2, 3, 1, 4, 5, 2, 6]
    # Of up to four parts, each has its share of the first places give or take one.
    parts, _ = deal(np.arange(1000), [500, 300, 199, 1])
    for end in range(1, 1001):
        found = np.bincount(parts[:end], minlength=4)
        assert np.abs(found - end * np.array([0.5, 0.3, 0.199, 0.001])).max() <= 1


@pytest.fixture
def two(make_data, some_pairs):
    return (
        make_data(some_pairs(31), some_pairs(9, seed=4), name="wiki"),
        make_data(some_pairs(7, seed=1), some_pairs(3, seed=5), name="books"),
    )


def mixed(directories, weights=(0.7, 0.3), seed=5, batch_size=12):
    corpora = Corpora.of(directories, weights)
    return MixedStream(corpora.readers("train"), corpora.weights, seed=seed, batch_size=batch_size)


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


def test_corpora(two):
    corpora = Corpora.of(two)
    assert (corpora.names, corpora.weights) == (("wiki", "books"), (31, 7))
    assert corpora.examples("train") == 38 and corpora.examples("held_out") == 12
    assert Corpora.of(two, (0.7, 0.3)).weights == (7, 3)
    assert Corpora.of(two, (1e-7, 1.0)).shares == pytest.approx((1e-7, 1.0))
    # Of one directory, it is what it was before there could be several.
    assert Corpora.of(two[:1]).identity() == corpora.manifests[0].hash
    assert corpora.identity() == {
        "manifests": [manifest.hash for manifest in corpora.manifests],
        "weights": [31, 7],
    }


def test_names_tell_the_directories_apart(make_data, some_pairs, tmp_path):
    for name in ("wiki", "books"):
        (tmp_path / name).mkdir()
    directories = [
        make_data(some_pairs(5, seed=seed), name=name)
        for seed, name in enumerate(("wiki/128", "books/128", "news"))
    ]
    names = ("wiki-128", "books-128", f"{tmp_path.name}-news")
    assert Corpora.of(directories).names == names


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"tokenizer_sha256": "1" * 64},
            r"wiki and .*books come from different tokenizers \(SHA-256 000000000000 and 11111",
        ),
        ({"max_seq_length": 32}, r"wiki and .*books have another max_seq_length \(16 and 32\)"),
        ({"objective": "sop"}, r"wiki and .*books have another objective \(nsp and sop\)"),
    ],
)
def test_directories_that_do_not_fit_together(make_data, some_pairs, fields, sentence):
    one = make_data(some_pairs(9), name="wiki")
    other = make_data(some_pairs(9, seed=1), name="books", **fields)
    with pytest.raises(UserError, match=sentence):
        Corpora.of([one, other])


def test_the_same_examples_twice_and_none(two, make_data, some_pairs):
    copy = make_data(some_pairs(31), some_pairs(9, seed=4), name="copy")
    for again in (two[0], copy):
        with pytest.raises(UserError, match="hold the same examples: name them once"):
            Corpora.of([two[0], two[1], again])
    with pytest.raises(UserError, match="empty: its train split holds no examples"):
        Corpora.of([two[0], make_data([], name="empty")])
    with pytest.raises(UserError, match="batch_size is 0"):
        mixed(two, batch_size=0)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0.5], "1 data_weights for 2 data directories"),
        ([0.5, 0.2, 0.3], "3 data_weights for 2 data directories"),
        ([0.5, -0.5], r"The data weight of .*books is -0\.5: give a number above 0"),
        ([0.0, 0.0], r"The data weight of .*wiki is 0\.0"),
        ([1.0, math.nan], r"The data weight of .*books is nan"),
        ([math.inf, 1.0], r"The data weight of .*wiki is inf"),
    ],
)
def test_weights_that_cannot_be_right(two, weights, sentence):
    with pytest.raises(UserError, match=sentence):
        Corpora.of(two, weights)
