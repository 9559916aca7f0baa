"""Documents longer than a row: windows of their tokens that overlap, and one answer from all."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from bertjax.tasks.classification import features

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

Pooled = Literal["mean", "max"]


@dataclasses.dataclass(frozen=True)
class LongDocuments:
    """N documents as rows of one window each, those of a document one after the other."""

    windows: features.Examples
    """Each with its document's label; together the windows of a document weigh as much as one row.
    """
    documents: np.ndarray
    """int64 [windows]: the document of each, ascending from 0; every document has one at least."""

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [windows]: tokens of each."""
        return self.windows.lengths

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """As `classification.Examples.batch`, of windows."""
        return self.windows.batch(indices, width)

    def with_weights(self, weights: np.ndarray) -> "LongDocuments":
        """The same, each window's weight multiplied by one of `weights` [windows]."""
        own = self.windows.weights
        product = weights if own is None else own * weights
        return dataclasses.replace(self, windows=dataclasses.replace(self.windows, weights=product))


def spans(length: int, most: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of windows that cover `length` tokens.

    Args:
        length: of the document; an empty one has an empty window.
        most: tokens of a window; the last may be shorter.
        overlap: tokens that a window shares with the one before; less than `most`.
    """
    starts = range(0, max(length - overlap, 1), most - overlap)
    return [(start, min(start + most, length)) for start in starts]


def tokenize(
    texts: Sequence[str],
    tokenizer: "Tokenizer",
    max_length: int,
    overlap: int,
    labels: np.ndarray | None = None,
) -> LongDocuments:
    """Turns texts into windows.

    Args:
        texts: N documents.
        tokenizer: gives the ids.
        max_length: most tokens of a window, [CLS] and [SEP] included.
        overlap: tokens that neighbouring windows share; less than max_length - 2.
        labels: [N] or [N, C]; zeros where there are none (prediction).
    """
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
    of_window = np.array(documents, np.int64)
    labels = np.zeros(len(texts), np.int32) if labels is None else labels
    types = [np.zeros(len(ids), np.int32) for ids in input_ids]
    windows = features.Examples(
        input_ids, types, labels[of_window], tokenizer.pad_id, shares(of_window)
    )
    return LongDocuments(windows, of_window)


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


def scores(
    examples: LongDocuments,
    outputs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    how: Pooled,
) -> dict[str, float]:
    """The metrics over documents; as `classification.scores`, whose outputs are of windows."""
    documents = examples.documents

    def of_documents(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return metrics(pool(logits, documents, how), labels[first_of_each(documents)])

    return features.scores(examples.windows, outputs, metrics=of_documents)
