"""Rows of several texts, which are tokenized alone and compared by their vectors."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks import batches
from bertjax.tasks.texts import TextFeatures, tokenize

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextRows:
    """Token ids of N rows of K texts each."""

    texts: TextFeatures
    """The N * K texts, row by row."""
    text_ids: np.ndarray
    """int32 [N, K]: equal for equal texts."""
    scores: np.ndarray
    """float32 [N]: similarity of the first two texts, from 0 to 1; zeros if there is none."""

    def __len__(self) -> int:
        return len(self.text_ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of the longest text of each row."""
        return self.texts.lengths.reshape(self.text_ids.shape).max(axis=1)

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads the texts of some rows to `width` tokens.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, K, T]; text_ids int32 [B, K]; score
            and example_weight float32 [B].
        """
        rows, (_, count) = np.maximum(indices, 0), self.text_ids.shape
        flat = np.where(indices < 0, -1, rows * count)[:, None] + np.arange(count)
        flat = np.where(indices[:, None] < 0, -1, flat).reshape(-1)
        texts = self.texts
        padded = batches.padded(texts.input_ids, texts.token_type_ids, flat, width, texts.pad_id)
        del padded["example_weight"]
        shape = (len(rows), count, width)
        return {
            **{name: array.reshape(shape) for name, array in padded.items()},
            "text_ids": self.text_ids[rows],
            "score": self.scores[rows],
            "example_weight": (indices >= 0).astype(np.float32),
        }


def tokenize_rows(
    columns: Sequence[Sequence[str]],
    tokenizer: "Tokenizer",
    max_length: int,
    *,
    lowercase: bool = False,
    scores: np.ndarray | None = None,
) -> TextRows:
    """Tokenizes K columns of N texts, and truncates longer texts at their end.

    Args:
        columns: the texts of each column.
        tokenizer: gives the ids.
        max_length: maximum tokens of a text, with [CLS] and [SEP].
        lowercase: lower-case texts first.
        scores: float32 [N] from 0 to 1.
    """
    flat = [
        text.lower() if lowercase else text for row in zip(*columns, strict=True) for text in row
    ]
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(text, len(numbers)) for text in flat]
    rows = len(flat) // len(columns)
    return TextRows(
        tokenize(flat, None, tokenizer, max_length),
        np.array(ids, np.int32).reshape(rows, len(columns)),
        np.zeros(rows, np.float32) if scores is None else scores,
    )
