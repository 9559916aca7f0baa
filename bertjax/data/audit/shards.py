"""What is wrong with examples that are made already: every record is looked at."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax.data import rows, shards
from bertjax.data.audit import findings
from bertjax.data.audit import report as audit
from bertjax.data.audit.measure import ExampleSums
from bertjax.data.audit.report import Report
from bertjax.data.pairs import Pair
from bertjax.data.shards import Manifest, ShardFile
from bertjax.files import is_local

_AT_ONCE = 4096


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


def audit_shards(
    directory: epath.Path, max_predictions: int | None = None, manifest: Manifest | None = None
) -> Report:
    """Audits every record of shards.

    What `prepare` found in the text stays in the report: records know of no sentences and of no
    documents.

    Args:
        directory: where they are.
        max_predictions: see `audit_examples`.
        manifest: of the shards; None: the directory's.

    Raises:
        UserError: see `shards.read_manifest`.
    """
    manifest = manifest or shards.read_manifest(directory)
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
            manifest.segment_kind.special_tokens,
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
            manifest.segments, manifest.max_seq_length, lengths, random, max_predictions
        ),
        **audit.run_numbers(sums, text_tokens),
        "vocab_size": manifest.vocab_size,
        "unknown_tokens": audit.share(sum(each.unknown for each in sums.values()), tokens),
        "damaged_records": damage.records,
        "ids_out_of_range": sum(each.out_of_range for each in sums.values()),
    }
    share = audit.share(random["train"], sum(lengths["train"]))
    if manifest.label_1_share not in (None, share) and not damage.records:
        numbers["label_1_in_manifest"] = manifest.label_1_share
    return numbers


def _read_split(
    directory: epath.Path, manifest: Manifest, split: str, damage: Damage
) -> Iterator[Batch]:
    """All examples that can be read, some thousand at a time; the others are counted."""
    with tempfile.TemporaryDirectory(prefix="bertjax-audit-") as temporary:
        for file in manifest.files[split]:
            path = directory / file.name
            if not is_local(directory):  # which ArrayRecord can't read
                path = epath.Path(temporary) / file.name
                shards.copy_file(directory / file.name, path, file.examples)
            good = _read_file(path, manifest, file, damage)
            while some := list(itertools.islice(good, _AT_ONCE)):
                yield Batch(file.name, *zip(*some, strict=True))
            if not is_local(directory):
                path.unlink()


def _read_file(
    path: epath.Path, manifest: Manifest, file: ShardFile, damage: Damage
) -> Iterator[tuple[int, Pair]]:
    """The examples of a file with their numbers."""
    reader = None
    for number in range(file.examples):
        try:
            if reader is None:
                reader = shards.open_records(path)
            reader.seek(number)
            pair = rows.example_of(reader.read(), manifest)
        except (RuntimeError, ValueError, IndexError) as error:
            reader = None  # it would fail at every later record too
            damage.add(1, f"{file.name}, record {number}", str(error))
        else:
            yield number, pair
