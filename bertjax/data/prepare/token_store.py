"""Pass 1 of preparing: writes the token ids of text to files, grouped by block.

Each element of `file_ranges.cut` gives one token file. It holds the ids of the documents, sorted by
block and, within a block, by the hash that decides between training and held-out. The documents of
a block are therefore adjacent in each token file, and the held-out ones come first. Pass 2 reads
either part as one slice.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax import signals
from bertjax.data import shards
from bertjax.data.audit.measure import TextSums
from bertjax.data.pairs import FlatDocuments, offsets_of
from bertjax.data.prepare import file_ranges
from bertjax.data.prepare.file_ranges import Ranges, read_range
from bertjax.data.prepare.workers import cached_tokenizer
from bertjax.files import write_atomically
from bertjax.text.compressed import Window
from bertjax.text.tokenizer import Tokenizer

SUFFIX = ".tokens"
_SENTENCES_PER_CALL = 4096

# A token file holds this header, an index [blocks + 1] of each block's first document, sentence and
# id, the table of documents, the lengths of their sentences as uint32, and the ids.
_HEADER = np.dtype([(name, "<u8") for name in ("blocks", "documents", "sentences", "ids", "words")])
_INDEX = np.dtype([(name, "<u8") for name in ("document", "sentence", "id")])
_TABLE = np.dtype([("hash", "<u8"), ("block", "<u4"), ("sentences", "<u4"), ("ids", "<u8")])
_LENGTH = np.dtype("<u4")

DocumentId = tuple[int, int, int]
"""A document's source, the beginning of its range, and its number in the range."""


class Totals(NamedTuple):
    """The contents of a token file."""

    blocks: int
    documents: int
    sentences: int
    ids: int
    words: int


def tokenize(
    paths: Sequence[str], group: Sequence[Ranges], vocabulary: str, options: dict[str, Any]
) -> None:
    """Writes the missing token files of a group (`file_ranges.groups`) in one process."""
    tokenizer = cached_tokenizer(vocabulary)
    with file_ranges.open_window(group) as window:
        for path, ranges in zip(map(epath.Path, paths), group, strict=True):
            if not path.exists():
                write_tokens(path, ranges, tokenizer, window=window, **options)


def write_tokens(
    path: epath.Path,
    ranges: Ranges,
    tokenizer: Tokenizer,
    *,
    seed: int,
    blocks: int,
    language: str,
    window: Window | None = None,
) -> None:
    """Tokenizes the documents of ranges into a token file, which appears only when complete.

    Sentences without tokens are dropped, and so are documents without sentences. The sums of the
    audit (`measure.TextSums`) are written to a JSON file beside it. `language` and `window` are
    those of `file_ranges.read_range`. Raises `UserError` that names bad input by file and line.
    """
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    rows, lengths, ids, words = [], [], [], 0
    sums = TextSums(tokenizer.unk_id)
    for batch in _batches(ranges, language, window):
        signals.check()
        encoded = _encode(tokenizer, [line for _, lines in batch for line in lines])
        offsets = offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        tokens = np.concatenate(encoded).astype(dtype)
        sums.add([(document[0], lines) for document, lines in batch], tokens, offsets)
        position = 0
        for document, lines in batch:
            bounds = offsets[position : position + len(lines) + 1]
            position += len(lines)
            words += _count_words(" ".join(lines))
            if bounds[0] < bounds[-1]:
                kept = np.diff(bounds).astype(_LENGTH)
                lengths.append(kept[kept > 0])
                ids.append(tokens[bounds[0] : bounds[-1]])
                rows.append((*_hashes(seed, document, blocks), len(lengths[-1]), len(ids[-1])))
    write_atomically(_sums_of(path), json.dumps(sums.to_json()).encode())
    write_atomically(path, _serialized(np.array(rows, _TABLE), lengths, ids, blocks, words))


def _serialized(
    table: np.ndarray, lengths: list[np.ndarray], ids: list[np.ndarray], blocks: int, words: int
) -> bytes:
    """Returns the bytes of a token file; the arguments are in the order of the text."""
    order = np.lexsort((table["hash"], table["block"]))
    table = table[order]
    bounds = np.searchsorted(table["block"], np.arange(blocks + 1))
    index = np.zeros(blocks + 1, _INDEX)
    index["document"] = bounds
    index["sentence"] = offsets_of(table["sentences"])[bounds]
    index["id"] = offsets_of(table["ids"])[bounds]
    header = np.array((blocks, len(table), index["sentence"][-1], index["id"][-1], words), _HEADER)
    arrays = [header, index, table, *(lengths[i] for i in order), *(ids[i] for i in order)]
    return b"".join(array.tobytes() for array in arrays)


