"""Exact match and F1 of answers by the rules of SQuAD's official scripts, versions 1.1 and 2.0."""

import collections
import re
import string
from collections.abc import Mapping, Sequence

from bertjax.tasks.question_answering.squad import Question

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower-cases an answer and removes ASCII punctuation, articles and extra spaces."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, answer: str) -> float:
    """Returns 1.0 if both have the same normalized form, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def f1_score(prediction: str, answer: str) -> float:
    """Returns the harmonic mean of precision and recall of the predicted bag of words.

    Two answers whose normalized form is empty have F1 0, as in the script of version 1.1.
    """
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def question_scores(
    question: Question, prediction: str | None, *, has_unanswerable: bool
) -> tuple[float, float]:
    """Returns (exact match, F1) of one question, each for the best of its answers.

    Args:
        question: a question and its answers.
        prediction: the predicted answer; "" predicts no answer; None is a missing prediction, which
            is wrong in the script of version 1.1 (that of 2.0 fails).
        has_unanswerable: whether the rules of version 2.0 apply: answers with an empty normalized
            form do not count, and without any answer only an empty prediction is right.
    """
    if prediction is None:
        return 0.0, 0.0
    answers = [answer.text for answer in question.answers]
    if has_unanswerable:
        answers = [answer for answer in answers if normalize_answer(answer)]
        if not answers or not normalize_answer(prediction):
            right = float(not answers and not normalize_answer(prediction))
            return right, right
    return (
        max(exact_match(prediction, answer) for answer in answers),
        max(f1_score(prediction, answer) for answer in answers),
    )


def squad_scores(
    questions: Sequence[Question], predictions: Mapping[str, str], *, has_unanswerable: bool
) -> dict[str, float]:
    """Computes the metrics of a file in percent, as the official scripts print them.

    Args:
        questions: at least one question.
        predictions: predicted answers by id; see `question_scores`.
        has_unanswerable: whether the rules of version 2.0 apply.

    Returns:
        exact and f1. For version 2.0 also HasAns_exact and HasAns_f1 over the questions that have
        an answer, and NoAns_exact and NoAns_f1 over the others, if there are such questions.
    """
    scores = [
        question_scores(each, predictions.get(each.id), has_unanswerable=has_unanswerable)
        for each in questions
    ]
    result = _percent("", scores)
    if has_unanswerable:
        for name, wanted in (("HasAns_", True), ("NoAns_", False)):
            part = [
                score
                for each, score in zip(questions, scores, strict=True)
                if bool(each.answers) == wanted
            ]
            result |= _percent(name, part) if part else {}
    return result


def best_threshold(
    scores: Sequence[float], differences: Sequence[float], has_answer: Sequence[bool]
) -> tuple[float, float]:
    """Finds the threshold with the best score if it answers the questions at or below it.

    Like `find_best_thresh` of the official script for version 2.0, except that questions with equal
    differences are answered together, and that all differences may be negative. The threshold lies
    midway between two differences, so that rounding errors of other batches or devices do not
    change which questions are answered.

    Args:
        scores: score of each question if it is answered, from 0 to 1.
        differences: logits by which no answer is likelier than the best one, for each question.
        has_answer: whether each question has an answer.

    Returns:
        (mean score in percent, threshold). A threshold below all differences answers no question.
    """
    order = sorted(range(len(scores)), key=lambda index: differences[index])
    current = best = float(sum(not each for each in has_answer))
    threshold = differences[order[0]] - 1.0
    for place, index in enumerate(order):
        current += scores[index] - (not has_answer[index])
        here, following = differences[index], order[place + 1 : place + 2]
        above = differences[following[0]] if following else here + 2.0
        if above > here and current > best:
            best, threshold = current, (here + above) / 2
    return 100.0 * best / len(scores), float(threshold)


def _percent(name: str, scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = 0.0, 0.0
    for one_exact, one_f1 in scores:  # the sum of floats depends on the order
        exact += one_exact
        f1 += one_f1
    return {f"{name}exact": 100.0 * exact / len(scores), f"{name}f1": 100.0 * f1 / len(scores)}
