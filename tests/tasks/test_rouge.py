"""Tests ROUGE beside values computed by hand."""

import sys

import pytest

from bertjax.errors import UserError
from bertjax.tasks.rouge import check_rouge, rouge_notes, rouge_scores

pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score: pip install 'bertjax[seq2seq]'")


def test_scores_by_hand():
    """Stems: the, cat, sat, on, the, mat against the, cat, is, sit, on, mat."""
    scores = rouge_scores(["The cats sat on the mats!"], ["the cat is sitting on mat"])
    # 4 of 6 words (the, cat, on, mat) and 1 of 5 pairs (the cat) on both sides; the longest common
    # subsequence is the cat on mat.
    by_hand = {"rouge1": 400 / 6, "rouge2": 20, "rougeL": 400 / 6, "rougeLsum": 400 / 6}
    assert scores == pytest.approx(by_hand)


def test_precision_and_recall_count_alike():
    # Precision 2 / 2, recall 2 / 4; the second example has nothing in common.
    scores = rouge_scores(["red fox", ""], ["red fox ran off", "a b c"])
    assert scores["rouge1"] == pytest.approx(100 * (2 * 1 * 0.5 / 1.5 + 0) / 2)


def test_sentences_of_rouge_lsum_are_lines():
    # The lines in the other order: each is found whole, but in order only one of them.
    scores = rouge_scores(["a b c\nd e f"], ["d e f\na b c"])
    assert scores["rougeLsum"] == pytest.approx(100)
    assert scores["rougeL"] == pytest.approx(50)
    scores = rouge_scores(["a b c d e f"], ["d e f a b c"])
    assert scores["rougeLsum"] == scores["rougeL"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("tokenize", "prediction", "reference", "rouge1"),
    [
        ("words", "Кошка, спит!", "кошка не спит", 80),  # precision 1, recall 2 / 3
        ("words", "हिन्दी भाषा", "हिन्दी", 200 / 3),  # marks belong to their word
        ("characters", "猫が寝る。", "猫は寝る", 75),
    ],
)
def test_other_scripts(tokenize, prediction, reference, rouge1):
    scores = rouge_scores([prediction], [reference], tokenize=tokenize)
    assert scores["rouge1"] == pytest.approx(rouge1)


@pytest.mark.parametrize(
    ("predictions", "references", "tokenize", "message"),
    [
        ([], [], "english", "no reference"),
        (["a", "b"], ["a", " "], "english", "Reference 2: ' ' has no word"),
        (["猫が寝る"], ["猫が寝る"], "english", "let `tokenize` be words, or characters"),
        (["a"], ["a"], "french", "`tokenize` is 'french'.*english, words, characters"),
    ],
)
def test_bad_input(predictions, references, tokenize, message):
    with pytest.raises(UserError, match=message):
        rouge_scores(predictions, references, tokenize=tokenize)


def test_a_bad_reference_is_named_by_its_place():
    with pytest.raises(UserError, match=r"dev.tsv:3: '!' has no word"):
        check_rouge(["a", "!"], where=["dev.tsv:2", "dev.tsv:3"].__getitem__)


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[seq2seq\]'"):
        rouge_scores(["a"], ["a"])
    with pytest.raises(UserError, match=r"pip install 'bertjax\[seq2seq\]'"):
        rouge_notes("english")


def test_lists_of_different_lengths():
    with pytest.raises(ValueError, match="shorter"):
        rouge_scores(["a"], ["a", "b"])
