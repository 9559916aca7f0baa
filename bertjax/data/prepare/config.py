"""What `bertjax prepare` is asked to do."""

import dataclasses
import math

from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.pairs import SHORTEST_SEQUENCE
from bertjax.data.prepare.workers import cores
from bertjax.data.segments import DEFAULT_SEGMENTS, SEGMENTS, SegmentKind, SegmentsName
from bertjax.errors import UserError
from bertjax.text import corpus, wordpiece
from bertjax.text.corpus import Source

_MIB = 1 << 20
# Tasks of pass 1: few enough to be read by every task of pass 2, many enough that a small corpus
# keeps the cores of a machine busy to the end.
_PARTS_PER_BLOCK, _PARTS_AT_LEAST, _SMALLEST_PART = 4, 32, _MIB
# Starting workers takes a second or so: a smaller corpus is done by then.
_WORTH_WORKERS = 4 * _MIB


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Cut text into examples, which `bertjax pretrain` learns from: tokens in files that are read
    quickly (shards). What looks wrong with the text is said at the end; `bertjax prepare --audit`
    says that alone, of a text or of shards."""

    input: tuple[str, ...]
    """Text files (.txt: one sentence a line, a blank line between documents; .jsonl: {"text": ...}
    a line, other keys are ignored; also as .gz, .bz2, .xz, .zst), directories, patterns, and
    tfds:NAME[/CONFIG][:VERSION][:SPLIT], a data set of TFDS that lies here as array_record. Or the
    TFRecords that Google's script made."""
    tokenizer: str
    """Directory of the tokenizer (`bertjax tokenizer train`), or its vocabulary file."""
    output: str | None = None
    """Directory for the shards; an estimate needs none."""
    segments: SegmentsName = DEFAULT_SEGMENTS
    """What an example holds. next_sentence: sentences A and sentences B, which follow A or come
    from another document (BERT). sentence_order: two consecutive segments, swapped in half of the
    examples (ALBERT). single: one sequence of consecutive sentences (RoBERTa, ELECTRA)."""
    max_seq_length: int | tuple[int, ...] = 128
    """Longest example in tokens, [CLS] and [SEP] included. Several (128 512) are made from text
    that is tokenised once, each in a directory of its own: OUTPUT/128, OUTPUT/512."""
    dupe_factor: int = 2
    """Passes over the training text, each of which cuts it into other pairs: more examples of a
    small text, and so many times the disk. (Which words are masked changes every epoch anyway.) For
    single segments the passes differ by short_seq_prob alone."""
    short_seq_prob: float = 0.1
    """Share of documents (for single segments: of examples) that are cut into shorter examples."""
    held_out: float = 0.02
    """Share of documents kept for evaluation, at least two of them; 0 keeps none."""
    seed: int = 12345
    """Number that fixes the random choices: held-out documents and pairs. The same text and seed
    give the same shards."""
    processes: int = 0
    """Worker processes; 0: one a core. The shards do not depend on it."""
    block_mib: int = 32
    """Text that is paired at once, in MiB. Smaller needs less memory, and changes the shards."""
    language: str = "en"
    """Language whose rules split the texts of .jsonl files and data sets into sentences."""
    text_feature: str = "text"
    """What is read of the examples of a TFDS data set."""
    tfds_data_dir: str | None = None
    """Where TFDS data sets lie; left out: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    estimate: bool = False
    """Make nothing: tell in seconds, from a sample of the text, how many tokens and examples there
    would be, and how much disk and time it would take."""
    strict: bool = False
    """Exit with code 1 if the audit warns; the shards stay."""

    def __post_init__(self) -> None:
        for name, least in (("dupe_factor", 1), ("seed", 0), ("processes", 0), ("block_mib", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}.")
        if self.segments not in SEGMENTS:
            raise UserError(f"segments is {self.segments!r}: give one of {', '.join(SEGMENTS)}.")
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

    @property
    def segment_kind(self) -> SegmentKind:
        """The kind of segments that examples hold."""
        return SEGMENTS[self.segments]

    def part_bytes(self, text_bytes: int) -> int:
        """Text of one task of pass 1, of a corpus of this size."""
        most = self.block_mib * _MIB // _PARTS_PER_BLOCK
        return min(most, max(_SMALLEST_PART, text_bytes // _PARTS_AT_LEAST))

    def blocks(self, text_bytes: int) -> int:
        """Into how many blocks the documents go."""
        return max(1, math.ceil(text_bytes / (self.block_mib * _MIB)))

    def workers(self, text_bytes: int) -> int:
        """How many processes work on a text of this size."""
        return self.processes or (cores() if text_bytes >= _WORTH_WORKERS else 1)

    def sources(self) -> tuple[Source, ...]:
        """What the input stands for: of a vocabulary or an output inside it, nothing is text.

        Raises:
            UserError: no file, or a directory with text and TFRecords.
        """
        vocabulary = epath.Path(self.tokenizer)
        ours = [vocabulary / wordpiece.FILE if vocabulary.is_dir() else vocabulary]
        if self.output is not None:
            directories = self.directories(epath.Path(self.output))
            ours += [each / shards.TOKENIZER / wordpiece.FILE for each in directories.values()]
        inputs = tfrecords.expanded(self.input, leave_out=ours)
        return corpus.expand_inputs(
            inputs,
            leave_out=ours,
            text_feature=self.text_feature,
            tfds_data_dir=self.tfds_data_dir,
        )

    def directories(self, output: epath.Path) -> dict[int, epath.Path]:
        """Where the shards of each length are: `output` itself, if there is one length."""
        if len(self.lengths) == 1:
            return {self.lengths[0]: output}
        return {length: output / str(length) for length in self.lengths}
