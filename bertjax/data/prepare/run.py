"""`bertjax prepare`: text to shards in two passes.

Memory holds one block of text and the longest document.

All text is read once for its size and digest (`survey.py`). Pass 1 (`token_store.py`) tokenizes
every document and assigns it, by a hash of (seed, document id), to a block and to training or
held-out (`splits.py`). Pass 2 (`example_writer.py`) draws the examples of each block of a split
alone, once for every length. A random next sentence comes from the same block, which is a random
sample of the corpus. The corpus is cut by its size (`file_ranges.py`), never by the number of
processes, so any number gives the same bytes.

Finished work is kept in OUTPUT/.building, a file for each piece, so a stopped run continues where
it was. The manifest is written last: a directory without one is not data.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from bertjax import signals
from bertjax.config import read_json_object
from bertjax.data import shards, tfrecords
from bertjax.data.audit import duplicates
from bertjax.data.audit.report import Report, log_warnings, read_report
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare import (
    estimate,
    example_writer,
    file_ranges,
    from_tfrecords,
    publish,
    survey,
    token_store,
)
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.splits import Unit, make_units
from bertjax.data.prepare.workers import WorkerDied, Workers
from bertjax.data.shards import CorpusFile, Manifest
from bertjax.errors import UserError
from bertjax.files import (
    CannotWrite,
    output_directory,
    temporary_directory,
    write_atomically,
    writing,
)
from bertjax.locks import locked
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["PrepareConfig", "prepare"]

BUILDING = ".building"
# Raise it when the files in .building, or where the text is cut, change: an unfinished run of
# another version is refused.
_BUILDING_VERSION = 1
_SETTINGS = "settings.json"


def prepare(config: PrepareConfig, log: Callable[[str], None]) -> Manifest:
    """Makes shards of examples from text; returns their manifest, for several lengths the first.

    The same text, tokenizer and settings give the same bytes. The same call finishes a run that was
    stopped, and returns what is there if the directory is finished. `log` receives lines.

    Raises:
        UserError: bad input (named by file and line), too few documents, a directory that holds
            shards of other text or settings, or a full disk.
        Stopped: a signal arrived; the same call continues.
        ValueError: `config.estimate` is set.
    """
    if config.estimate:
        raise ValueError("estimate is set: call estimate.estimate, which writes nothing")
    if config.output is None:
        raise UserError(
            "`output` is missing: name a directory for the shards, or set `estimate` to see what "
            "they would take."
        )
    output = output_directory(config.output)
    with signals.listening():
        tokenizer, sources = load_tokenizer(config.tokenizer), config.sources()
        with locked(output, "output", log):
            return _prepare(config, output, sources, tokenizer, log)


def _prepare(
    config: PrepareConfig,
    output: epath.Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    log: Callable[[str], None],
) -> Manifest:
    started = time.monotonic()
    is_converted = tfrecords.are_tfrecords(sources)
    if is_converted:
        config = from_tfrecords.with_length(config, corpus.files_of(sources))
    job = None
    try:
        with writing(output):
            with _workers(config, output, sources) as workers:
                texts = survey.survey(sources, workers, log)
                job = _start(config, output, sources, texts, tokenizer, is_converted, log)
                if job is None:
                    return shards.read_manifest(config.directories(output)[config.lengths[0]])
                finished = _convert(job, workers) if is_converted else _run_passes(job, workers)
            for length, (manifest, report) in finished.items():
                target = config.directories(output)[length]
                publish.publish(target, job.made_in[length], manifest, report, tokenizer)
            job.building.rmtree(missing_ok=True)
    except (WorkerDied, CannotWrite):
        raise
    except UserError:
        # The text has to change, so nothing made from it is of use. The workers have ended.
        if job is not None:
            job.building.rmtree()
        raise
    manifests, reports = zip(*finished.values(), strict=True)
    publish.summarize(manifests, None if job.is_resumed else time.monotonic() - started, log)
    log_warnings(reports, log)
    return shards.read_manifest(config.directories(output)[config.lengths[0]])


@contextlib.contextmanager
def _workers(
    config: PrepareConfig, output: epath.Path, sources: Sequence[Source]
) -> Iterator[Workers]:
    processes = config.workers(survey.stored_bytes(sources))
    if config.runner == "local":
        with Workers(processes) as workers:
            yield workers
        return
    from bertjax.data.prepare.beam import BeamWorkers

    places = [getattr(source, "directory", source) for source in sources]
    with temporary_directory(output / "beam") as answers:
        yield BeamWorkers(config.beam_flags, processes, (*places, output), answers)


@dataclasses.dataclass(frozen=True)
class _Job:
    """A run that has something to make."""

    config: PrepareConfig
    sources: Sequence[Source]
    sizes: Sequence[int]
    """The size of each source's text in bytes."""
    settings: dict[str, Any]
    """Everything that the shards depend on, by the names of the manifest."""
    tokenizer: Tokenizer
    building: epath.Path
    made_in: dict[int, epath.Path]
    """For each unfinished length, the directory where its shards are made."""
    is_resumed: bool
    log: Callable[[str], None]

    @property
    def vocabulary(self) -> epath.Path:
        """The directory of the tokenizer that workers load."""
        return self.building / shards.TOKENIZER


