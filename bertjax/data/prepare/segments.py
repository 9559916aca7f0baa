"""Pass 1 of preparing: text becomes token ids on disk, grouped by the block they will be paired in.

The corpus is cut into tasks (`parts.py`). A task leaves one file, a segment: the ids of its
documents, sorted by block and, inside a block, by the hash that decides between training and
held-out. So pass 2 reads one slice of every segment for its block, and the held-out documents of a
block are the first ones of that slice.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import measure
from bertjax.data.pairs import FlatDocuments, offsets_of
from bertjax.data.prepare.file_ranges import Task, read_part
from bertjax.files import write_atomically
from bertjax.text.compressed import Window
from bertjax.text.tokenizer import Tokenizer

_SENTENCES_PER_CALL = 4096

# A segment: this header, the index [blocks + 1] of where each block's documents, sentences and ids
# begin, the table of documents, the lengths of their sentences as uint32, the ids.
_HEADER = np.dtype([(name, "<u8") for name in ("blocks", "documents", "sentences", "ids", "words")])
_INDEX = np.dtype([(name, "<u8") for name in ("document", "sentence", "id")])
_TABLE = np.dtype([("hash", "<u8"), ("block", "<u4"), ("sentences", "<u4"), ("ids", "<u8")])
_LENGTH = np.dtype("<u4")
BYTES_PER_DOCUMENT, BYTES_PER_SENTENCE = _TABLE.itemsize, _LENGTH.itemsize
"""Of a segment, beside the ids."""


Named = tuple[tuple[int, int, int], tuple[str, ...]]
"""A document's id (source, beginning of the part, place in the part), and its sentences."""


class Totals(NamedTuple):
    """What segments hold."""

    blocks: int
    documents: int
    sentences: int
    ids: int
    words: int


def write_segment(
    path: epath.Path,
    task: Task,
    tokenizer: Tokenizer,
    *,
    seed: int,
    blocks: int,
    language: str,
    window: Window | None = None,
) -> None:
    """Tokenises the documents of a task into a segment, which has its name only when it is whole.

    Sentences without tokens are dropped, and documents without sentences. Beside the segment and
    before it comes what `measure.TextSums` counts (see `text_sums`). `window`: see
    `parts.read_part`.

    Raises:
        UserError: bad input, named by file and line.
    """
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    rows: list[tuple[int, int, int, int]] = []
    lengths: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    words = 0
    sums = measure.TextSums(tokenizer.unk_id)
    for batch in _batches(task, language, window):
        encoded = _encode(tokenizer, [line for _, lines in batch for line in lines])
        offsets = offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        tokens = np.concatenate(encoded).astype(dtype)
        sums.add([(name[0], lines) for name, lines in batch], tokens, offsets)
        position = 0
        for name, lines in batch:
            bounds = offsets[position : position + len(lines) + 1]
            position += len(lines)
            words += _count_words(" ".join(lines))
            if bounds[0] < bounds[-1]:
                kept = np.diff(bounds).astype(_LENGTH)
                lengths.append(kept[kept > 0])
                ids.append(tokens[bounds[0] : bounds[-1]])
                rows.append((*_hashes(seed, name, blocks), len(lengths[-1]), len(ids[-1])))
    table = np.array(rows, _TABLE)
    order = np.lexsort((table["hash"], table["block"]))
    table = table[order]
    bounds = np.searchsorted(table["block"], np.arange(blocks + 1))
    index = np.zeros(blocks + 1, _INDEX)
    index["document"] = bounds
    index["sentence"] = offsets_of(table["sentences"])[bounds]
    index["id"] = offsets_of(table["ids"])[bounds]
    header = np.array((blocks, len(table), index["sentence"][-1], index["id"][-1], words), _HEADER)
    arrays = [header, index, table, *(lengths[i] for i in order), *(ids[i] for i in order)]
    write_atomically(_sums_of(path), json.dumps(sums.to_json()).encode())
    write_atomically(path, b"".join(array.tobytes() for array in arrays))


def empty_segment_bytes(blocks: int) -> int:
    """The size of a segment without documents."""
    return _HEADER.itemsize + (blocks + 1) * _INDEX.itemsize


def text_sums(segments: Sequence[epath.Path]) -> measure.TextSums:
    """What was counted in the text of segments, which are in the order of the corpus."""
    return measure.TextSums.merged(json.loads(_sums_of(path).read_bytes()) for path in segments)


def _sums_of(segment: epath.Path) -> epath.Path:
    return segment.with_suffix(".json")


