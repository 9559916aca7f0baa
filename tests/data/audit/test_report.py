"""Tests of reports: unreadable files, and the sampling of a large text."""

import pytest
from etils import epath

from bertjax.data.audit import duplicates
from bertjax.data.audit.report import FILE, is_clean, read_report
from bertjax.data.prepare.run import PrepareConfig, prepare


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b'{"format_version": 1}', b"[" * 100_000),
        b'{"format_version": 2, "warnings": [], "numbers": {}}',
        b'{"format_version": 1, "warnings": [], "numbers": 3}',
    ],
)
def test_an_unreadable_report_is_none(tmp_path, data):
    (tmp_path / FILE).write_bytes(data)
    assert read_report(epath.Path(tmp_path)) is None
    assert not is_clean(epath.Path(tmp_path))


def test_a_sample_of_many_sentences_is_compared(repeated_corpus, tmp_path, log, monkeypatch):
    corpus, vocabulary = repeated_corpus
    found = {}
    for most in (1 << 21, 1000):
        monkeypatch.setattr(duplicates, "MAX_HASHES", most)
        output = tmp_path / f"shards-{most}"
        prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output)), log)
        found[most] = read_report(epath.Path(output))
    whole, sample = found.values()
    assert whole.numbers["compared"] == "all"
    assert sample.numbers["compared"] == "one in 4, chosen by a hash of the sentence"
    assert 0.1 < sample.numbers["compared_sentences"] / whole.numbers["compared_sentences"] < 0.4
    assert whole.numbers["repeated_sentences"] == pytest.approx(0.5, abs=0.01)
    assert sample.numbers["repeated_sentences"] == pytest.approx(0.5, abs=0.01)
    sentences = {finding.name: finding.sentence for finding in sample.findings}
    assert "(an estimate from one in 4" in sentences["repeated_sentences"]
