"""The metrics against another implementation of the official rules, without regular expressions."""

import random
import string

import pytest

from bertjax.tasks.question_answering import metrics
from bertjax.tasks.question_answering.squad import Answer, Question

WORDS = [
    *("the", "a", "an", "The", "AN", "Paris", "paris", "Émile", "émile", "İzmir", "straße", "ß"),
    *("東京", "ノートル", "U.S.", "theatre", "an-other", "a.", "“the”", "$3.5", "1,000", "e\u0301"),
    *("...", "\u00a0", "\u2003x", "-", "the-a", "x", "Y", "🙂"),
]


def official(text):
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    text = text.lower()
    for mark in string.punctuation:
        text = text.replace(mark, "")
    runs, run = [], ""
    for character in text:
        if character.isalnum() or character == "_":
            run += character
        else:
            runs += [run, character]
            run = ""
    runs.append(run)
    return " ".join("".join(" " if run in ("a", "an", "the") else run for run in runs).split())


def official_f1(prediction, answer, version_2):
    said, wanted = official(prediction).split(), official(answer).split()
    if version_2 and (not said or not wanted):
        return float(said == wanted)
    left, shared = list(wanted), 0
    for word in said:
        if word in left:
            left.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def official_scores(questions, predictions, version_2):
    exact, f1, total = 0.0, 0.0, 0
    for question in questions:
        total += 1
        if question.id not in predictions:
            continue
        answers = [answer.text for answer in question.answers]
        if version_2:
            answers = [text for text in answers if official(text)] or [""]
        said = predictions[question.id]
        exact += max(float(official(said) == official(text)) for text in answers)
        f1 += max(official_f1(said, text, version_2) for text in answers)
    return {"exact": 100.0 * exact / total, "f1": 100.0 * f1 / total}


def phrase(generator):
    return " ".join(generator.choices(WORDS, k=generator.choice([0, 1, 1, 2, 3, 6])))


def make_questions(generator, count, version_2):
    questions, predictions = [], {}
    for number in range(count):
        most = 3 if version_2 and generator.random() < 0.4 else 0
        answers = [phrase(generator) for _ in range(generator.randint(0 if most else 1, 3))]
        questions.append(
            Question(f"q{number}", "?", "", tuple(Answer(text, 0) for text in answers))
        )
        if generator.random() < 0.9:
            near = generator.choice([*answers, ""]) if generator.random() < 0.5 else ""
            predictions[f"q{number}"] = f"{near} {phrase(generator)}".strip()
    return questions, predictions


@pytest.mark.parametrize("version_2", [False, True])
def test_a_thousand_answers_score_as_the_official_rules_say_to_the_last_digit(version_2):
    questions, predictions = make_questions(random.Random(version_2), 1000, version_2)
    assert len(predictions) < 950 and sum(not text for text in predictions.values()) > 50
    ours = metrics.squad_scores(questions, predictions, has_unanswerable=version_2)
    theirs = official_scores(questions, predictions, version_2)
    assert {name: ours[name] for name in theirs} == theirs
    assert 5 < theirs["exact"] < theirs["f1"] < 95
    for name, wanted in (("HasAns_", True), ("NoAns_", False)):
        part = [each for each in questions if bool(each.answers) == wanted]
        assert (f"{name}f1" in ours) == version_2
        if version_2:
            theirs = official_scores(part, predictions, True)
            assert (ours[f"{name}exact"], ours[f"{name}f1"]) == (theirs["exact"], theirs["f1"])
    for question in questions:  # one by one, so that errors cannot cancel
        if question.id in predictions:
            ours = metrics.squad_scores([question], predictions, has_unanswerable=version_2)
            theirs = official_scores([question], predictions, version_2)
            assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    ("version_2", "prediction", "answers", "exact", "f1"),
    [
        (False, "The Cat!", ["a cat"], 1, 1),
        (False, "the", ["a"], 1, 0),  # nothing is left of both, and no word is shared
        (True, "the", [], 1, 1),
        (True, "x", [], 0, 0),
        (True, "", ["the"], 1, 1),  # an answer of which nothing is left doesn't count
        (True, "", ["x"], 0, 0),
        (False, "b c d", ["c", "c d"], 0, 0.8),
        (False, None, ["c"], 0, 0),
        (True, None, [], 0, 0),
    ],
)
def test_scores_by_hand(version_2, prediction, answers, exact, f1):
    question = Question("q", "?", "", tuple(Answer(text, 0) for text in answers))
    scores = metrics.question_scores(question, prediction, has_unanswerable=version_2)
    assert scores == (exact, pytest.approx(f1, abs=1e-12))


def found_by_the_official_script(scores, differences, has_answer):
    """find_best_thresh of evaluate-v2.0.py, for predictions that are never empty."""
    current = best = sum(not each for each in has_answer)
    threshold = 0.0
    for index in sorted(range(len(scores)), key=lambda i: differences[i]):
        current += scores[index] if has_answer[index] else -1
        if current > best:
            best, threshold = current, differences[index]
    return 100.0 * best / len(scores), threshold


def test_the_best_threshold_is_the_official_scripts():
    generator = random.Random(5)
    for _ in range(50):
        has_answer = [generator.random() < 0.6 for _ in range(30)]
        scores = [generator.random() if has else 0.0 for has in has_answer]
        differences = [generator.gauss(-4 if has else 4, 4) for has in has_answer]
        best, ours = metrics.best_threshold(scores, differences, has_answer)
        official, theirs = found_by_the_official_script(scores, differences, has_answer)
        assert best == pytest.approx(official, rel=1e-12)
        assert [gap <= ours for gap in differences] == [gap <= theirs for gap in differences]
        assert min(abs(gap - ours) for gap in differences) > 0


def test_the_best_threshold_scores_what_it_says_also_where_differences_are_equal():
    generator = random.Random(6)
    for _ in range(50):
        has_answer = [generator.random() < 0.5 for _ in range(12)]
        scores = [float(generator.random() < 0.5) if has else 0.0 for has in has_answer]
        differences = [generator.choice([-3.0, -2.0, 1.0]) for _ in has_answer]

        def at(threshold, scores=scores, differences=differences, has_answer=has_answer):
            rows = zip(scores, differences, has_answer, strict=True)
            right = [score if gap <= threshold else not has for score, gap, has in rows]
            return 100.0 * sum(right) / len(right)

        best, threshold = metrics.best_threshold(scores, differences, has_answer)
        assert best == pytest.approx(at(threshold), rel=1e-12)
        assert best == pytest.approx(max(map(at, [-9.0, -3.0, -2.0, 1.0])), rel=1e-12)
