import html.parser
import itertools
import json
import re
import sys

import pytest

from bertjax.errors import UserError
from bertjax.report import demo as demo_report
from bertjax.report import run as report
from bertjax.report.charts import charts_of
from bertjax.report.html import Bar, Line, bars, color_of, curves, nice_ticks
from bertjax.rundir.records import Metric

WORDS = ["shape", "size", "mean", "<b>", "dtype"]


def numbers(**changes):
    """What a demo might have measured."""
    result = {
        "seconds": 312.4,
        "words": 1_244_021,
        "vocab_size": 8192,
        "parameters": 1_495_554,
        "mlm_loss": 5.61,
        "unigram_entropy": 6.43,
        "nsp_accuracy": 0.655,
        "majority": 0.542,
        "labels": ["jax", "numpy", "scipy", "sklearn"],
        "labels_all": 128,
        "labels_few": 32,
        "test_rows": 945,
        "corpus_sha256": "ab" * 32,
        "seeds": [0, 1, 2],
        "device": "2 CPU cores (x86_64)",
        "versions": {"python": "3.12.1", "jax": "0.10.2"},
        "seconds_by_stage": {"corpus": 20.1, "pretrain": 150.0},
    }
    for suffix, scores in (("", (0.58, 0.45, 0.63)), ("_few", (0.44, 0.31, 0.5))):
        for arm, score in zip(("pretrained", "scratch", "tfidf"), scores, strict=True):
            result[f"accuracy_{arm}{suffix}"] = score
            result[f"accuracy_{arm}_deviation{suffix}"] = None if arm == "tfidf" else 0.012
        result[f"gain{suffix}"] = scores[0] - scores[1]
        result[f"gain_error{suffix}"] = 0.0098
    return result | changes


