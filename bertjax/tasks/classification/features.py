"""Rows of texts with targets, and the logits of texts."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks.batches import gather
from bertjax.tasks.classification.config import WindowLogits
from bertjax.tasks.classification.long_documents import pool, tokenize_windows
from bertjax.tasks.task import Outputs
from bertjax.tasks.texts import TextFeatures, tokenize

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


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
    ) -> "ClassificationFeatures":
        """Tokenizes texts, or pairs of texts, with targets [N] or [N, C]."""
        if targets is None:
            targets = np.zeros(len(texts), np.int32)
        if self.overlap is None or pairs is not None:
            rows = tokenize(texts, pairs, tokenizer, self.max_seq_length, targets)
            return ClassificationFeatures(rows, targets, np.arange(len(texts)), self)
        rows, owners = tokenize_windows(
            texts, tokenizer, self.max_seq_length, self.overlap, targets
        )
        return ClassificationFeatures(rows, targets, owners, self)


@dataclasses.dataclass(frozen=True)
class ClassificationFeatures:
    """N texts as rows."""

    rows: TextFeatures
    """One row per text, or one per window."""
    targets: np.ndarray
    """[N] or [N, C]."""
    owners: np.ndarray
    """int64 [rows]: the text of each row, ascending."""
    reading: Reading
    """How the rows were made."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [rows]: tokens of each row."""
        return self.rows.lengths

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens; see `TextFeatures.batch`."""
        return self.rows.batch(indices, width)

    def weighted(self, label_weights: np.ndarray) -> "ClassificationFeatures":
        """Multiplies the weight of each row by that of its label; label_weights float32 [C]."""
        weights = label_weights[self.rows.labels]
        if self.rows.weights is not None:
            weights = self.rows.weights * weights
        return dataclasses.replace(self, rows=dataclasses.replace(self.rows, weights=weights))

    def logits(self, outputs: Outputs) -> np.ndarray:
        """[N, C]: the logits of each text."""
        logits = gather(outputs)
        if self.reading.overlap is None:
            return logits
        return pool(logits, self.owners, self.reading.window_logits)
