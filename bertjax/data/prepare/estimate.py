"""What preparing a text would take: tokens, examples, disk and time, from a sample of it.

The sample (`sample.py`) goes through both passes of `prepare` for real, in a temporary directory,
and is scaled by its bytes.
"""

import dataclasses
import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.audit import duplicates
from bertjax.data.prepare import file_ranges, sample
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.sample import Quantity, Sample
from bertjax.data.prepare.segments import (
    BYTES_PER_DOCUMENT,
    BYTES_PER_SENTENCE,
    empty_segment_bytes,
)
from bertjax.data.prepare.splits import TooFew, refuse_few
from bertjax.data.prepare.workers import BYTES_PER_COUNT, PairOptions, pair_documents
from bertjax.errors import UserError
from bertjax.files import free_bytes
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

_STRETCHES = 64
_STRETCHES_BEFORE_A_RUN = 16  # a second, of a work of minutes at least


class Pass(NamedTuple):
    """Work that processes share: seconds of one process, and the tasks it is cut into."""

    seconds: float
    tasks: int

    def with_processes(self, processes: int) -> float:
        """Seconds, if processes don't slow each other down."""
        return self.seconds / max(1, min(processes, self.tasks))


@dataclasses.dataclass(frozen=True)
class Examples:
    """What is made for one length."""

    train: Quantity
    held_out: Quantity
    shard_bytes: Quantity
    pairing: Pass


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What preparing a text would take."""

    files: int
    text_bytes: int
    stretches: int
    sampled_bytes: int
    documents: Quantity
    sentences: Quantity
    words: Quantity
    tokens: Quantity
    examples: dict[int, Examples]
    """By max_seq_length."""
    building_bytes: Quantity
    """What lies beside the shards until they are finished: segments of pass 1; counts
    and hashes of pass 2."""
    hashing: Pass
    tokenising: Pass

    @property
    def shard_bytes(self) -> Quantity:
        """Of all lengths."""
        return _sum(each.shard_bytes for each in self.examples.values())

    @property
    def peak_bytes(self) -> Quantity:
        """The most that is on disk at a time: at the end, before what was built is removed."""
        return _sum([self.building_bytes, self.shard_bytes])

    def seconds(self, processes: int) -> float:
        """Seconds with a number of processes."""
        passes = [self.hashing, self.tokenising, *(e.pairing for e in self.examples.values())]
        return sum(each.with_processes(processes) for each in passes)

    def table(self, processes: int) -> list[str]:
        """Lines for a person to read.

        Args:
            processes: as many would work; the time of one alone is told too.
        """
        drawn = (
            f"{_size(self.sampled_bytes)} in {self.stretches} places of {_size(self.text_bytes)}"
        )
        if self.sampled_bytes >= self.text_bytes:
            drawn = f"all {_size(self.text_bytes)}"
        text = f"{_count(self.documents)} documents, {_count(self.sentences)} sentences, "
        rows = [
            (f"{self.files:,} file{'s' * (self.files > 1)}", f"{text}{_count(self.words)} words"),
            ("tokens", _count(self.tokens)),
        ]
        for length, each in self.examples.items():
            numbers = f"{_count(each.train)} training, {_count(each.held_out)} held-out"
            rows.append((f"examples of {length}", f"{numbers}: {_bytes(each.shard_bytes)}"))
        peak = f"{_bytes(self.peak_bytes)} at the peak, while building"
        rows.append(("disk", f"{_bytes(self.shard_bytes)} of shards; {peak}"))
        times = [f"{_duration(self.seconds(n))} with {n}" for n in sorted({1, processes})]
        rows.append(("time", f"{', '.join(times)} process{'es' * (processes > 1)}"))
        width = max(len(name) for name, _ in rows)
        return [
            f"Estimated from {drawn} (± is one standard error):",
            *(f"  {name:<{width}}  {value}" for name, value in rows),
        ]


def estimate(config: PrepareConfig, log: Callable[[str], None]) -> Estimate:
    """Tells what `prepare` would take with this configuration; writes nothing.

    Args:
        config: what would be prepared.
        log: is given one line at a time.

    Raises:
        UserError: input that is not plain text files, bad input in what is sampled, or too few
            documents there.
    """
    sources = config.sources()
    if tfrecords.are_tfrecords(sources):
        raise UserError(
            f"{sources[0]} is a TFRecord file, whose examples are made already: --estimate tells "
            "what text would take."
        )
    if others := [str(source) for source in sources if not file_ranges.is_plain(source)]:
        raise UserError(
            f"{others[0]}: --estimate looks into the text at many places, which needs plain text "
            "files: estimate a part of it that is unpacked, and multiply."
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
    made_in: Sequence[epath.Path],
) -> None:
    """Refuses to start where a disk can't hold what will be made. Nothing is known of an object
    store, of text that is not in plain files, and of one whose documents are so long that hardly
    one begins in the sample.

    Args:
        config: what to make.
        tokenizer: of the configuration.
        sources: of the text.
        sizes: bytes of their text.
        made_in: directories in which an earlier run may have left files that it made.

    Raises:
        UserError: too little room, or bad input in what is sampled.
    """
    output = epath.Path(str(config.output))
    free = free_bytes(output)
    if free is None or free >= _plenty(config, tokenizer, sum(sizes)):
        return
    if not all(map(file_ranges.is_plain, sources)):
        return
    paths = corpus.files_of(sources)
    try:
        found = of_text(config, tokenizer, paths, sizes, stretches=_STRETCHES_BEFORE_A_RUN)
    except TooFew:
        return
    need = found.peak_bytes.value - sum(map(_bytes_in, made_in))
    if free < need:
        raise UserError(
            f"{output}: {_size(free)} are free there and preparing needs about {_size(need)} more: "
            "make room, or name an --output on another disk (--estimate tells what needs how much)."
        )


def of_text(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    paths: Sequence[epath.Path],
    sizes: Sequence[int],
    *,
    stretches: int = _STRETCHES,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Estimates from a sample.

    Args:
        config: what would be prepared.
        tokenizer: of the configuration.
        paths: the text files.
        sizes: their bytes.
        stretches: the most to sample, of 64 KiB each.
        clock: tells seconds.

    Raises:
        UserError: bad input in what is sampled; division.TooFew: too few documents there.
    """
    with tempfile.TemporaryDirectory(prefix="bertjax-") as name:
        directory = epath.Path(name)
        drawn = sample.take(
            *(paths, sizes, tokenizer, directory),
            stretches=stretches,
            seed=config.seed,
            language=config.language,
            clock=clock,
        )
        found = int(drawn.documents.sum()), int(drawn.sentences.sum())
        where = f"{paths[0]}{' ...' * (len(paths) > 1)} (a sample of it)"
        refuse_few(*found, 0.0, where, config.segment_kind.min_documents)

        blocks = config.blocks(drawn.total)
        divided = _divide(config, drawn.all_documents.value, blocks)
        examples = {
            length: _examples(
                config, drawn, length, divided, tokenizer.vocab_size, directory, clock
            )
            for length in config.lengths
        }
    tasks = max(1, round(drawn.total / config.part_bytes(drawn.total)))
    widths = BYTES_PER_DOCUMENT, BYTES_PER_SENTENCE, drawn.text.ids.itemsize
    segments = drawn.scaled(np.dot(widths, (drawn.documents, drawn.sentences, drawn.ids)))
    runs = sum(each.units for each in divided) * len(config.lengths)
    fixed = tasks * empty_segment_bytes(blocks)
    fixed += runs * tokenizer.vocab_size * BYTES_PER_COUNT
    fixed += _compared(drawn) * duplicates.BYTES_PER_SENTENCE * len(config.lengths)
    late = len(drawn.seconds) // 2  # the tokenizer has seen most words by then
    seconds = drawn.seconds[late:].sum() / max(1.0, drawn.bytes[late:].sum())
    return Estimate(
        files=len(sizes),
        text_bytes=drawn.total,
        stretches=len(drawn.sizes),
        sampled_bytes=int(drawn.bytes.sum()),
        documents=drawn.all_documents,
        sentences=drawn.scaled(drawn.sentences),
        words=drawn.scaled(drawn.words),
        tokens=drawn.scaled(drawn.ids),
        examples=examples,
        building_bytes=Quantity(segments.value + fixed, segments.error),
        hashing=Pass(_seconds_of_a_hash(clock) * drawn.total, len(sizes)),
        tokenising=Pass(float(seconds * drawn.total), tasks),
    )


