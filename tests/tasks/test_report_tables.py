"""Tests the tables of dev rows that reports show."""

import itertools

import numpy as np

from bertjax.tasks.report_tables import MAX_ROWS, MAX_TEXT, examples, scores_by_length


def test_examples_are_the_first_rows_with_long_texts_cut_visibly():
    texts = [f"text {row}" for row in range(60)]
    long = ["x" * (MAX_TEXT + 1234), *texts[1:]]
    table = examples("Examples", {"source": long, "reference": texts}, {"output": texts[::-1]})
    assert (list(table.columns), table.given) == (["source", "reference", "output"], 2)
    assert len(table.rows) == MAX_ROWS
    assert table.rows[1] == ["text 1", "text 1", "text 58"]
    assert table.rows[0][0] == "x" * MAX_TEXT + " [... 1,234 more characters]"


def test_groups_of_lengths_have_every_row_once_and_equal_lengths_together():
    lengths = np.random.default_rng(0).poisson(8, 200)
    groups = []

    def scores(rows):
        groups.append(rows)
        return {"mean": float(lengths[rows].mean())}

    table = scores_by_length("Scores by length", "tokens", lengths, scores)
    assert sorted(itertools.chain(*groups)) == list(range(200))
    spans = [(min(lengths[rows]), max(lengths[rows])) for rows in groups]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    assert [row[0] for row in table.rows] == [f"{low} to {high}" for low, high in spans]
    assert [row[1] for row in table.rows] == [len(rows) for rows in groups]
    assert min(row[1] for row in table.rows) > 20
    assert list(table.columns) == ["tokens", "rows", "mean"] and len(table.rows) == 5


def test_rows_of_one_length_are_one_group():
    table = scores_by_length("", "tokens", np.full(7, 3), lambda rows: {"rows": len(rows)})
    assert table.rows == [["3", 7, 7]]
