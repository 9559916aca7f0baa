"""Answers as spans of a document (SQuAD), out of the logits of its windows; their metrics."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.question_answering import metrics
from bertjax.tasks.question_answering.features import Windows

N_BEST = 20
"""Answers among which probabilities are shared out, as in Google's run_squad.py."""

Outputs = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringConfig:
    """How questions and their documents are cut (only with --task question_answering)."""

    doc_stride: int = 128
    """Tokens from the beginning of a window to that of the next one: a step, as in Google's
    run_squad.py. (Hugging Face's scripts mean the tokens that two windows share.)"""
    max_query_length: int = 64
    """Most tokens of a question; a longer one loses its end."""
    max_answer_length: int = 30
    """Most tokens of an answer that is given."""

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_query_length", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1.")

    def check_fits(self, max_seq_length: int) -> None:
        """Raises a UserError if windows of so many tokens would leave out some of the document."""
        room = max_seq_length - self.max_query_length - 3
        if room < 1:
            raise UserError(
                f"max_query_length {self.max_query_length} leaves no room for the document in "
                f"windows of max_seq_length {max_seq_length} tokens: lower it, or raise the other."
            )
        if self.doc_stride > room:
            raise UserError(
                f"doc_stride {self.doc_stride} is longer than the {room} tokens of the document "
                f"that a window of max_seq_length {max_seq_length} has room for beside "
                f"max_query_length {self.max_query_length}: give at most {room}."
            )


class Candidate(NamedTuple):
    """A span of the document that may be the answer."""

    text: str
    """As it stands in the document."""
    start: int
    """The first character."""
    end: int
    """One past the last character."""
    score: float
    """The sum of its two logits."""


class Prediction(NamedTuple):
    """What the model makes of a question."""

    candidates: tuple[Candidate, ...]
    """The best spans of different texts, the best first; at least one."""
    null_score: float
    """The lowest sum of the two logits of [CLS] among the question's windows."""

    @property
    def difference(self) -> float:
        """How much likelier it is that there is no answer than the best one."""
        return self.null_score - self.candidates[0].score

    def text(self, null_threshold: float | None) -> str:
        """The best answer; "" if the difference is more than the threshold, if there is one."""
        if null_threshold is not None and self.difference > null_threshold:
            return ""
        return self.candidates[0].text


def decode(
    windows: Windows, outputs: Outputs, max_answer_length: int, n_best: int = N_BEST
) -> list[Prediction]:
    """The answers of every question, as `write_predictions` of Google's run_squad.py.

    A span begins where its window gives the token the most context, and is at most
    `max_answer_length` tokens long. Google's script looks at 20 beginnings and 20 ends of a window;
    here every span of it counts.

    Args:
        windows: N of them.
        outputs: row numbers [n] and logits [n, T, 2] of their windows, until every row has come.
        max_answer_length: in tokens.
        n_best: answers to keep.
    """
    logits: dict[int, np.ndarray] = {}
    lengths = windows.lengths
    for rows, values in outputs:
        for row, value in zip(rows.tolist(), values, strict=True):
            logits[row] = np.asarray(value[: lengths[row]], np.float64)
    # The windows of a question follow each other.
    bounds = np.searchsorted(windows.question, np.arange(len(windows.questions) + 1))
    return [
        _predict(
            windows, index, range(*bounds[index : index + 2]), logits, max_answer_length, n_best
        )
        for index in range(len(windows.questions))
    ]


def scores(
    windows: Windows, outputs: Outputs, *, max_answer_length: int, null_threshold: float = 0.0
) -> dict[str, float]:
    """The metrics of `squad_metric.squad_scores`, of the answers at a null threshold; by the rules
    of version 2.0 also best_exact and best_f1, which the thresholds best_exact_threshold and
    best_f1_threshold would give, chosen among these very questions.
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
    dev: Mapping[str, float], windows: Windows, outputs: Outputs, *, max_answer_length: int
) -> dict[str, float]:
    """The metrics at the null threshold that was the best one on the dev questions."""
    threshold = dev.get("best_f1_threshold", 0.0)
    found = scores(windows, outputs, max_answer_length=max_answer_length, null_threshold=threshold)
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
        start, end = document.characters_of(first, last)
        candidates.setdefault(context[start:end], Candidate(context[start:end], start, end, score))
    null_score = min(float(logits[row][0].sum()) for row in rows)
    return Prediction(tuple(candidates.values())[:n_best], null_score)


def most_context(first: np.ndarray, count: np.ndarray, tokens: int) -> np.ndarray:
    """int64 [tokens]: the window in which each token of a document has the most context.

    That is min(tokens to its left, tokens to its right) + 0.01 * the window's tokens, the first of
    equals (`_check_is_max_context` of Google's run_squad.py).

    Args:
        first: [W] the token that each window begins with.
        count: [W] the tokens of each.
        tokens: of the document.
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
    begins: np.ndarray, ends: np.ndarray, max_length: int, most: int
) -> list[tuple[float, int, int]]:
    """(sum of both, first token, last token) of the best spans, the best first.

    Args:
        begins: [n] logits of a span's first token; -inf where none may begin.
        ends: [n] logits of its last token.
        max_length: most tokens of a span.
        most: spans to give; fewer if there aren't so many.
    """
    width = min(max_length, len(ends))
    padded = np.concatenate([ends, np.full(width - 1, -np.inf)])
    sums = begins[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)  # [n, width]
    flat = sums.ravel()
    top = np.arange(len(flat))
    if len(flat) > most:
        top = np.sort(np.argpartition(-flat, most - 1)[:most])
    top = top[np.argsort(-flat[top], kind="stable")]
    return [
        (float(flat[place]), int(place // width), int(place // width + place % width))
        for place in top
        if np.isfinite(flat[place])
    ]


def probabilities(prediction: Prediction, *, with_null: bool) -> tuple[list[float], float]:
    """The softmax over the scores of the candidates, and of no answer if it may be one."""
    values = np.array(
        [each.score for each in prediction.candidates] + [prediction.null_score] * with_null
    )
    exponents = np.exp(values - values.max())
    shares = (exponents / exponents.sum()).tolist()
    return shares[: len(prediction.candidates)], shares[-1] if with_null else 0.0
