import pytest

from bertjax.tasks.overlap import overlaps

A, B, C = [("a",), ("b",), ("b",)], [("c",), ("b",), ("b",), ("d",)], [("d",), ("a",)]


def test_common_rows_are_counted_for_each_pair_of_files():
    lines = list(overlaps(["a.csv", "b.csv", "c.csv"], [A, B, C]))
    assert [line.split(":")[1] for line in lines] == [
        " 2 of 4 dev rows are training rows too",
        " 1 of 2 test rows are training rows too",
        " 1 of 2 test rows are dev rows too",
    ]
    assert all(line.startswith("WARNING: ") and line.endswith("too good.") for line in lines)


def test_one_file_twice_is_said():
    (line,) = overlaps(["a.csv", "a.csv"], [A, A])
    assert line.startswith("WARNING: 3 of 3 dev rows are training rows too (a.csv is both): ")


@pytest.mark.parametrize("inputs", [[A, [("x",)]], [A, [], C[:1]]])
def test_other_rows_are_no_overlap(inputs):
    assert list(overlaps(["a", "b", "c"], inputs)) == []
