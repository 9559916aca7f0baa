"""Pass 2 of preparing: draws the examples of one unit of documents and writes them to shards."""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import duplicates, measure
from bertjax.data.pairs import FlatDocuments, Spans
from bertjax.data.prepare.token_store import read_blocks
from bertjax.data.prepare.workers import cached_tokenizer
from bertjax.data.segments import DEFAULT_SEGMENTS, SEGMENTS, SegmentKind
from bertjax.files import write_atomically

COUNT = np.dtype("<i8")
"""The type of a unit's token counts, one for each token of the vocabulary."""
_COUNTED_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """The settings of examples, apart from the documents."""

    max_seq_length: int
    short_seq_prob: float
    seed: int
    dupe_factor: int
    vocabulary: str
    """Directory of the tokenizer."""
    segments: str = DEFAULT_SEGMENTS
    """The kind of segments, a key of `SEGMENTS`."""
    sample_bits: int = 0
    """The sampling of sentence hashes; see `duplicates.sentence_hashes`."""

    @property
    def kind(self) -> SegmentKind:
        """The kind of segments."""
        return SEGMENTS[self.segments]

    def draw(self, documents: FlatDocuments, rng: np.random.Generator) -> Spans:
        """Draws the examples of documents once."""
        return self.kind.draw(
            documents,
            max_seq_length=self.max_seq_length,
            short_seq_prob=self.short_seq_prob,
            rng=rng,
        )


def write_unit(
    marker: str,
    split: str,
    blocks: tuple[int, ...],
    cutoff: int,
    paths: tuple[str, ...],
    options: ExampleOptions,
) -> None:
    """Reads the documents of a unit (`splits.Unit`) from token files and writes their examples."""
    vocab_size = cached_tokenizer(options.vocabulary).vocab_size
    documents = read_blocks(
        [epath.Path(path) for path in paths],
        blocks,
        held_out=split == "held_out",
        cutoff=cutoff,
        dtype=shards.id_dtype(shards.needs_wide_ids(vocab_size)),
    )
    write_examples(epath.Path(marker), split, blocks[0], documents, vocab_size, options)


def write_examples(
    marker: epath.Path,
    split: str,
    block: int,
    documents: FlatDocuments,
    vocab_size: int,
    options: ExampleOptions,
) -> None:
    """Writes the examples of a unit's documents.

    The files are its shards, its token counts (.counts), the hashes of its sentences (.sentences)
    and, last, `marker`: the JSON of a dict with

    - files: its shards;
    - lengths: the number of examples with 0, 1, ... tokens, special tokens included;
    - random: the number of examples with label 1;
    - same_document: the number of those whose B comes from the document of A;
    - text: the sums of `measure.document_sums`.

    Held-out documents are drawn from once: further passes would repeat the same sentences.
    """
    kind, length = options.kind, options.max_seq_length
    result: dict[str, Any] = {"files": [], "random": 0, "same_document": 0}
    result["text"] = measure.document_sums(documents, length - kind.special_tokens)
    lengths = np.zeros(length + 1, np.int64)
    for dupe in range(options.dupe_factor if split == "train" else 1):
        key = (options.seed, shards.SPLITS.index(split), block, dupe)
        rng = np.random.default_rng(key)
        spans = options.draw(documents, rng)
        lengths += np.bincount(spans.tokens + kind.special_tokens, minlength=length + 1)
        result["random"] += int(spans.is_random.sum())
        if kind.draws_other_documents:
            result["same_document"] += measure.same_document(documents, spans)
        rows = np.stack(spans, axis=1)[rng.permutation(len(spans.is_random))]
        base = marker.with_name(f"{marker.stem}-{dupe:02d}")
        result["files"] += _write_shards(base, rows, documents.ids, vocab_size)
    result["lengths"] = lengths.tolist()
    counts = np.zeros(vocab_size, COUNT)
    for start in range(0, len(documents.ids), _COUNTED_AT_ONCE):  # np.bincount copies to int64
        some = documents.ids[start : start + _COUNTED_AT_ONCE]
        counts += np.bincount(some, minlength=vocab_size)
    write_atomically(marker.with_suffix(".counts"), counts.tobytes())
    hashes = duplicates.sentence_hashes(
        documents.ids, documents.sentence_offsets, options.sample_bits
    )
    write_atomically(marker.with_suffix(".sentences"), hashes.tobytes())
    write_atomically(marker, json.dumps(result).encode())


def _write_shards(
    base: epath.Path, rows: np.ndarray, ids: np.ndarray, vocab_size: int
) -> list[dict[str, Any]]:
    """Writes examples, given as the fields of `Spans` [examples, 5], to files BASE-NNN."""
    files = []
    wide = shards.needs_wide_ids(vocab_size)
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
        path = base.with_name(f"{base.name}-{number:03d}.array_record")
        files.append(dataclasses.asdict(shards.write_records(path, records)))
    return files
