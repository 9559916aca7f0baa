"""Exact match and F1 of answers by the rules of SQuAD's official scripts, versions 1.1 and 2.0."""

import collections
import re
import string
from collections.abc import Mapping, Sequence

from bertjax.tasks.question_answering.squad import Question

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """The answer as it is compared: lower-cased, without ASCII punctuation, without a, an and the,
    one space between words."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if both are normalized to the same, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def f1_score(prediction: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the prediction's words, as a bag.

    Two that are empty, once normalized, share no word: 0, as in the script of version 1.1.
    """
    said, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    shared = sum((collections.Counter(said) & collections.Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def question_scores(
    question: Question, prediction: str | None, *, has_unanswerable: bool
) -> tuple[float, float]:
    """(exact match, F1) of one question, each by the best of its answers.

    Args:
        question: with its answers.
        prediction: what was said; "" says that there is no answer; None: nothing was, which is
            wrong by the script of version 1.1 (that of 2.0 fails over it).
        has_unanswerable: the rules of version 2.0: answers that are empty once normalized don't
            count; where none is left, an empty prediction is right and all others are wrong.
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
    """The metrics of a file, in percent, as the official scripts print them.

    Args:
        questions: at least one.
        predictions: answers by the questions' ids; see `question_scores`.
        has_unanswerable: the rules of version 2.0.

    Returns:
        exact and f1; by the rules of 2.0 also HasAns_exact, HasAns_f1, NoAns_exact and NoAns_f1,
        over the questions that have an answer and those that don't, where there are any.
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
    """The threshold that scores best if exactly the questions at or below it are answered.

    As `find_best_thresh` of the official script for version 2.0, but that questions of the same
    difference are answered together, so that the score is what the threshold gives, and that the
    difference may be negative for all. The threshold lies midway between two differences: the same
    model in other batches or on another device, whose roundings are others, answers the same ones.

    Args:
        scores: of every question if it is answered, from 0 to 1.
        differences: of every question, how much likelier no answer is than the best one.
        has_answer: of every question.

    Returns:
        (the mean score in percent, the threshold). A threshold below all differences answers none.
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
    for one_exact, one_f1 in scores:  # in this order, as a sum of floats depends on it
        exact += one_exact
        f1 += one_f1
    return {f"{name}exact": 100.0 * exact / len(scores), f"{name}f1": 100.0 * f1 / len(scores)}
