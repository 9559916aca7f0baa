"""Texts as rows: one row each, or overlapping windows whose logits are pooled."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks.batches import gather
from bertjax.tasks.classification.config import WindowLogits
from bertjax.tasks.task import Outputs
from bertjax.tasks.texts import TextFeatures, tokenize

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(TextFeatures):
    """Rows that are windows of texts; the weights of the windows of a text add up to 1."""

    texts: np.ndarray
    """int64 [windows]: the text of each window, ascending from 0."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a model reads texts."""

    max_seq_length: int
    """Maximum tokens of a row."""
    overlap: int | None = None
    """Tokens that neighboring windows of a text share; None: a text has one row."""
    window_logits: WindowLogits = "mean"
    """How to pool the logits of the windows of a text."""

    def tokenize(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        tokenizer: "Tokenizer",
        targets: np.ndarray | None = None,
    ) -> TextFeatures:
        """Tokenizes texts, or pairs of texts, with targets [N] or [N, C]."""
        if self.overlap is None or pairs is not None:
            return tokenize(texts, pairs, tokenizer, self.max_seq_length, targets)
        return tokenize_windows(texts, tokenizer, self.max_seq_length, self.overlap, targets)

    def logits(self, features: TextFeatures, outputs: Outputs) -> np.ndarray:
        """[N, C]: the logits of each text."""
        logits = gather(outputs)
        if not isinstance(features, Windows):
            return logits
        return pool(logits, features.texts, self.window_logits)


def targets_of(features: TextFeatures) -> np.ndarray:
    """[N] or [N, C]: the targets of each text."""
    if isinstance(features, Windows):
        return features.labels[_first_windows(features.texts)]
    return features.labels


def tokenize_windows(
    texts: Sequence[str],
    tokenizer: "Tokenizer",
    max_length: int,
    overlap: int,
    targets: np.ndarray | None = None,
) -> Windows:
    """Tokenizes texts into windows; each text has at least one.

    Args:
        texts: N texts.
        tokenizer: gives the ids.
        max_length: maximum tokens of a window, with [CLS] and [SEP].
        overlap: tokens that neighboring windows share, less than max_length - 2.
        targets: [N] or [N, C]; None, for prediction: zeros.
    """
    input_ids: list[np.ndarray] = []
    owners: list[int] = []
    begin, end = [tokenizer.cls_id], [tokenizer.sep_id]
    for first in range(0, len(texts), 256):
        ids_of_texts = tokenizer.encode_sentences(list(texts[first : first + 256]))
        for text, ids in enumerate(ids_of_texts, start=first):
            for start, stop in spans(len(ids), max_length - 2, overlap):
                row = np.concatenate([begin, ids[start:stop], end])
                input_ids.append(row.astype(np.int32))
                owners.append(text)
    owner = np.array(owners, np.int64)
    targets = np.zeros(len(texts), np.int32) if targets is None else targets
    return Windows(
        input_ids=input_ids,
        token_type_ids=[np.zeros(len(ids), np.int32) for ids in input_ids],
        labels=targets[owner],
        pad_id=tokenizer.pad_id,
        weights=(1.0 / np.bincount(owner)[owner]).astype(np.float32),
        texts=owner,
    )


def spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Returns (start, end) of the windows that cover `length` tokens.

    Args:
        length: tokens of the text; an empty text has one empty window.
        size: tokens of a window; the last one may be shorter.
        overlap: tokens that a window shares with the one before, less than `size`.
    """
    starts = range(0, max(length - overlap, 1), size - overlap)
    return [(start, min(start + size, length)) for start in starts]


def pool(logits: np.ndarray, texts: np.ndarray, how: WindowLogits) -> np.ndarray:
    """[N, C]: the mean or the maximum of the logits [windows, C] of each text's windows."""
    starts = _first_windows(texts)
    if how == "max":
        return np.maximum.reduceat(logits, starts, axis=0)
    sums = np.add.reduceat(logits, starts, axis=0)
    return sums / np.bincount(texts)[:, None].astype(logits.dtype)


def _first_windows(texts: np.ndarray) -> np.ndarray:
    return np.unique(texts, return_index=True)[1]
