"""Pass 2 of preparing: draws the examples of one unit of documents and writes them to shards."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import duplicates, measure
from bertjax.data.pairs import FlatDocuments
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.splits import Unit
from bertjax.data.prepare.token_store import read_blocks
from bertjax.data.prepare.workers import cached_tokenizer
from bertjax.files import write_atomically

COUNT = np.dtype("<i8")
"""The type of a unit's token counts, one for each token of the vocabulary."""
_COUNTED_AT_ONCE = 1 << 20


def write_unit(
    directory: str,
    unit: Unit,
    paths: Sequence[str],
    vocabulary: str,
    config: PrepareConfig,
    max_seq_length: int,
    sample_bits: int,
) -> None:
    """Reads the documents of a unit from token files and writes their examples to a directory.

    `vocabulary` is the directory of the tokenizer. See `write_examples` for the other arguments.
    """
    vocab_size = cached_tokenizer(vocabulary).vocab_size
    dtype = shards.id_dtype(shards.needs_wide_ids(vocab_size))
    held_out = unit.split == "held_out"
    documents = read_blocks(paths, unit.blocks, held_out=held_out, cutoff=unit.cutoff, dtype=dtype)
    place = epath.Path(directory)
    write_examples(place, unit, documents, vocab_size, config, max_seq_length, sample_bits)


def write_examples(
    directory: epath.Path,
    unit: Unit,
    documents: FlatDocuments,
    vocab_size: int,
    config: PrepareConfig,
    max_seq_length: int,
    sample_bits: int = 0,
) -> None:
    """Writes the examples of a unit's documents; samples one in 2 ** `sample_bits` sentence hashes.

    The files are its shards, its token counts (.counts), the hashes of its sentences (.sentences)
    and, last, the marker NAME.json: the JSON of a dict with

    - files: its shards;
    - lengths: the number of examples with 0, 1, ... tokens, special tokens included;
    - random: the number of examples with label 1;
    - same_document: the number of those whose B comes from the document of A;
    - text: the sums of `measure.document_sums`.

    Held-out documents are drawn from once: further passes would repeat the same sentences.
    """
    kind, length = config.segment_kind, max_seq_length
    base = directory / unit.name
    result: dict[str, Any] = {"files": [], "random": 0, "same_document": 0}
    result["text"] = measure.document_sums(documents, length - kind.special_tokens)
    lengths = np.zeros(length + 1, np.int64)
    for dupe in range(config.dupe_factor if unit.split == "train" else 1):
        key = (config.seed, shards.SPLITS.index(unit.split), unit.blocks[0], dupe)
        rng = np.random.default_rng(key)
        spans = kind.draw(documents, length, config.short_seq_prob, rng)
        lengths += np.bincount(spans.tokens + kind.special_tokens, minlength=length + 1)
        result["random"] += int(spans.is_random.sum())
        if kind.draws_other_documents:
            result["same_document"] += measure.same_document(documents, spans)
        rows = np.stack(spans, axis=1)[rng.permutation(len(spans.is_random))]
        result["files"] += _write_shards(f"{base}-{dupe:02d}", rows, documents.ids, vocab_size)
    result["lengths"] = lengths.tolist()
    counts = np.zeros(vocab_size, COUNT)
    for start in range(0, len(documents.ids), _COUNTED_AT_ONCE):  # np.bincount copies to int64
        some = documents.ids[start : start + _COUNTED_AT_ONCE]
        counts += np.bincount(some, minlength=vocab_size)
    write_atomically(base.with_suffix(".counts"), counts.tobytes())
    hashes = duplicates.sentence_hashes(documents.ids, documents.sentence_offsets, sample_bits)
    write_atomically(base.with_suffix(".sentences"), hashes.tobytes())
    write_atomically(base.with_suffix(".json"), json.dumps(result).encode())


def _write_shards(
    base: str, rows: np.ndarray, ids: np.ndarray, vocab_size: int
) -> list[dict[str, Any]]:
    """Writes examples, given as the fields of `Spans` [examples, 5], to files BASE-NNN."""
    files, wide = [], shards.needs_wide_ids(vocab_size)
    data, width = ids.view(np.uint8).data, ids.itemsize
    count = -(-len(rows) // shards.EXAMPLES_PER_FILE)
    for number, chunk in enumerate(np.array_split(rows, count) if count else []):
        records = (
            shards.encode_bytes(
                data[a_start * width : a_stop * width],
                data[b_start * width : b_stop * width],
                is_random=bool(is_random),
                wide=wide,
            )
            for a_start, a_stop, b_start, b_stop, is_random in chunk.tolist()
        )
        path = epath.Path(f"{base}-{number:03d}.array_record")
        files.append(dataclasses.asdict(shards.write_records(path, records)))
    return files