def segment_totals(path: epath.Path) -> Totals:
    """What a segment holds, from its header."""
    with path.open("rb") as file:
        header = _read(file, 0, _HEADER, 1)[0]
    return Totals(*(int(header[name]) for name in Totals._fields))


def segment_documents(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """The split hash (uint64) and the block (uint32) of a segment's documents, [documents] each."""
    with path.open("rb") as file:
        header = _read(file, 0, _HEADER, 1)[0]
        offset = _HEADER.itemsize + (int(header["blocks"]) + 1) * _INDEX.itemsize
        table = _read(file, offset, _TABLE, int(header["documents"]))
    return table["hash"], table["block"]


def read_blocks(
    segments: Sequence[epath.Path],
    blocks: Sequence[int],
    *,
    held_out: bool,
    cutoff: int,
    dtype: np.dtype,
) -> FlatDocuments:
    """The documents of some blocks: those with a hash below `cutoff` if held_out, else the others.

    Their order (segment, block, hash) is the same for any number of processes.
    """
    sentences: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    stretches: list[tuple[epath.Path, int, int]] = []  # of ids: file, first byte, number
    for path in segments:
        with path.open("rb") as file:
            header = _read(file, 0, _HEADER, 1)[0]
            index_at = _HEADER.itemsize
            table_at = index_at + (int(header["blocks"]) + 1) * _INDEX.itemsize
            lengths_at = table_at + int(header["documents"]) * _TABLE.itemsize
            ids_at = lengths_at + int(header["sentences"]) * _LENGTH.itemsize
            for block in blocks:
                begin, end = _read(file, index_at + block * _INDEX.itemsize, _INDEX, 2)
                count = int(end["document"] - begin["document"])
                at = table_at + int(begin["document"]) * _TABLE.itemsize
                table = _read(file, at, _TABLE, count)
                split = int(np.searchsorted(table["hash"], np.uint64(cutoff)))
                before, rows = table[:split], table[split:]
                if held_out:
                    before, rows = table[:0], table[:split]
                if not len(rows):
                    continue
                sentences.append(rows["sentences"])
                at = int(begin["sentence"]) + int(before["sentences"].sum())
                count = int(rows["sentences"].sum())
                lengths.append(_read(file, lengths_at + at * _LENGTH.itemsize, _LENGTH, count))
                at = int(begin["id"]) + int(before["ids"].sum())
                count = int(rows["ids"].sum())
                stretches.append((path, ids_at + at * dtype.itemsize, count))
    return FlatDocuments(
        ids=_read_stretches(stretches, dtype),
        sentence_offsets=offsets_of(np.concatenate([np.zeros(0, _LENGTH), *lengths])),
        document_offsets=offsets_of(np.concatenate([np.zeros(0, _LENGTH), *sentences])),
    )


def _read_stretches(
    stretches: Sequence[tuple[epath.Path, int, int]], dtype: np.dtype
) -> np.ndarray:
    """Arrays that lie at (file, byte, number of elements), as one: never all of them twice."""
    result = np.empty(sum(count for _, _, count in stretches), dtype)
    done = 0
    for path, at, count in stretches:
        with path.open("rb") as file:
            result[done : done + count] = _read(file, at, dtype, count)
        done += count
    return result


def _count_words(text: str) -> int:
    """len(text.split()) of a text without space around it; mostly without making the words."""
    if text.isprintable() and text.isascii() and "  " not in text:
        return text.count(" ") + 1
    return len(text.split())


def _read(file: Any, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
    file.seek(offset)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _hashes(seed: int, name: tuple[int, int, int], blocks: int) -> tuple[int, int]:
    """(split hash, block) of a document by its id: file, part of the file, place in the part."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=16).digest()
    split, block = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return split, block % blocks


def _encode(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[np.ndarray]:
    """The ids of sentences; some thousand at a time, as a document may have millions."""
    return [
        ids
        for start in range(0, len(sentences), _SENTENCES_PER_CALL)
        for ids in tokenizer.encode_sentences(sentences[start : start + _SENTENCES_PER_CALL])
    ]


def _batches(task: Task, language: str, window: Window | None) -> Iterator[list[Named]]:
    """The documents of a task with their ids, some thousand sentences at a time."""
    batch, count = [], 0
    for part in task:
        for place, document in enumerate(read_part(part, language, window)):
            batch.append(((part.number, part.start, place), document))
            count += len(document)
            if count >= _SENTENCES_PER_CALL:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch
