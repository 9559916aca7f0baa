"""Rows of tokens as batches: which rows a step sees, and how wide they are padded."""

import functools
from collections.abc import Sequence

import numpy as np

_STEPS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


def padded(
    input_ids: Sequence[np.ndarray],
    token_type_ids: Sequence[np.ndarray],
    indices: np.ndarray,
    width: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """Rows padded to `width` tokens.

    Args:
        input_ids: int32 [length] for every row.
        token_type_ids: the same.
        indices: rows to take; -1 stands for a row that pads the batch: row 0, cut to the width,
            with weight 0.
        width: T; at least the longest of these rows.
        pad_id: what they are padded with.

    Returns:
        input_ids, attention_mask, token_type_ids int32 [B, T]; example_weight float32 [B], 0 for
        the padding rows.
    """
    rows = np.maximum(indices, 0)
    shape = (len(rows), width)
    ids = np.full(shape, pad_id, np.int32)
    mask, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for at, row in enumerate(rows):
        length = len(input_ids[row])
        if indices[at] < 0:
            length = min(length, width)
        ids[at, :length] = input_ids[row][:length]
        types[at, :length] = token_type_ids[row][:length]
        mask[at, :length] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "example_weight": (np.asarray(indices) >= 0).astype(np.float32),
    }


def length_buckets(max_length: int) -> tuple[int, ...]:
    """The widths that batches are padded to, up to `max_length`: one compiled program each.

    Never more than 1.5 times too wide above 64 tokens, and few, because every width compiles anew.
    """
    return (*(step for step in _STEPS if step < max_length), max_length)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` tokens."""
    return next(width for width in buckets if width >= length)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """int64 [rows]: the order in which an epoch sees the training rows; pure in its arguments.

    Sorts raw draws of PCG64, whose stream NumPy keeps the same in all versions (`permutation`'s
    it may change, which would change the order on resume).
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(rows)
    order = np.argsort(draws, kind="stable")
    order.flags.writeable = False  # the cache gives every caller the same array
    return order


def batch_indices(seed: int, step: int, rows: int, batch_size: int) -> np.ndarray:
    """int64 [batch_size]: the rows of a training step; -1 fills the ragged last batch of an epoch.

    Every row comes once an epoch. Pure in its arguments.
    """
    epoch, position = divmod(step, -(-rows // batch_size))
    chosen = epoch_order(seed, epoch, rows)[position * batch_size :][:batch_size]
    return np.pad(chosen, (0, batch_size - len(chosen)), constant_values=-1)


def length_batches(
    lengths: np.ndarray, batch_size: int, buckets: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
    """All rows, those of like length together: (indices [batch_size], width) of every batch.

    -1 fills the last batch. For evaluation and prediction, where the order is of no matter.
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        width = bucket_of(int(lengths[chosen].max()), buckets)
        padding = batch_size - len(chosen)
        batches.append((np.pad(chosen, (0, padding), constant_values=-1), width))
    return batches
