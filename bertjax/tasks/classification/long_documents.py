"""Texts longer than a row: overlapping windows, whose logits are pooled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks.classification.config import WindowLogits
from bertjax.tasks.texts import TextFeatures

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


def tokenize_windows(
    texts: Sequence[str],
    tokenizer: "Tokenizer",
    max_length: int,
    overlap: int,
    labels: np.ndarray | None = None,
) -> tuple[TextFeatures, np.ndarray]:
    """Tokenizes texts into windows.

    Args:
        texts: N texts.
        tokenizer: gives the ids.
        max_length: maximum tokens of a window, with [CLS] and [SEP].
        overlap: tokens that neighboring windows share, less than max_length - 2.
        labels: [N] or [N, C]; None, for prediction: zeros.

    Returns:
        The windows, each with the label of its text; the weights of a text's windows add up to 1.
        And int64 [windows]: the text of each window, ascending; each text has at least one.
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
    texts_of_windows = np.array(owners, np.int64)
    labels = np.zeros(len(texts), np.int32) if labels is None else labels
    windows = TextFeatures(
        input_ids,
        [np.zeros(len(ids), np.int32) for ids in input_ids],
        labels[texts_of_windows],
        tokenizer.pad_id,
        (1.0 / np.bincount(texts_of_windows)[texts_of_windows]).astype(np.float32),
    )
    return windows, texts_of_windows


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
    starts = np.unique(texts, return_index=True)[1]
    if how == "max":
        return np.maximum.reduceat(logits, starts, axis=0)
    sums = np.add.reduceat(logits, starts, axis=0)
    return sums / np.bincount(texts)[:, None].astype(logits.dtype)
