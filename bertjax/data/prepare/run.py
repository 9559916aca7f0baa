"""Raw text to shards in two passes, with memory for one block and the longest document.

All text is read once for its sizes and digests (`survey.py`). Pass 1 (`spill.py`) tokenises every
document and, by a hash of (seed, the document's id), gives it to a block and (`division.py`) to
training or held-out. Pass 2 (`work.pair`) pairs each block of a split alone, once for every length:
"another document" is one of the same block, which is a random sample of the corpus. Everything is
cut by the corpus's size (`parts.py`), never by the number of processes, so that any number gives
the same bytes.

What is finished is kept in `output/.building`, a file for each piece of work, so a stopped run goes
on where it was. The manifest is written last: without it the directory is no data.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.audit import duplicates
from bertjax.data.audit.report import Report, read, tell
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare import estimate, file_ranges, from_tfrecords, publish, survey
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.segments import segment_totals
from bertjax.data.prepare.splits import Unit, divide
from bertjax.data.prepare.workers import PairOptions, WorkerDied, Workers, pair, tokenise
from bertjax.data.shards import CorpusFile, Manifest
from bertjax.errors import UserError
from bertjax.files import CannotWrite, output_directory, write_atomically, writing
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["PrepareConfig", "prepare"]

BUILDING = ".building"


def prepare(config: PrepareConfig, log: Callable[[str], None]) -> Manifest:
    """Makes shards of examples from text.

    The same text, tokenizer and settings give the same bytes. Run again after being stopped, it
    finishes; run again on a finished directory, it says so and returns what is there.

    Args:
        config: what to read, how to cut it, where to write.
        log: is given one line at a time about what happens.

    Returns:
        The manifest of the finished directory; of several lengths, that of the first one's.

    Raises:
        UserError: bad input (named by file and line), too few documents, a directory that holds
            shards of other text or settings, a full disk.
        Stopped: a signal came; the same call goes on.
        ValueError: config.estimate is set.
    """
    started = time.monotonic()
    if config.estimate:
        raise ValueError("estimate is set: estimate.estimate(config, log) makes nothing, as asked")
    if config.output is None:
        raise UserError(
            "output is missing: name a directory for the shards (--output), or ask with "
            "--estimate what they would take."
        )
    tokenizer = load_tokenizer(config.tokenizer)
    output = output_directory(config.output)
    directories = config.directories(output)
    sources = config.sources()
    is_paired = tfrecords.are_tfrecords(sources)
    if is_paired:
        config = from_tfrecords.settle(config, corpus.files_of(sources))
        directories = config.directories(output)
    processes = config.workers(survey.stored_bytes(sources))
    with writing(output), _discarded_on_bad_text(output):
        with Workers(processes) as workers:
            texts = survey.survey(sources, workers, log)
            sizes = [text.bytes for text in texts]
            plan = _plan(config, tokenizer.sha256, texts)
            plan |= from_tfrecords.UNKNOWN if is_paired else {}
            left = _unfinished(directories, output, plan, log)
            if not left:
                tell([read(each) for each in directories.values()], log)
                (output / BUILDING).rmtree(missing_ok=True)
                return shards.read_manifest(directories[config.lengths[0]])
            if not is_paired:
                there = [output / BUILDING / "pass1", *directories.values()]
                there += [_built(config, output / BUILDING, length) for length in config.lengths]
                estimate.refuse_full_disk(config, tokenizer, sources, sizes, there)
            # An unfinished run of another release may have cut the text elsewhere.
            cut = {"part_bytes": config.part_bytes(sum(sizes))}
            building, resumed = _start(output, plan | cut, log)
            tokenizer.save(building / shards.TOKENIZER)
            log(
                f"Reading {len(sources):,} files, {sum(sizes) / 1e6:,.1f} MB, with {processes} "
                f"process{'es' if processes > 1 else ''}."
            )
            built = {length: _built(config, building, length) for length in left}
            job = _Job(config, workers, sources, sizes, plan, tokenizer, building, built, log)
            finished = _of_tfrecords(job) if is_paired else _of_text(job)
        for length, (manifest, report) in finished.items():
            publish.publish(directories[length], built[length], manifest, report, tokenizer)
        building.rmtree(missing_ok=True)
    seconds = None if resumed else time.monotonic() - started
    manifests, reports = zip(*finished.values(), strict=True)
    publish.summarise(manifests, seconds, log)
    tell(reports, log)
    return shards.read_manifest(directories[config.lengths[0]])


class _Job(NamedTuple):
    """What is to be made."""

    config: PrepareConfig
    workers: Workers
    sources: Sequence[Source]
    sizes: Sequence[int]
    """Bytes of text in each source."""
    plan: dict[str, Any]
    tokenizer: Tokenizer
    building: epath.Path
    built: dict[int, epath.Path]
    """Where the shards of each length are made."""
    log: Callable[[str], None]


_Finished = dict[int, tuple[Manifest, Report]]
"""For each length, the manifest and the audit of its shards."""


def _of_text(job: _Job) -> _Finished:
    """Both passes over text."""
    with _faults_of_the_text():
        segments = _tokenise(job)
        where, least = _named(job.sources), job.config.segment_kind.min_documents
        units = divide(segments, job.config.held_out, where=where, least=least)
    totals = [segment_totals(segment) for segment in segments]
    results = _pair(job, units, segments)
    with _faults_of_the_text():
        manifests = {
            length: publish.make_manifest(
                {**job.plan, "max_seq_length": length},
                *(job.tokenizer, totals, units, results[length], directory),
            )
            for length, directory in job.built.items()
        }
    finished = {}
    for length, manifest in manifests.items():
        made = (segments, units, results[length], job.built[length])
        report = publish.make_report(manifest, *made, job.sources, job.tokenizer)
        finished[length] = manifest, report
    return finished


def _of_tfrecords(job: _Job) -> _Finished:
    """Examples as they are, which have one length."""
    ((length, directory),) = job.built.items()
    with _faults_of_the_text():
        made = from_tfrecords.convert(
            job.config,
            job.workers,
            corpus.files_of(job.sources),
            job.building / shards.TOKENIZER,
            directory,
            job.log,
        )
        manifest = publish.make_manifest(job.plan, job.tokenizer, *made, directory)
    return {length: (manifest, audit_shards(directory, manifest=manifest))}


def _named(sources: Sequence[Source]) -> str:
    return f"{sources[0]}" + (f" and {len(sources) - 1:,} more" if len(sources) > 1 else "")


def _plan(
    config: PrepareConfig, tokenizer_sha256: str, texts: Sequence[CorpusFile]
) -> dict[str, Any]:
    """All that the shards depend on, as JSON has it; the names are the manifest's too."""
    several = len(config.lengths) > 1
    plan: dict[str, Any] = {
        "max_seq_length": list(config.lengths) if several else config.lengths[0]
    }
    names = ("dupe_factor", "short_seq_prob", "held_out", "seed", "block_mib", "language")
    plan |= {name: getattr(config, name) for name in (*names, "segments")}
    plan["format_version"] = shards.FORMAT_VERSION
    plan["tokenizer_sha256"] = tokenizer_sha256
    plan["corpus"] = [dataclasses.asdict(file) for file in texts]
    return plan


