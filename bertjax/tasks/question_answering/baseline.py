"""Answers without learning: what stands among the words of the question."""

import collections
import re
from collections.abc import Sequence

import numpy as np

from bertjax.tasks.question_answering.squad import Question

_WORD = re.compile(r"\w+")


def usual_length(questions: Sequence[Question]) -> int:
    """The mean number of words of the questions' answers, rounded; 1 if there are none."""
    counts = [len(_WORD.findall(each.answers[0].text)) for each in questions if each.answers]
    return max(1, round(float(np.mean(counts)))) if counts else 1


def overlap_answer(question: Question, length: int) -> str:
    """The run of `length` words of the document around which most of the question's words stand.

    After the sliding window of Richardson, Burges and Renshaw (2013): a word of the question that
    comes c times in the document counts log(1 + 1/c) each time it comes near the run: at most half
    as many words away as the question has. A run with words of the question is no answer if there
    is one without.

    Args:
        question: with its document.
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
