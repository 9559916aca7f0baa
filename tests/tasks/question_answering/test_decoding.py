import random

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks.question_answering import decoding as qa
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.features import Document, Windows
from bertjax.tasks.question_answering.squad import Answer, Question


def letters(question, letters_of_document, first, count, has_unanswerable=False, query=2):
    """Makes windows over documents whose tokens are letters, of a script without spaces."""
    documents = [
        Document(
            np.arange(len(text), dtype=np.int32) + 10,
            np.stack([np.arange(len(text)), np.arange(len(text)) + 1], 1),
        )
        for text in letters_of_document
    ]
    owners = np.concatenate([np.full(len(each), at) for at, each in enumerate(first)])
    return Windows(
        question,
        documents,
        [np.arange(query, dtype=np.int32)] * len(documents),
        owners.astype(np.int32),
        np.concatenate(first).astype(np.int32),
        np.concatenate(count).astype(np.int32),
        np.zeros((len(owners), 2), np.int32),
        (1, 2, 0),
        has_unanswerable,
    )


def one(text="アイウエオカキクケコ", first=(0, 4), count=(6, 6), answers=(), **more):
    return letters([Question("q", "?", text, answers)], [text], [first], [count], **more)


def outputs_of(windows, **planted):
    """Zero logits except those given: w0_s3 is the start logit of token 3 in window 0."""
    width = int(windows.lengths.max())
    logits = np.zeros((len(windows), width, 2), np.float32)
    for name, value in planted.items():
        window, place = name[1:].split("_")
        window, column, token = int(window), "se".index(place[0]), int(place[1:])
        prefix = windows.prefixes[window]
        at = 0 if token < 0 else prefix + token - windows.first[window]
        logits[window, at, column] = value
    return [(np.arange(len(windows))[::-1], logits[::-1])]


def test_the_best_span_is_the_documents_own_text_with_its_characters():
    windows = one()
    (prediction,) = qa.decode(windows, outputs_of(windows, w0_s1=4.0, w0_e3=5.0), 30)
    best = prediction.candidates[0]
    assert best == ("イウエ", 1, 4, 9.0)
    assert len({each.text for each in prediction.candidates}) == len(prediction.candidates) == 20
    scores = [each.score for each in prediction.candidates]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("context", "part", "whole"),
    [
        ("He described it.", "describ", "described"),
        ("He described it.", "cribed i", "described it"),
        ("born in 1858, in", "858", "1858"),
        ("the dog's bone", "dog", "dog"),
        ("a well-known man", "known", "known"),
        ("(Lourdes)", "our", "Lourdes"),
        ("Émile's", "mil", "Émile"),
        ("cafe\u0301s there", "af", "cafe\u0301s"),
        ("हिन्दी भाषा", "न", "हिन्दी"),
        ("東京タワー", "京", "京"),
        ("ภาษาไทย", "ษา", "ษา"),
        ("snake_case", "nak", "snake"),
        ("it. ", ".", "."),
    ],
)
def test_answers_are_whole_words(context, part, whole):
    start = context.index(part)
    start, end = qa.whole_words(context, start, start + len(part))
    assert context[start:end] == whole


def test_spans_within_one_word_are_one_answer():
    offsets = np.array([[0, 3], [4, 8], [8, 10], [11, 13]])
    document = Document(np.arange(10, 14, dtype=np.int32), offsets)
    windows = one("the described it", first=(0,), count=(4,), answers=())
    windows.documents[0] = document
    logits = outputs_of(windows, w0_s1=4.0, w0_e1=5.0, w0_e2=3.0)
    (prediction,) = qa.decode(windows, logits, 30)
    assert prediction.candidates[0] == ("described", 4, 13, 9.0)
    texts = [each.text for each in prediction.candidates]
    assert len(set(texts)) == len(texts) and "desc" not in texts


def test_an_answer_is_not_longer_than_allowed_nor_backwards():
    windows = one()
    logits = outputs_of(windows, w0_s1=4.0, w0_e3=5.0)
    assert qa.decode(windows, logits, 2)[0].candidates[0].score == 5.0
    assert all(len(each.text) <= 2 for each in qa.decode(windows, logits, 2)[0].candidates)
    backwards = outputs_of(windows, w0_s3=4.0, w0_e1=5.0)
    assert qa.decode(windows, backwards, 30)[0].candidates[0].score == 5.0


def test_a_span_begins_where_its_token_has_most_context():
    # Token 4 is the last but one of window 0 and the first of window 1: window 0 owns it.
    windows = one()
    assert qa.most_context(windows.first, windows.count, 10).tolist() == [0] * 5 + [1] * 5
    other = qa.decode(windows, outputs_of(windows, w1_s4=9.0, w1_e4=9.0), 30)[0]
    assert other.candidates[0].score == 0.0
    own = qa.decode(windows, outputs_of(windows, w0_s4=8.0, w0_e4=8.0), 30)[0]
    assert own.candidates[0] == ("オ", 4, 5, 16.0)
    # A span may end where another window has more context.
    across = qa.decode(windows, outputs_of(windows, w0_s4=8.0, w0_e5=8.0), 30)[0]
    assert across.candidates[0] == ("オカ", 4, 6, 16.0)


