"""Tests the scores of written texts, what is said of them, and the tables of a report."""

import dataclasses
import types

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks.bleu import bleu_scores
from bertjax.tasks.rouge import rouge_scores
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures
from bertjax.tasks.seq2seq.scoring import Scorer, Written, report_tables

pytest.importorskip("sacrebleu", reason="BLEU needs sacrebleu: pip install 'bertjax[seq2seq]'")
pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score: pip install 'bertjax[seq2seq]'")

UNCASED = types.SimpleNamespace(lowercase=True)
CASED = types.SimpleNamespace(lowercase=False)
TRANSLATION = Seq2SeqConfig(source_column="de", target_column="en", scoring="bleu")
TEXTS = ["A Dog runs on the grass", "Two men sit", "nothing"]
REFERENCES = ["a dog runs on the grass", "two men sit down there", "three girls"]


def test_a_vocabulary_without_case_is_scored_without_case_and_the_note_says_so():
    for tokenizer, case in ((UNCASED, "lc"), (CASED, "mixed")):
        scorer = Scorer.of(TRANSLATION, tokenizer)
        wanted = bleu_scores(TEXTS, REFERENCES, lowercase=case == "lc")
        assert scorer.text_scores(TEXTS, REFERENCES) == wanted.scores
        assert scorer.notes(TRANSLATION) == {
            name: f"de to en, {signature}" for name, signature in wanted.signatures.items()
        }
        assert f"case:{case}|eff:no|tok:13a" in scorer.notes(TRANSLATION)["bleu"]


def test_the_tokenization_is_that_of_the_options():
    options = dataclasses.replace(TRANSLATION, tokenize="char")
    scorer = Scorer.of(options, CASED)
    assert scorer.text_scores(["猫が寝る"], ["猫が寝る"])["bleu"] == pytest.approx(100)
    assert "tok:char" in scorer.notes(options)["bleu"]
    with pytest.raises(UserError, match="let `tokenize` be zh for Chinese"):
        Scorer.of(TRANSLATION, CASED).text_scores(["猫"], ["猫"])
    words = Seq2SeqConfig(tokenize="words")
    scorer = Scorer.of(words, CASED)
    assert scorer.text_scores(["кошка"], ["кошка"])["rougeL"] == 100
    assert scorer.notes(words)["rougeL"].endswith("words of any script, not stemmed")
    with pytest.raises(UserError, match="'english', which sacreBLEU does not have: give one of"):
        Scorer.of(dataclasses.replace(TRANSLATION, tokenize="english"), CASED).notes(TRANSLATION)


def test_reports_show_source_reference_and_output_and_scores_by_length():
    lengths = np.array([9, 3, 3])
    source = types.SimpleNamespace(lengths=lengths)
    features = Seq2SeqFeatures(source, references=REFERENCES)
    best = [[text, "second"] for text in TEXTS]
    written = Written(best, np.zeros((3, 2)), np.zeros((3, 2)), None)
    scorer = Scorer.of(Seq2SeqConfig(), CASED)
    sources = ["eins", "zwei", "drei"]
    examples, by_length = report_tables(sources, features, written, scorer)
    rows = [list(row) for row in zip(sources, REFERENCES, TEXTS, strict=True)]
    assert examples.rows == rows
    assert list(examples.columns) == ["source", "reference", "output"] and examples.given == 2
    short = rouge_scores(TEXTS[1:], REFERENCES[1:])
    assert list(by_length.columns) == ["source tokens", "rows", *short]
    assert by_length.rows == [["3", 2, *short.values()], ["9", 1, 100, 100, 100, 100]]
