"""A baseline without learning: the words of the document near those of the question."""

import collections
import re
from collections.abc import Sequence

import numpy as np

from bertjax.tasks.question_answering.squad import Question

_WORD = re.compile(r"\w+")


def mean_length(questions: Sequence[Question]) -> int:
    """Returns the rounded mean number of words of the answers; 1 without answers."""
    counts = [len(_WORD.findall(each.answers[0].text)) for each in questions if each.answers]
    return max(1, round(float(np.mean(counts)))) if counts else 1


def overlap_answer(question: Question, length: int) -> str:
    """Returns the span of `length` words that has the most words of the question around it.

    This follows the sliding window of Richardson, Burges and Renshaw (2013). A word of the question
    that occurs c times in the document scores log(1 + 1/c) for each occurrence near the span. Near
    is a distance of at most half the words of the question. Spans without words of the question
    come first.

    Args:
        question: a question and its document.
        length: words of an answer.
    """
    words = list(_WORD.finditer(question.context))
    if not words:
        return ""
    length = min(length, len(words))
    asked = set(_WORD.findall(question.question.lower()))
    counts = collections.Counter(word.group().lower() for word in words)
    worth = np.array(
        [
            np.log1p(1 / counts[word.group().lower()]) if word.group().lower() in asked else 0.0
            for word in words
        ]
    )
    sums, hits = (np.concatenate([[0], np.cumsum(each)]) for each in (worth, worth > 0))
    starts = np.arange(len(words) - length + 1)
    reach = len(asked) // 2
    around = (
        sums[np.minimum(starts + length + reach, len(words))] - sums[np.maximum(starts - reach, 0)]
    )
    repeats = hits[starts + length] - hits[starts]
    best = int(np.lexsort((-around, repeats > 0))[0])
    return question.context[words[best].start() : words[best + length - 1].end()]
