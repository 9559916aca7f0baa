"""The configuration of `bertjax prepare`."""

import dataclasses
import math
import os
import typing
from typing import Literal

from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.pairs import SHORTEST_SEQUENCE
from bertjax.data.segments import DEFAULT_SEGMENTS, SEGMENTS, SegmentKind, SegmentsName
from bertjax.errors import UserError, refuse_unknown
from bertjax.text import corpus, wordpiece
from bertjax.text.corpus import Source

_MIB = 1 << 20
# The text of one token file: large enough that a unit of pass 2 can read all token files, small
# enough that a small corpus keeps all cores busy.
_RANGES_PER_BLOCK, _MIN_RANGES, _MIN_RANGE_BYTES = 4, 32, _MIB
# Starting workers takes about a second, in which a smaller corpus is done.
_MIN_BYTES_FOR_WORKERS = 4 * _MIB
_MAX_LENGTH = 1 << 16

Runner = Literal["local", "beam"]


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """The text to tokenize, and how to draw examples from it."""

    input: tuple[str, ...]
    """Text files, directories, patterns and TFDS data sets. A .txt file has one sentence per line
    and a blank line between documents; a .jsonl file has {"text": ...} per line (other keys are
    ignored); either may be compressed as .gz, .bz2, .xz or .zst. A data set is named
    tfds:NAME[/CONFIG][:VERSION][:SPLIT] and must be stored locally as array_record. TFRecords of
    Google's create_pretraining_data.py are converted."""
    tokenizer: str
    """Directory of the tokenizer (`bertjax tokenizer train`), or its vocabulary file."""
    output: str | None = None
    """Directory for the shards. An estimate needs none."""
    segments: SegmentsName = DEFAULT_SEGMENTS
    """Content of an example. next_sentence: sentences A and sentences B, which follow A or come
    from another document (BERT). sentence_order: two consecutive segments, swapped in half of the
    examples (ALBERT). single: one sequence of consecutive sentences (RoBERTa, ELECTRA)."""
    max_seq_length: int | tuple[int, ...] = 128
    """Maximum length of an example in tokens, including [CLS] and [SEP]. Several lengths, such as
    128 512, tokenize the text once and write each length to its own directory: OUTPUT/128,
    OUTPUT/512."""
    dupe_factor: int = 2
    """Number of passes over the training text. Each pass draws other examples, and takes as much
    disk again. Masks change in every epoch regardless. The passes of single segments differ by
    `short_seq_prob` alone."""
    short_seq_prob: float = 0.1
    """Share of documents that are cut into shorter examples; for single segments, the share of
    examples."""
    held_out: float = 0.02
    """Share of documents kept for evaluation, at least two documents. 0 keeps none."""
    seed: int = 12345
    """Seed of held-out documents and examples. The same text and seed give the same shards."""
    processes: int = 0
    """Number of worker processes; 0 starts one per core. The shards do not depend on it."""
    runner: Runner = "local"
    """Where the work runs. local: in worker processes of this machine. beam: on the workers of an
    Apache Beam runner, by default as many processes of this machine. The shards do not depend on
    it."""
    beam_flags: str = ""
    """Beam's own flags, quoted as one word after an equals sign: its runner, by default
    DirectRunner, and the settings of that runner."""
    block_mib: int = 32
    """MiB of text to draw examples from at once. A smaller value needs less memory, and gives
    other shards."""
    language: str = "en"
    """Language code whose rules split the texts of .jsonl files and data sets into sentences."""
    text_feature: str = "text"
    """Name of the text feature in a TFDS data set."""
    tfds_data_dir: str | None = None
    """Directory of TFDS data sets. Defaults to TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    estimate: bool = False
    """Write nothing; estimate from a sample, within seconds, the number of tokens and examples and
    the disk space and time that preparing would take."""
    strict: bool = False
    """Exit with code 1 if the audit warns. The shards are kept."""

    def __post_init__(self) -> None:
        minima = {"dupe_factor": 1, "seed": 0, "processes": 0, "block_mib": 1}
        for name, minimum in minima.items():
            if (value := getattr(self, name)) < minimum:
                raise UserError(f"`{name}` is {value}: give at least {minimum}.")
        if self.segments not in SEGMENTS:
            raise UserError(f"`segments` is {self.segments!r}: give one of {', '.join(SEGMENTS)}.")
        refuse_unknown("`runner`", self.runner, typing.get_args(Runner))
        if self.beam_flags and self.runner != "beam":
            raise UserError("`beam_flags` are for `runner` beam: set that too, or leave them out.")
        for length in self.lengths:
            if not SHORTEST_SEQUENCE <= length <= _MAX_LENGTH:
                raise UserError(
                    f"`max_seq_length` is {length}: give {SHORTEST_SEQUENCE} to {_MAX_LENGTH}."
                )
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise UserError("`max_seq_length` needs one length, or several different ones.")
        if not 0.0 <= self.short_seq_prob <= 1.0:
            raise UserError(f"`short_seq_prob` is {self.short_seq_prob}: give 0 to 1.")
        if not 0.0 <= self.held_out < 1.0:
            raise UserError(f"`held_out` is {self.held_out}: give a share from 0 to below 1.")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The values of `max_seq_length`."""
        length = self.max_seq_length
        return (length,) if isinstance(length, int) else tuple(length)

    @property
    def segment_kind(self) -> SegmentKind:
        """The kind of segments that examples hold."""
        return SEGMENTS[self.segments]

    def range_bytes(self, text_bytes: int) -> int:
        """Returns the bytes of text for one token file of a corpus of this size."""
        maximum = self.block_mib * _MIB // _RANGES_PER_BLOCK
        return min(maximum, max(_MIN_RANGE_BYTES, text_bytes // _MIN_RANGES))

    def blocks(self, text_bytes: int) -> int:
        """Returns the number of blocks for a corpus of this size."""
        return max(1, math.ceil(text_bytes / (self.block_mib * _MIB)))

    def workers(self, text_bytes: int) -> int:
        """Returns the number of processes for a corpus of this size."""
        cores = os.cpu_count() if text_bytes >= _MIN_BYTES_FOR_WORKERS else 1
        return self.processes or cores or 1

    def sources(self) -> tuple[Source, ...]:
        """Expands the input. A vocabulary or an output inside it is not text.

        Raises `UserError` if there is no file, or a directory has both text and TFRecords.
        """
        vocabulary = epath.Path(self.tokenizer)
        ours = [vocabulary / wordpiece.FILE if vocabulary.is_dir() else vocabulary]
        if self.output is not None:
            directories = self.directories(epath.Path(self.output))
            ours += [each / shards.TOKENIZER / wordpiece.FILE for each in directories.values()]
        return corpus.expand_inputs(
            tfrecords.expanded(self.input, leave_out=ours),
            leave_out=ours,
            text_feature=self.text_feature,
            tfds_data_dir=self.tfds_data_dir,
        )

    def directories(self, output: epath.Path) -> dict[int, epath.Path]:
        """Returns the directory of each length's shards: `output` itself for a single length."""
        if len(self.lengths) == 1:
            return {self.lengths[0]: output}
        return {length: output / str(length) for length in self.lengths}