def story():
    curve = [
        {"step": step, "kind": kind, "mlm_loss": 7.5 - step / 500 + (kind == "eval") * 0.05}
        for step in range(100, 1001, 100)
        for kind in ("train", "eval")
    ]
    sentences = [
        {"text": f"Returns the [MASK] of <array> {number}.", "tokens": [[w, 0.1] for w in WORDS]}
        for number in range(5)
    ]
    return {
        "curve": curve,
        "fills": [{"step": s, "when": f"step {s}", "sentences": sentences} for s in (0, 100, 1000)],
        "predictions": [
            {"text": "Eigenvalues & <vectors>.", "label": "numpy", "said": "jax", "score": 0.5},
            {"text": "Fits a forest.", "label": "sklearn", "said": "sklearn", "score": 0.9},
        ],
        "method": ["The text: docstrings."],
        "commands": ["bertjax predict runs/demo/pretrain", "", "# yours"],
    }


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and keeps text and the attributes that load something."""

    VOID = frozenset(["meta", "rect", "path", "circle", "br"])

    def __init__(self):
        super().__init__()
        self.open, self.said, self.loads, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def read(path):
    reader = Reader()
    source = path.read_text()
    reader.feed(source)
    assert not reader.open
    return source, " ".join(" ".join(reader.said).split()), reader


def test_demo_page_is_whole_and_asks_no_network(tmp_path):
    target = demo_report.write_demo_report(tmp_path, numbers(), story(), lambda line: None)
    source, said, reader = read(target)
    assert target == tmp_path / "report" / "index.html"
    assert reader.loads == []
    assert "http" not in source and "@import" not in source and "url(" not in source
    assert "script" not in reader.tags
    assert "prefers-color-scheme: dark" in source
    assert "Returns the" in said and "of <array> 4." in said  # escaped, so it comes back as text
    assert "Eigenvalues & <vectors>." in said
    assert "bertjax predict runs/demo/pretrain" in said
    assert json.loads((tmp_path / "report" / "numbers.json").read_text()) == numbers()


def test_first_screen_comes_in_its_order(tmp_path):
    _, said, _ = read(
        demo_report.write_demo_report(tmp_path, numbers(), story(), lambda line: None)
    )
    parts = [
        demo_report.verdict(numbers()),
        "58.0 ± 1.2%",
        "Filling in the blank",
        "unigram entropy",
        "Now with your text",
        "Passages it has never seen",
    ]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)


def test_verdict_names_the_figures():
    said = demo_report.verdict(numbers())
    for part in (
        "1.2 million words",
        "lifts",
        "45.0% to 58.0%",
        "+13.0 ± 1.0 points",
        "31.0% to 44.0%",
    ):
        assert part in said
    assert said.count(".") == said.replace(". ", "").count("."), "one sentence"
    assert "TF-IDF with logistic regression beats it with either (63.0% and 50.0%)" in said


@pytest.mark.parametrize("suffix", ["", "_few"])
def test_verdict_claims_nothing_within_two_errors(suffix):
    change = {f"gain{suffix}": 0.015, f"gain_error{suffix}": 0.01}
    assert "does not clearly lift" in demo_report.verdict(numbers(**change))
    assert "lifts" in demo_report.verdict(numbers(**{**change, f"gain{suffix}": 0.021}))


def test_a_clear_loss_is_called_one():
    lost = demo_report.verdict(
        numbers(gain=-0.05, gain_error=0.02, gain_few=-0.07, gain_error_few=0.02)
    )
    assert "lowers a small BERT" in lost


def test_verdict_says_when_pretraining_does_harm():
    harm = {"gain": -0.047, "gain_error": 0.018, "gain_few": -0.066, "gain_error_few": 0.021}
    assert " lowers a small BERT " in demo_report.verdict(numbers(**harm))
    assert "does not clearly lift" in demo_report.verdict(
        numbers(**{**harm, "gain_error_few": 0.04})
    )


@pytest.mark.parametrize(
    ("all_labels", "few_labels", "said"),
    [
        (0.6, 0.6, "beats it with either"),
        (0.6, 0.3, "beats it with all labels, not with 32"),
        (0.5, 0.6, "beats it with 32, not with all"),
        (0.5, 0.3, "is behind"),
    ],
)
def test_verdict_says_who_wins(all_labels, few_labels, said):
    change = {"accuracy_tfidf": all_labels, "accuracy_tfidf_few": few_labels}
    assert said in demo_report.verdict(numbers(**change))
    reason = demo_report.why(numbers(**change))
    assert ("3.3 billion" in reason and "60 minutes" in reason) == (all_labels > 0.58)


def test_pngs_and_the_word_about_them(tmp_path, monkeypatch):
    said = []
    demo_report.write_demo_report(tmp_path, numbers(), story(), said.append)
    assert (tmp_path / "report" / "mlm_loss.png").read_bytes().startswith(b"\x89PNG")
    assert said == []
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    demo_report.write_demo_report(tmp_path / "other", numbers(), story(), said.append)
    assert len(said) == 1 and "pip install 'bertjax[demo]'" in said[0]
    assert not list((tmp_path / "other").rglob("*.png"))


def test_report_again_gives_the_same_page(tmp_path):
    target = demo_report.write_demo_report(tmp_path, numbers(), story(), lambda line: None)
    before = target.read_text()
    target.unlink()
    assert report.report([tmp_path], lambda line: None) == [target]
    assert target.read_text() == before


def test_report_of_a_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    records = [
        {"step": s, "kind": "train", "loss": 5.0 - s / 10, "grad_norm": None} for s in (1, 2)
    ]
    lines = [json.dumps(record) for record in records]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "ki']))
    (run / "config.json").write_text('{"batch_size": 8}')
    said = []
    (target,) = report.report([run], said.append)
    _, text, reader = read(target)
    assert "batch_size" in text and reader.tags.count("svg") == 1
    assert said == [f"Wrote {target}."]


def test_the_headline_is_the_result_and_before_it_the_last_evaluation(tmp_path):
    metrics = [
        {"name": "accuracy", "words": "accuracy", "better": "max", "reference": ["majority", 0.5]}
    ]
    write_run(tmp_path / "run" / "seed-0", [0.5, 0.75], metric="accuracy")
    write_run(tmp_path / "run" / "seed-1", [0.5, 0.625], metric="accuracy")
    (tmp_path / "run/config.json").write_text(json.dumps({"metrics": metrics}))

    def headline():
        (target,) = report.report([tmp_path / "run"], lambda line: None)
        return re.findall("<h1>(.*?)</h1>", target.read_text())

    assert headline() == ["Held-out accuracy after 20 steps: 0.75, 0.625 (majority 0.5)"]
    result = {"sentence": "accuracy 0.69 ± 0.09 over 2 seeds.", "steps": 20}
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    assert headline() == [result["sentence"]]
    # The run went on since.
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "steps": 19}))
    assert headline() == ["Held-out accuracy after 20 steps: 0.75, 0.625 (majority 0.5)"]


def test_the_main_metric_comes_first_and_a_group_shares_a_chart():
    metrics = {
        "loss": Metric("loss", "the loss", "min"),
        "rank_1": Metric("rank_1", "1 to 9", "max", group="accuracy by rank"),
        "rank_2": Metric("rank_2", "10 up", "max", ("chance", 0.1), "accuracy by rank"),
    }
    records = [
        {"step": step, "kind": "eval", "other": 1.0, "rank_2": 0.5, "rank_1": 0.25, "loss": 2.0}
        for step in (1, 2)
    ]
    charts = charts_of(records, metrics)
    assert [chart.name for chart in charts] == ["loss", "accuracy_by_rank", "other"]
    assert [line.label for line in charts[1].lines] == ["1 to 9", "10 up"]
    assert charts[1].references == [("10 up: chance", 0.1)]
    assert charts[1].lines[0].points == [(1, 0.25), (2, 0.25)]


def test_report_of_several_seeds(tmp_path):
    for seed in (0, 1):
        workdir = tmp_path / f"seed-{seed}"
        workdir.mkdir()
        lines = [json.dumps({"step": s, "kind": "eval", "accuracy": s / 10}) for s in (1, 2)]
        (workdir / "metrics.jsonl").write_text("\n".join(lines))
    (target,) = report.report([tmp_path], lambda line: None)
    _, text, reader = read(target)
    assert "seed-0" in text and "seed-1" in text and reader.tags.count("svg") == 2


def test_report_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        report.report([tmp_path / "nothing"], lambda line: None)
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        report.report([tmp_path], lambda line: None)


def test_a_report_leaves_out_what_is_damaged(tmp_path):
    write_run(tmp_path / "run", [6.0, 5.0], {})
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    (tmp_path / "run/config.json").write_bytes(b"\xff{}")
    (page_,) = report.report([tmp_path / "run"], lambda line: None)
    assert page_.read_text().count("<circle") == 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [("numbers.json", None, "no such file"), ("story.json", "{", "story.json: not JSON")],
)
def test_a_demo_that_is_not_whole_is_refused(tmp_path, name, content, sentence):
    demo_report.write_demo_report(tmp_path, numbers(), story(), lambda line: None)
    path = tmp_path / "report" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        report.report([tmp_path], lambda line: None)


def write_run(path, values, settings=None, *, kind="eval", metric="mlm_loss"):
    path.mkdir(parents=True)
    records = [
        {"step": 10 * (at + 1), "kind": kind, metric: value} for at, value in enumerate(values)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    if settings is not None:
        (path / "config.json").write_text(json.dumps(settings))


def rows_of(source):
    """The cells of every row of every table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", source)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return [[re.sub("<[^>]+>", "", cell).strip() for cell in row] for row in cells if row]


