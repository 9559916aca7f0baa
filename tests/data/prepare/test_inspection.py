"""Tests of `prepare --audit`."""

import dataclasses

import pytest
from etils import epath

from bertjax.data.audit.report import read_report
from bertjax.data.prepare import inspection
from bertjax.data.prepare.inspection import AuditConfig
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.errors import UserError


def names(report):
    return {finding.name for finding in report.findings}


def test_auditing_text_prepares_it_and_leaves_nothing(repeated_corpus, tmp_path, log, monkeypatch):
    corpus, vocabulary = repeated_corpus
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    asked = AuditConfig(audit=(str(corpus),), tokenizer=str(vocabulary), max_seq_length=(32, 64))
    reports = inspection.audit_data(asked, log)
    assert sorted(tmp_path.rglob("*")) == before
    assert [report.numbers["max_seq_length"] for report in reports] == [32, 64]
    assert [line for line in log.lines if line.startswith("Warning")] == [
        f"Warning: {finding.sentence}" for finding in reports[0].findings
    ]
    few = inspection.audit_data(dataclasses.replace(asked, max_predictions=2), log)
    assert all("predictions_cut" in names(report) for report in few)
    log.lines.clear()
    output = tmp_path / "shards"
    fields = {"max_seq_length": (32, 64), "dupe_factor": 1}
    prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output), **fields), log)
    assert [read_report(epath.Path(output / str(length))) for length in (32, 64)] == reports
    # The directory of both lengths can be audited too. The findings of the text stay.
    log.lines.clear()
    found = inspection.audit_data(AuditConfig(input=(str(output),)), log)
    assert [names(report) for report in found] == [names(report) for report in reports]
    # Preparing again repeats the warnings.
    log.lines.clear()
    prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output), **fields), log)
    assert [line for line in log.lines if line.startswith("Warning")] == [
        f"Warning: {finding.sentence}" for finding in reports[0].findings
    ]


def test_an_audit_with_an_estimate_is_refused(tmp_path, log):
    with pytest.raises(UserError, match="one of them at a time"):
        inspection.audit_data(AuditConfig(audit=(str(tmp_path),), estimate=True), log)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "name text (with its `tokenizer`) or a directory of shards"),
        ({"audit": ("{corpus}",)}, "holds no finished shards; to audit it as text, give the"),
        ({"audit": ("{corpus}/no.txt",), "tokenizer": "{vocabulary}"}, "nothing matches"),
    ],
)
def test_missing_or_unknown_input_is_refused(repeated_corpus, log, fields, sentence):
    corpus, vocabulary = repeated_corpus
    fill = {"corpus": corpus, "vocabulary": vocabulary}
    fields = {
        name: tuple(each.format(**fill) for each in value)
        if isinstance(value, tuple)
        else value.format(**fill)
        for name, value in fields.items()
    }
    with pytest.raises(UserError) as caught:
        inspection.audit_data(AuditConfig(**fields), log)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