def _unfinished(
    directories: dict[int, epath.Path],
    output: epath.Path,
    plan: dict[str, Any],
    log: Callable[[str], None],
) -> list[int]:
    """The lengths that are still to be made; those of other text or settings are refused."""
    left = []
    for length, directory in directories.items():
        # Where there are several lengths, shards of one alone must not lie around theirs.
        for place in dict.fromkeys((directory, output)):
            if not (place / shards.MANIFEST).exists():
                continue
            there = json.loads(shards.read_manifest(place).to_json())
            expected = {**plan, "max_seq_length": length} if place == directory else plan
            if changed := _changed(expected, there):
                raise UserError(
                    f"{place} already holds shards of other text or settings ({changed}): give "
                    "another --output, or delete that directory."
                )
        if (directory / shards.MANIFEST).exists():
            log(
                f"{directory} is already prepared from this text with these settings; nothing to "
                "do."
            )
        else:
            left.append(length)
    return left


def _built(config: PrepareConfig, building: epath.Path, length: int) -> epath.Path:
    """Where pass 2 leaves what it makes for a length."""
    return config.directories(building / "pass2")[length]


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
        for directory in _directories_in(building):
            for leftover in list(directory.glob(".*.tmp")):  # what a killed run was writing
                leftover.unlink()
        return building, True
    for directory in (building, building / "pass1", building / "pass2"):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plan).encode())
    return building, False


def _directories_in(directory: epath.Path) -> Iterator[epath.Path]:
    """The directory and all that are in it."""
    yield directory
    for each in list(directory.iterdir()):
        if each.is_dir():
            yield from _directories_in(each)


class _BadText(UserError):
    """The text must change, and with it all that was made of it."""


@contextlib.contextmanager
def _faults_of_the_text() -> Iterator[None]:
    """Tells mistakes in the text from a worker that died and from a full disk."""
    try:
        yield
    except (WorkerDied, CannotWrite):
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
            brief = isinstance(value, int | float) or name in ("language", "segments")
            changed.append(f"{name}: {other} there, {value} now" if brief else name)
    return "; ".join(changed)


def _tokenise(job: _Job) -> list[epath.Path]:
    """Pass 1. The segments, in the order of the corpus."""
    config = job.config
    text_bytes = sum(job.sizes)
    tasks = file_ranges.make_tasks(job.sources, job.sizes, config.part_bytes(text_bytes))
    segments = [job.building / "pass1" / f"{number:06d}.segment" for number in range(len(tasks))]
    options = {
        "seed": config.seed,
        "blocks": config.blocks(text_bytes),
        "language": config.language,
    }
    vocabulary = str(job.building / shards.TOKENIZER)
    left = [
        ([str(segments[i]) for i in group], [tasks[i] for i in group], vocabulary, options)
        for group in file_ranges.groups(tasks)
        if not all(segments[i].exists() for i in group)
    ]
    job.workers.run(tokenise, left, what="Tokenising", log=job.log)
    return segments


def _pair(
    job: _Job, units: Sequence[Unit], segments: Sequence[epath.Path]
) -> dict[int, list[dict[str, Any]]]:
    """Pass 2. What became of each unit, for each length."""
    config = job.config
    names = tuple(str(segment) for segment in segments)
    sentences = sum(segment_totals(segment).sentences for segment in segments)
    sample_bits = duplicates.sample_bits(sentences)
    left = []
    for length, directory in job.built.items():
        directory.mkdir(parents=True, exist_ok=True)
        options = PairOptions(
            max_seq_length=length,
            short_seq_prob=config.short_seq_prob,
            seed=config.seed,
            dupe_factor=config.dupe_factor,
            vocabulary=str(job.building / shards.TOKENIZER),
            segments=config.segments,
            sample_bits=sample_bits,
        )
        left += [
            (str(marker), unit.split, unit.blocks, unit.cutoff, names, options)
            for unit in units
            if not (marker := directory / f"{unit.name}.json").exists()
        ]
    job.workers.run(pair, left, what="Pairing", log=job.log)
    return {
        length: [json.loads((directory / f"{unit.name}.json").read_bytes()) for unit in units]
        for length, directory in job.built.items()
    }