@pytest.fixture
def two_runs(tmp_path):
    """One whose last evaluation is not its best, and one that ends higher."""
    for name, losses, rate in (("a", [6.0, 5.0, 5.5], 1e-3), ("b & c", [6.0, 5.75], 1e-4)):
        settings = {"kind": "pre-training", "workdir": name, "seed": 0, "optimizer": {"rate": rate}}
        settings["metrics"] = [
            {"name": "mlm_loss", "words": "masked-LM loss", "better": "min"},
        ]
        settings["immutable"] = {"optimizer": {"rate": rate}}
        write_run(tmp_path / name, losses, settings)
    return [tmp_path / "a", tmp_path / "b & c"]


def test_several_runs_are_drawn_and_compared_in_one_page(two_runs):
    said = []
    *pages, target = report.report(two_runs, said.append)
    assert pages == [path / "report" / "index.html" for path in two_runs]
    assert target == two_runs[0] / "report" / "comparison.html"
    assert said[-1] == f"Wrote {target}, which compares them."
    source, text, reader = read(target)
    assert reader.loads == [] and "http" not in source and "script" not in reader.tags
    assert "b & c" in text
    figure = source[source.index("<figure>") : source.index("</figure>")]
    assert re.findall("<g [^>]*><title>(.*?)</title>", figure) == ["a", "b &amp; c"]
    assert source.count("<figure>") == 1
    assert 'class="run0"' in figure and 'class="run1"' in figure
    assert figure.count("<circle") == 5


