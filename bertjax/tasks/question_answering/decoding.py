"""Logits of windows -> answers, spans of their documents, and metrics."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.tasks.question_answering import metrics
from bertjax.tasks.question_answering.features import Windows
from bertjax.tasks.task import Outputs, Scores

N_BEST = 20
"""Answers that probabilities are normalized over, as in Google's run_squad.py."""

# Thai, Lao, Tibetan, Myanmar, Khmer, kana and Han.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


class Candidate(NamedTuple):
    """A span of a document that may be the answer."""

    text: str
    """The text of the document."""
    start: int
    """The first character."""
    end: int
    """One past the last character."""
    score: float
    """Sum of its two logits."""


class Prediction(NamedTuple):
    """The prediction of a model for a question."""

    candidates: tuple[Candidate, ...]
    """At least one of the best spans with different texts, the best first."""
    null_score: float
    """Minimum over the windows of the sum of the two logits of [CLS]."""

    @property
    def difference(self) -> float:
        """Logits by which no answer is likelier than the best one."""
        return self.null_score - self.candidates[0].score

    def text(self, null_threshold: float | None) -> str:
        """Returns the best answer, or "" if the difference is above a threshold."""
        if null_threshold is not None and self.difference > null_threshold:
            return ""
        return self.candidates[0].text


def decode(
    windows: Windows, outputs: Outputs, max_answer_length: int, n_best: int = N_BEST
) -> list[Prediction]:
    """Finds the answers to each question, as `write_predictions` of Google's run_squad.py does.

    A span has at most `max_answer_length` tokens, and its window gives its first token the most
    context. Google's script combines 20 starts and 20 ends of a window; here all spans compete. An
    answer is made of whole words, as in the pipeline of transformers (its `align_to_words`).

    Args:
        windows: N windows.
        outputs: row numbers [n] and logits [n, T, 2].
        max_answer_length: maximum tokens of an answer.
        n_best: number of answers to keep.
    """
    logits: dict[int, np.ndarray] = {}
    lengths = windows.lengths
    for rows, values in outputs:
        for row, value in zip(rows.tolist(), values, strict=True):
            logits[row] = np.asarray(value[: lengths[row]], np.float64)
    # The windows of a question are consecutive.
    bounds = np.searchsorted(windows.question, np.arange(len(windows.questions) + 1))
    return [
        _predict(
            windows, index, range(*bounds[index : index + 2]), logits, max_answer_length, n_best
        )
        for index in range(len(windows.questions))
    ]


def scores(
    windows: Windows, outputs: Outputs, max_answer_length: int, null_threshold: float = 0.0
) -> Scores:
    """Computes `metrics.squad_scores` of the answers at a null threshold.

    For version 2.0 it adds best_exact and best_f1, the metrics at the thresholds that suit these
    very questions best: best_exact_threshold and best_f1_threshold.
    """
    predictions = decode(windows, outputs, max_answer_length)
    questions, null = windows.questions, windows.has_unanswerable
    texts = {
        question.id: prediction.text(null_threshold if null else None)
        for question, prediction in zip(questions, predictions, strict=True)
    }
    result = metrics.squad_scores(questions, texts, has_unanswerable=null)
    if null:
        answered = [
            metrics.question_scores(question, prediction.text(None), has_unanswerable=True)
            for question, prediction in zip(questions, predictions, strict=True)
        ]
        differences = [prediction.difference for prediction in predictions]
        has_answer = [bool(question.answers) for question in questions]
        for name, column in zip(("exact", "f1"), zip(*answered, strict=True), strict=True):
            best, threshold = metrics.best_threshold(column, differences, has_answer)
            result |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
    return result


def test_scores(
    dev_scores: Scores, windows: Windows, outputs: Outputs, max_answer_length: int
) -> Scores:
    """Computes the metrics at the null threshold that was the best on the dev questions."""
    threshold = dev_scores.get("best_f1_threshold", 0.0)
    found = scores(windows, outputs, max_answer_length, threshold)
    return {name: value for name, value in found.items() if not name.startswith("best_")}


