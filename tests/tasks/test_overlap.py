import pytest

from bertjax.tasks.overlap import overlaps

A, B, C = [("a",), ("b",), ("b",)], [("c",), ("b",), ("b",), ("d",)], [("d",), ("a",)]


def test_common_rows_are_counted_for_each_pair_of_files():
    lines = list(overlaps(["a.csv", "b.csv", "c.csv"], [A, B, C]))
    assert [line.split(":")[1] for line in lines] == [
        " of 4 dev rows, 2 are among the training rows",
        " of 2 test rows, 1 is among the training rows",
        " of 2 test rows, 1 is among the dev rows",
    ]
    assert all(line.startswith("Warning: ") and line.endswith("too good.") for line in lines)


def test_one_file_twice_is_said():
    (line,) = overlaps(["a.csv", "a.csv"], [A, A])
    assert line.startswith(
        "Warning: of 3 dev rows, 3 are among the training rows (a.csv is both): "
    )


@pytest.mark.parametrize("inputs", [[A, [("x",)]], [A, [], C[:1]]])
def test_other_rows_are_no_overlap(inputs):
    assert list(overlaps(["a", "b", "c"], inputs)) == []
