"""Batches of rows: which rows a step sees, and how wide they are padded."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Width = Any
"""Tokens that rows are padded to: an int, or a tuple with one for each of a row's W sequences."""

_STEPS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


def padded(
    input_ids: Sequence[np.ndarray],
    token_type_ids: Sequence[np.ndarray],
    indices: np.ndarray,
    width: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """Pads rows to `width` tokens.

    Args:
        input_ids: int32 [length] of each row.
        token_type_ids: int32 [length] of each row.
        indices: int [B], the rows to take. -1 is a padding row: row 0, truncated to the width.
        width: T, at least the longest of these rows.
        pad_id: id of [PAD].

    Returns:
        input_ids, attention_mask, token_type_ids int32 [B, T]; example_weight float32 [B], 0 for
        padding rows.
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
    """Returns the widths that batches are padded to, each of which has its compiled program.

    Above 16 tokens a bucket is at most 1.5 times the bucket before.
    """
    return (*(step for step in _STEPS if step < max_length), max_length)


def width_of(lengths: np.ndarray, buckets: Sequence[int]) -> Width:
    """Returns the smallest bucket that holds rows of n lengths [n], or of each column of [n, W]."""
    width = np.array(buckets)[np.searchsorted(buckets, lengths.max(axis=0))].tolist()
    return tuple(width) if lengths.ndim > 1 else width


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """int64 [rows]: the order in which an epoch sees the training rows.

    Sorts raw draws of PCG64. NumPy keeps their stream in all versions, unlike that of
    `permutation`, so that a resumed run has the same order.
    """
    return _shuffled([seed, epoch], rows)


def epoch_batches(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, *, grouped: bool = False
) -> np.ndarray:
    """int64 [steps, batch_size]: the rows of an epoch's steps, each row once.

    -1 fills the step with the last rows, which comes last unless `grouped`.

    Args:
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        lengths: int [N] or [N, W], as `Features.lengths`.
        batch_size: rows per step.
        grouped: whether rows of similar length share a step. Like `group_by_length` of Hugging
            Face's Trainer, this sorts runs of up to 50 batches, and at least 4 runs per epoch if
            there are so many batches. Unlike there, the steps then come in random order. Rows of
            several sequences are sorted by their sum, then by their first length, and so on.
    """
    order = epoch_order(seed, epoch, len(lengths))
    steps = -(-len(order) // batch_size)
    if grouped:
        run = batch_size * max(1, min(len(order) // (4 * batch_size), 50))
        place = np.arange(len(order)) // run
        order = order[np.lexsort((*_sort_keys(-lengths[order]), place))]
    batches = np.pad(order, (0, steps * batch_size - len(order)), constant_values=-1)
    batches = batches.reshape(steps, batch_size)
    return batches[_shuffled([seed, epoch, 1], steps)] if grouped else batches


def _shuffled(seed: Sequence[int], count: int) -> np.ndarray:
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(draws, kind="stable")


def _sort_keys(lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns keys for `np.lexsort`, whose last key decides first."""
    columns = np.atleast_2d(lengths.T)
    return (*columns[::-1], columns.sum(axis=0))


def length_batches(
    lengths: np.ndarray, batch_size: int, buckets: Sequence[int]
) -> list[tuple[np.ndarray, Width]]:
    """Returns (indices [batch_size], width) of batches of all rows, sorted as `epoch_batches` does.

    `lengths` is int [N] or [N, W]. -1 fills the last batch.
    """
    order = np.lexsort(_sort_keys(lengths))
    batches = []
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        width = width_of(lengths[chosen], buckets)
        padding = batch_size - len(chosen)
        batches.append((np.pad(chosen, (0, padding), constant_values=-1), width))
    return batches


def gather(outputs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[N, ...]: puts the outputs of batches (row numbers [n], outputs [n, ...]) in row order."""
    rows, values = zip(*outputs, strict=True)
    return np.concatenate(values)[np.argsort(np.concatenate(rows))]
