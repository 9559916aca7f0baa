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
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from bertjax import places
from bertjax.data import division, parts, publish, shards, survey, work
from bertjax.data.pairs import SHORTEST_SEQUENCE
from bertjax.data.sequences import OBJECTIVES, Objective
from bertjax.data.shards import CorpusFile, Manifest
from bertjax.errors import UserError
from bertjax.text import corpus, wordpiece
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import load_tokenizer

BUILDING = ".building"
_MIB = 1 << 20
_PARTS_PER_BLOCK = 4
# Starting workers takes a second or so: a smaller corpus is done by then.
_WORTH_WORKERS = 4 * _MIB


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Cut text into examples, which `bertjax pretrain` learns from: tokens in files that are read
    quickly (shards)."""

    input: tuple[str, ...]
    """Text files (.txt: one sentence a line, a blank line between documents; .jsonl: {"text": ...}
    a line, other keys are ignored; also as .gz, .bz2, .xz, .zst), directories, patterns, and
    tfds:NAME[/CONFIG][:VERSION][:SPLIT], a data set of TFDS that lies here as array_record."""
    tokenizer: str
    """Directory of the tokenizer (`bertjax tokenizer train`), or its vocabulary file."""
    output: str
    """Directory for the shards."""
    objective: Objective = "nsp"
    """What is learned beside masked words. nsp: whether sentences B follow sentences A (pairs, as
    BERT); mlm: nothing (single sequences, as RoBERTa); sop: the order of two segments (as ALBERT).
    `bertjax pretrain` learns what the shards are for."""
    max_seq_length: int | tuple[int, ...] = 128
    """Longest example in tokens, [CLS] and [SEP] included. Several (128 512) are made from text
    that is tokenised once, each in a directory of its own: OUTPUT/128, OUTPUT/512."""
    dupe_factor: int = 2
    """Passes over the training text, each of which cuts it into other pairs: more examples of a
    small text, and so many times the disk. (Which words are masked changes every epoch anyway.) For
    mlm the passes differ by short_seq_prob alone."""
    short_seq_prob: float = 0.1
    """Share of documents (for mlm: of examples) that are cut into shorter examples."""
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
    """Language whose rules split the texts of .jsonl files and data sets into sentences."""
    text_feature: str = "text"
    """What is read of the examples of a TFDS data set."""
    tfds_data_dir: str | None = None
    """Where TFDS data sets lie; left out: TFDS_DATA_DIR, or ~/tensorflow_datasets."""

    def __post_init__(self) -> None:
        for name, least in (("dupe_factor", 1), ("seed", 0), ("processes", 0), ("block_mib", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if self.objective not in OBJECTIVES:
            raise UserError(
                f"objective is {self.objective!r}: give one of {', '.join(OBJECTIVES)}."
            )
        for length in self.lengths:
            if not SHORTEST_SEQUENCE <= length <= 1 << 16:
                raise UserError(
                    f"max_seq_length is {length}: give {SHORTEST_SEQUENCE} to {1 << 16}."
                )
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise UserError("max_seq_length needs one length, or several that differ.")
        if not 0.0 <= self.short_seq_prob <= 1.0:
            raise UserError(f"short_seq_prob is {self.short_seq_prob}: give 0 to 1.")
        if not 0.0 <= self.held_out < 1.0:
            raise UserError(f"held_out is {self.held_out}: give a share of at least 0 and below 1.")

    @property
    def lengths(self) -> tuple[int, ...]:
        """All of max_seq_length."""
        length = self.max_seq_length
        return (length,) if isinstance(length, int) else tuple(length)

    def directories(self, output: epath.Path) -> dict[int, epath.Path]:
        """Where the shards of each length are: `output` itself, if there is one length."""
        if len(self.lengths) == 1:
            return {self.lengths[0]: output}
        return {length: output / str(length) for length in self.lengths}


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
    """
    started = time.monotonic()
    tokenizer = load_tokenizer(config.tokenizer)
    output = places.output_directory(config.output)
    directories = config.directories(output)
    # Of a vocabulary or an output inside the input, nothing is text.
    vocabulary = epath.Path(config.tokenizer)
    vocabulary = vocabulary / wordpiece.FILE if vocabulary.is_dir() else vocabulary
    written = [each / shards.TOKENIZER / wordpiece.FILE for each in directories.values()]
    sources = corpus.expand_inputs(
        config.input,
        leave_out=[vocabulary, *written],
        text_feature=config.text_feature,
        tfds_data_dir=config.tfds_data_dir,
    )
    many = survey.stored_bytes(sources) >= _WORTH_WORKERS
    processes = config.processes or (work.cores() if many else 1)
    with places.writing(output), _discarded_on_bad_text(output):
        with work.Workers(processes) as workers:
            texts = survey.survey(sources, workers, log)
            sizes = [text.bytes for text in texts]
            plan = _plan(config, tokenizer.sha256, texts)
            left = _unfinished(directories, output, plan, log)
            if not left:
                (output / BUILDING).rmtree(missing_ok=True)
                return shards.read_manifest(directories[config.lengths[0]])
            building, resumed = _start(output, plan, log)
            tokenizer.save(building / shards.TOKENIZER)
            log(
                f"Reading {len(sources):,} files, {sum(sizes) / 1e6:,.1f} MB, with {processes} "
                f"process{'es' if processes > 1 else ''}."
            )
            with _faults_of_the_text():
                segments = _tokenise(config, workers, sources, sizes, building, log)
                least = 2 if config.objective == "nsp" else 1
                where = _named(sources)
                units = division.divide(segments, config.held_out, where=where, least=least)
            built = {length: _built(config, building, length) for length in left}
            results = _pair(config, workers, units, segments, built, building, log)
            with _faults_of_the_text():
                manifests = {
                    length: publish.make_manifest(
                        {**plan, "max_seq_length": length},
                        tokenizer,
                        segments,
                        units,
                        results[length],
                        built[length],
                    )
                    for length in left
                }
        for length, manifest in manifests.items():
            publish.publish(directories[length], built[length], manifest, tokenizer)
        building.rmtree(missing_ok=True)
    seconds = None if resumed else time.monotonic() - started
    publish.summarise(list(manifests.values()), seconds, log)
    return shards.read_manifest(directories[config.lengths[0]])


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
    plan |= {name: getattr(config, name) for name in (*names, "objective")}
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
    places.write_atomically(path, json.dumps(plan).encode())
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
            brief = isinstance(value, int | float) or name in ("language", "objective")
            changed.append(f"{name}: {other} there, {value} now" if brief else name)
    return "; ".join(changed)


def _tokenise(
    config: PrepareConfig,
    workers: work.Workers,
    sources: Sequence[Source],
    sizes: Sequence[int],
    building: epath.Path,
    log: Callable[[str], None],
) -> list[epath.Path]:
    """Pass 1. The segments, in the order of the corpus."""
    tasks = parts.make_tasks(sources, sizes, config.block_mib * _MIB // _PARTS_PER_BLOCK)
    segments = [building / "pass1" / f"{number:06d}.segment" for number in range(len(tasks))]
    options = {"seed": config.seed, "blocks": _blocks(config, sizes), "language": config.language}
    vocabulary = str(building / shards.TOKENIZER)
    left = [
        ([str(segments[i]) for i in group], [tasks[i] for i in group], vocabulary, options)
        for group in parts.groups(tasks)
        if not all(segments[i].exists() for i in group)
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
    built: dict[int, epath.Path],
    building: epath.Path,
    log: Callable[[str], None],
) -> dict[int, list[dict[str, Any]]]:
    """Pass 2. What became of each unit, for each length of `built`."""
    names = tuple(str(segment) for segment in segments)
    left = []
    for length, directory in built.items():
        directory.mkdir(parents=True, exist_ok=True)
        options = work.PairOptions(
            max_seq_length=length,
            short_seq_prob=config.short_seq_prob,
            seed=config.seed,
            dupe_factor=config.dupe_factor,
            vocabulary=str(building / shards.TOKENIZER),
            objective=config.objective,
        )
        left += [
            (str(marker), unit.split, unit.blocks, unit.cutoff, names, options)
            for unit in units
            if not (marker := directory / f"{unit.name}.json").exists()
        ]
    workers.run(work.pair, left, what="Pairing", log=log)
    return {
        length: [json.loads((directory / f"{unit.name}.json").read_bytes()) for unit in units]
        for length, directory in built.items()
    }
