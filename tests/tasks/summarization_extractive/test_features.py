"""Windows of whole sentences."""

import itertools
import random

import numpy as np
import pytest

from bertjax.model.extractive import min_length, places
from bertjax.tasks.summarization_extractive.documents import Document
from bertjax.tasks.summarization_extractive.features import _fill, _length, _spans, make_windows
from bertjax.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return load_tokenizer(directory)


def fewest_windows(sizes, room):
    """(number of windows, length of the longest) of the best of all ways to cut."""
    best = []
    for cuts in itertools.product([False, True], repeat=len(sizes) - 1):
        groups = [[sizes[0]]]
        for cut, size in zip(cuts, sizes[1:], strict=True):
            if cut:
                groups.append([])
            groups[-1].append(size)
        longest = max(map(_length, groups))
        if longest <= room:
            best.append((len(groups), longest))
    return min(best)


def test_windows_are_few_and_the_longest_is_short():
    generator = random.Random(1)
    for _ in range(60):
        sizes = [generator.randint(3, 20) for _ in range(generator.randint(1, 9))]
        spans = _spans(sizes, 24)
        assert [at for first, count in spans for at in range(first, first + count)] == list(
            range(len(sizes))
        )
        windows = [sizes[first : first + count] for first, count in spans]
        assert (len(windows), max(map(_length, windows))) == fewest_windows(sizes, 24)
        assert len(_fill(sizes, 24)) == len(spans)


def test_a_row_has_places_for_the_sentences_in_it():
    for length in range(4, 100):
        assert min_length(places(length)) <= length < min_length(places(length) + 1)
    assert _length([3] * 10) == min_length(10) == 73  # tokens for nine places, and one more


def test_rows_alternate_token_types_and_point_to_their_sentences(tokenizer):
    documents = [
        Document(("a b", "c", "d e f g h a b c d e", "f"), (1, 3), "c"),
        Document(("h",)),
    ]
    windows = make_windows(documents, tokenizer, 12)
    assert windows.truncated == 0
    assert windows.spans.tolist() == [[0, 0, 2], [0, 2, 1], [0, 3, 1], [1, 0, 1]]
    assert windows.lengths.tolist() == [9, 12, 3, 3]
    batch = windows.batch(np.array([0, 2, -1]), 16)
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert batch["input_ids"][0, :10].tolist() == [cls, 5, 6, sep, cls, 7, sep, 0, 0, 0]
    assert batch["token_type_ids"][0, :10].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [7, 3, 7]
    assert batch["cls_positions"].tolist() == [[0, 4], [0, 0], [0, 0]]
    assert batch["sentence_positions"].tolist() == [[0, 1], [3, 0], [0, 0]]
    assert batch["sentence_mask"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert batch["label"].tolist() == [[0, 1], [1, 0], [0, 0]]
    assert batch["example_weight"].tolist() == [1, 1, 0]


def test_a_sentence_that_is_longer_than_a_window_is_truncated(tokenizer):
    windows = make_windows([Document(("a " * 20, "b"))], tokenizer, 8)
    assert windows.truncated == 1 and windows.lengths.tolist() == [8, 3]
    row = windows.batch(np.array([0]), 8)["input_ids"][0]
    assert row.tolist() == [tokenizer.cls_id, *[5] * 6, tokenizer.sep_id]


def test_each_sentence_has_the_output_of_its_window(tokenizer):
    documents = [Document(("a b c d e f", "g", "h")), Document(("b",))]
    windows = make_windows(documents, tokenizer, 8)
    assert windows.spans.tolist() == [[0, 0, 1], [0, 1, 1], [0, 2, 1], [1, 0, 1]]
    outputs = [(np.array([3, 1]), np.array([[1.0], [2.0]])), (np.array([0, 2]), np.ones((2, 1)))]
    first, second = windows.by_document(outputs)
    assert first.tolist() == [1, 2, 1] and second.tolist() == [1]
