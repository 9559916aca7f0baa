import re

import pytest

from bertjax.errors import UserError
from bertjax.report import run as report


@pytest.fixture
def two_runs(tmp_path, pages):
    """One whose last evaluation is not its best, and one that ends higher."""
    for name, losses, rate in (("a", [6.0, 5.0, 5.5], 1e-3), ("b & c", [6.0, 5.75], 1e-4)):
        settings = {"kind": "pre-training", "workdir": name, "seed": 0, "optimizer": {"rate": rate}}
        settings["metrics"] = [
            {"name": "mlm_loss", "words": "masked-LM loss", "better": "min"},
        ]
        settings["immutable"] = {"optimizer": {"rate": rate}}
        pages.write_run(tmp_path / name, losses, settings)
    return [tmp_path / "a", tmp_path / "b & c"]


def test_several_runs_are_drawn_and_compared_in_one_page(two_runs, pages):
    said = []
    *written, target = report.report(two_runs, said.append)
    assert written == [path / "report" / "index.html" for path in two_runs]
    assert target == two_runs[0] / "report" / "comparison.html"
    assert said[-1] == f"Wrote {target}, which compares them."
    source, text, reader = pages.read(target)
    assert reader.loads == [] and "http" not in source and "script" not in reader.tags
    assert "b & c" in text
    figure = source[source.index("<figure>") : source.index("</figure>")]
    assert re.findall("<g [^>]*><title>(.*?)</title>", figure) == ["a", "b &amp; c"]
    assert source.count("<figure>") == 1
    assert 'class="run0"' in figure and 'class="run1"' in figure
    assert figure.count("<circle") == 5


def test_last_values_name_the_best_run_and_the_best_evaluation(two_runs, pages):
    *_, target = report.report(two_runs, lambda line: None)
    source = target.read_text()
    assert ["masked-LM loss, held out", "5.5best 5 at 20", "5.75"] in pages.rows_of(source)
    assert "<b>5.5</b>" in source and "<b>5.75</b>" not in source


def test_a_metric_that_the_run_does_not_describe_has_no_best(tmp_path, pages):
    for name, thresholds in (("a", [1.0, -2.0]), ("b", [0.5])):
        pages.write_run(tmp_path / name, thresholds, metric="best_f1_threshold")
    *_, target = report.report([tmp_path / "a", tmp_path / "b"], lambda line: None)
    assert ["best_f1_threshold, held out", "-2", "0.5"] in pages.rows_of(target.read_text())
    assert "<b>0.5</b>" not in target.read_text()


def test_only_runs_on_the_same_rows_have_a_best(tmp_path, pages):
    """The loss of a regressor is no cross-entropy."""
    for name, value, data in (("a", 0.5, "x"), ("b", 0.25, "x"), ("c", 0.125, "y")):
        metrics = [{"name": "loss", "words": "loss", "better": "min", "data": data}]
        pages.write_run(tmp_path / name, [value], {"metrics": metrics}, metric="loss")
    *_, target = report.report([tmp_path / name for name in "abc"], lambda line: None)
    assert re.findall(r"<b>([\d.]+)</b>", target.read_text()) == ["0.25"]


def test_only_settings_that_differ_are_listed(two_runs, pages):
    *_, target = report.report(two_runs, lambda line: None)
    rows = pages.rows_of(target.read_text())
    assert ["optimizer.rate", "0.001", "0.0001"] in rows
    assert not [row for row in rows if row[0] in ("workdir", "seed", "kind")]
    assert not [row for row in rows if row[0].startswith("immutable")]
    assert "2 other settings are the same" in target.read_text()


def test_runs_of_the_same_name_and_seeds_are_told_apart(tmp_path, pages):
    for parent in ("x", "y"):
        pages.write_run(tmp_path / parent / "run" / "seed-0", [1.0, 0.5])
        pages.write_run(tmp_path / parent / "run" / "seed-1", [1.0, 0.5])
    directories = [tmp_path / parent / "run" for parent in ("x", "y")]
    target = tmp_path / "page.html"
    assert report.report(directories, lambda line: None, target)[-1] == target
    labels = [row[0] for row in pages.rows_of(target.read_text())[:4]]
    assert labels == [f"{path}/seed-{seed}" for path in directories for seed in (0, 1)]
    assert "No two of these directories have settings" in target.read_text()


def test_a_comparison_refuses_what_makes_no_sense(tmp_path, pages):
    pages.write_run(tmp_path / "run", [1.0])
    with pytest.raises(UserError, match="named twice"):
        report.report([tmp_path / "run", tmp_path / "run"], lambda line: None)
    with pytest.raises(UserError, match="`output` is the page that compares"):
        report.report([tmp_path / "run"], lambda line: None, tmp_path / "page.html")
    pages.write_run(tmp_path / "other", [1.0])
    with pytest.raises(UserError, match="can't be written"):
        report.report([tmp_path / "run", tmp_path / "other"], lambda line: None, tmp_path)
