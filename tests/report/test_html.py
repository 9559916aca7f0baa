import itertools
import re

import pytest

from bertjax.report.html import Bar, Line, bars, color_of, curves, nice_ticks


def test_many_lines_are_all_different_and_long_ones_keep_their_peaks():
    styles = [color_of(number) for number in range(24)]
    assert len(set(styles)) == 24
    points = [(step, 1.0 + (step == 41_234)) for step in range(100_000)]
    source = curves([Line("loss", points)], "loss", legend=False)
    assert len(source) < 60_000
    (path,) = re.findall(r'd="M([^"]*L[^"]*)"', source)
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert min(heights) < max(heights) and heights.count(min(heights)) == 1


def test_bars_have_lengths_in_proportion():
    items = [Bar("a", 0.2, None, "accent"), Bar("b", 0.6, 0.05, "second")]
    source = bars(items, "two", 0.6)
    widths = [float(width) for width in re.findall(r'<rect [^>]*?width="([\d.]+)"', source)]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)
    assert "60.0 ± 5.0%" in source and "20.0%" in source


@pytest.mark.parametrize(
    ("low", "high"), [(5.6, 8.2), (0.0, 1000.0), (0.001, 0.0042), (-3.0, 3.0), (2.0, 2.0), (0, 7)]
)
def test_ticks_enclose_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 3 <= len(ticks) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1


def test_the_legend_is_beside_the_curves_and_no_label_is_on_another():
    lines = [Line(name, [(0, 0.0), (10, 1.0)]) for name in ("one", "two", "three")]
    source = curves(lines, "loss", references=[("rule", 0.0), ("a long name " * 5, 1.0)])
    right = max(float(x) for x in re.findall(r"L([\d.]+) ", source))
    labels = re.findall(r'<text class="[a-z]+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', source)[
        -5:
    ]
    assert [label for _, _, label in labels][-1] == "rule" and len(labels[3][2]) == 30
    heights = [float(y) for _, y, _ in labels]
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15.9 and max(heights) < 240
    assert all(float(x) > right for x, _, _ in labels)
    assert 'class="accent" x=' not in curves(lines, "loss", legend=False)


def test_curves_leave_out_what_is_not_finite():
    source = curves([Line("loss", [(0, float("nan")), (1, 2.0), (2, 1.0)])], "loss")
    assert "nan" not in source and source.count("<circle") == 2
    assert curves([Line("loss", [])], "loss") == ""
