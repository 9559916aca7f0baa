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
    sample_seed: int = 0
    """`GenerationConfig.sample_seed`."""
    truncated_sources: int = 0
    """Number of sources that were too long."""
    truncated_targets: Sequence[int] = ()
    """Rows whose target was too long."""

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
            input_ids, attention_mask, token_type_ids int32 [B, S]; draw_seed uint32 [B], which
            sample_seed and the tokens of a source determine; example_weight float32 [B]. With
            targets also decoder_input_ids, labels int32 [B, T], and label_weights float32 [B, T].
        """
        rows = np.maximum(indices, 0)
        batch = self.source.batch(indices, width[0] if self.targets else width)
        del batch["label"]
        begin = zlib.crc32(str(self.sample_seed).encode())
        seeds = [zlib.crc32(self.source.input_ids[row].tobytes(), begin) for row in rows]
        batch["draw_seed"] = np.array(seeds, np.uint32)
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


def read_sources(
    texts: Sequence[str], tokenizer: "Tokenizer", max_length: int, sample_seed: int = 0
) -> Seq2SeqFeatures:
    """Tokenizes sources, and truncates those of more than `max_length` tokens at their end."""
    source, truncated = _truncated(texts, tokenizer, max_length)
    return Seq2SeqFeatures(source, sample_seed=sample_seed, truncated_sources=len(truncated))


def add_targets(
    features: Seq2SeqFeatures, texts: Sequence[str], tokenizer: "Tokenizer", max_length: int
) -> Seq2SeqFeatures:
    """Tokenizes and adds targets, and truncates those of more than `max_length` tokens at their
    end; `references` are whole."""
    encoded, truncated = _truncated(texts, tokenizer, max_length + 1)
    return dataclasses.replace(
        features,
        references=texts,
        targets=[ids[1:] for ids in encoded.input_ids],
        start_id=tokenizer.cls_id,
        pad_id=tokenizer.pad_id,
        truncated_targets=truncated,
    )


def _truncated(
    texts: Sequence[str], tokenizer: "Tokenizer", max_length: int
) -> tuple[TextFeatures, list[int]]:
    """Returns rows [CLS] text [SEP] of at most `max_length` tokens, and which were truncated."""
    rows = tokenize(texts, None, tokenizer, max_length + 1)
    long = np.flatnonzero(rows.lengths > max_length).tolist()
    for row in long:
        rows.input_ids[row] = np.delete(rows.input_ids[row], -2)  # the token before [SEP]
        rows.token_type_ids[row] = rows.token_type_ids[row][:-1]
    return rows, long
