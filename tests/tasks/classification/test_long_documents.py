import itertools

import numpy as np
import pytest

from bertjax.tasks.classification import features as c
from bertjax.tasks.classification import long_documents as w


class Letters:
    """A tokenizer whose tokens are letters: [CLS] 1, letters 3 and up, [SEP] 2."""

    pad_id, cls_id, sep_id = 0, 1, 2

    def encode_sentences(self, sentences):
        return [np.array([3 + ord(letter) for letter in text], np.int32) for text in sentences]


@pytest.mark.parametrize(
    ("length", "most", "overlap", "wanted"),
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
def test_windows_of_a_length(length, most, overlap, wanted):
    assert w.spans(length, most, overlap) == wanted


def test_windows_cover_every_token_share_the_overlap_and_none_is_within_another():
    for length in range(30):
        for most in range(1, 9):
            for overlap in range(most):
                found = w.spans(length, most, overlap)
                covered = {at for start, stop in found for at in range(start, stop)}
                assert covered == set(range(length))
                assert all(stop - start <= most for start, stop in found)
                for (_, stop), (start, later) in itertools.pairwise(found):
                    assert stop - start == overlap and later > stop


def test_texts_become_windows_with_their_special_tokens():
    texts = ["a" * (row % 9) for row in range(600)]  # more than a chunk
    found = w.tokenize(texts, Letters(), 6, 1, np.arange(600) % 7)
    rows = found.windows.input_ids
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= 6 for ids in rows)
    assert {ids.dtype for ids in rows} == {np.dtype(np.int32)}
    wanted = [at for at, text in enumerate(texts) for _ in w.spans(len(text), 4, 1)]
    assert found.documents.tolist() == wanted
    assert found.documents[w.first_of_each(found.documents)].tolist() == list(range(600))
    assert found.windows.labels.tolist() == (found.documents % 7).tolist()
    assert len(found) == len(found.lengths) == len(wanted)
    batch = found.batch(np.array([0, 5, -1]), 6)
    assert batch["example_weight"].tolist() == [1.0, w.shares(found.documents)[5], 0.0]
    halved = found.with_weights(np.full(len(found), 0.5, np.float32))
    assert halved.batch(np.array([0]), 6)["example_weight"].tolist() == [0.5]


def test_every_document_weighs_the_same():
    documents = np.array([0, 0, 0, 1, 2, 2])
    weights = w.shares(documents)
    assert np.bincount(documents, weights) == pytest.approx([1, 1, 1])  # thirds in float32
    assert weights.dtype == np.float32


def test_a_document_has_the_mean_or_the_largest_of_its_windows():
    documents = np.array([0, 0, 0, 1, 2, 2])
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for how, reduce in (("mean", np.mean), ("max", np.max)):
        wanted = [reduce(logits[documents == document], axis=0) for document in range(3)]
        np.testing.assert_allclose(w.pool(logits, documents, how), wanted, rtol=1e-6)


def test_scores_are_of_documents():
    found = w.tokenize(["a" * 9, "b", "c" * 5], Letters(), 6, 1, np.array([1, 0, 1]))
    logits = np.random.default_rng(0).normal(size=(len(found), 2)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(found))  # those of like length come together
    outputs = [(order[:3], logits[order[:3]]), (order[3:], logits[order[3:]])]
    for how in ("mean", "max"):
        wanted = c.metrics(w.pool(logits, found.documents, how), np.array([1, 0, 1]))
        assert w.scores(found, outputs, metrics=c.metrics, how=how) == wanted
