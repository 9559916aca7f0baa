"""Windows: each token is tagged once, whatever the length of its sentence."""

import numpy as np
import pytest

from bertjax.tasks.token_classification.features import make_windows

LABELS = ("O", "B-A", "I-A")


@pytest.fixture(scope="module")
def make(tiny_model):
    """Makes windows of sentences whose words have the tags O B-A I-A in turn."""

    def made(sentences, length, **options):
        tags, place = [], 0
        for sentence in sentences:
            tags.append(tuple(LABELS[(place + at) % 3] for at in range(len(sentence))))
            place += len(sentence)
        return make_windows(
            sentences, tiny_model.tokenizer, length, tags=tags, labels=LABELS, **options
        )

    return made


SENTENCES = [["good"] * 40, ["goodsly", "film"], ["the", "\u200b", ""], ["plot"] * 7]


@pytest.mark.parametrize("length", [4, 5, 9, 16, 64])
@pytest.mark.parametrize("documents", [None, [0, 0, 1, 1]])
def test_every_token_is_tagged_once_with_context(make, length, documents):
    windows = make(SENTENCES, length, documents=documents)
    batch = windows.batch(np.arange(len(windows)), length)
    assert windows.lengths.max() <= length
    assert batch["label_weight"].sum() == sum(map(len, SENTENCES))  # a word once
    owned = np.concatenate([np.arange(begin, end) for _, _, begin, end in windows.spans])
    np.testing.assert_array_equal(owned, np.arange(len(windows.ids)))
    for row, (first, end, begin, stop) in enumerate(windows.spans):
        assert first <= begin <= stop <= end
        np.testing.assert_array_equal(
            batch["input_ids"][row, 1 : end - first + 1], windows.ids[first:end]
        )
        if begin > first and windows.split and documents is None:
            assert begin - first >= (length - 2) // 4 // 2  # what is shared, half on each side
    # The outputs of each window come back in the order of words.
    outputs = [(np.arange(len(windows)), batch["input_ids"][..., None].astype(np.float32))]
    words = windows.word_logits(outputs)[:, 0]
    np.testing.assert_array_equal(words, windows.ids[windows.first_tokens])
    assert [len(each) for each in windows.by_sentence(words)] == [40, 2, 3, 7]


def test_document_context_fills_the_row_from_both_sides(make):
    sentences = [["good"] * 3, ["film"] * 2, ["plot"] * 9]
    windows = make(sentences, 10, documents=[0, 0, 0])
    first, second = windows.spans[:2]
    assert first.tolist() == [0, 8, 0, 3] and second.tolist() == [0, 8, 3, 5]
    assert windows.split == 1
    apart = make(sentences, 10, documents=[0, 1, 1])
    assert apart.spans[:2].tolist() == [[0, 3, 0, 3], [3, 11, 3, 5]]


def test_first_pieces_or_all_are_labeled(make, tiny_model):
    sentences = [["the", "goodsly", "film"]]
    pieces = len(tiny_model.tokenizer.encode_sentences(["goodsly"])[0])
    assert pieces > 1
    first = make(sentences, 64)
    np.testing.assert_array_equal(first.weights, [1, 1, *[0] * (pieces - 1), 1])
    every = make(sentences, 64, all_pieces=True)
    np.testing.assert_array_equal(every.weights, 1)
    np.testing.assert_array_equal(every.labels, [0, 1, *[2] * (pieces - 1), 2])


def test_words_without_a_token_are_unknown_and_counted(make, tiny_model):
    windows = make(SENTENCES, 64)
    assert windows.unreadable == 2
    assert list(windows.ids).count(tiny_model.tokenizer.unk_id) >= 2


def test_padding_rows_weigh_nothing(make):
    batch = make(SENTENCES, 16).batch(np.array([0, -1]), 16)
    assert batch["label_weight"][1].sum() == 0 and batch["example_weight"].tolist() == [1, 0]


def test_no_words_are_one_empty_row(tiny_model):
    windows = make_windows([[]], tiny_model.tokenizer, 16)
    assert windows.lengths.tolist() == [2] and not len(windows.first_tokens)
