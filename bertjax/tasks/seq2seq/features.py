"""Sources and targets as rows of token ids."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks.batches import Width
from bertjax.tasks.texts import TextFeatures, tokenize

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Seq2SeqFeatures:
    """Token ids of N sources [CLS] text [SEP] and, for training, of their targets text [SEP]."""

    source: TextFeatures
    """The sources."""
    references: Sequence[str] = ()
    """The texts of the targets; empty without targets."""
    targets: Sequence[np.ndarray] = ()
    """int32 [length] of each target, with its [SEP]; empty without targets."""
    start_id: int = 0
    """Id of the token that decoder_input_ids begin with."""
    pad_id: int = 0
    """Id of [PAD] in targets."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N, 2]: tokens of source and target, or [N] without targets."""
        if not self.targets:
            return self.source.lengths
        return np.stack([self.source.lengths, [len(ids) for ids in self.targets]], 1)

    def batch(self, indices: np.ndarray, width: Width) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens.

        Args:
            indices: int [B], the rows to take. -1 is a padding row: row 0 with weight 0.
            width: S, or (S, T) with targets.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, S]; sample_seed uint32 [B], which
            the tokens of a source determine; example_weight float32 [B]. With targets also
            decoder_input_ids, labels int32 [B, T], and label_weights float32 [B, T].
        """
        rows = np.maximum(indices, 0)
        batch = self.source.batch(indices, width[0] if self.targets else width)
        del batch["label"]
        seeds = [zlib.crc32(self.source.input_ids[row].tobytes()) for row in rows]
        batch["sample_seed"] = np.array(seeds, np.uint32)
        if not self.targets:
            return batch
        labels = np.full((len(rows), width[1]), self.pad_id, np.int32)
        weights = np.zeros(labels.shape, np.float32)
        for at, row in enumerate(rows):
            ids = self.targets[row][: width[1]]  # a padding row may be too long
            labels[at, : len(ids)] = ids
            weights[at, : len(ids)] = 1
        starts = np.full((len(rows), 1), self.start_id, np.int32)
        inputs = np.concatenate([starts, labels[:, :-1]], 1)
        weights *= batch["example_weight"][:, None]
        return {**batch, "decoder_input_ids": inputs, "labels": labels, "label_weights": weights}


def read_sources(texts: Sequence[str], tokenizer: "Tokenizer", max_length: int) -> Seq2SeqFeatures:
    """Tokenizes sources, and truncates those of more than `max_length` tokens at their end."""
    return Seq2SeqFeatures(tokenize(texts, None, tokenizer, max_length))


def add_targets(
    features: Seq2SeqFeatures, texts: Sequence[str], tokenizer: "Tokenizer", max_length: int
) -> Seq2SeqFeatures:
    """Adds the targets, without those of their tokens that exceed `max_length` with the [SEP]."""
    encoded = tokenize(texts, None, tokenizer, max_length + 1).input_ids
    return dataclasses.replace(
        features,
        references=texts,
        targets=[ids[1:] for ids in encoded],
        start_id=tokenizer.cls_id,
        pad_id=tokenizer.pad_id,
    )
