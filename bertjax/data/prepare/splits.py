"""Which documents are held out, and which blocks are paired at once.

Both follow from the documents' hashes alone, before anything is duplicated, so that no held-out
sentence is ever trained on.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.prepare.segments import segment_documents, segment_totals
from bertjax.errors import UserError

_HASH_RANGE = 1 << 64


class TooFew(UserError):
    """Too few documents to divide."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is paired at once: the documents of a split in a block (or some, if they are few)."""

    split: str
    blocks: tuple[int, ...]
    cutoff: int
    """Documents with a hash below it are held out."""

    @property
    def name(self) -> str:
        """Distinct in a run; the shards' names begin with it."""
        return f"{self.split}-{self.blocks[0]:05d}"


def divide(
    segments: Sequence[epath.Path], held_out: float, *, where: str, least: int = 2
) -> list[Unit]:
    """Divides documents into held-out and training, and both into what is paired at once.

    Args:
        segments: what pass 1 left.
        held_out: share of the documents to hold out; unless it is 0, `least` of them.
        where: names the corpus in errors.
        least: documents that a split and what is paired at once need: 2 where B may be of another
            document, else 1.

    Raises:
        TooFew: too few documents.
    """
    totals = [segment_totals(segment) for segment in segments]
    documents = sum(total.documents for total in totals)
    sentences = sum(total.sentences for total in totals)
    refuse_few(documents, sentences, held_out, where, least)
    cutoff = _cutoff(held_out, documents, segments, least)
    counts = np.zeros((len(shards.SPLITS), totals[0].blocks), np.int64)
    for segment in segments:
        hashes, blocks = segment_documents(segment)
        np.add.at(counts, ((hashes < np.uint64(cutoff)).astype(int), blocks), 1)
    return [
        Unit(split, blocks, cutoff)
        for split, row in zip(shards.SPLITS, counts, strict=True)
        for blocks in _grouped(row, least)
    ]


def refuse_few(documents: int, sentences: int, held_out: float, where: str, least: int) -> None:
    """Raises `TooFew` where so many can't be divided; the other arguments are those of `divide`."""
    if documents == 0:
        raise TooFew(f"{where}: no text; give files with sentences in them.")
    if sentences == 1 and least == 2:
        raise TooFew(
            f"{where}: one sentence in all; a next-sentence pair needs two, from two documents."
        )
    if documents == 1 and least == 2:
        raise TooFew(
            f"{where}: {sentences:,} sentences but one document; half of all pairs take their "
            "second part from another document, so put a blank line between documents (chapters, "
            "articles), or give more than one file."
        )
    if held_out > 0 and documents < 2 * least:
        only = f"only {documents} documents" if documents > 1 else "only one document"
        raise TooFew(
            f"{where}: {only}, and training and held-out need {least} each; give more text, or "
            "--held-out 0 to evaluate on none."
        )


def _cutoff(held_out: float, documents: int, segments: Sequence[epath.Path], least: int) -> int:
    """The hash below which documents are held out.

    It is held_out of the range, moved if that leaves fewer than `least` documents on a side: then
    those with the lowest hashes are held out, or those with the highest are trained on.
    """
    if held_out == 0:
        return 0
    cutoff = min(int(held_out * _HASH_RANGE), _HASH_RANGE - 1)
    below = 0
    lowest, highest = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    for segment in segments:
        hashes, _ = segment_documents(segment)
        below += int((hashes < np.uint64(cutoff)).sum())
        lowest = np.sort(np.concatenate([lowest, hashes]))[:least]
        highest = np.sort(np.concatenate([highest, hashes]))[-least:]
    if below < least:
        return int(lowest[-1]) + 1
    if documents - below < least:
        return int(highest[0])
    return cutoff


def _grouped(counts: np.ndarray, least: int = 2) -> list[tuple[int, ...]]:
    """Blocks, each alone, or with the next ones while they have fewer than `least` documents."""
    groups: list[tuple[int, ...]] = []
    current: tuple[int, ...] = ()
    for block in np.flatnonzero(counts).tolist():
        current = (*current, block)
        if counts[list(current)].sum() >= least:
            groups.append(current)
            current = ()
    if current:
        groups[-1] += current
    return groups
