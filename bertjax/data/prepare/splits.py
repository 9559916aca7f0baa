"""Decides which documents are held out and which blocks are processed together; refuses text of
too few documents.

Both follow from the hashes of the documents alone, before any pass over them is repeated, so no
held-out sentence is ever trained on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.prepare.token_store import read_hashes, read_totals
from bertjax.errors import UserError

_HASH_RANGE = 1 << 64


class TooFewDocuments(UserError):
    """There are too few documents for two splits."""


class Unit(NamedTuple):
    """Documents whose examples are drawn together: those of one split in one or more blocks.

    Documents with a hash below `cutoff` are held out.
    """

    split: str
    blocks: tuple[int, ...]
    cutoff: int

    @property
    def name(self) -> str:
        """The name of the unit's files, unique in a run."""
        return f"{self.split}-{self.blocks[0]:05d}"


def cutoff_of(held_out: float) -> int:
    """Returns the hash below which a share of all hashes lies."""
    return min(int(held_out * _HASH_RANGE), _HASH_RANGE - 1)


def make_units(
    paths: Sequence[epath.Path], held_out: float, *, where: str, min_documents: int
) -> list[Unit]:
    """Divides the documents of token files into training and held-out, and both into units.

    Every split and unit has at least `min_documents` documents: 2 if B may come from another one,
    else 1. `held_out` is the share to hold out, and `where` the name of the corpus in errors.
    Raises `TooFewDocuments` if there are fewer.
    """
    totals = [read_totals(path) for path in paths]
    documents = sum(each.documents for each in totals)
    sentences = sum(each.sentences for each in totals)
    refuse_few(documents, sentences, held_out, where, min_documents)
    cutoff = _cutoff(held_out, documents, paths, min_documents)
    counts = np.zeros((len(shards.SPLITS), totals[0].blocks), np.int64)
    for path in paths:
        hashes, blocks = read_hashes(path)
        np.add.at(counts, ((hashes < np.uint64(cutoff)).astype(int), blocks), 1)
    return [
        Unit(split, blocks, cutoff)
        for split, row in zip(shards.SPLITS, counts, strict=True)
        for blocks in _group_blocks(row, min_documents)
    ]


def refuse_few(
    documents: int, sentences: int, held_out: float, where: str, min_documents: int
) -> None:
    """Raises `TooFewDocuments` if there are; see `make_units` for the arguments."""
    if documents == 0:
        raise TooFewDocuments(f"{where}: no text; give files with sentences in them.")
    if sentences == 1 and min_documents == 2:
        raise TooFewDocuments(
            f"{where}: one sentence in all; a next-sentence pair needs two, from two documents."
        )
    if documents == 1 and min_documents == 2:
        raise TooFewDocuments(
            f"{where}: {sentences:,} sentences but one document; half of all pairs take B from "
            "another one: put a blank line between documents, or give more than one file."
        )
    if held_out > 0 and documents < 2 * min_documents:
        only = f"only {documents} documents" if documents > 1 else "only one document"
        raise TooFewDocuments(
            f"{where}: {only}, and training and held-out need {min_documents} each; give more "
            "text, or set `held_out` to 0 for no evaluation."
        )


def _cutoff(
    held_out: float, documents: int, paths: Sequence[epath.Path], min_documents: int
) -> int:
    """Returns the hash below which documents are held out.

    It is the share `held_out` of the range of hashes. If that leaves fewer than `min_documents` on
    one side, the documents with the lowest hashes are held out, or those with the highest trained.
    """
    if held_out == 0:
        return 0
    cutoff, below = cutoff_of(held_out), 0
    lowest = highest = np.zeros(0, np.uint64)
    for path in paths:
        hashes, _ = read_hashes(path)
        below += int((hashes < np.uint64(cutoff)).sum())
        lowest = np.sort(np.concatenate([lowest, hashes]))[:min_documents]
        highest = np.sort(np.concatenate([highest, hashes]))[-min_documents:]
    if below < min_documents:
        return int(lowest[-1]) + 1
    if documents - below < min_documents:
        return int(highest[0])
    return cutoff


def _group_blocks(counts: np.ndarray, min_documents: int) -> list[tuple[int, ...]]:
    """Groups each block with the following ones until a group has `min_documents` documents."""
    groups: list[tuple[int, ...]] = []
    current: tuple[int, ...] = ()
    for block in np.flatnonzero(counts).tolist():
        current = (*current, block)
        if counts[list(current)].sum() >= min_documents:
            groups.append(current)
            current = ()
    if current:
        groups[-1] += current
    return groups