def _predict(
    windows: Windows,
    index: int,
    rows: Sequence[int],
    logits: dict[int, np.ndarray],
    max_answer_length: int,
    n_best: int,
) -> Prediction:
    document, context = windows.documents[index], windows.questions[index].context
    prefix = len(windows.queries[index]) + 2
    owner = most_context(windows.first[rows], windows.count[rows], len(document.ids))
    readable = document.readable
    found: list[tuple[float, int, int]] = []
    for place, row in enumerate(rows):
        first, count = int(windows.first[row]), int(windows.count[row])
        part = logits[row][prefix : prefix + count]
        allowed = readable[first : first + count]
        begins = np.where(allowed & (owner[first : first + count] == place), part[:, 0], -np.inf)
        ends = np.where(allowed, part[:, 1], -np.inf)
        found += [
            (score, first + start, first + end)
            for score, start, end in best_spans(begins, ends, max_answer_length, n_best)
        ]
    found.sort(key=lambda each: -each[0])
    candidates: dict[str, Candidate] = {}
    for score, first, last in found:
        start, end = whole_words(context, *document.characters_of(first, last))
        candidates.setdefault(context[start:end], Candidate(context[start:end], start, end, score))
    null_score = min(float(logits[row][0].sum()) for row in rows)
    return Prediction(tuple(candidates.values())[:n_best], null_score)


def whole_words(context: str, start: int, end: int) -> tuple[int, int]:
    """Returns the characters [start, end) of a span, extended to the ends of its words.

    A word is letters, digits and marks without anything between. In scripts without spaces, such as
    those of Chinese, Japanese and Thai, each letter is a word.
    """
    while start > 0 and _in_word(context[start - 1]) and _in_word(context[start]):
        start -= 1
    while end < len(context) and _in_word(context[end]) and _in_word(context[end - 1]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    is_part = character.isalnum() or unicodedata.category(character).startswith("M")
    return is_part and not _WITHOUT_SPACES.match(character)


def most_context(first: np.ndarray, count: np.ndarray, tokens: int) -> np.ndarray:
    """int64 [tokens]: the window in which each token of a document has the most context.

    The context is min(tokens to the left, tokens to the right) + 0.01 * tokens of the window. The
    first of equal windows wins (`_check_is_max_context` of Google's run_squad.py).

    Args:
        first: [W], the first token of each window.
        count: [W], the number of tokens of each window.
        tokens: number of tokens of the document.
    """
    best, owner = np.full(tokens, -np.inf), np.full(tokens, -1, np.int64)
    for window, (begin, size) in enumerate(zip(first.tolist(), count.tolist(), strict=True)):
        part = slice(begin, begin + size)
        left = np.arange(size)
        score = np.minimum(left, size - 1 - left) + 0.01 * size
        better = score > best[part]
        best[part][better], owner[part][better] = score[better], window
    return owner


def best_spans(
    begins: np.ndarray, ends: np.ndarray, max_length: int, n_best: int
) -> list[tuple[float, int, int]]:
    """Returns (sum of logits, first token, last token) of the best spans, the best first.

    Args:
        begins: [n], logits of the first token of a span; -inf where no span may begin.
        ends: [n], logits of the last token of a span; -inf where no span may end.
        max_length: maximum tokens of a span.
        n_best: maximum number of spans.
    """
    width = min(max_length, len(ends))
    padded = np.concatenate([ends, np.full(width - 1, -np.inf)])
    sums = begins[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)  # [n, width]
    flat = sums.ravel()
    top = np.arange(len(flat))
    if len(flat) > n_best:
        top = np.sort(np.argpartition(-flat, n_best - 1)[:n_best])
    top = top[np.argsort(-flat[top], kind="stable")]
    return [
        (float(flat[place]), int(place // width), int(place // width + place % width))
        for place in top
        if np.isfinite(flat[place])
    ]


def probabilities(prediction: Prediction, *, with_null: bool) -> tuple[list[float], float]:
    """Softmax over the scores of the candidates, and of no answer if `with_null`."""
    values = np.array(
        [each.score for each in prediction.candidates] + [prediction.null_score] * with_null
    )
    exponents = np.exp(values - values.max())
    shares = (exponents / exponents.sum()).tolist()
    return shares[: len(prediction.candidates)], shares[-1] if with_null else 0.0
