"""Audits text that is not prepared yet, or finished shards."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.audit.report import Report, log_warnings, read_report
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.run import prepare
from bertjax.errors import UserError
from bertjax.files import location


@dataclasses.dataclass(frozen=True)
class PrepareArguments(PrepareConfig):
    """Tokenize text and write the examples that `bertjax pretrain` reads to files (shards). The
    command ends with warnings about the text."""

    audit: tuple[str, ...] = ()
    """Print only warnings, about text (as in `input`) or about a directory of shards, and write
    nothing."""

    def preparation(self) -> PrepareConfig:
        """Returns the fields that are not of the audit."""
        names = (field.name for field in dataclasses.fields(PrepareConfig))
        return PrepareConfig(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class AuditConfig(PrepareArguments):
    """Report what is wrong with text (which needs `tokenizer`), or with finished shards. Nothing is
    written."""

    audit: tuple[str, ...] = ()
    """Text, as in `input`, or a directory of shards."""
    input: tuple[str, ...] = ()
    """The same as `audit`, so that a prepare command followed by `audit` audits its text."""
    tokenizer: str = ""
    """Directory of the tokenizer for text, or its vocabulary file. Shards have their own."""
    output: str = ""
    """Accepted and ignored."""
    max_predictions: int | None = None
    """Maximum number of predictions in an example. By default, 15% of its tokens."""


def audit_data(config: AuditConfig, log: Callable[[str], None]) -> list[Report]:
    """Audits text or shards; logs all numbers and warnings, a line at a time.

    Raises `UserError` if an estimate is requested too, nothing is named, text has no tokenizer, or
    the input is bad (see `prepare`).
    """
    if config.estimate:
        raise UserError("`audit` and `estimate`: give one of them at a time.")
    inputs = (*config.audit, *config.input)
    if not inputs:
        raise UserError("`audit`: name text (with its `tokenizer`) or a directory of shards.")
    directories = [found for name in inputs for found in _shards_in(location(name))]
    if directories and len(inputs) > 1:
        raise UserError("`audit`: name one directory of shards, or only text.")
    if directories:
        reports = [audit_shards(each, config.max_predictions) for each in directories]
    else:
        reports = _audit_text(config, inputs, log)
    names = map(str, directories or ["The text"] * len(reports))
    for name, report in zip(names, reports, strict=True):
        log(f"{name}, examples of {report.numbers['max_seq_length']} tokens:")
        for line in report.lines():
            log(f"  {line}")
    log_warnings(reports, log)
    if not any(report.findings for report in reports):
        log("The audit found nothing wrong.")
    return reports


def _shards_in(path: epath.Path) -> list[epath.Path]:
    """Returns the directories of shards among a directory and its directories of lengths."""
    if not path.is_dir():
        return []
    lengths = (each for each in path.iterdir() if each.name.isdigit())
    candidates = (path, *sorted(lengths, key=lambda each: int(each.name)))
    return [each for each in candidates if (each / shards.MANIFEST).exists()]


def _audit_text(
    config: AuditConfig, inputs: Sequence[str], log: Callable[[str], None]
) -> list[Report]:
    if not config.tokenizer:
        raise UserError(
            f"`audit` {inputs[0]}: it holds no finished shards; to audit it as text, give the "
            "`tokenizer` that it will be prepared with."
        )
    log("Auditing the text: it is prepared in a temporary directory, which is then deleted.")
    with tempfile.TemporaryDirectory(prefix="bertjax-audit-") as temporary:
        fields: dict[str, Any] = {"input": tuple(inputs), "output": f"{temporary}/shards"}
        preparing = dataclasses.replace(config.preparation(), **fields)
        if not tfrecords.are_tfrecords(preparing.sources()):
            preparing = dataclasses.replace(preparing, dupe_factor=1)
        prepare(preparing, lambda line: None)
        made = preparing.directories(epath.Path(str(preparing.output))).values()
        if config.max_predictions is not None:
            return [audit_shards(each, config.max_predictions) for each in made]
        return [report for report in map(read_report, made) if report is not None]
