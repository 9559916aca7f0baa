import json

import pytest

from bertjax.errors import UserError
from bertjax.report import demo as demo_report
from bertjax.report import run as report

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
        "labels_fewest": 8,
        "test_rows": 945,
        "corpus_sha256": "ab" * 32,
        "seeds": [0, 1, 2],
        "device": "2 CPU cores (x86_64)",
        "versions": {"python": "3.12.1", "jax": "0.10.2"},
        "seconds_by_stage": {"corpus": 20.1, "pretrain": 150.0},
    }
    measured = {"": (0.58, 0.45, 0.63), "_few": (0.44, 0.31, 0.4), "_fewest": (0.3, 0.2, 0.25)}
    for suffix, scores in measured.items():
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
        "metrics": [
            {
                "name": "mlm_loss",
                "words": "masked-LM loss",
                "better": "min",
                "reference": ["unigram entropy", 6.43],
            },
            {"name": "nsp_accuracy", "words": "next sentences", "reference": ["majority", 0.542]},
        ],
        "fills": [{"step": s, "when": f"step {s}", "sentences": sentences} for s in (0, 100, 1000)],
        "predictions": [
            {"text": "Eigenvalues & <vectors>.", "label": "numpy", "said": "jax", "score": 0.5},
            {"text": "Fits a forest.", "label": "sklearn", "said": "sklearn", "score": 0.9},
        ],
        "method": ["The text: docstrings."],
        "commands": ["bertjax predict runs/demo/pretrain", "", "# yours"],
    }


def test_demo_page_is_whole_and_asks_no_network(tmp_path, pages):
    target = demo_report.write_demo_report(tmp_path, numbers(), story())
    source, said, reader = pages.read(target)
    assert target == tmp_path / "report" / "index.html"
    assert reader.loads == []
    assert "http" not in source and "@import" not in source and "url(" not in source
    assert "script" not in reader.tags
    assert "prefers-color-scheme: dark" in source
    assert "Returns the" in said and "of <array> 4." in said  # escaped, so it comes back as text
    assert "Eigenvalues & <vectors>." in said
    caption = (
        "masked-LM loss 5.61 nats (unigram entropy 6.43), next sentences 65.5% (majority 54.2%)"
    )
    assert caption in said
    assert "bertjax predict runs/demo/pretrain" in said
    assert json.loads((tmp_path / "report" / "numbers.json").read_text()) == numbers()


def test_first_screen_comes_in_its_order(tmp_path, pages):
    _, said, _ = pages.read(demo_report.write_demo_report(tmp_path, numbers(), story()))
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
        "20.0% to 30.0% (+10.0 ± 1.0 points) from 8",
    ):
        assert part in said
    assert said.count(".") == said.replace(". ", "").count("."), "one sentence"
    assert said.endswith("TF-IDF with logistic regression has 63.0%, 40.0% and 25.0%.")


@pytest.mark.parametrize("suffix", ["", "_few", "_fewest"])
def test_verdict_claims_nothing_within_two_errors(suffix):
    change = {f"gain{suffix}": 0.015, f"gain_error{suffix}": 0.01}
    assert "does not clearly lift" in demo_report.verdict(numbers(**change))
    assert "lifts" in demo_report.verdict(numbers(**{**change, f"gain{suffix}": 0.021}))


def test_verdict_says_when_pretraining_does_harm():
    harm = {"gain": -0.047, "gain_few": -0.066, "gain_fewest": -0.05}
    assert " lowers a small BERT " in demo_report.verdict(numbers(**harm))
    assert "does not clearly lift" in demo_report.verdict(
        numbers(**{**harm, "gain_error_few": 0.04})
    )


@pytest.mark.parametrize(
    ("tfidf", "said"),
    [
        ((0.6, 0.6, 0.4), "wins with 128 and 32 and 8 labels: "),
        ((0.6, 0.3, 0.2), "wins with 128 labels: "),
        ((0.5, 0.6, 0.4), "wins with 32 and 8 labels: "),
    ],
)
def test_the_page_says_where_counting_words_wins(tfidf, said):
    names = ("accuracy_tfidf", "accuracy_tfidf_few", "accuracy_tfidf_fewest")
    reason = demo_report.why(numbers(**dict(zip(names, tfidf, strict=True))))
    assert said in reason and "3.3 billion" in reason and "60 minutes" in reason


def test_the_page_explains_why_bert_wins_everywhere():
    reason = demo_report.why(numbers(accuracy_tfidf=0.5))
    assert "3.3 billion" not in reason and "the text without labels" in reason


def test_report_again_gives_the_same_page(tmp_path):
    target = demo_report.write_demo_report(tmp_path, numbers(), story())
    before = target.read_text()
    target.unlink()
    assert report.report([tmp_path], lambda line: None) == [target]
    assert target.read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [("numbers.json", None, "no such file"), ("story.json", "{", "story.json: not JSON")],
)
def test_a_demo_that_is_not_whole_is_refused(tmp_path, name, content, sentence):
    demo_report.write_demo_report(tmp_path, numbers(), story())
    path = tmp_path / "report" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        report.report([tmp_path], lambda line: None)
