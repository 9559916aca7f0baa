"""Estimates what preparing a text takes: tokens, examples, disk and time.

A sample of the text (`sample.py`) goes through both passes of `prepare` in a temporary directory,
and its numbers are scaled by its bytes.
"""

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.audit import duplicates
from bertjax.data.prepare import file_ranges, sample, token_store
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.example_writer import COUNT, write_examples
from bertjax.data.prepare.sample import Quantity, Sample
from bertjax.data.prepare.splits import TooFewDocuments, Unit, refuse_few
from bertjax.errors import UserError
from bertjax.files import free_bytes
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

_MAX_EXCERPTS = 64
_MAX_EXCERPTS_BEFORE_A_RUN = 16  # about a second, before work that takes minutes
# One pass varies by chance: a long document with a short target length gives many examples.
_DRAWS = 8
# With so much room, the disk is not checked. Preparing English takes about one byte of disk per
# byte of text and pass.
_PLENTY_BYTES, _PLENTY_PER_BYTE = 1 << 30, 100


class Pass(NamedTuple):
    """Work that processes share: its duration in one process, and its number of pieces."""

    seconds: float
    tasks: int

    def with_processes(self, processes: int) -> float:
        """Returns the seconds if processes do not slow each other down."""
        return self.seconds / max(1, min(processes, self.tasks))


