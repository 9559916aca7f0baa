"""Packing: which short examples share a row, and the rows that they make.

Every epoch has the same rows, each example in one of them, so a row is drawn as an example is. The
examples are packed by their lengths alone, as in Krell et al. 2021 (arXiv 2107.02027): a few
hundred numbers describe millions of examples. Among examples of one length, the seed decides which
of them share a row.
"""

import bisect
import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from bertjax.data.order import permuted
from bertjax.data.shards import Manifest
from bertjax.data.stream import ShardReader

# Version of the packing below. A changed one needs a new name: no run may resume across it.
PACKING = "best-fit-1"
# Beside the seed, the key of the order of equally long examples; epochs have smaller numbers.
_ORDER = 1 << 31
Groups = list[tuple[int, tuple[int, ...]]]
"""Numbers of rows, and the lengths of the examples in each of them."""


def pack_lengths(counts: Sequence[int] | np.ndarray, row_length: int, most: int) -> Groups:
    """Packs lengths into rows by best fit, the longest first.

    Args:
        counts: the number of examples of each length 0, 1, 2, ...; none is longer than a row, and
            none is empty.
        row_length: tokens in a row.
        most: maximum number of examples in a row.

    Returns:
        The number of rows, and the lengths of the examples in each of them, for every combination.
    """
    full: Groups = []
    waiting: dict[int, Groups] = {}  # by the space that is left in a row
    spaces: list[int] = []  # the keys of `waiting`, ascending

    def put(number: int, lengths: tuple[int, ...], space: int) -> None:
        if space == 0 or len(lengths) == most:
            full.append((number, lengths))
        elif space in waiting:
            waiting[space].append((number, lengths))
        else:
            bisect.insort(spaces, space)
            waiting[space] = [(number, lengths)]

    for length in reversed(range(1, len(counts))):
        left = int(counts[length])
        while left:
            place = bisect.bisect_left(spaces, length)
            if place == len(spaces):  # no row has space: new ones, filled with this length
                each = min(most, row_length // length, left)
                used, lengths, space = left // each, (length,) * each, row_length - length * each
                left -= used * each
            else:
                space = spaces[place]
                number, lengths = waiting[space].pop()
                used = min(number, left)
                if used < number:
                    waiting[space].append((number - used, lengths))
                elif not waiting[space]:
                    del waiting[space], spaces[place]
                lengths, space = (*lengths, length), space - length
                left -= used
            put(used, lengths, space)
    return full + [group for groups in waiting.values() for group in groups]


class PackedReader:
    """Random access to the rows of a split of a data directory, each with several examples.

    It is thread-safe, as the `ShardReader` below it.
    """

    def __init__(self, reader: ShardReader, examples: np.ndarray) -> None:
        """`examples` [R, S] are those of each row; -1 where a row has fewer than S."""
        self.reader = reader
        self.manifest: Manifest = reader.manifest
        self._examples = examples

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._examples)

    @property
    def most(self) -> int:
        """S, the maximum number of examples in a row."""
        return self._examples.shape[1]

    @functools.cached_property
    def identity(self) -> str:
        """Names the examples, the rows that they make, and their order."""
        digest = hashlib.sha256(self._examples.tobytes()).hexdigest()
        return f"{self.reader.identity} {PACKING} {digest}"

    def examples(self, rows: np.ndarray) -> np.ndarray:
        """Returns the examples of rows [n] as int32 [n, S]; -1 where a row has fewer."""
        return self._examples[rows]

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the rows `indices`, [n]. Indices may repeat.

        Returns:
            input_ids, attention_mask, token_type_ids; segment_ids, the number of the example that a
            token belongs to, from 1, and 0 for padding; position_ids, which restart in each
            example: all [n, T] int32. cls_positions [n, S] int32, where each example begins;
            example_weight [n, S] float32, 0 where a row has fewer than S examples. For pairs,
            next_sentence_label [n, S] int32.

        Raises as `ShardReader.rows` does.
        """
        chosen = self.examples(indices)
        row, slot = np.nonzero(chosen >= 0)
        alone = self.reader.rows(chosen[row, slot])
        is_token = alone["attention_mask"] != 0
        lengths = np.zeros(chosen.shape, np.int32)
        lengths[row, slot] = is_token.sum(1)
        starts = np.cumsum(lengths, axis=1) - lengths
        example, position = np.nonzero(is_token)
        here = row[example], starts[row, slot][example] + position

        shape = (len(chosen), self.manifest.max_seq_length)
        tokens = {name: each[is_token] for name, each in alone.items() if each.ndim == 2}
        tokens |= {"segment_ids": slot[example] + 1, "position_ids": position}
        packed: dict[str, np.ndarray] = {}
        for name, values in tokens.items():
            padding = self.manifest.pad_id if name == "input_ids" else 0
            packed[name] = np.full(shape, padding, np.int32)
            packed[name][here] = values
        if "next_sentence_label" in alone:
            packed["next_sentence_label"] = np.zeros(chosen.shape, np.int32)
            packed["next_sentence_label"][row, slot] = alone["next_sentence_label"]
        is_there = lengths > 0
        packed["cls_positions"] = np.where(is_there, starts, 0).astype(np.int32)
        packed["example_weight"] = is_there.astype(np.float32)
        return packed


def pack(readers: Sequence[ShardReader], seed: int) -> tuple[PackedReader, ...]:
    """Packs the examples of each corpus into rows of max_seq_length; reads all shards once.

    A row has at most twice as many examples as fit into it on average, so that rows of many very
    short examples do not widen the arrays of all others. See also `ShardReader.lengths`.
    """
    longest = readers[0].manifest.max_seq_length
    # Reading an example that is too long raises an error that names it.
    lengths = [np.minimum(reader.lengths(), longest) for reader in readers]
    most = 2 * math.ceil(longest / np.concatenate(lengths).mean())
    groups = [pack_lengths(np.bincount(own), longest, most) for own in lengths]
    most = max(len(each) for own in groups for _, each in own)
    return tuple(
        PackedReader(reader, _rows(own, packed, most, seed))
        for reader, own, packed in zip(readers, lengths, groups, strict=True)
    )


def _rows(lengths: np.ndarray, groups: Groups, most: int, seed: int) -> np.ndarray:
    """Chooses the examples of every row: int32 [R, most]; -1 where a row has fewer."""
    count, of_length = len(lengths), np.bincount(lengths)
    order = permuted(np.arange(count), count, (seed, _ORDER))
    by_length = order[np.argsort(lengths[order], kind="stable")]
    unused = np.cumsum(of_length) - of_length  # the first unused one of each length
    rows, first = np.full((sum(number for number, _ in groups), most), -1, np.int32), 0
    for number, packed in groups:
        for slot, length in enumerate(packed):
            start = unused[length]
            rows[first : first + number, slot] = by_length[start : start + number]
            unused[length] += number
        first += number
    return rows