def _start(
    config: PrepareConfig,
    output: epath.Path,
    sources: Sequence[Source],
    texts: Sequence[CorpusFile],
    tokenizer: Tokenizer,
    is_converted: bool,
    log: Callable[[str], None],
) -> _Job | None:
    """Makes the directory to build in. Returns None, with a log line, if all is finished."""
    sizes = [text.bytes for text in texts]
    names = ("dupe_factor", "short_seq_prob", "held_out", "seed", "block_mib", "language")
    first, *more = config.lengths
    settings: dict[str, Any] = {
        "max_seq_length": [first, *more] if more else first,
        **{name: getattr(config, name) for name in (*names, "segments")},
        "format_version": shards.FORMAT_VERSION,
        "tokenizer_sha256": tokenizer.sha256,
        "corpus": [dataclasses.asdict(file) for file in texts],
        **(from_tfrecords.UNKNOWN if is_converted else {}),
    }
    directories = config.directories(output)
    unfinished = _unfinished(directories, output, settings, log)
    building = output / BUILDING
    if not unfinished:
        log_warnings([read_report(each) for each in directories.values()], log)
        building.rmtree(missing_ok=True)
        return None
    made_in = config.directories(building / "pass2")
    if not is_converted:
        existing = [building / "pass1", *directories.values(), *made_in.values()]
        estimate.refuse_full_disk(config, tokenizer, sources, sizes, existing)
    is_resumed = _enter(building, {**settings, "building_version": _BUILDING_VERSION}, log)
    # The user has read about a guess of the case, with the path of their own vocabulary.
    tokenizer.settled().save(building / shards.TOKENIZER)
    processes = config.workers(survey.stored_bytes(sources))
    how = f"{processes} process{'es' if processes > 1 else ''}"
    how = how if config.runner == "local" else "Apache Beam"
    log(f"Reading {len(sources):,} files, {sum(sizes) / 1e6:,.1f} MB, with {how}.")
    made_in = {length: made_in[length] for length in unfinished}
    return _Job(config, sources, sizes, settings, tokenizer, building, made_in, is_resumed, log)


def _unfinished(
    directories: dict[int, epath.Path],
    output: epath.Path,
    settings: dict[str, Any],
    log: Callable[[str], None],
) -> list[int]:
    """Returns the lengths that are still to be made; refuses shards of other text or settings."""
    unfinished = []
    for length, directory in directories.items():
        # A directory for several lengths must not hold the shards of a single one.
        for path in dict.fromkeys((directory, output)):
            if not (path / shards.MANIFEST).exists():
                continue
            existing = json.loads(shards.read_manifest(path).to_json())
            expected = {**settings, "max_seq_length": length} if path == directory else settings
            if changes := _changes(expected, existing):
                raise UserError(
                    f"{path} already holds shards of other text or settings ({changes}): give "
                    "another `output`, or delete that directory."
                )
        if (directory / shards.MANIFEST).exists():
            log(f"{directory} is already prepared from this text with these settings.")
        else:
            unfinished.append(length)
    return unfinished


