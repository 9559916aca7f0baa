"""Tests the page of a plan."""

from bertjax.plan.page import write_page


def test_a_page_is_whole_and_loads_nothing(tmp_path, load_helper, facts, too_large):
    path = tmp_path / "plan.html"
    write_page(str(path), ["one.py", "<other>"], [facts, too_large], facts, 2.0)
    reader = load_helper("report/pages.py").Reader()
    reader.feed(path.read_text())
    assert reader.open == [] and reader.loads == []
    said = " ".join(reader.said)
    assert "100.0 ms a step by the compiler's estimate, 4.00 of 15.75 GiB HBM" in said
    assert "<other>" in said and "needs 41.0" in said
    for caption in ("Predicted cycles by part of the step", "Parts of the peak"):
        assert caption in said
    assert "75.0%" in said  # the share of matrix products
    assert "activations: attention" in said and "19.7%" in said  # 3.1 of 15.75 GiB
