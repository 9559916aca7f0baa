"""Rows of tokens as batches: which rows a step sees, and how wide they are padded."""

from collections.abc import Sequence

import numpy as np

_STEPS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


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

    Never more than 1.5 times too wide above 16 tokens, and few, because every width compiles anew.
    """
    return (*(step for step in _STEPS if step < max_length), max_length)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` tokens."""
    return next(width for width in buckets if width >= length)


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """int64 [rows]: the order in which an epoch sees the training rows; pure in its arguments.

    Sorts raw draws of PCG64, whose stream NumPy keeps the same in all versions (`permutation`'s
    it may change, which would change the order on resume).
    """
    return _shuffled([seed, epoch], rows)


def epoch_batches(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, *, grouped: bool = False
) -> np.ndarray:
    """int64 [steps, batch_size]: the rows of an epoch's steps, every row once; -1 fills the last
    step, which comes anywhere if `grouped`. Pure in its arguments.

    Args:
        seed: of the run.
        epoch: from 0.
        lengths: int [N]: tokens of every row.
        batch_size: rows a step.
        grouped: rows of like length share a step. As `group_by_length` of Hugging Face's Trainer
            it sorts runs of up to 50 batches, at least 4 of them an epoch where there are so many;
            unlike there the steps then come in random order, not from long to short.
    """
    order = epoch_order(seed, epoch, len(lengths))
    steps = -(-len(order) // batch_size)
    if grouped:
        run = batch_size * max(1, min(len(order) // (4 * batch_size), 50))
        place = np.arange(len(order)) // run
        order = order[np.lexsort((-lengths[order], place))]
    batches = np.pad(order, (0, steps * batch_size - len(order)), constant_values=-1)
    batches = batches.reshape(steps, batch_size)
    return batches[_shuffled([seed, epoch, 1], steps)] if grouped else batches


def _shuffled(seed: Sequence[int], count: int) -> np.ndarray:
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(draws, kind="stable")


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
