"""Audits finished shards: every record is read."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping

from etils import epath

from bertjax.data import rows, shards
from bertjax.data.audit import duplicates, findings
from bertjax.data.audit import report as reports
from bertjax.data.audit.measure import ExampleSums
from bertjax.data.audit.report import Report, share
from bertjax.data.pairs import Pair
from bertjax.data.shards import Manifest
from bertjax.files import is_local

_RECORDS_AT_ONCE = 4096
# Runs of tokens overlap, so one in 16 says as much as all.
_MIN_BITS = 4


def audit_shards(
    directory: epath.Path, max_predictions: int | None = None, manifest: Manifest | None = None
) -> Report:
    """Audits every record of shards.

    The findings of `prepare` about sentences and documents are kept, since records have neither.
    `max_predictions` is the maximum in an example, if there is one. By default, the manifest is
    read from the directory. Raises `UserError`; see `shards.read_manifest`.
    """
    manifest = manifest or shards.read_manifest(directory)
    tokens = sum(map(manifest.examples, shards.SPLITS)) * manifest.max_seq_length
    bits = max(_MIN_BITS, duplicates.sample_bits(tokens))
    sums = {split: ExampleSums(manifest, bits) for split in shards.SPLITS}
    damaged, where = _add_records(directory, manifest, sums)
    before = reports.read_report(directory)
    # The sentences of text were compared before. TFRecords don't tell the size of their text.
    text_tokens = manifest.tokens if manifest.documents and before is None else 0
    random = {split: each.random for split, each in sums.items()}
    lengths = {split: each.lengths for split, each in sums.items()}
    both = sums.values()
    numbers = {
        **reports.example_numbers(manifest, lengths, random, max_predictions),
        **reports.run_numbers(sums, bits, text_tokens),
        "vocab_size": manifest.vocab_size,
        "unknown_tokens": share(sum(e.unknown for e in both), sum(e.tokens for e in both)),
        "damaged_records": damaged,
        "ids_out_of_range": sum(each.out_of_range for each in both),
    }
    label_1 = share(random["train"], lengths["train"].sum())
    if manifest.label_1_share not in (None, label_1) and not damaged:
        numbers["label_1_in_manifest"] = manifest.label_1_share
    examples = {name: findings.as_example(place) for name, place in where.items()}
    found = findings.judge(numbers, lambda name: examples.get(name, ""))
    if before is not None:
        names = {finding.name for finding in found}
        numbers = {**before.numbers, **numbers}
        found = (*(each for each in before.findings if each.name not in names), *found)
    return Report(numbers, found)


def _add_records(
    directory: epath.Path, manifest: Manifest, sums: Mapping[str, ExampleSums]
) -> tuple[int, dict[str, str]]:
    """Adds all records to the sums of their splits.

    Returns the number of unreadable records and, by finding, the first record that shows it.
    """
    damaged, where = 0, {}
    for split in shards.SPLITS:
        records = _read_split(directory, manifest, split)
        while batch := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            names, pairs = [], []
            for name, found in batch:
                if isinstance(found, Exception):
                    damaged += 1
                    reason = str(found).split(";")[0].split(" (")[0]
                    where.setdefault("damaged_records", f"{name}: {reason}")
                else:
                    names.append(name)
                    pairs.append(found)
            for number in sums[split].add(pairs) if pairs else ():
                where.setdefault("ids_out_of_range", names[number])
    return damaged, where


def _read_split(
    directory: epath.Path, manifest: Manifest, split: str
) -> Iterator[tuple[str, Pair | Exception]]:
    """Yields the name of each record, and its example or why it cannot be read."""
    with tempfile.TemporaryDirectory(prefix="bertjax-audit-") as temporary:
        for file in manifest.files[split]:
            path = directory / file.name
            if is_remote := not is_local(directory):  # ArrayRecord reads local files only
                path = epath.Path(temporary) / file.name
                shards.copy_file(directory / file.name, path)
            reader = None
            for number in range(file.examples):
                try:
                    reader = reader or shards.open_records(path)
                    reader.seek(number)
                    found = rows.example_of(reader.read(), manifest)
                except (RuntimeError, ValueError, IndexError) as error:
                    reader, found = None, error  # after an error every later read fails too
                yield f"{file.name}, record {number}", found
            if is_remote:
                path.unlink()
