import json
import random

import pytest

from bertjax.demo import documentation, pacing, passages, summary
from bertjax.demo import run as demo_lib
from bertjax.demo.documentation import Passage
from bertjax.demo.hyperparameters import Hyperparameters
from bertjax.demo.passages import TaskSizes
from bertjax.demo.run import DemoConfig, demo
from bertjax.errors import Stopped, UserError
from bertjax.report.demo import verdict

TINY = Hyperparameters(
    vocab_size=150,
    max_seq_length=32,
    batch_size=8,
    min_steps=20,
    max_epochs=0.01,
    seeds=2,
    size="L-1_H-64",
    epochs=1,
    epochs_few=1,
    epochs_fewest=1,
    embedding_batch_size=8,
    held_out=0.1,
    eval_examples=16,
)
SYLLABLES = [a + b for a in "bdfgklmn" for b in "aeiou"]
KEYS = [
    "seconds",
    "words",
    "vocab_size",
    "parameters",
    "mlm_loss",
    "unigram_entropy",
    "nsp_accuracy",
    "majority",
    "accuracy_pretrained",
    "accuracy_pretrained_deviation",
    "accuracy_pretrained_few",
    "accuracy_pretrained_deviation_few",
    "accuracy_pretrained_fewest",
    "accuracy_scratch",
    "accuracy_scratch_deviation",
    "accuracy_scratch_few",
    "accuracy_scratch_deviation_few",
    "accuracy_scratch_fewest",
    "accuracy_tfidf",
    "accuracy_tfidf_deviation",
    "accuracy_tfidf_few",
    "accuracy_tfidf_deviation_few",
    "accuracy_tfidf_fewest",
    "embedding_mrr",
    "gain",
    "gain_error",
    "corpus_sha256",
    "versions",
    "device",
    "seeds",
]


def made_up_documentation():
    """Three packages, each with words of its own beside the common ones."""
    generator = random.Random(0)

    def word():
        return "".join(generator.choices(SYLLABLES, k=generator.randrange(1, 4)))

    common = [word() for _ in range(60)]
    made = []
    for package in ("jax", "numpy", "scipy"):
        own = [word() for _ in range(40)]
        for file in range(24):
            for _ in range(8):
                said = [" ".join(generator.choices(own + common, k=14)) for _ in range(2)]
                text = f"It {said[0]}. It {said[1]}."
                made.append(Passage(package, f"{package}/file{file}.py", text))
    return made


@pytest.fixture
def small(monkeypatch):
    """The demo on a made-up documentation, in seconds."""
    monkeypatch.setattr(documentation, "installed_documentation", made_up_documentation)
    monkeypatch.setattr(Hyperparameters, "of", classmethod(lambda cls, minutes: TINY))
    sizes = TaskSizes(
        **{"classes": 3, "train": 24, "few": 8, "fewest": 4, "dev": 8, "test": 12},
        **{"pairs": 48, "dev_pairs": 12},
    )
    monkeypatch.setattr(passages, "TaskSizes", lambda: sizes)


@pytest.mark.slow
def test_the_whole_way_and_again(small, tmp_path, monkeypatch):
    workdir, said = tmp_path / "demo", []
    result = demo(DemoConfig(workdir=str(workdir)), said.append)
    numbers = json.loads((workdir / "report" / "numbers.json").read_text())
    assert numbers == json.loads(json.dumps(result.numbers))
    assert set(KEYS) <= numbers.keys()
    assert not result.stopped and result.report == workdir / "report" / "index.html"
    # The terminal ends with the report's verdict and the commands, whose paths exist.
    assert result.verdict == verdict(numbers) and result.verdict in said
    assert result.verdict.split(";")[0] in result.report.read_text().replace("&#x27;", "'")
    for name in ("pretrain", "finetune/pretrained-train"):
        assert (workdir / name / "export" / "config.json").exists()
        assert any(line.endswith(f"bertjax predict {workdir / name}") for line in said)
    for stage in demo_lib.STAGES[:-1]:
        assert numbers["seconds_by_stage"][stage] >= 0
    story = json.loads((workdir / "report" / "story.json").read_text())
    steps = numbers["steps"]
    assert [fill["step"] for fill in story["fills"]] == [0, steps // 10, steps]
    for fill in story["fills"]:
        assert [len(sentence["tokens"]) for sentence in fill["sentences"]] == [5] * 5

    warned = any(line.startswith("Warning: ") for line in said)
    assert warned == any(line.startswith("Documentation repeats itself") for line in said)

    # Again: nothing is done a second time, and the same comes out.
    def refuse(*arguments, **named):
        raise AssertionError("done before")

    monkeypatch.setattr(documentation, "installed_documentation", refuse)
    monkeypatch.setattr(pacing, "measure", refuse)
    said.clear()
    again = demo(DemoConfig(workdir=str(workdir)), said.append)
    assert again.numbers == result.numbers
    assert sum("done before" in line for line in said) == len(demo_lib.STAGES) - 1


def test_a_failed_stage_is_done_again_and_only_that(small, tmp_path, monkeypatch):
    workdir = tmp_path / "demo"
    config = DemoConfig(workdir=str(workdir))

    def fail(*arguments, **named):
        raise OSError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(pacing, "measure", fail)
        with pytest.raises(OSError, match="pulled the plug"):
            demo(config, lambda line: None)
    record = json.loads((workdir / "demo.json").read_text())
    assert list(record["stages"]) == ["corpus", "tokenizer", "prepare"]
    monkeypatch.setattr(documentation, "installed_documentation", fail)  # not called again
    monkeypatch.setattr(demo_lib._Demo, "_pretrain", fail)
    with pytest.raises(OSError, match="pulled the plug"):
        demo(config, lambda line: None)
    record = json.loads((workdir / "demo.json").read_text())
    assert list(record["stages"]) == ["corpus", "tokenizer", "prepare", "budget"]


def test_a_signal_stops_it_for_later(small, tmp_path, monkeypatch):
    def stop(self):
        raise Stopped("by a signal")

    monkeypatch.setattr(demo_lib._Demo, "_corpus", stop)
    result = demo(DemoConfig(workdir=str(tmp_path / "demo")), lambda line: None)
    assert result.stopped and result.report is None


def test_other_settings_in_the_same_directory_are_refused_by_name(small, tmp_path, monkeypatch):
    def stop(self):
        raise Stopped("by a signal")

    monkeypatch.setattr(demo_lib._Demo, "_corpus", stop)
    demo(DemoConfig(workdir=str(tmp_path)), lambda line: None)
    with pytest.raises(UserError, match="another minutes: give another `workdir`"):
        demo(DemoConfig(workdir=str(tmp_path), minutes=7), lambda line: None)
    with pytest.raises(UserError, match="another seed and seeds"):
        demo(DemoConfig(workdir=str(tmp_path), seed=7), lambda line: None)


@pytest.mark.parametrize("change", [{"minutes": 1}, {"minutes": float("nan")}, {"seed": -1}])
def test_settings_that_can_not_be(change):
    with pytest.raises(UserError, match=f"`{next(iter(change))}` is "):
        DemoConfig(**change)


def test_without_scikit_learn_it_says_so_before_anything(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[demo\]'"):
        demo(DemoConfig(workdir=str(tmp_path / "demo")), lambda line: None)
    assert not (tmp_path / "demo").exists()


def test_blanks_have_one_mask_each():
    assert len(summary.SENTENCES) == 5
    assert all(sentence.count("[MASK]") == 1 for sentence in summary.SENTENCES)
