"""Documents cut into overlapping windows, each beside a question: what answers are learned from."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks import batches
from bertjax.tasks.question_answering.squad import Question

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


class Document(NamedTuple):
    """The tokens of a document, without special ones."""

    ids: np.ndarray
    """int32 [tokens]."""
    offsets: np.ndarray
    """int64 [tokens, 2]: the first character of each, and one past the last."""

    @property
    def readable(self) -> np.ndarray:
        """bool [tokens]: those with characters; a space that SentencePiece adds has none."""
        return self.offsets[:, 0] < self.offsets[:, 1]

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last token that have a part in the characters start to end; or None."""
        inside = np.flatnonzero((self.offsets[:, 0] < end) & (self.offsets[:, 1] > start))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None

    def characters_of(self, first: int, last: int) -> tuple[int, int]:
        """The characters of tokens first to last."""
        return int(self.offsets[first, 0]), int(self.offsets[last, 1])


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of questions over their documents: N rows [CLS] question [SEP] part [SEP]."""

    questions: Sequence[Question]
    """In order."""
    documents: list[Document]
    """Of every question."""
    queries: list[np.ndarray]
    """int32 [tokens] of every question."""
    question: np.ndarray
    """int32 [N]: the window's question."""
    first: np.ndarray
    """int32 [N]: the document's token that the window's part begins with."""
    count: np.ndarray
    """int32 [N]: tokens of that part."""
    positions: np.ndarray
    """int32 [N, 2]: the answer's first and last token, as places in the row; 0, 0 where it has
    none."""
    specials: tuple[int, int, int]
    """Ids of [CLS], [SEP] and [PAD]."""
    has_unanswerable: bool
    """Whether saying that there is no answer may be right (SQuAD 2.0)."""

    def __len__(self) -> int:
        return len(self.question)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each window."""
        return self.prefixes + self.count + 1

    @property
    def prefixes(self) -> np.ndarray:
        """int64 [N]: the place in the row of the part's first token."""
        sizes = np.array([len(query) for query in self.queries], np.int64)
        return sizes[self.question] + 2

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Windows padded to `width` tokens; -1 stands for one of weight 0.

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
        ids = np.concatenate([[cls], query, [sep], part, [sep]]).astype(np.int32)
        return ids, (np.arange(len(ids)) >= len(query) + 2).astype(np.int32)


def make_windows(
    questions: Sequence[Question],
    tokenizer: "Tokenizer",
    *,
    max_seq_length: int,
    max_query_length: int,
    doc_stride: int,
    has_unanswerable: bool,
) -> Windows:
    """Cuts documents into windows as `convert_examples_to_features` of Google's run_squad.py does,
    but that characters, not words, say which tokens an answer has.

    Args:
        questions: with the answer that is learned first among their answers.
        tokenizer: gives ids and offsets.
        max_seq_length: most tokens of a window.
        max_query_length: most tokens of a question; a longer one loses its end.
        doc_stride: tokens from the beginning of a window to that of the next one, not more than
            the longest question leaves room for.
        has_unanswerable: whether saying that there is no answer may be right.

    Raises:
        UserError: no token stands for a document, so that it has no window, or for an answer; the
            sentence names the question.
    """
    tokenized: dict[str, Document] = {}
    documents, queries, rows = [], [], []
    for index, question in enumerate(questions):
        if question.context not in tokenized:
            tokenized[question.context] = _document(question.context, tokenizer)
        document = tokenized[question.context]
        query = tokenizer.encode(question.question).ids[1:-1][:max_query_length]
        if not document.readable.any():
            raise UserError(
                f"{question.where}: the tokenizer reads nothing in its document, so that it has no "
                "window; leave the question out."
            )
        answer = _answer_tokens(question, document)
        room = max_seq_length - len(query) - 3
        for first, count in _parts(len(document.ids), room, doc_stride):
            places = (0, 0)
            if answer is not None and first <= answer[0] and answer[1] < first + count:
                places = (answer[0] - first + len(query) + 2, answer[1] - first + len(query) + 2)
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
    )


def _document(context: str, tokenizer: "Tokenizer") -> Document:
    encoding = tokenizer.encode(context)
    offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)[1:-1]
    if not context.isascii():
        offsets = _with_marks(context, offsets)
    return Document(np.asarray(encoding.ids[1:-1], np.int32), offsets)


def _with_marks(context: str, offsets: np.ndarray) -> np.ndarray:
    """The accents after a letter belong to its token, also where the tokenizer strips them."""
    unmarked = np.arange(len(context) + 1)  # of every character, the next one that is no mark
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
            f"{question.where}: no token stands for its answer {answer.text!r}; correct it, or "
            "leave the question out."
        )
    return tokens


def _parts(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, tokens) of the parts that a document is cut into."""
    parts = [(first, min(room, tokens - first)) for first in range(0, tokens, stride)]
    # Of those that reach the document's end only the first is needed.
    ends = [first + count == tokens for first, count in parts]
    return parts[: ends.index(True) + 1]