class _Split(NamedTuple):
    """What becomes of the documents that are trained on, or of those that are held out."""

    share: Quantity
    """Of all documents."""
    dupes: int
    units: int
    """What is paired at once, in number."""

    def of(self, whole: Quantity) -> Quantity:
        """What its passes make, by what one pass over all documents would."""
        value = whole.value * self.share.value * self.dupes
        of_whole, of_share = whole.error * self.share.value, whole.value * self.share.error
        return Quantity(value, math.hypot(of_whole, of_share) * self.dupes)


def _divide(config: PrepareConfig, documents: float, blocks: int) -> tuple[_Split, _Split]:
    """For training, and held out."""
    held_out, least = config.held_out, config.segment_kind.min_documents
    if held_out:
        held_out = min(0.5, max(held_out, least / documents))
    error = math.sqrt(held_out * (1 - held_out) / documents)  # each is drawn alone, by its hash
    train, held = (
        _Split(Quantity(share, error), dupes, min(blocks, math.ceil(share * documents / least)))
        for share, dupes in ((1 - held_out, config.dupe_factor), (held_out, 1))
    )
    return train, held


def _examples(
    config: PrepareConfig,
    drawn: Sample,
    length: int,
    divided: tuple[_Split, _Split],
    vocab_size: int,
    directory: epath.Path,
    clock: Callable[[], float],
) -> Examples:
    """Pass 2 over the sample, for one length."""
    text, width = drawn.text, drawn.text.ids.itemsize
    options = PairOptions(
        max_seq_length=length,
        short_seq_prob=config.short_seq_prob,
        seed=config.seed,
        dupe_factor=1,
        vocabulary="",  # the documents are tokenised
        segments=config.segments,
    )
    begun = clock()
    pair_documents(directory / f"{length}.json", "train", 0, text, vocab_size, options)
    seconds = clock() - begun

    spans = config.segment_kind.draw(
        text,
        max_seq_length=length,
        short_seq_prob=config.short_seq_prob,
        rng=np.random.default_rng(config.seed),
    )
    # Which stretch an example is of, by its A; and the bytes of its record.
    last = text.document_offsets[np.cumsum(drawn.documents).astype(int)]
    stretch = np.searchsorted(text.sentence_offsets[last], spans.a_start, side="right")
    ids = spans.a_stop - spans.a_start + spans.b_stop - spans.b_start
    sizes = shards.RECORD_BYTES + width * ids
    examples = drawn.scaled(np.bincount(stretch, minlength=len(last)).astype(float))
    record_bytes = drawn.scaled(np.bincount(stretch, sizes, len(last)))

    numbers = [split.of(examples) for split in divided]
    records = [split.of(record_bytes) for split in divided]
    on_disk = sum(map(_on_disk, divided, numbers, records))
    return Examples(
        *numbers,
        shard_bytes=_sum(records)._replace(value=on_disk),
        pairing=Pass(
            seconds / max(1, len(ids)) * sum(number.value for number in numbers),
            sum(each.units for each in divided),
        ),
    )


