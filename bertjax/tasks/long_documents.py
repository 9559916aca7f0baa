"""Documents longer than a row: windows of their tokens that overlap, and one answer from all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

Pooled = Literal["mean", "max"]


class Windows(NamedTuple):
    """The windows of N documents, those of a document one after the other."""

    input_ids: list[np.ndarray]
    """int32 [length] for every window, with [CLS] and [SEP]."""
    documents: np.ndarray
    """int64 [windows]: the document of each, ascending from 0; every document has one at least."""


def spans(length: int, most: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of windows that cover `length` tokens.

    Args:
        length: of the document; an empty one has an empty window.
        most: tokens of a window; the last may be shorter.
        overlap: tokens that a window shares with the one before; less than `most`.
    """
    starts = range(0, max(length - overlap, 1), most - overlap)
    return [(start, min(start + most, length)) for start in starts]


def cut(texts: Sequence[str], tokenizer: "Tokenizer", max_length: int, overlap: int) -> Windows:
    """Tokenizes texts and cuts each into windows of at most `max_length` tokens, [CLS] and [SEP]
    included."""
    input_ids: list[np.ndarray] = []
    documents: list[int] = []
    begin, end = [tokenizer.cls_id], [tokenizer.sep_id]
    for first in range(0, len(texts), 256):
        ids_of_texts = tokenizer.encode_sentences(list(texts[first : first + 256]))
        for document, ids in enumerate(ids_of_texts, start=first):
            for start, stop in spans(len(ids), max_length - 2, overlap):
                row = np.concatenate([begin, ids[start:stop], end])
                input_ids.append(row.astype(np.int32))
                documents.append(document)
    return Windows(input_ids, np.array(documents, np.int64))


def shares(documents: np.ndarray) -> np.ndarray:
    """float32 [windows]: 1 / the number of windows of the document, so that all documents weigh the
    same."""
    return (1.0 / np.bincount(documents)[documents]).astype(np.float32)


def first_of_each(documents: np.ndarray) -> np.ndarray:
    """int64 [N]: the first window of every document."""
    return np.unique(documents, return_index=True)[1]


def pool(logits: np.ndarray, documents: np.ndarray, how: Pooled) -> np.ndarray:
    """[N, C]: every document's logits, the mean or the largest of its windows' [windows, C]."""
    starts = first_of_each(documents)
    if how == "max":
        return np.maximum.reduceat(logits, starts, axis=0)
    sums = np.add.reduceat(logits, starts, axis=0)
    return sums / np.bincount(documents)[:, None].astype(logits.dtype)