def test_last_values_name_the_best_run_and_the_best_evaluation(two_runs):
    *_, target = report.report(two_runs, lambda line: None)
    source = target.read_text()
    assert ["masked-LM loss, held out", "5.5best 5 at 20", "5.75"] in rows_of(source)
    assert "<b>5.5</b>" in source and "<b>5.75</b>" not in source


def test_a_metric_that_the_run_does_not_describe_has_no_best(tmp_path):
    for name, thresholds in (("a", [1.0, -2.0]), ("b", [0.5])):
        write_run(tmp_path / name, thresholds, metric="best_f1_threshold")
    *_, target = report.report([tmp_path / "a", tmp_path / "b"], lambda line: None)
    assert ["best_f1_threshold, held out", "-2", "0.5"] in rows_of(target.read_text())
    assert "<b>0.5</b>" not in target.read_text()


def test_only_settings_that_differ_are_listed(two_runs):
    *_, target = report.report(two_runs, lambda line: None)
    rows = rows_of(target.read_text())
    assert ["optimizer.rate", "0.001", "0.0001"] in rows
    assert not [row for row in rows if row[0] in ("workdir", "seed", "kind")]
    assert not [row for row in rows if row[0].startswith("immutable")]
    assert "2 other settings are the same" in target.read_text()


def test_runs_of_the_same_name_and_seeds_are_told_apart(tmp_path):
    for parent in ("x", "y"):
        write_run(tmp_path / parent / "run" / "seed-0", [1.0, 0.5])
        write_run(tmp_path / parent / "run" / "seed-1", [1.0, 0.5])
    directories = [tmp_path / parent / "run" for parent in ("x", "y")]
    target = tmp_path / "page.html"
    assert report.report(directories, lambda line: None, target)[-1] == target
    labels = [row[0] for row in rows_of(target.read_text())[:4]]
    assert labels == [f"{path}/seed-{seed}" for path in directories for seed in (0, 1)]
    assert "No two of these directories have settings" in target.read_text()


def test_a_comparison_refuses_what_makes_no_sense(tmp_path):
    write_run(tmp_path / "run", [1.0])
    with pytest.raises(UserError, match="named twice"):
        report.report([tmp_path / "run", tmp_path / "run"], lambda line: None)
    with pytest.raises(UserError, match="`output` is the page that compares"):
        report.report([tmp_path / "run"], lambda line: None, tmp_path / "page.html")
    write_run(tmp_path / "other", [1.0])
    with pytest.raises(UserError, match="can't be written"):
        report.report([tmp_path / "run", tmp_path / "other"], lambda line: None, tmp_path)


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
    source = bars(items, "two")
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


def test_curves_leave_out_what_is_not_finite():
    source = curves([Line("loss", [(0, float("nan")), (1, 2.0), (2, 1.0)])], "loss")
    assert "nan" not in source and source.count("<circle") == 2
    assert curves([Line("loss", [])], "loss") == ""
