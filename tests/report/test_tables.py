"""Tests the tables of dev rows in the page of a run and in the page that compares runs."""

import numpy as np
import pytest

from bertjax.report import run as report
from bertjax.rundir.workdir import write_tables
from bertjax.tasks.report_tables import examples, scores_by_length

SOURCES = ["Guten <b>Tag</b> & hallo", "مرحبا بالعالم", "lang " * 200, *map(str, range(20))]


@pytest.fixture
def translations(tmp_path, pages):
    """Two runs on the same dev rows, and one on others."""
    for name in ("small", "large", "other"):
        outputs = [f"{name} output {row}" for row in range(len(SOURCES))]
        sources = [f"other {row}" for row in range(4)] if name == "other" else SOURCES
        given = {"source": sources, "reference": [f"reference of {text[:9]}" for text in sources]}
        lengths = np.array([3, 3, 30, *[1] * 20][: len(sources)])
        tables = [
            examples("Examples", given, {"output": outputs[: len(sources)]}),
            scores_by_length("By length", "tokens", lengths, lambda rows: {"bleu": len(rows) / 7}),
        ]
        pages.write_run(tmp_path / name, [1.0, 2.0], metric="bleu")
        write_tables(tmp_path / name, tables)
    return tmp_path


def test_a_run_shows_source_reference_and_output_in_a_row(translations, pages):
    (target,) = report.report([translations / "small"], lambda line: None)
    source, text, _ = pages.read(target)
    rows = [row for row in pages.rows_of(source) if row[-1].startswith("small output")]
    assert len(rows) == len(SOURCES)
    first = [
        "Guten &lt;b&gt;Tag&lt;/b&gt; &amp; hallo",
        "reference of Guten &lt;b&gt;",
        "small output 0",
    ]
    assert rows[0] == first
    assert source.count('dir="auto"') >= 3 * len(SOURCES)
    assert "13 more rows" in text
    # The end of the long text is there, but folded.
    assert rows[2][0].count("lang") == 200
    shown, folded = source.split("... 701 more characters")
    assert shown.count("lang ") == 60 and folded.startswith("</summary> lang lang")
    assert ["1", "20", "2.857"] in pages.rows_of(source)


def test_runs_on_the_same_rows_stand_side_by_side(translations, pages):
    names = ["small", "large"]
    *_, target = report.report([translations / name for name in names], lambda line: None)
    source, text, _ = pages.read(target)
    assert ["مرحبا بالعالم", "reference of مرحبا بال", "small output 1", "large output 1"] in (
        pages.rows_of(source)
    )
    assert ["1", "20", "2.857", "2.857"] in pages.rows_of(source)
    assert "source reference small large" in text


def test_runs_on_other_rows_are_not_compared_by_row(translations, pages):
    names = ["small", "other"]
    *_, target = report.report([translations / name for name in names], lambda line: None)
    assert "Examples" not in target.read_text()
