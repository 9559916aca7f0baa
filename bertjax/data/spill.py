"""Pass 1 of preparing: text becomes token ids on disk, grouped by the block they will be paired in.

The corpus is cut into tasks of a fixed size, whatever the number of processes. A task leaves one
file, a segment: the ids of its documents, sorted by block and, inside a block, by the hash that
decides between training and held-out. So pass 2 reads one slice of every segment for its block, and
the held-out documents of a block are the first ones of that slice.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax import places
from bertjax.data import measure, shards
from bertjax.data.pairs import FlatDocuments, offsets_of
from bertjax.errors import UserError
from bertjax.text import corpus
from bertjax.text.tokenizer import Tokenizer

_SENTENCES_PER_CALL = 4096
_SCAN_BYTES = 1 << 20
_JSON_LINES = (".jsonl", ".json")

# A segment: this header, the index [blocks + 1] of where each block's documents, sentences and ids
# begin, the table of documents, the lengths of their sentences as uint32, the ids.
_HEADER = np.dtype([(name, "<u8") for name in ("blocks", "documents", "sentences", "ids", "words")])
_INDEX = np.dtype([(name, "<u8") for name in ("document", "sentence", "id")])
_TABLE = np.dtype([("hash", "<u8"), ("block", "<u4"), ("sentences", "<u4"), ("ids", "<u8")])
_LENGTH = np.dtype("<u4")
BYTES_PER_DOCUMENT, BYTES_PER_SENTENCE = _TABLE.itemsize, _LENGTH.itemsize
"""Of a segment, beside the ids."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a text file: from the first document that begins at byte `start` or after it, to
    the first one that begins at byte `stop` or after it."""

    number: int
    """Place of the file in the corpus."""
    path: str
    start: int
    stop: int | None
    """None: to the end of the file."""
    farthest: int = 1 << 62
    """How many bytes after `start` and `stop` to look for a document's beginning. Where there is
    none, the part holds nothing, or its last document is cut at the end of a line."""


class Totals(NamedTuple):
    """What segments hold."""

    blocks: int
    documents: int
    sentences: int
    ids: int
    words: int


def make_tasks(
    paths: Sequence[epath.Path], sizes: Sequence[int], part_bytes: int
) -> list[tuple[Part, ...]]:
    """Cuts a corpus into tasks of about `part_bytes`: small files together, large ones in parts."""
    tasks: list[tuple[Part, ...]] = []
    together: list[Part] = []
    room = part_bytes
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if size > room and together:
            tasks.append(tuple(together))
            together, room = [], part_bytes
        if size > part_bytes:
            starts = range(0, size, part_bytes)
            stops = [*starts[1:], None]
            parts = (Part(number, str(path), *ends) for ends in zip(starts, stops, strict=True))
            tasks.extend((part,) for part in parts)
            continue
        together.append(Part(number, str(path), 0, None))
        room -= size
    if together:
        tasks.append(tuple(together))
    return tasks


def write_segment(
    path: epath.Path,
    task: Sequence[Part],
    tokenizer: Tokenizer,
    *,
    seed: int,
    blocks: int,
    language: str,
) -> None:
    """Tokenises the documents of a task into a segment, which has its name only when it is whole.

    Sentences without tokens are dropped, and documents without sentences. Beside the segment and
    before it comes what `measure.TextSums` counts (see `text_sums`).

    Raises:
        UserError: bad input, named by file and line.
    """
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    rows: list[tuple[int, int, int, int]] = []
    lengths: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    words = 0
    sums = measure.TextSums(tokenizer.unk_id)
    for batch in _batches(task, language):
        encoded = tokenizer.encode_sentences([line for _, lines in batch for line in lines])
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
    places.write_atomically(_sums_of(path), json.dumps(sums.to_json()).encode())
    places.write_atomically(path, b"".join(array.tobytes() for array in arrays))


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
    ids: list[np.ndarray] = []
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
                ids.append(_read(file, ids_at + at * dtype.itemsize, dtype, int(rows["ids"].sum())))
    return FlatDocuments(
        ids=np.concatenate([np.zeros(0, dtype), *ids]),
        sentence_offsets=offsets_of(np.concatenate([np.zeros(0, _LENGTH), *lengths])),
        document_offsets=offsets_of(np.concatenate([np.zeros(0, _LENGTH), *sentences])),
    )


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


def _batches(
    task: Sequence[Part], language: str
) -> Iterator[list[tuple[tuple[int, int, int], tuple[str, ...]]]]:
    """(id, sentences) of the documents of a task, some thousand sentences at a time."""
    batch, count = [], 0
    for part in task:
        for place, document in enumerate(_read_part(part, language)):
            batch.append(((part.number, part.start, place), document))
            count += len(document)
            if count >= _SENTENCES_PER_CALL:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch


def _read_part(part: Part, language: str) -> Iterator[tuple[str, ...]]:
    path = epath.Path(part.path)
    if part.start == 0 and part.stop is None:
        yield from corpus.read_documents(path, language)
        return
    start, stop = extent(part)
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        # A copy of the stretch, so that corpus.py needs to know nothing of stretches.
        copy = epath.Path(directory) / f"part{path.suffix}"
        with path.open("rb") as file, copy.open("wb") as target:
            file.seek(start)
            while data := file.read(min(_SCAN_BYTES, stop - file.tell())):
                target.write(data)
        try:
            yield from corpus.read_documents(copy, language)
        except UserError as error:
            raise _at_original_line(error, copy, path, start) from None


def extent(part: Part) -> tuple[int, int]:
    """The first byte of a part's documents in their file, and one past the last."""
    path = epath.Path(part.path)
    boundary = re.compile(rb"\n" if path.suffix.lower() in _JSON_LINES else rb"\n\r?\n")
    with path.open("rb") as file:
        start = _boundary(file, part.start, boundary, part.farthest)
        if start is None:
            return part.start, part.start
        if part.stop is None:
            return start, path.stat().length
        stop = _boundary(file, part.stop, boundary, part.farthest)
        if stop is None:
            file.seek(start)
            data = file.read(part.stop + part.farthest - start)
            stop = start + data.rfind(b"\n") + 1
        return start, max(start, stop)


def _boundary(file: Any, position: int, pattern: re.Pattern[bytes], farthest: int) -> int | None:
    """Where the first document begins whose preceding boundary begins at `position` or after it;
    None if that boundary is not in the next `farthest` bytes."""
    if position == 0:
        return 0
    file.seek(position)
    held = b""
    while farthest > 0:
        data = file.read(min(_SCAN_BYTES, farthest))
        held += data
        if match := pattern.search(held):
            return position + match.end()
        if not data:
            return position + len(held)
        farthest -= len(data)
        # A boundary may lie across two reads: keep what could be its beginning.
        position += len(held) - min(2, len(held))
        held = held[-2:]
    return None


def _at_original_line(
    error: UserError, copy: epath.Path, path: epath.Path, start: int
) -> UserError:
    """The error of a copied stretch, with the file and line of the original."""
    lines = 0
    with path.open("rb") as file:
        while start > 0 and (data := file.read(min(_SCAN_BYTES, start))):
            lines += data.count(b"\n")
            start -= len(data)

    def renamed(match: re.Match[str]) -> str:
        return f"{path}:{int(match[1]) + lines}"

    return UserError(re.sub(re.escape(f"{copy}:") + r"(\d+)", renamed, str(error)))
