"""Batches of rows: which rows a step sees, and how wide they are padded."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Width = Any
"""Tokens that rows are padded to: an int, or a tuple with one for each of a row's W sequences."""

Buckets = Sequence[Any]
"""The widths that batches may have, ascending; for rows of W sequences W tuples of them."""

Batch = tuple[np.ndarray, Width]
"""The rows of a batch, int [B] with -1 for padding rows, and their width."""

_GROUPS = 8  # each has its compiled program
_PROGRAM_TOKENS = 1024  # a width that saves less padding in an epoch is not worth its compilation
_ALIGNMENT = 8  # rows of a step, so that 2, 4 or 8 devices share them without padding rows

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


def row_buckets(lengths: np.ndarray, max_length: int) -> Buckets:
    """Returns the widths that batches of some of these rows are padded to.

    Args:
        lengths: int [N] or [N, W], as `Features.lengths`, of all rows.
        max_length: maximum tokens of a row of one sequence. Several sequences have limits of their
            own, such as the positions of a decoder: no width exceeds the longest row.
    """
    if lengths.ndim == 1:
        return length_buckets(max_length)
    return tuple(map(length_buckets, lengths.max(axis=0).tolist()))


def fitted_buckets(longest: np.ndarray) -> Buckets:
    """Returns at most 8 widths, that of the longest row and those which pad an epoch least.

    Args:
        longest: int [steps, B], tokens of the longest row of each batch, once for each of its rows.
    """
    values, rows = np.unique(longest, return_counts=True)
    below, widths = np.append(0, rows.cumsum()), np.append(0, values)
    return tuple(_cheapest_groups(widths, (below - below[:, None]) * widths + _PROGRAM_TOKENS))


def width_of(lengths: np.ndarray, buckets: Buckets) -> Width:
    """Returns the smallest bucket that holds rows of n lengths [n], or of each column of [n, W]."""
    longest = lengths.max(axis=0)
    if not longest.ndim:
        return buckets[np.searchsorted(buckets, longest)]
    return tuple(map(width_of, longest[:, None], buckets))


def _width(longest: np.ndarray) -> Width:
    """Returns the width of rows whose longest sequences have [] or [W] tokens."""
    width = longest.tolist()
    return tuple(width) if longest.ndim else width


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


def token_batches(seed: int, epoch: int, lengths: np.ndarray, tokens: int) -> list[Batch]:
    """Returns the steps of an epoch, which hold each row once and at most `tokens` tokens each.

    A step has rows of one of up to 8 groups by their longest sequence, in number at most tokens /
    width as with fairseq's `max_tokens`. The groups are those that need the fewest steps. All steps
    of a group have one shape; -1 fills its last step. Shapes and number of the steps depend on
    neither seed nor epoch. The steps come in random order.

    Args:
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        lengths: int [N] or [N, W], as `Features.lengths`.
        tokens: padded tokens per step, of the longest sequence if a row has several; at least
            those of the longest row.
    """
    longest = lengths.reshape(len(lengths), -1).max(axis=1)
    widths = _group_widths(longest, tokens)
    order = epoch_order(seed, epoch, len(lengths))
    group = np.searchsorted(widths, longest)[order]
    batches: list[Batch] = []
    for number, width in enumerate(widths):
        rows, most = order[group == number], int(_rows_per_step(width, tokens))
        steps = -(-len(rows) // most)
        # As many rows in all steps as they need, which leaves less padding in the last one.
        size = -(-len(rows) // steps)
        size = min(most, size if size < _ALIGNMENT else size + -size % _ALIGNMENT)
        filled = np.pad(rows, (0, steps * size - len(rows)), constant_values=-1)
        shape = _width(lengths[rows].max(axis=0))
        batches += [(each, shape) for each in filled.reshape(steps, size)]
    return [batches[step] for step in _shuffled([seed, epoch, 1], len(batches))]


def _rows_per_step(width: Any, tokens: int) -> np.ndarray:
    rows = tokens // np.maximum(width, 1)
    return np.where(rows < _ALIGNMENT, rows, rows - rows % _ALIGNMENT)


def _group_widths(lengths: np.ndarray, tokens: int) -> list[int]:
    """Returns at most 8 ascending widths, for which the rows need the fewest steps.

    Of those it takes the widths that pad least.
    """
    values, rows = np.unique(lengths, return_counts=True)
    below, widths = np.append(0, rows.cumsum()), np.append(0, values)
    # [i, j]: the rows of the distinct lengths i to j - 1, which share the width of the longest.
    shared = np.maximum(below - below[:, None], 0)
    steps = -(-shared // _rows_per_step(widths, tokens))
    table = steps + shared * widths / (1 + len(lengths) * widths[-1])  # below 1 in sum
    return _cheapest_groups(widths, table)


def _cheapest_groups(widths: np.ndarray, table: np.ndarray) -> list[int]:
    """Returns the largest widths of at most 8 groups of ascending distinct widths.

    Dynamic programming: `costs[j]` is the cost of the j smallest widths.

    Args:
        widths: int [n + 1], 0 and the n distinct widths.
        table: [n + 1, n + 1], the cost of a group of the distinct widths i to j - 1, for i < j.
    """
    table = np.triu(table, 1) + np.where(np.tri(len(table), k=-1), np.inf, 0.0)
    costs = np.where(widths > 0, np.inf, 0.0)
    firsts = []
    for _ in range(_GROUPS):
        firsts.append((costs[:, None] + table).argmin(axis=0))
        costs = (costs[:, None] + table).min(axis=0)
    found, end = [], len(widths) - 1
    for first in reversed(firsts):
        if first[end] < end:
            found.append(int(widths[end]))
        end = first[end]
    return found[::-1]


def _shuffled(seed: Sequence[int], count: int) -> np.ndarray:
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(draws, kind="stable")


def _sort_keys(lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns keys for `np.lexsort`, whose last key decides first."""
    columns = np.atleast_2d(lengths.T)
    return (*columns[::-1], columns.sum(axis=0))


def length_batches(lengths: np.ndarray, batch_size: int, buckets: Buckets) -> list[Batch]:
    """Returns (indices [batch_size], width) of batches of all rows, sorted as `epoch_batches` does.

    `lengths` is int [N] or [N, W]. -1 fills the first batch, whose rows are the shortest.
    """
    order = np.lexsort(_sort_keys(lengths))
    padding = -len(order) % batch_size
    order = np.insert(order, [batch_size - padding] * padding, -1)
    return [
        (indices, width_of(lengths[indices[indices >= 0]], buckets))
        for indices in order.reshape(-1, batch_size)
    ]


def gather(outputs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[N, ...]: puts the outputs of batches (row numbers [n], outputs [n, ...]) in row order."""
    rows, values = zip(*outputs, strict=True)
    return np.concatenate(values)[np.argsort(np.concatenate(rows))]
