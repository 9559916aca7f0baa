"""Tests BLEU and chrF beside values computed by hand."""

import math
import sys

import pytest

from bertjax.errors import UserError
from bertjax.tasks.bleu import bleu_scores, check_bleu

sacrebleu = pytest.importorskip(
    "sacrebleu", reason="BLEU needs sacrebleu: pip install 'bertjax[seq2seq]'"
)


def test_an_exact_match_is_100():
    result = bleu_scores(["Two dogs run, fast."], ["Two dogs run, fast."])
    assert result.scores == pytest.approx({"bleu": 100, "chrf": 100})


def test_bleu_by_hand():
    """6 of 7 words (13a separates the point), 4 of 6 pairs, 3 of 5 triples, 2 of 4 quadruples."""
    result = bleu_scores(["a cat sat on the mat."], ["a dog sat on the mat."])
    by_hand = 100 * math.prod((6 / 7, 4 / 6, 3 / 5, 2 / 4)) ** 0.25
    assert result.scores["bleu"] == pytest.approx(by_hand)


def test_brevity_penalty_and_chrf_by_hand():
    result = bleu_scores(["a b c d"], ["a b c d e f"])
    assert result.scores["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4))
    # Characters without spaces: every n-gram of abcd is in abcdef; 4/6, 3/5, 2/4 and 1/3 recalled.
    # chrF averages precision and recall over these orders and weights recall by beta = 2.
    recall = (4 / 6 + 3 / 5 + 2 / 4 + 1 / 3) / 4
    assert result.scores["chrf"] == pytest.approx(100 * 5 * recall / (4 + recall))


def test_signatures_say_how():
    result = bleu_scores(["A b"], ["a b"], tokenize="char", lowercase=True)
    version = sacrebleu.__version__
    assert result.signatures == {
        "bleu": f"nrefs:1|case:lc|eff:no|tok:char|smooth:exp|version:{version}",
        "chrf": f"nrefs:1|case:lc|eff:yes|nc:6|nw:0|space:no|version:{version}",
    }


@pytest.mark.parametrize("tokenize", ["13a", "intl", "none"])
@pytest.mark.parametrize("text", ["猫がマットの上で寝ています。", "แมวนอนอยู่บนเสื่อ", "ネコ、猫が OK"])
def test_scripts_without_spaces_need_another_tokenization(tokenize, text):
    with pytest.raises(UserError, match="zh for Chinese, ja-mecab for Japanese, or char"):
        bleu_scores([text], [text], tokenize=tokenize)


def test_scripts_without_spaces_are_scored_by_characters():
    same = bleu_scores(["猫が寝ています"], ["猫が寝ています"], tokenize="char")
    assert same.scores["bleu"] == pytest.approx(100)
    text = "两只狗在草地上奔跑"
    assert bleu_scores([text], [text], tokenize="zh").scores["bleu"] == pytest.approx(100)
    # A few words of another script are no other language.
    bleu_scores(["the word 猫 means cat"], ["the word 猫 means cat"])


@pytest.mark.parametrize(
    ("predictions", "references", "tokenize", "message"),
    [
        ([], [], "13a", "no reference"),
        (["a", "b"], ["a", " "], "13a", "Reference 2: the reference is empty"),
        (["a"], ["a"], "moses", "`tokenize` is 'moses'.*13a.*ja-mecab.*flores200"),
    ],
)
def test_bad_input(predictions, references, tokenize, message):
    with pytest.raises(UserError, match=message):
        bleu_scores(predictions, references, tokenize=tokenize)


def test_missing_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    with pytest.raises(UserError, match=r"ja-mecab of BLEU needs .*'sacrebleu\[ja\]'"):
        check_bleu(["猫"], "ja-mecab")
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[seq2seq\]'"):
        check_bleu(["a"])


def test_a_model_that_cannot_be_downloaded(monkeypatch, tmp_path):
    from sacrebleu.tokenizers import tokenizer_spm

    def refuse(url, path):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer_spm, "download_file", refuse)
    with pytest.raises(UserError, match=r"flores200 of BLEU could not load its model.*no route"):
        check_bleu(["猫"], "flores200")


def test_lists_of_different_lengths():
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        bleu_scores(["a"], ["a", "b"])
