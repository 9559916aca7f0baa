"""Data directories that can be mixed, and the errors for those that can't."""

import math

import pytest

from bertjax.data.corpora import Corpora
from bertjax.errors import UserError


@pytest.fixture
def two(make_data, some_pairs):
    return (
        make_data(some_pairs(31), some_pairs(9, seed=4), name="wiki"),
        make_data(some_pairs(7, seed=1), some_pairs(3, seed=5), name="books"),
    )


def test_corpora(two):
    corpora = Corpora.of(two)
    assert (corpora.names, corpora.weights) == (("wiki", "books"), (31, 7))
    assert corpora.examples("train") == 38 and corpora.examples("held_out") == 12
    assert Corpora.of(two, (0.7, 0.3)).weights == (7, 3)
    assert Corpora.of(two, (1e-7, 1.0)).shares == pytest.approx((1e-7, 1.0))
    # A single directory is recorded by its hash alone.
    assert Corpora.of(two[:1]).setting() == corpora.manifests[0].hash
    assert corpora.setting() == {
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
        ({"max_seq_length": 32}, r"wiki and .*books differ in max_seq_length \(16 and 32\)"),
        (
            {"segments": "sentence_order"},
            r"wiki and .*books differ in segments \(next_sentence and sentence_order\)",
        ),
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


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0.5], "1 `data_weights` for 2 data directories"),
        ([0.5, 0.2, 0.3], "3 `data_weights` for 2 data directories"),
        ([0.5, -0.5], r"The weight of .*books in `data_weights` is -0\.5: give a number above 0"),
        ([0.0, 0.0], r"The weight of .*wiki in `data_weights` is 0\.0"),
        ([1.0, math.nan], r"The weight of .*books in `data_weights` is nan"),
        ([math.inf, 1.0], r"The weight of .*wiki in `data_weights` is inf"),
    ],
)
def test_weights_that_cannot_be_right(two, weights, sentence):
    with pytest.raises(UserError, match=sentence):
        Corpora.of(two, weights)
