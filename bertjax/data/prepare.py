"""Raw text to shards in two passes, with memory for one block and the longest document.

Pass 1 (`spill.py`) tokenises every document and, by a hash of (seed, the document's id), gives it
to a block and (`division.py`) to training or held-out. Pass 2 (`work.pair`) pairs each block of a
split alone: "another document" is one of the same block, which is a random sample of the corpus.
Everything is cut by the corpus's size, never by the number of processes, so that any number gives
the same bytes.

What is finished is kept in `output/.building`, a file for each piece of work, so a stopped run goes
on where it was. The manifest is written last: without it the directory is no data.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax import places
from bertjax.data import division, shards, spill, work
from bertjax.data.pairs import SHORTEST_SEQUENCE, SPECIALS_PER_PAIR
from bertjax.data.shards import CorpusFile, Manifest, ShardFile
from bertjax.errors import UserError
from bertjax.text import corpus, wordpiece
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

BUILDING = ".building"
_MIB = 1 << 20
_PARTS_PER_BLOCK = 4
# Starting workers takes a second or so: a smaller corpus is done by then.
_WORTH_WORKERS = 4 * _MIB


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Cut text into pairs of sentences, which `bertjax pretrain` learns from: tokens in files that
    are read quickly (shards)."""

    input: tuple[str, ...]
    """Text files (.txt: one sentence a line, a blank line between documents; .jsonl: {"text": ...}
    a line, other keys are ignored), directories, patterns."""
    tokenizer: str
    """Directory of the tokenizer (`bertjax tokenizer train`), or its vocabulary file."""
    output: str
    """Directory for the shards."""
    max_seq_length: int = 128
    """Longest example in tokens, [CLS] and both [SEP] included."""
    dupe_factor: int = 2
    """Passes over the training text, each of which cuts it into other pairs: more examples of a
    small text, and so many times the disk. (Which words are masked changes every epoch anyway.)"""
    short_seq_prob: float = 0.1
    """Share of documents that are cut into shorter examples."""
    held_out: float = 0.02
    """Share of documents kept for evaluation, at least two of them; 0 keeps none."""
    seed: int = 12345
    """Number that fixes the random choices: held-out documents and pairs. The same text and seed
    give the same shards."""
    processes: int = 0
    """Worker processes; 0: one a core. The shards do not depend on it."""
    block_mib: int = 64
    """Text that is paired at once, in MiB. Smaller needs less memory, and changes the shards."""
    language: str = "en"
    """Language whose rules split the texts of .jsonl files into sentences."""

    def __post_init__(self) -> None:
        for name, least in (("dupe_factor", 1), ("seed", 0), ("processes", 0), ("block_mib", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if not SHORTEST_SEQUENCE <= self.max_seq_length <= 1 << 16:
            raise UserError(
                f"max_seq_length is {self.max_seq_length}: give {SHORTEST_SEQUENCE} to {1 << 16}."
            )
        if not 0.0 <= self.short_seq_prob <= 1.0:
            raise UserError(f"short_seq_prob is {self.short_seq_prob}: give 0 to 1.")
        if not 0.0 <= self.held_out < 1.0:
            raise UserError(f"held_out is {self.held_out}: give a share of at least 0 and below 1.")


def prepare(config: PrepareConfig, log: Callable[[str], None]) -> Manifest:
    """Makes shards of next-sentence pairs from text.

    The same text, tokenizer and settings give the same bytes. Run again after being stopped, it
    finishes; run again on a finished directory, it says so and returns what is there.

    Args:
        config: what to read, how to cut it, where to write.
        log: is given one line at a time about what happens.

    Returns:
        The manifest of the finished directory.

    Raises:
        UserError: bad input (named by file and line), too few documents, a directory that holds
            shards of other text or settings, a full disk.
        Stopped: a signal came; the same call goes on.
    """
    started = time.monotonic()
    tokenizer = load_tokenizer(config.tokenizer)
    output = places.output_directory(config.output)
    # Of a vocabulary or an output inside the input, nothing is text.
    vocabulary = epath.Path(config.tokenizer)
    vocabulary = vocabulary / wordpiece.FILE if vocabulary.is_dir() else vocabulary
    paths = corpus.expand_inputs(
        config.input, leave_out=[vocabulary, output / shards.TOKENIZER / wordpiece.FILE]
    )
    sizes = [path.stat().length for path in paths]
    processes = config.processes or (work.cores() if sum(sizes) >= _WORTH_WORKERS else 1)
    with places.writing(output), _discarded_on_bad_text(output):
        with work.Workers(processes) as workers:
            texts = workers.run(work.corpus_file, [(str(path),) for path in paths])
            plan = _plan(config, tokenizer.sha256, texts)
            if (output / shards.MANIFEST).exists():
                return _finished(output, plan, log)
            building, resumed = _start(output, plan, log)
            tokenizer.save(building / shards.TOKENIZER)
            log(
                f"Reading {len(paths):,} files, {sum(sizes) / 1e6:,.1f} MB, with {processes} "
                f"process{'es' if processes > 1 else ''}."
            )
            with _faults_of_the_text():
                segments = _tokenise(config, workers, paths, sizes, building, log)
                units = division.divide(segments, config.held_out, where=_named(paths))
            results = _pair(config, workers, units, segments, building, log)
            manifest = _manifest(config, tokenizer, texts, segments, units, results, building)
        _publish(output, building, manifest)
    _summarise(manifest, None if resumed else time.monotonic() - started, log)
    return shards.read_manifest(output)


def _named(paths: Sequence[epath.Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")


def _plan(
    config: PrepareConfig, tokenizer_sha256: str, texts: Sequence[CorpusFile]
) -> dict[str, Any]:
    """All that the shards depend on, as JSON has it; the names are the manifest's too."""
    names = ("max_seq_length", "dupe_factor", "short_seq_prob", "held_out", "seed", "block_mib")
    plan: dict[str, Any] = {name: getattr(config, name) for name in (*names, "language")}
    plan["format_version"] = shards.FORMAT_VERSION
    plan["tokenizer_sha256"] = tokenizer_sha256
    plan["corpus"] = [dataclasses.asdict(file) for file in texts]
    return plan


def _finished(output: epath.Path, plan: dict[str, Any], log: Callable[[str], None]) -> Manifest:
    manifest = shards.read_manifest(output)
    there = json.loads(manifest.to_json())
    if changed := _changed(plan, there):
        raise UserError(
            f"{output} already holds shards of other text or settings ({changed}): give another "
            "--output, or delete that directory."
        )
    (output / BUILDING).rmtree(missing_ok=True)
    log(f"{output} is already prepared from this text with these settings; nothing to do.")
    return manifest


def _start(
    output: epath.Path, plan: dict[str, Any], log: Callable[[str], None]
) -> tuple[epath.Path, bool]:
    """The directory to build in, and whether it holds part of this very work already."""
    building = output / BUILDING
    path = building / "plan.json"
    if path.exists():
        if changed := _changed(plan, json.loads(path.read_bytes())):
            raise UserError(
                f"{building} holds an unfinished run with other text or settings ({changed}): run "
                "with those to finish it, give another --output, or delete that directory."
            )
        log(f"Going on with the run that was stopped ({building}).")
        for directory in (building, *(each for each in building.iterdir() if each.is_dir())):
            for leftover in list(directory.glob(".*.tmp")):  # what a killed run was writing
                leftover.unlink()
        return building, True
    for directory in (building, building / "pass1", building / "pass2"):
        directory.mkdir(parents=True, exist_ok=True)
    places.write_atomically(path, json.dumps(plan).encode())
    return building, False


class _BadText(UserError):
    """The text must change, and with it all that was made of it."""


@contextlib.contextmanager
def _faults_of_the_text() -> Iterator[None]:
    """Tells mistakes in the text from a worker that died and from a full disk."""
    try:
        yield
    except (work.WorkerDied, places.CannotWrite):
        raise
    except UserError as error:
        raise _BadText(str(error)) from None


@contextlib.contextmanager
def _discarded_on_bad_text(output: epath.Path) -> Iterator[None]:
    """Leaves nothing behind where the text must change; around the workers, who write until they
    have ended."""
    try:
        yield
    except _BadText:
        (output / BUILDING).rmtree()
        if not any(output.iterdir()):
            output.rmdir()
        raise


def _changed(plan: dict[str, Any], there: dict[str, Any]) -> str:
    """The names of what differs, with both values where they are short; empty if nothing does."""
    changed = []
    for name, value in plan.items():
        other = there.get(name)
        if value != other:
            brief = isinstance(value, int | float) or name == "language"
            changed.append(f"{name}: {other} there, {value} now" if brief else name)
    return "; ".join(changed)


def _tokenise(
    config: PrepareConfig,
    workers: work.Workers,
    paths: Sequence[epath.Path],
    sizes: Sequence[int],
    building: epath.Path,
    log: Callable[[str], None],
) -> list[epath.Path]:
    """Pass 1. The segments, in the order of the corpus."""
    tasks = spill.make_tasks(paths, sizes, config.block_mib * _MIB // _PARTS_PER_BLOCK)
    segments = [building / "pass1" / f"{number:06d}.segment" for number in range(len(tasks))]
    options = {"seed": config.seed, "blocks": _blocks(config, sizes), "language": config.language}
    vocabulary = str(building / shards.TOKENIZER)
    left = [
        (str(segment), task, vocabulary, options)
        for segment, task in zip(segments, tasks, strict=True)
        if not segment.exists()
    ]
    workers.run(work.tokenise, left, what="Tokenising", log=log)
    return segments


def _blocks(config: PrepareConfig, sizes: Sequence[int]) -> int:
    return max(1, math.ceil(sum(sizes) / (config.block_mib * _MIB)))


def _pair(
    config: PrepareConfig,
    workers: work.Workers,
    units: Sequence[division.Unit],
    segments: Sequence[epath.Path],
    building: epath.Path,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Pass 2. What became of each unit."""
    options = work.PairOptions(
        max_seq_length=config.max_seq_length,
        short_seq_prob=config.short_seq_prob,
        seed=config.seed,
        dupe_factor=config.dupe_factor,
        vocabulary=str(building / shards.TOKENIZER),
    )
    markers = [building / "pass2" / f"{unit.name}.json" for unit in units]
    names = tuple(str(segment) for segment in segments)
    left = [
        (str(marker), unit.split, unit.blocks, unit.cutoff, names, options)
        for marker, unit in zip(markers, units, strict=True)
        if not marker.exists()
    ]
    workers.run(work.pair, left, what="Pairing", log=log)
    return [json.loads(marker.read_bytes()) for marker in markers]


def _manifest(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    texts: Sequence[CorpusFile],
    segments: Sequence[epath.Path],
    units: Sequence[division.Unit],
    results: Sequence[dict[str, Any]],
    building: epath.Path,
) -> Manifest:
    totals = [spill.segment_totals(segment) for segment in segments]
    by_split = {
        split: [result for unit, result in zip(units, results, strict=True) if unit.split == split]
        for split in shards.SPLITS
    }

    def total(split: str, name: str) -> int:
        return sum(result[name] for result in by_split[split])

    train, held_out = total("train", "examples"), total("held_out", "examples")
    random_share = total("held_out", "random") / max(held_out, 1)
    return Manifest(
        format_version=shards.FORMAT_VERSION,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        **{name: getattr(tokenizer, name) for name in ("pad_id", "cls_id", "sep_id")},
        mask_id=tokenizer.mask_id,
        unk_id=tokenizer.unk_id,
        max_seq_length=config.max_seq_length,
        seed=config.seed,
        dupe_factor=config.dupe_factor,
        short_seq_prob=config.short_seq_prob,
        held_out=config.held_out,
        language=config.language,
        block_mib=config.block_mib,
        blocks=_blocks(config, [file.bytes for file in texts]),
        files={
            split: tuple(ShardFile(**file) for result in rows for file in result["files"])
            for split, rows in by_split.items()
        },
        corpus=tuple(texts),
        documents=sum(each.documents for each in totals),
        sentences=sum(each.sentences for each in totals),
        words=sum(each.words for each in totals),
        tokens=sum(each.ids for each in totals),
        padding=round(
            1 - (total("train", "ids") / train + SPECIALS_PER_PAIR) / config.max_seq_length, 6
        ),
        nsp_random=round(total("train", "random") / train, 6),
        unigram_entropy=_unigram_entropy(building, units, tokenizer) if held_out else None,
        nsp_majority=round(max(random_share, 1 - random_share), 6) if held_out else None,
    )


def _unigram_entropy(
    building: epath.Path, units: Sequence[division.Unit], tokenizer: Tokenizer
) -> float:
    """Nats a token: held-out ids under the add-one-smoothed training frequencies, no specials."""
    counts = {split: np.zeros(tokenizer.vocab_size, np.int64) for split in shards.SPLITS}
    for unit in units:
        data = (building / "pass2" / f"{unit.name}.counts").read_bytes()
        counts[unit.split] += np.frombuffer(data, "<i8")
    text = ~tokenizer.special()
    train, held_out = counts["train"][text] + 1.0, counts["held_out"][text]
    return round(float(-(held_out @ np.log(train / train.sum())) / max(held_out.sum(), 1)), 6)


def _publish(output: epath.Path, building: epath.Path, manifest: Manifest) -> None:
    """Moves the shards to their place, then writes the manifest; may be cut short and repeated."""
    for file in (file for split in shards.SPLITS for file in manifest.files[split]):
        built = building / "pass2" / file.name
        if built.exists():
            built.replace(output / file.name)
    (output / shards.TOKENIZER).mkdir(parents=True, exist_ok=True)
    for path in list((building / shards.TOKENIZER).iterdir()):
        path.replace(output / shards.TOKENIZER / path.name)
    built = building / shards.MANIFEST
    built.write_text(manifest.to_json())
    built.replace(output / shards.MANIFEST)
    building.rmtree(missing_ok=True)


def _summarise(manifest: Manifest, seconds: float | None, log: Callable[[str], None]) -> None:
    speed = "" if seconds is None else f" ({manifest.words / max(seconds, 1e-9):,.0f} words/s)"
    if manifest.documents == manifest.sentences:
        log(
            "Every document is one sentence, so every pair is random: is there a blank line after "
            "every sentence? It should stand between documents only."
        )
    log(
        f"{manifest.documents:,} documents, {manifest.sentences:,} sentences, {manifest.words:,} "
        f"words{speed}: {manifest.examples('train'):,} training and "
        f"{manifest.examples('held_out'):,} held-out examples of up to {manifest.max_seq_length} "
        f"tokens; {manifest.padding:.1%} padding, {manifest.nsp_random:.1%} random next sentences."
    )