def _on_disk(split: _Split, examples: Quantity, record_bytes: Quantity) -> float:
    """Bytes of the files that records are divided over."""
    runs = split.units * split.dupes
    if not runs or not examples.value:
        return 0
    files = runs * math.ceil(examples.value / runs / shards.EXAMPLES_PER_FILE)
    return files * shards.file_bytes(record_bytes.value / files)


def _compared(drawn: Sample) -> float:
    """Sentences of the whole whose repeats the audit looks for."""
    long = np.diff(drawn.text.sentence_offsets) >= duplicates.REPEATED_TOKENS
    count = long.mean() * drawn.scaled(drawn.sentences).value
    return min(float(count), duplicates.COMPARED_SENTENCES)


def _seconds_of_a_hash(clock: Callable[[], float]) -> float:
    """For a byte of the digests of the text files."""
    data = bytes(1 << 20)
    begun = clock()
    hashlib.sha256(data)
    return (clock() - begun) / len(data)


def _plenty(config: PrepareConfig, tokenizer: Tokenizer, total: int) -> int:
    """Bytes that no text of `total` needs: with a token for every byte and a sentence for every
    second one, and an example for every sentence, all full of 32-bit ids."""
    of_a_pass = sum((shards.RECORD_BYTES + 4 * length) // 2 for length in config.lengths)
    runs = 2 * config.blocks(total) * config.dupe_factor * len(config.lengths)
    of_a_run = 2 * shards.file_bytes(0) + tokenizer.vocab_size * BYTES_PER_COUNT
    of_a_pass += len(config.lengths) * duplicates.BYTES_PER_SENTENCE // duplicates.REPEATED_TOKENS
    of_segments = 4 + (BYTES_PER_DOCUMENT + BYTES_PER_SENTENCE) // 2
    return total * (of_segments + config.dupe_factor * of_a_pass) + runs * of_a_run


def _bytes_in(directory: epath.Path) -> int:
    """What preparing has made in a directory."""
    files = directory.iterdir() if directory.exists() else ()
    kinds = (".array_record", ".segment", ".counts", ".sentences")
    return sum(file.stat().length for file in files if file.suffix in kinds)


def _sum(quantities: Iterable[Quantity]) -> Quantity:
    """Of quantities that err together."""
    values, errors = zip(*quantities, strict=True)
    return Quantity(sum(values), sum(errors))


def _count(quantity: Quantity) -> str:
    value, error = quantity
    if not error:
        return f"{round(value):,}"
    return f"{float(f'{value:.4g}'):,.0f} ± {float(f'{error:.2g}'):,.0f}"


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