class Examples(NamedTuple):
    """The examples of one length."""

    train: Quantity
    held_out: Quantity
    shard_bytes: Quantity
    drawing: Pass


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The tokens, examples, disk and time that preparing a text takes."""

    files: int
    text_bytes: int
    excerpts: int
    sampled_bytes: int
    documents: Quantity
    sentences: Quantity
    words: Quantity
    tokens: Quantity
    examples: dict[int, Examples]
    """The examples of each `max_seq_length`."""
    building_bytes: Quantity
    """The size of temporary files: token files, token counts and sentence hashes."""
    tokenizing: Pass
    """Pass 1. Reading the text for its digest takes under 1% of the time and is left out."""

    @property
    def shard_bytes(self) -> Quantity:
        """The size of the shards of all lengths."""
        return _sum(each.shard_bytes for each in self.examples.values())

    @property
    def peak_bytes(self) -> Quantity:
        """The maximum size on disk, before temporary files are removed."""
        return _sum([self.building_bytes, self.shard_bytes])

    def seconds(self, processes: int) -> float:
        """Returns the duration with a number of processes."""
        passes = [self.tokenizing, *(each.drawing for each in self.examples.values())]
        return sum(each.with_processes(processes) for each in passes)

    def table(self, processes: int) -> list[str]:
        """Returns lines for a person, with the time for 1 process and for `processes`."""
        drawn = f"all {_size(self.sampled_bytes)}"
        if self.sampled_bytes < self.text_bytes:
            sampled = f"{_size(self.sampled_bytes)} in {self.excerpts} excerpts"
            drawn = f"{sampled} of {_size(self.text_bytes)}"
        text = f"{self.documents} documents, {self.sentences} sentences, {self.words} words"
        rows = {f"{self.files:,} file{'s' * (self.files > 1)}": text, "tokens": f"{self.tokens}"}
        for length, each in self.examples.items():
            counts = f"{each.train} training, {each.held_out} held-out"
            rows[f"examples of {length}"] = f"{counts}: {_bytes(each.shard_bytes)}"
        peak = f"{_bytes(self.peak_bytes)} at the peak, while building"
        rows["disk"] = f"{_bytes(self.shard_bytes)} of shards; {peak}"
        times = [f"{_duration(self.seconds(n))} with {n}" for n in sorted({1, processes})]
        rows["time"] = f"{', '.join(times)} process{'es' * (processes > 1)}"
        width = max(map(len, rows))
        lines = (f"  {name:<{width}}  {value}" for name, value in rows.items())
        return [f"Estimated from {drawn} (± is one standard error):", *lines]


def estimate(config: PrepareConfig, log: Callable[[str], None]) -> Estimate:
    """Estimates what `prepare` would take with this configuration; writes nothing.

    Raises `UserError` if the input is not plain text files, the sample has bad input, or too few
    documents.
    """
    sources = config.sources()
    if tfrecords.are_tfrecords(sources):
        raise UserError(
            f"{sources[0]} is a TFRecord file with finished examples: `estimate` needs text."
        )
    for source in itertools.filterfalse(file_ranges.is_plain, sources):
        raise UserError(
            f"{source}: `estimate` reads excerpts, which needs plain text files: unpack a part "
            "of the text, estimate it, and multiply."
        )
    paths = corpus.files_of(sources)
    sizes = [path.stat().length for path in paths]
    result = of_text(config, load_tokenizer(config.tokenizer), paths, sizes)
    for line in result.table(config.workers(sum(sizes))):
        log(line)
    return result


def refuse_full_disk(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    sources: Sequence[Source],
    sizes: Sequence[int],
    existing: Sequence[epath.Path],
) -> None:
    """Refuses to start if the disk lacks room beside the files of an earlier run in `existing`.

    Nothing is refused for an object store, for text that is not in plain files, and for documents
    so long that hardly one begins in the sample. Raises `UserError` if there is too little room, or
    the sample has bad input.
    """
    output = epath.Path(str(config.output))
    free = free_bytes(output)
    plenty = _PLENTY_BYTES + _PLENTY_PER_BYTE * config.dupe_factor * sum(sizes)
    if free is None or free >= plenty or not all(map(file_ranges.is_plain, sources)):
        return
    paths, count = corpus.files_of(sources), _MAX_EXCERPTS_BEFORE_A_RUN
    try:
        need = of_text(config, tokenizer, paths, sizes, max_excerpts=count).peak_bytes.value
    except TooFewDocuments:
        return
    kinds = (".array_record", token_store.SUFFIX, ".counts", ".sentences")
    made = [file for path in existing if path.exists() for file in path.iterdir()]
    need -= sum(file.stat().length for file in made if file.suffix in kinds)
    if free < need:
        raise UserError(
            f"{output}: {_size(free)} are free there and preparing needs about {_size(need)} more: "
            "make room, or give an `output` on another disk (`estimate` shows what needs how much)."
        )


def of_text(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    paths: Sequence[epath.Path],
    sizes: Sequence[int],
    *,
    max_excerpts: int = _MAX_EXCERPTS,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Estimates from a sample of at most `max_excerpts` excerpts of 64 KiB.

    `sizes` are the bytes of the files in `paths`; `clock` returns seconds. Raises `UserError` if
    the sample has bad input, and `TooFewDocuments` if it has too few documents.
    """
    with tempfile.TemporaryDirectory(prefix="bertjax-") as name:
        directory = epath.Path(name)
        drawn = sample.take(config, tokenizer, paths, sizes, directory, max_excerpts, clock)
        where = f"{paths[0]}{' ...' * (len(paths) > 1)} (a sample of it)"
        found = int(drawn.documents.sum()), int(drawn.sentences.sum())
        refuse_few(*found, 0.0, where, config.segment_kind.min_documents)
        splits, examples = _splits(config, drawn), {}
        once, unit = dataclasses.replace(config, dupe_factor=1), Unit("train", (0,), 0)
        for length in config.lengths:
            begun = clock()
            write_examples(directory, unit, drawn.text, tokenizer.vocab_size, once, length)
            examples[length] = _examples(config, drawn, length, splits, clock() - begun)
    total = drawn.total_bytes
    late = len(drawn.seconds) // 2  # the tokenizer has seen most words by then
    seconds = total * float(drawn.seconds[late:].sum() / max(1.0, drawn.bytes[late:].sum()))
    # Beside the token files, each unit leaves token counts and the hashes of its long sentences.
    token_files = drawn.scaled(drawn.file_bytes)
    long = (np.diff(drawn.text.sentence_offsets) >= duplicates.MIN_TOKENS).mean()
    sentences = drawn.scaled(drawn.sentences)
    hashes = min(long * sentences.value, duplicates.MAX_HASHES)
    counts = sum(each.units for each in splits) * tokenizer.vocab_size
    more = len(config.lengths) * (counts * COUNT.itemsize + hashes * duplicates.HASH_BYTES)
    return Estimate(
        files=len(sizes),
        text_bytes=total,
        excerpts=len(drawn.sizes),
        sampled_bytes=int(drawn.bytes.sum()),
        documents=drawn.all_documents,
        sentences=sentences,
        words=drawn.scaled(drawn.words),
        tokens=drawn.scaled(drawn.ids),
        examples=examples,
        building_bytes=token_files._replace(value=token_files.value + more),
        tokenizing=Pass(seconds, max(1, round(total / config.range_bytes(total)))),
    )


