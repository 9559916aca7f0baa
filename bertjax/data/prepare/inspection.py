"""`bertjax prepare --audit`: what is wrong with a text that is not prepared yet, or with finished
shards. Nothing is written where a user would see it.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence

from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.audit.report import OF_THE_TEXT, Report, read, tell
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.run import prepare
from bertjax.data.segments import SEGMENTS
from bertjax.errors import UserError
from bertjax.files import location


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


def audit_data(config: AuditConfig, log: Callable[[str], None]) -> list[Report]:
    """Audits a text or shards, and says all numbers and warnings.

    Args:
        config: what to look at.
        log: is given a line at a time.

    Raises:
        UserError: an estimate is asked for too, nothing to look at, a text without its tokenizer,
            or bad input (see `prepare`).
    """
    if config.estimate:
        raise UserError("--audit and --estimate: ask for one of them at a time.")
    inputs = (*config.audit, *config.input)
    if not inputs:
        raise UserError("--audit: name a text (with its --tokenizer) or a directory of shards.")
    directories = [found for name in inputs for found in _shards_in(location(name))]
    if directories and len(inputs) > 1:
        raise UserError("--audit: name one directory of shards, or text alone.")
    reports = []
    if directories:
        for directory in directories:
            reports.append(audit_shards(directory, config.max_predictions))
            _describe(str(directory), reports[-1], log)
    else:
        reports = _audit_text(config, inputs, log)
    tell(reports, log)
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
        fields |= {"input": tuple(inputs), "output": str(output)}
        preparing = PrepareConfig(**fields)
        if not tfrecords.are_tfrecords(preparing.sources()):
            preparing = dataclasses.replace(preparing, dupe_factor=1)
        prepare(preparing, lambda line: None)
        directories = preparing.directories(output).values()
        if config.max_predictions is None:
            reports = [report for each in directories if (report := read(each)) is not None]
        else:
            reports = [audit_shards(each, config.max_predictions) for each in directories]
    for report in reports:
        _describe("The text", report, log)
    return reports


_PREPARE_FIELDS = dataclasses.fields(PrepareConfig)


def _describe(name: str, report: Report, log: Callable[[str], None]) -> None:
    """Says the numbers, a line a subject."""
    known = report.numbers
    log(f"{name}, examples of {known['max_seq_length']} tokens:")
    if known.keys() >= set(OF_THE_TEXT):
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
    if SEGMENTS[known["segments"]].draws_other_documents:
        same = known.get("same_document_pairs")
        log(
            "  random B from A's own document: "
            + ("can't be known here: shards keep no documents" if same is None else f"{same:,}")
        )