def text_sums(paths: Sequence[epath.Path]) -> TextSums:
    """Adds up the audit's sums of token files, which are given in the order of the corpus."""
    return TextSums.merged(json.loads(_sums_of(path).read_bytes()) for path in paths)


def _sums_of(path: epath.Path) -> epath.Path:
    return path.with_suffix(".json")


def read_totals(path: epath.Path) -> Totals:
    """Reads the header of a token file."""
    with path.open("rb") as file:
        header = _read(file, 0, _HEADER, 1)[0]
    return Totals(*(int(header[name]) for name in Totals._fields))


def read_hashes(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the split hash (uint64) and the block (uint32) of each document: [documents] each."""
    with path.open("rb") as file:
        header = _read(file, 0, _HEADER, 1)[0]
        offset = _HEADER.itemsize + (int(header["blocks"]) + 1) * _INDEX.itemsize
        table = _read(file, offset, _TABLE, int(header["documents"]))
    return table["hash"], table["block"]


def read_blocks(
    paths: Sequence[epath.PathLike],
    blocks: Sequence[int],
    *,
    held_out: bool,
    cutoff: int,
    dtype: np.dtype,
) -> FlatDocuments:
    """Reads the held-out or the training documents of blocks.

    A document is held out if its hash is below `cutoff`. The order (token file, block, hash) does
    not depend on the number of processes.
    """
    sentences, lengths = [np.zeros(0, _LENGTH)], [np.zeros(0, _LENGTH)]
    id_slices: list[tuple[epath.Path, int, int]] = []  # file, first byte, number of ids
    for path in map(epath.Path, paths):
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
                first, rows = (0, table[:split]) if held_out else (split, table[split:])
                before = table[:first]
                if not len(rows):
                    continue
                sentences.append(rows["sentences"])
                at = int(begin["sentence"]) + int(before["sentences"].sum())
                count = int(rows["sentences"].sum())
                lengths.append(_read(file, lengths_at + at * _LENGTH.itemsize, _LENGTH, count))
                at = int(begin["id"]) + int(before["ids"].sum())
                id_slices.append((path, ids_at + at * dtype.itemsize, int(rows["ids"].sum())))
    return FlatDocuments(
        ids=_read_slices(id_slices, dtype),
        sentence_offsets=offsets_of(np.concatenate(lengths)),
        document_offsets=offsets_of(np.concatenate(sentences)),
    )


def _read_slices(slices: Sequence[tuple[epath.Path, int, int]], dtype: np.dtype) -> np.ndarray:
    """Reads slices of files into one array; only one slice at a time is in memory twice."""
    result, done = np.empty(sum(count for _, _, count in slices), dtype), 0
    for path, at, count in slices:
        with path.open("rb") as file:
            result[done : done + count] = _read(file, at, dtype, count)
        done += count
    return result


def _count_words(text: str) -> int:
    """Returns len(text.split()) for a text without surrounding space, in most cases faster."""
    if text.isprintable() and text.isascii() and "  " not in text:
        return text.count(" ") + 1
    return len(text.split())


def _read(file: Any, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
    file.seek(offset)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _hashes(seed: int, document: DocumentId, blocks: int) -> tuple[int, int]:
    """Returns the split hash and the block of a document."""
    digest = hashlib.blake2b(repr((seed, *document)).encode(), digest_size=16).digest()
    split, block = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return split, block % blocks


def _encode(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[np.ndarray]:
    """Encodes sentences in batches, as a document may have millions."""
    return [
        ids
        for start in range(0, len(sentences), _SENTENCES_PER_CALL)
        for ids in tokenizer.encode_sentences(sentences[start : start + _SENTENCES_PER_CALL])
    ]


def _batches(
    ranges: Ranges, language: str, window: Window | None
) -> Iterator[list[tuple[DocumentId, tuple[str, ...]]]]:
    """Yields the documents of ranges with their ids, some thousand sentences at a time."""
    batch, count = [], 0
    for file_range in ranges:
        for number, document in enumerate(read_range(file_range, language, window)):
            batch.append(((file_range.number, file_range.start, number), document))
            count += len(document)
            if count >= _SENTENCES_PER_CALL:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch
