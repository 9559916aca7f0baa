"""`bertjax prepare --audit`: what is wrong with a text that is not prepared yet, or with finished
shards. Nothing is written where a user would see it.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax import places
from bertjax.data import audit, findings, sequences, shards
from bertjax.data.audit import Report
from bertjax.data.measure import ExampleSums
from bertjax.data.pairs import Pair
from bertjax.data.prepare import PrepareConfig, prepare
from bertjax.data.shards import Manifest, ShardFile
from bertjax.errors import UserError

_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class AuditConfig(PrepareConfig):
    """Says what is wrong with a text (given with --tokenizer), or with finished shards (a directory
    of `bertjax prepare`). Nothing is written."""

    audit: tuple[str, ...] = ()
    """What to look at: text as --input takes it, or a directory of shards."""
    input: tuple[str, ...] = ()
    """The same: a prepare command with --audit behind it audits its text."""
    tokenizer: str = ""
    """Directory of the tokenizer, or its vocabulary file, of a text. Shards have theirs."""
    output: str = ""
    """Not needed, and nothing is written there."""
    max_predictions: int | None = None
    """Words that an example predicts at most; left out: as many as 15% of its tokens are."""


class Batch(NamedTuple):
    """Some examples of a file."""

    file: str
    records: Sequence[int]
    """Their numbers in the file."""
    pairs: Sequence[Pair]


class Damage:
    """Records that can't be read: how many, and what is said of the first one."""

    def __init__(self) -> None:
        self.records = 0
        self.first = ""

    def add(self, records: int, where: str, reason: str) -> None:
        """Counts records, of which the first is at `where`."""
        self.first = self.first or f"{where}: {reason.split(';')[0].split(' (')[0]}"
        self.records += records


def audit_data(config: AuditConfig, log: Callable[[str], None]) -> list[Report]:
    """Audits a text or shards, and says all numbers and warnings.

    Args:
        config: what to look at.
        log: is given a line at a time.

    Raises:
        UserError: nothing to look at, a text without its tokenizer, or bad input (see `prepare`).
    """
    inputs = (*config.audit, *config.input)
    if not inputs:
        raise UserError("--audit: name a text (with its --tokenizer) or a directory of shards.")
    directories = [found for name in inputs for found in _shards_in(places.location(name))]
    if directories and len(inputs) > 1:
        raise UserError("--audit: name one directory of shards, or text alone.")
    reports = []
    if directories:
        for directory in directories:
            reports.append(audit_shards(directory, config.max_predictions))
            _describe(str(directory), reports[-1], log)
    else:
        reports = _audit_text(config, inputs, log)
    audit.tell(reports, log)
    if not any(report.findings for report in reports):
        log("Nothing is wrong that an audit could find.")
    return reports


def _shards_in(path: epath.Path) -> list[epath.Path]:
    """The directories of shards that a directory is, or that hold its lengths."""
    if not path.is_dir():
        return []
    lengths = sorted((each for each in path.iterdir() if each.name.isdigit()), key=_as_number)
    return [each for each in (path, *lengths) if (each / shards.MANIFEST).exists()]


def _as_number(path: epath.Path) -> int:
    return int(path.name)


# Text -------------------------------------------------------------------------------------------


def _audit_text(
    config: AuditConfig, inputs: Sequence[str], log: Callable[[str], None]
) -> list[Report]:
    if not config.tokenizer:
        raise UserError(
            f"--audit {inputs[0]}: holds no finished shards; to audit it as text give the "
            "--tokenizer that it will be prepared with."
        )
    log("Auditing the text: it is prepared in a temporary directory, which is deleted then.")
    with tempfile.TemporaryDirectory(prefix="bertjax-audit-") as temporary:
        output = epath.Path(temporary) / "shards"
        fields = {field.name: getattr(config, field.name) for field in _PREPARE_FIELDS}
        fields |= {"input": tuple(inputs), "output": str(output), "dupe_factor": 1}
        preparing = PrepareConfig(**fields)
        prepare(preparing, lambda line: None)
        directories = preparing.directories(output).values()
        if config.max_predictions is None:
            reports = [report for each in directories if (report := audit.read(each)) is not None]
        else:
            reports = [audit_shards(each, config.max_predictions) for each in directories]
    for report in reports:
        _describe("The text", report, log)
    return reports


_PREPARE_FIELDS = dataclasses.fields(PrepareConfig)


# Shards -----------------------------------------------------------------------------------------


def audit_shards(directory: epath.Path, max_predictions: int | None = None) -> Report:
    """Audits every record of finished shards.

    What `prepare` found in the text stays in the report: records know of no sentences and of no
    documents.

    Raises:
        UserError: see `shards.read_manifest`.
    """
    manifest = shards.read_manifest(directory)
    damage = Damage()
    batches = {split: _read_split(directory, manifest, split, damage) for split in shards.SPLITS}
    before = audit.read(directory)
    if before is None:
        tokens = manifest.tokens if manifest.documents else 0  # made from text, or from examples
        return audit_examples(manifest, batches, damage, tokens, max_predictions)
    # Of the text's sentences it was seen already whether they repeat.
    report = audit_examples(manifest, batches, damage, 0, max_predictions)
    anew = {finding.name for finding in report.findings}
    kept = tuple(finding for finding in before.findings if finding.name not in anew)
    return Report({**before.numbers, **report.numbers}, kept + report.findings)


def audit_examples(
    manifest: Manifest,
    batches: Mapping[str, Iterable[Batch]],
    damage: Damage,
    text_tokens: int = 0,
    max_predictions: int | None = None,
) -> Report:
    """Audits examples, whoever made them.

    Args:
        manifest: what is said of them.
        batches: the examples of each split, some at a time.
        damage: what `batches` could not read, when they are at their end.
        text_tokens: of the text that they were made from, whose repeats are looked for; 0: of a
            text that is not known, or was looked at before.
        max_predictions: how many words an example predicts at most; None: what the rate asks for.
    """
    sums = {}
    outside = ""
    for split, examples in batches.items():
        sums[split] = ExampleSums(
            manifest.max_seq_length,
            manifest.vocab_size,
            manifest.unk_id,
            sequences.specials(manifest.objective),
        )
        for batch in examples:
            wrong = sums[split].add(batch.pairs)
            if len(wrong) and not outside:
                outside = f"{batch.file}, record {batch.records[wrong[0]]}"
    numbers = _numbers(manifest, sums, damage, text_tokens, max_predictions)
    where = {"damaged_records": damage.first, "ids_out_of_range": outside}

    def example(finding: str) -> str:
        return findings.as_example(where[finding]) if where.get(finding) else ""

    return Report(numbers, findings.judge(numbers, example))


def _numbers(
    manifest: Manifest,
    sums: Mapping[str, ExampleSums],
    damage: Damage,
    text_tokens: int,
    max_predictions: int | None,
) -> dict[str, Any]:
    lengths = {split: each.lengths.tolist() for split, each in sums.items()}
    random = {split: each.random for split, each in sums.items()}
    tokens = sum(each.tokens for each in sums.values())
    numbers = {
        **audit.example_numbers(
            manifest.objective, manifest.max_seq_length, lengths, random, max_predictions
        ),
        **audit.run_numbers(sums, text_tokens),
        "vocab_size": manifest.vocab_size,
        "unknown_tokens": audit.share(sum(each.unknown for each in sums.values()), tokens),
        "damaged_records": damage.records,
        "ids_out_of_range": sum(each.out_of_range for each in sums.values()),
    }
    share = audit.share(random["train"], sum(lengths["train"]))
    if manifest.nsp_random not in (None, share) and not damage.records:
        numbers["label_1_in_manifest"] = manifest.nsp_random
    return numbers


def _read_split(
    directory: epath.Path, manifest: Manifest, split: str, damage: Damage
) -> Iterator[Batch]:
    """All examples that can be read, some thousand at a time; the others are counted."""
    with tempfile.TemporaryDirectory(prefix="bertjax-audit-") as temporary:
        for file in manifest.files[split]:
            path = directory / file.name
            if not places.is_local(directory):  # which ArrayRecord can't read
                path = epath.Path(temporary) / file.name
                shards.copy_file(directory / file.name, path, file.examples)
            good = _read_file(path, manifest, file, damage)
            while some := list(itertools.islice(good, _AT_ONCE)):
                yield Batch(file.name, *zip(*some, strict=True))
            if not places.is_local(directory):
                path.unlink()


def _read_file(
    path: epath.Path, manifest: Manifest, file: ShardFile, damage: Damage
) -> Iterator[tuple[int, Pair]]:
    """The examples of a file with their numbers."""
    is_single = manifest.objective == "mlm"
    room = manifest.max_seq_length - sequences.specials(manifest.objective)
    reader = None
    for number in range(file.examples):
        try:
            if reader is None:
                reader = shards.open_records(path)
            reader.seek(number)
            pair = shards.decode_pair(reader.read())
            if (len(pair.b) == 0) != is_single:
                raise ValueError("an example of another objective")
            if len(pair.a) + len(pair.b) > room:
                raise ValueError("an example longer than max_seq_length")
        except (RuntimeError, ValueError, IndexError) as error:
            reader = None  # it would fail at every later record too
            damage.add(1, f"{file.name}, record {number}", str(error))
        else:
            yield number, pair


# What is said -----------------------------------------------------------------------------------


def _describe(name: str, report: Report, log: Callable[[str], None]) -> None:
    """Says the numbers, a line a subject."""
    known = report.numbers
    log(f"{name}, examples of {known['max_seq_length']} tokens:")
    if known.keys() >= set(audit.OF_THE_TEXT):
        log(
            f"  text: {known['documents']:,} documents, {known['sentences']:,} sentences, "
            f"{known['words']:,} words; {known['one_sentence_documents']:.1%} of the documents "
            "have one sentence"
        )
        log(
            f"  lines: {known['upper_case_characters']:.1%} of the text in capitals, "
            f"{known['paragraph_characters']:.1%} in lines of several sentences; "
            f"{known['markup_lines']:.1%} of the lines with markup, {known['long_sentences']:.1%} "
            "longer than an example"
        )
        log(
            f"  sentences: {known['repeated_sentences']:.2%} are copies of others; "
            f"{known['pieces_per_word']:.2f} tokens a word"
        )
    log(f"  tokens: {known['unknown_tokens']:.2%} [UNK]")
    log(
        f"  repeats: {known['held_out_in_train']:.2%} of the held-out text is trained on too "
        f"(compared: {known['compared']})"
    )
    for split, count in known["examples"].items():
        labels = f", {known['label_1'][split]:.1%} with label 1" if known["label_1"] else ""
        log(f"  {split}: {count:,} examples{labels}")
    lengths = (f"{name} {share:.0%}" for name, share in known["lengths"].items())
    log(f"  rows: {known['padding']:.1%} padding; lengths {', '.join(lengths)}")
    if known["objective"] == "nsp":
        same = known.get("same_document_pairs")
        log(
            "  random B from A's own document: "
            + ("can't be known here: shards keep no documents" if same is None else f"{same:,}")
        )