class _Split(NamedTuple):
    passes: Quantity
    """The number of passes over the split, times its share of all documents."""
    dupes: int
    units: int

    def shard_bytes(self, examples: float, record_bytes: float) -> float:
        """Returns the size of the shards that hold records."""
        runs = self.units * self.dupes
        if not runs or not examples:
            return 0
        files = runs * math.ceil(examples / runs / shards.EXAMPLES_PER_FILE)
        return files * shards.file_bytes(record_bytes / files)


def _splits(config: PrepareConfig, drawn: Sample) -> list[_Split]:
    """Returns the training and the held-out split."""
    documents, blocks = drawn.all_documents.value, config.blocks(drawn.total_bytes)
    held_out, minimum = config.held_out, config.segment_kind.min_documents
    if held_out:
        held_out = min(0.5, max(held_out, minimum / documents))
    error = math.sqrt(held_out * (1 - held_out) / documents)  # documents are drawn by their hash
    splits = []
    for share, dupes in ((1 - held_out, config.dupe_factor), (held_out, 1)):
        units = min(blocks, math.ceil(share * documents / minimum))
        splits.append(_Split(Quantity(dupes * share, dupes * error), dupes, units))
    return splits


def _examples(
    config: PrepareConfig, drawn: Sample, length: int, splits: Sequence[_Split], seconds: float
) -> Examples:
    """Draws examples of one length, whose pass over the sample took `seconds`."""
    text = drawn.text
    last = text.document_offsets[np.cumsum(drawn.documents).astype(int)]
    counts, record_bytes = np.zeros((2, len(last)))
    rng = np.random.default_rng(config.seed)
    for _ in range(_DRAWS):
        spans = config.segment_kind.draw(text, length, config.short_seq_prob, rng)
        # An example belongs to the excerpt of its A.
        excerpt = np.searchsorted(text.sentence_offsets[last], spans.a_start, side="right")
        sizes = shards.RECORD_BYTES + text.ids.itemsize * spans.tokens
        counts += np.bincount(excerpt, minlength=len(last)) / _DRAWS
        record_bytes += np.bincount(excerpt, sizes, len(last)) / _DRAWS
    drawn_once, bytes_once = drawn.scaled(counts), drawn.scaled(record_bytes)
    train, held_out = examples = [drawn_once.times(split.passes) for split in splits]
    records = [bytes_once.times(split.passes) for split in splits]
    on_disk = sum(
        split.shard_bytes(count.value, size.value)
        for split, count, size in zip(splits, examples, records, strict=True)
    )
    seconds *= (train.value + held_out.value) / max(1.0, counts.sum())
    drawing = Pass(seconds, sum(split.units for split in splits))
    return Examples(train, held_out, Quantity(on_disk, _sum(records).error), drawing)


def _sum(quantities: Iterable[Quantity]) -> Quantity:
    """Adds quantities whose errors are fully correlated."""
    return Quantity(*map(sum, zip(*quantities, strict=True)))


def _bytes(quantity: Quantity) -> str:
    share = quantity.error / max(quantity.value, 1.0)
    return _size(quantity.value) + (f" ± {share:.1%}" if quantity.error else "")


def _size(value: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
