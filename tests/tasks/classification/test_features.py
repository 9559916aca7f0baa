import itertools

import numpy as np
import pytest

from bertjax.tasks.classification import features as w
from bertjax.tasks.classification.reading import _weighted


class Letters:
    """A tokenizer whose tokens are letters: [CLS] 1, letters 3 and up, [SEP] 2."""

    pad_id, cls_id, sep_id = 0, 1, 2

    def encode_sentences(self, sentences):
        return [np.array([3 + ord(letter) for letter in text], np.int32) for text in sentences]


@pytest.mark.parametrize(
    ("length", "size", "overlap", "wanted"),
    [
        (0, 4, 1, [(0, 0)]),
        (4, 4, 1, [(0, 4)]),
        (5, 4, 1, [(0, 4), (3, 5)]),
        (7, 4, 1, [(0, 4), (3, 7)]),
        (8, 4, 0, [(0, 4), (4, 8)]),
        (6, 4, 3, [(0, 4), (1, 5), (2, 6)]),
        (1, 4, 3, [(0, 1)]),
    ],
)
def test_windows_of_a_length(length, size, overlap, wanted):
    assert w.spans(length, size, overlap) == wanted


def test_windows_cover_every_token_share_the_overlap_and_none_is_within_another():
    for length in range(30):
        for size in range(1, 9):
            for overlap in range(size):
                found = w.spans(length, size, overlap)
                covered = {at for start, stop in found for at in range(start, stop)}
                assert covered == set(range(length))
                assert all(stop - start <= size for start, stop in found)
                for (_, stop), (start, later) in itertools.pairwise(found):
                    assert stop - start == overlap and later > stop


def test_texts_become_windows_with_their_special_tokens():
    texts = ["a" * (row % 9) for row in range(600)]  # more than a chunk
    windows = w.tokenize_windows(texts, Letters(), 6, 1, np.arange(600) % 7)
    rows = windows.input_ids
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= 6 for ids in rows)
    assert {ids.dtype for ids in rows} == {np.dtype(np.int32)}
    wanted = [at for at, text in enumerate(texts) for _ in w.spans(len(text), 4, 1)]
    assert windows.texts.tolist() == wanted
    assert windows.labels.tolist() == (windows.texts % 7).tolist()
    assert w.targets_of(windows).tolist() == (np.arange(600) % 7).tolist()
    assert len(windows) == len(windows.lengths) == len(wanted)
    batch = windows.batch(np.array([0, 5, -1]), 6)
    assert batch["example_weight"].tolist() == [1.0, windows.weights[5], 0.0]


def test_every_text_weighs_the_same():
    texts = ["a" * 9, "b", "c" * 5]
    windows = w.tokenize_windows(texts, Letters(), 6, 1)
    assert windows.texts.tolist() == [0, 0, 0, 1, 2, 2]
    totals = np.bincount(windows.texts, windows.weights)
    assert totals == pytest.approx([1, 1, 1])  # thirds in float32
    assert windows.weights.dtype == np.float32
    windows = w.tokenize_windows(texts, Letters(), 6, 1, np.array([1, 0, 1]))
    weighted = _weighted(windows, np.array([1, 0.5], np.float32))
    assert np.bincount(windows.texts, weighted.weights) == pytest.approx([0.5, 1, 0.5])


def test_a_text_has_the_mean_or_the_largest_of_its_windows():
    owners = np.array([0, 0, 0, 1, 2, 2])
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for how, reduce in (("mean", np.mean), ("max", np.max)):
        wanted = [reduce(logits[owners == text], axis=0) for text in range(3)]
        np.testing.assert_allclose(w.pool(logits, owners, how), wanted, rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_logits_are_of_texts(how):
    texts = ["a" * 9, "b", "c" * 5]
    reading = w.Reading(6, 1, how)
    features = reading.tokenize(texts, None, Letters(), np.array([1, 0, 1]))
    logits = np.random.default_rng(0).normal(size=(len(features), 2)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(features))  # sorted by length in use
    outputs = [(order[:3], logits[order[:3]]), (order[3:], logits[order[3:]])]
    wanted = w.pool(logits, features.texts, how)
    np.testing.assert_array_equal(reading.logits(features, outputs), wanted)
