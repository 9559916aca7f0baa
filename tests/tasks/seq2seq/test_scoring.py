"""Tests the scores of written texts, what is said of them, and the tables of a report."""

import dataclasses
import types

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks.bleu import bleu_scores
from bertjax.tasks.rouge import rouge_scores
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures, add_targets, read_sources
from bertjax.tasks.seq2seq.pairs import Pairs
from bertjax.tasks.seq2seq.scoring import Scorer, Written, copied_beginnings, gather, report_tables

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


def test_rouge_lsum_splits_what_has_no_lines_on_both_sides():
    scorer = Scorer.of(Seq2SeqConfig(), CASED)
    sentences = ["The dog sleeps on the mat.", "A cat runs to its house."]
    turned = " ".join(reversed(sentences))
    for reference in ("\n".join(sentences), " ".join(sentences)):
        scores = scorer.text_scores([turned], [reference])
        assert scores["rougeLsum"] == pytest.approx(100) and scores["rougeL"] < 60
    assert "sentences by sentencex" in scorer.notes(Seq2SeqConfig())["rougeLsum"]


def test_a_target_that_is_no_reference_is_named_by_its_line():
    pairs = Pairs(["a", "b"], ["a", "?!"], ["dev.tsv:2", "dev.tsv:3"])
    with pytest.raises(UserError, match=r"^dev.tsv:3: "):
        Scorer.of(Seq2SeqConfig(), CASED).check(pairs)
    Scorer.of(TRANSLATION, CASED).check(pairs)  # BLEU counts punctuation
    with pytest.raises(UserError, match=r"^dev.tsv:3: "):
        Scorer.of(TRANSLATION, CASED).check(Pairs(["a", "b"], ["a", " "], pairs.places))


SOURCES = ["the film was good and fine", "a film", "the plot"]
TARGETS = ["good film", "not bad", "the plot was bad"]


@pytest.fixture(scope="module")
def features(tiny_tokenizer):
    return add_targets(read_sources(SOURCES, tiny_tokenizer, 9), TARGETS, tiny_tokenizer, 9)


def outputs(tokenizer, texts, *, with_loss=True):
    """What a `Writer` gives for texts, of which each row has the same number, in two batches."""
    batches = []
    for rows in ([2], [0, 1]):
        ids = [[tokenizer.encode(text).ids[1:] for text in texts[row]] for row in rows]
        tokens = np.full((len(rows), len(texts[0]), 9), tokenizer.pad_id, np.int32)
        for row, texts_of_row in enumerate(ids):
            for place, each in enumerate(texts_of_row):
                tokens[row, place, : len(each)] = each
        batch = {
            "tokens": tokens,
            "scores": np.array([[-row - place for place in range(len(texts[0]))] for row in rows]),
            "lengths": (tokens != tokenizer.pad_id).sum(-1),
        }
        if with_loss:
            batch |= {"nll": np.array([2.0 * row for row in rows]), "count": np.full(len(rows), 4)}
        batches.append((np.array(rows), batch))
    return batches


def test_outputs_are_gathered_in_the_order_of_their_rows(tiny_tokenizer):
    texts = [["good film", "bad"], ["not bad", "fine"], ["the plot", "plot"]]
    written = gather(outputs(tiny_tokenizer, texts), tiny_tokenizer)
    assert written.texts == texts and written.best == ["good film", "not bad", "the plot"]
    assert written.scores.tolist() == [[0, -1], [-1, -2], [-2, -3]]
    assert written.lengths.tolist() == [[3, 2], [3, 2], [3, 2]]
    assert written.nll_loss == pytest.approx((0 + 2 + 4) / 12)
    alone = gather(outputs(tiny_tokenizer, texts, with_loss=False), tiny_tokenizer)
    assert alone.nll_loss is None


def test_scores_are_those_of_the_best_texts(tiny_tokenizer, features):
    texts = [["good film", "x"], ["not bad", "x"], ["the plot", "x"]]
    written = gather(outputs(tiny_tokenizer, texts), tiny_tokenizer)
    scores = Scorer.of(Seq2SeqConfig(), tiny_tokenizer).scores(written, features)
    assert scores["rouge1"] == pytest.approx((100 + 100 + 100 * 2 * 1 * 0.5 / 1.5) / 3)
    assert scores["length"] == 3 and scores["nll_loss"] == pytest.approx(0.5)
    scores = Scorer.of(Seq2SeqConfig(scoring="bleu"), tiny_tokenizer).scores(written, features)
    assert set(scores) == {"bleu", "chrf", "nll_loss", "length"}


def test_the_baseline_has_as_many_words_as_the_references(features):
    # (2 + 2 + 4) / 3 words on average.
    assert copied_beginnings(features, SOURCES) == ["the film was", "a film", "the plot"]