def _enter(building: epath.Path, settings: dict[str, Any], log: Callable[[str], None]) -> bool:
    """Makes the directory to build in; returns whether it holds a part of the same run."""
    path = building / _SETTINGS
    if not path.exists():
        for name in ("pass1", "pass2"):
            (building / name).mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings).encode())
        return False
    if changes := _changes(settings, read_json_object(path)):
        raise UserError(
            f"{building} holds an unfinished run with other text or settings ({changes}): run "
            "with those to finish it, give another `output`, or delete that directory."
        )
    log(f"Continuing the run that was stopped ({building}).")
    return True


def _changes(settings: dict[str, Any], existing: dict[str, Any]) -> str:
    """Names the settings that differ, with both values if they are short."""
    changes = []
    for name, value in settings.items():
        if (other := existing.get(name)) != value:
            is_short = isinstance(value, int | float) or name in ("language", "segments")
            changes.append(f"{name}: {other} there, {value} now" if is_short else name)
    return "; ".join(changes)


_Finished = dict[int, tuple[Manifest, Report]]
"""For each length, the manifest and the audit of its shards."""


def _run_passes(job: _Job, workers: Workers) -> _Finished:
    """Makes the shards of text."""
    paths = _tokenize(job, workers)
    totals = [token_store.read_totals(path) for path in paths]
    more = f" and {len(job.sources) - 1:,} more" if len(job.sources) > 1 else ""
    where, minimum = f"{job.sources[0]}{more}", job.config.segment_kind.min_documents
    units = make_units(paths, job.config.held_out, where=where, min_documents=minimum)
    results = _write_examples(job, workers, units, paths, sum(each.sentences for each in totals))
    finished = {}
    for length, directory in job.made_in.items():
        settings, made = {**job.settings, "max_seq_length": length}, (results[length], directory)
        manifest = publish.make_manifest(settings, job.tokenizer, totals, *made)
        report = publish.make_report(manifest, paths, *made, job.sources, job.tokenizer)
        finished[length] = manifest, report
    return finished


def _tokenize(job: _Job, workers: Workers) -> list[epath.Path]:
    """Runs pass 1; returns the token files in the order of the corpus."""
    text_bytes = sum(job.sizes)
    ranges = file_ranges.cut(job.sources, job.sizes, job.config.range_bytes(text_bytes))
    directory = job.building / "pass1"
    paths = [directory / f"{number:06d}{token_store.SUFFIX}" for number in range(len(ranges))]
    options = {"seed": job.config.seed, "language": job.config.language}
    options["blocks"] = job.config.blocks(text_bytes)
    calls = [
        ([str(paths[i]) for i in group], [ranges[i] for i in group], str(job.vocabulary), options)
        for group in file_ranges.groups(ranges)
        if not all(paths[i].exists() for i in group)
    ]
    workers.run(token_store.tokenize, calls, progress="Tokenizing", log=job.log)
    return paths


def _write_examples(
    job: _Job, workers: Workers, units: Sequence[Unit], paths: Sequence[epath.Path], sentences: int
) -> dict[int, dict[Unit, dict[str, Any]]]:
    """Runs pass 2; returns the result of each unit (`write_examples`) for each length."""
    text = (tuple(map(str, paths)), str(job.vocabulary), job.config)
    bits = duplicates.sample_bits(sentences)
    calls = []
    for length, directory in job.made_in.items():
        directory.mkdir(parents=True, exist_ok=True)
        calls += [
            (str(directory), unit, *text, length, bits)
            for unit in units
            if not (directory / f"{unit.name}.json").exists()
        ]
    workers.run(example_writer.write_unit, calls, progress="Drawing examples", log=job.log)
    return {
        length: {unit: json.loads((directory / f"{unit.name}.json").read_bytes()) for unit in units}
        for length, directory in job.made_in.items()
    }


def _convert(job: _Job, workers: Workers) -> _Finished:
    """Makes the shards of TFRecords, whose examples have one length."""
    ((length, directory),) = job.made_in.items()
    files = corpus.files_of(job.sources)
    totals, results = from_tfrecords.convert(
        job.config, workers, files, job.vocabulary, directory, job.log
    )
    manifest = publish.make_manifest(job.settings, job.tokenizer, [totals], results, directory)
    return {length: (manifest, audit_shards(directory, manifest=manifest))}
