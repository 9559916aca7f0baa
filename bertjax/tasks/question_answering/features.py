"""Questions with overlapping windows of their documents."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks import batches
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.squad import Question

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


class Document(NamedTuple):
    """The tokens of a document, without [CLS] and [SEP]."""

    ids: np.ndarray
    """int32 [tokens]."""
    offsets: np.ndarray
    """int64 [tokens, 2]: first character of each token, and one past its last."""

    @property
    def readable(self) -> np.ndarray:
        """bool [tokens]: whether a token has characters; a space from SentencePiece has none."""
        return self.offsets[:, 0] < self.offsets[:, 1]

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """Returns the first and last token with characters in [start, end), or None."""
        inside = np.flatnonzero((self.offsets[:, 0] < end) & (self.offsets[:, 1] > start))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None

    def characters_of(self, first: int, last: int) -> tuple[int, int]:
        """Returns the characters [start, end) of tokens first to last."""
        return int(self.offsets[first, 0]), int(self.offsets[last, 1])


@dataclasses.dataclass(frozen=True)
class Windows:
    """N windows of questions on documents: rows [CLS] question [SEP] window [SEP]."""

    questions: Sequence[Question]
    """The questions."""
    documents: list[Document]
    """The document of each question."""
    queries: list[np.ndarray]
    """int32 [tokens]: token ids of each question."""
    question: np.ndarray
    """int32 [N]: index of the question of each window, ascending."""
    first: np.ndarray
    """int32 [N]: first document token of each window."""
    count: np.ndarray
    """int32 [N]: number of document tokens of each window."""
    positions: np.ndarray
    """int32 [N, 2]: positions in the row of the first and last token of the answer; 0, 0 for none.
    """
    specials: tuple[int, int, int]
    """Ids of [CLS], [SEP] and [PAD]."""
    has_unanswerable: bool
    """Whether some questions have no answer (SQuAD 2.0)."""
    separators: int = 1
    """Number of [SEP] between a question and its document."""
    second_type: int = 1
    """Token type of the document."""

    def __len__(self) -> int:
        return len(self.question)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row."""
        return self.prefixes + self.count + 1

    @property
    def prefixes(self) -> np.ndarray:
        """int64 [N]: position in the row of the first document token."""
        sizes = np.array([len(query) for query in self.queries], np.int64)
        return sizes[self.question] + 1 + self.separators

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens; the index -1 is a row of weight 0.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, T]; start_position, end_position
            int32 [B]; example_weight float32 [B].
        """
        chosen = np.maximum(indices, 0)
        ids, types = zip(*map(self._row, chosen), strict=True)
        places = np.where(np.asarray(indices) < 0, -1, np.arange(len(chosen)))
        return {
            **batches.padded(ids, types, places, width, self.specials[2]),
            "start_position": self.positions[chosen, 0],
            "end_position": self.positions[chosen, 1],
        }

    def _row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        query = self.queries[self.question[index]]
        first, count = self.first[index], self.count[index]
        part = self.documents[self.question[index]].ids[first : first + count]
        cls, sep, _ = self.specials
        between = [sep] * self.separators
        ids = np.concatenate([[cls], query, between, part, [sep]]).astype(np.int32)
        is_second = np.arange(len(ids)) > len(query) + self.separators
        return ids, (is_second * self.second_type).astype(np.int32)


def make_windows(
    questions: Sequence[Question],
    tokenizer: "Tokenizer",
    options: QuestionAnsweringConfig,
    *,
    max_seq_length: int,
    has_unanswerable: bool,
) -> Windows:
    """Makes windows as `convert_examples_to_features` of Google's run_squad.py does.

    Unlike there, characters rather than words determine the tokens of an answer.

    Args:
        questions: the questions; training uses the first of their answers.
        tokenizer: gives ids and offsets.
        options: stride and length limits.
        max_seq_length: maximum tokens of a row.
        has_unanswerable: whether some questions have no answer.

    Raises:
        UserError: a document or an answer has no token; the sentence names the question.
    """
    tokenized: dict[str, Document] = {}
    documents, queries, rows = [], [], []
    for index, question in enumerate(questions):
        if question.context not in tokenized:
            tokenized[question.context] = _document(question.context, tokenizer)
        document = tokenized[question.context]
        query = tokenizer.encode(question.question).ids[1:-1][: options.max_query_length]
        if not document.readable.any():
            raise UserError(
                f"{question.where}: its document has no tokens; leave the question out."
            )
        answer = _answer_tokens(question, document)
        before = len(query) + 1 + len(tokenizer.separators)
        room = max_seq_length - before - 1
        for first, count in _spans(len(document.ids), room, options.doc_stride):
            places = (0, 0)
            if answer is not None and first <= answer[0] and answer[1] < first + count:
                places = (answer[0] - first + before, answer[1] - first + before)
            rows.append((index, first, count, *places))
        documents.append(document)
        queries.append(np.asarray(query, np.int32))
    table = np.asarray(rows, np.int32).reshape(-1, 5)
    return Windows(
        questions,
        documents,
        queries,
        *(table[:, column] for column in range(3)),
        positions=table[:, 3:],
        specials=(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id),
        has_unanswerable=has_unanswerable,
        separators=len(tokenizer.separators),
        second_type=tokenizer.second_type,
    )


def _document(context: str, tokenizer: "Tokenizer") -> Document:
    encoding = tokenizer.encode(context)
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)[1:-1]
    if not context.isascii():
        offsets = _with_marks(context, offsets)
    return Document(np.asarray(encoding.ids[1:-1], np.int32), offsets)


def _with_marks(context: str, offsets: np.ndarray) -> np.ndarray:
    """Extends tokens by the accents after their last letter, which the tokenizer may strip."""
    unmarked = np.arange(len(context) + 1)  # the next character that is no mark
    for at in range(len(context) - 1, -1, -1):
        if unicodedata.combining(context[at]):
            unmarked[at] = unmarked[at + 1]
    starts, ends = offsets.T
    following = np.append(starts[1:], len(context))
    return np.stack([starts, np.maximum(ends, np.minimum(unmarked[ends], following))], 1)


def _answer_tokens(question: Question, document: Document) -> tuple[int, int] | None:
    if not question.answers:
        return None
    answer = question.answers[0]
    tokens = document.tokens_of(answer.start, answer.start + len(answer.text))
    if tokens is None:
        raise UserError(
            f"{question.where}: its answer {answer.text!r} has no tokens; correct it, or leave the "
            "question out."
        )
    return tokens


def _spans(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, number of tokens) of the windows of a document."""
    spans = [(first, min(room, tokens - first)) for first in range(0, tokens, stride)]
    # Only the first window that reaches the end of the document is needed.
    ends = [first + count == tokens for first, count in spans]
    return spans[: ends.index(True) + 1]