def test_the_window_with_most_context_is_googles():
    def check_is_max_context(spans, token):
        """_check_is_max_context of run_squad.py."""
        best = None
        for index, (start, length) in enumerate(spans):
            end = start + length - 1
            if not start <= token <= end:
                continue
            score = min(token - start, end - token) + 0.01 * length
            if best is None or score > best[0]:
                best = (score, index)
        return best[1]

    generator = random.Random(0)
    for _ in range(30):
        tokens, room = generator.randint(1, 60), generator.randint(3, 20)
        stride = generator.randint(1, room)
        starts = [s for s in range(0, tokens, stride) if s == 0 or s - stride + room < tokens]
        spans = [(s, min(room, tokens - s)) for s in starts]
        ours = qa.most_context(*(np.array(column) for column in zip(*spans, strict=True)), tokens)
        assert ours.tolist() == [check_is_max_context(spans, token) for token in range(tokens)]


def test_the_best_spans_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    for count, longest in ((1, 5), (7, 3), (30, 8)):
        begins, ends = rng.normal(size=(2, count))
        begins[rng.random(count) < 0.3] = -np.inf
        pairs = [
            (begins[i] + ends[j], i, j)
            for i in range(count)
            for j in range(i, min(i + longest, count))
            if begins[i] > -np.inf
        ]
        found = qa.best_spans(begins, ends, longest, 9)
        assert found == sorted(pairs, reverse=True)[:9]


def test_the_null_score_is_the_lowest_of_the_windows():
    windows = one(has_unanswerable=True)
    logits = outputs_of(
        windows, **{"w0_s-1": 3.0, "w0_e-1": 4.0, "w1_s-1": 1.0, "w1_e-1": 2.0}, w0_s1=2.0
    )
    (prediction,) = qa.decode(windows, logits, 30)
    assert (prediction.null_score, prediction.difference) == (3.0, 1.0)
    assert (prediction.text(0.5), prediction.text(1.0), prediction.text(None)) == ("", "イ", "イ")


def test_scores_name_the_threshold_that_would_have_been_best():
    texts = ["アイウ", "アイエ", "サシス"]
    questions = [
        Question("a", "?", texts[0], (Answer("イ", 1),)),
        Question("b", "?", texts[1], (Answer("イ", 1),)),
        Question("c", "?", texts[2]),
    ]
    windows = letters(questions, texts, [(0,)] * 3, [(3,)] * 3, has_unanswerable=True)
    planted = {f"w{row}_{part}1": 2.0 for row in range(3) for part in "se"}
    nulls = {"w0_s-1": 3.0, "w1_s-1": 5.0, "w2_s-1": 6.0}  # against 4: differences -1, 1, 2
    scores = qa.scores(windows, outputs_of(windows, **planted, **nulls), max_answer_length=5)
    assert scores["exact"] == pytest.approx(200 / 3)  # at 0 the second is not answered
    assert (scores["HasAns_f1"], scores["NoAns_f1"]) == (50.0, 100.0)
    assert (scores["best_f1"], scores["best_f1_threshold"]) == (100.0, 1.5)
    again = qa.scores(
        windows, outputs_of(windows, **planted, **nulls), max_answer_length=5, null_threshold=1.5
    )
    assert again["f1"] == scores["best_f1"] == again["best_f1"]


def test_test_questions_are_answered_at_the_threshold_of_the_dev_questions():
    windows = one(answers=(Answer("イ", 1),), has_unanswerable=True)
    nulls = {"w0_s-1": 5.0, "w1_s-1": 5.0}  # against 4: a difference of 1
    logits = outputs_of(windows, **nulls, w0_s1=2.0, w0_e1=2.0)
    for dev, f1 in (({"best_f1_threshold": 1.0, "f1": 50.0}, 100.0), ({"f1": 50.0}, 0.0)):
        found = qa.test_scores(dev, windows, logits, max_answer_length=5)
        assert found["f1"] == found["exact"] == f1
        assert not [name for name in found if name.startswith("best_")]


def test_without_unanswerable_questions_there_is_always_an_answer():
    windows = one(answers=(Answer("イ", 1),))
    logits = outputs_of(windows, **{"w0_s-1": 30.0, "w1_s-1": 30.0}, w0_s1=2.0, w0_e1=2.0)
    assert qa.scores(windows, logits, max_answer_length=5) == {"exact": 100.0, "f1": 100.0}


def test_probabilities_are_shared_with_no_answer_where_it_may_be_one():
    prediction = qa.Prediction((qa.Candidate("a", 0, 1, 1.0), qa.Candidate("b", 1, 2, 0.0)), 2.0)
    shares, null = qa.probabilities(prediction, with_null=False)
    assert (sum(shares), null) == (pytest.approx(1.0), 0.0)
    assert shares[0] / shares[1] == pytest.approx(np.e)
    shares, null = qa.probabilities(prediction, with_null=True)
    assert sum(shares) + null == pytest.approx(1.0) and null / shares[0] == pytest.approx(np.e)


@pytest.mark.parametrize(
    ("options", "length", "sentence"),
    [
        ({"max_query_length": 29}, 32, "`max_query_length` 29 leaves no room"),
        (
            {"doc_stride": 10, "max_query_length": 20},
            32,
            "`doc_stride` 10 is longer than the 9 doc",
        ),
    ],
)
def test_windows_that_would_leave_out_some_of_the_document(options, length, sentence):
    with pytest.raises(UserError, match=sentence):
        QuestionAnsweringConfig(**options).check_fits(length)
    QuestionAnsweringConfig(doc_stride=9, max_query_length=20).check_fits(32)
    with pytest.raises(UserError, match="`max_answer_length` is 0"):
        QuestionAnsweringConfig(max_answer_length=0)
