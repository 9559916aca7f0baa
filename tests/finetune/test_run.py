"""A fine-tuning run from files to an export: resumed, refused, stopped, on several devices."""

import contextlib
import copy
import dataclasses
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from bertjax.config import EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.finetune.run import finetune, with_dropout
from bertjax.finetune.trainer import Trainer
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.train import loop
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig


def quiet(line):
    del line


def weights(directory):
    return (directory / "model.safetensors").read_bytes()


def stop_at_question(number):
    """Returns a `stop_requests` whose signal comes before a certain question."""

    @contextlib.contextmanager
    def requests():
        asked = 0

        def stop():
            nonlocal asked
            asked += 1
            return asked >= number

        yield stop

    return requests


def test_learns_reports_exports_and_is_not_trained_twice(config, files, tmp_path):
    config = dataclasses.replace(config, seeds=(0, 2), test=files["test"])
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert not result.stopped and result.labels == ("neg", "pos")
    scores = [seed.metrics["accuracy"] for seed in result.seeds]
    assert max(scores) == 1.0
    assert result.mean == pytest.approx(np.mean(scores))
    assert result.median == pytest.approx(np.median(scores))
    assert result.deviation == pytest.approx(np.std(scores, ddof=1))
    assert [seed.seed for seed in result.seeds] == [0, 2]
    assert lines[-1] == result.sentence() and "over 2 seeds" in lines[-1]
    mean = np.mean([seed.test_metrics["accuracy"] for seed in result.seeds])
    common = result.test_baseline.scores["accuracy"]
    wanted = f"; on the test rows accuracy {mean:.4f} (the most common label: {common:.4f})."
    assert lines[-1].endswith(wanted)
    shown = [line for line in lines if line.startswith("test rows  accuracy ")]
    assert len(shown) == 2 and f"(majority {common:.3f})  loss 0." in shown[0]

    # The export is the best seed, and scores as the run did.
    best = max(result.seeds, key=lambda seed: seed.metrics["accuracy"])
    model = from_pretrained(config.workdir)
    for path, metrics in ((files["dev"], best.metrics), (files["test"], best.test_metrics)):
        again = predict.evaluate(model, path)
        assert again == pytest.approx({"examples": again["examples"], **metrics}, rel=1e-5)

    # The same command again trains nothing and writes the same.
    before, lines[:] = weights(tmp_path / "run/export"), []
    repeated = finetune(config, lines.append, progress=False)
    assert repeated.seeds == result.seeds
    assert weights(tmp_path / "run/export") == before
    assert sum("is complete" in line for line in lines) == 2
    assert not any(line.startswith("step ") for line in lines)
    saved = json.loads((tmp_path / "run/result.json").read_text())
    assert saved["mean"] == result.mean and saved["seeds"][1]["seed"] == 2


@pytest.mark.parametrize("question", [1, 2, 5])
def test_stopped_and_resumed_is_bitwise_the_run_that_was_not(
    short, straight, tmp_path, monkeypatch, question
):
    broken = dataclasses.replace(short, workdir=str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_question(question))
        stopped = finetune(broken, quiet, progress=False)
    assert stopped.stopped and stopped.export is None and stopped.seeds == ()
    assert not (tmp_path / "other/export").exists()
    resumed = finetune(broken, quiet, progress=False)
    assert resumed.seeds[0].metrics == straight.seeds[0].metrics
    exported = weights(tmp_path / "other/export")
    assert exported == weights(pathlib.Path(straight.export))


def test_seeds_rates_epochs_and_arms_share_the_compiled_program(
    short, straight, make_trainer, tmp_path
):
    program = make_trainer(short)[0].programs.train_step
    before = program._cache_size()
    config = dataclasses.replace(short, seeds=(0, 1), learning_rates=(1e-3, 1e-2))
    for arm in (False, True):
        change = {"from_scratch": arm, "workdir": str(tmp_path / str(arm)), "epochs": 1 + arm}
        finetune(dataclasses.replace(config, **change), quiet, progress=False)
    assert program._cache_size() == before > 0


def test_the_given_model_is_left_as_it_was(short, tiny_model, tmp_path):
    before = jax.tree.map(np.array, tiny_model.params)
    config = dataclasses.replace(short, workdir=str(tmp_path / "run"))
    finetune(config, quiet, model=tiny_model, progress=False)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(tiny_model.params))


def test_the_dropout_of_a_configuration_replaces_the_models(short, tiny_model, tmp_path):
    config = dataclasses.replace(short, hidden_dropout_prob=0.3)
    assert with_dropout(short, tiny_model) == tiny_model
    half = with_dropout(config, tiny_model).config
    assert half.hidden_dropout_prob == 0.3
    assert half.attention_probs_dropout_prob == tiny_model.config.attention_probs_dropout_prob
    both = EncoderDecoderConfig(tiny_model.config, tiny_model.config, "all")
    both = with_dropout(config, dataclasses.replace(tiny_model, config=both)).config
    assert both == EncoderDecoderConfig(half, half, "all")
    fields = {"attention_probs_dropout_prob": 1.0, "workdir": str(tmp_path / "run")}
    wrong = dataclasses.replace(short, **fields)
    with pytest.raises(
        UserError, match=r"attention_probs_dropout_prob is 1\.0: give a number from"
    ):
        finetune(wrong, quiet, model=tiny_model, progress=False)


PROGRAM = """
import json, sys
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig

fields = json.loads(sys.argv[1])
fields["mesh"] = MeshConfig(**fields["mesh"])
fields["optimizer"] = OptimizerConfig(**fields["optimizer"])
result = finetune(FinetuneConfig(**fields), lambda line: None, progress=False)
print(json.dumps(result.seeds[0].metrics))
"""


def test_four_devices_give_what_one_gives(short, straight, run_python, tmp_path):
    four = dataclasses.replace(
        short, workdir=str(tmp_path / "run"), mesh=MeshConfig(data=2, fsdp=2)
    )
    names = ("model", "train", "dev", "workdir", "epochs", "batch_size", "max_seq_length")
    fields = {name: getattr(four, name) for name in names}
    fields |= {name: dataclasses.asdict(getattr(four, name)) for name in ("mesh", "optimizer")}
    printed = run_python("-c", PROGRAM, json.dumps(fields), devices=4)
    other = json.loads(printed.splitlines()[-1])
    # Sums of float32 in another order, which Adam divides by the size of small gradients: after
    # 4 steps at 3e-3 the loss differed by 1.6e-6 of itself.
    assert other["loss"] == pytest.approx(straight.seeds[0].metrics["loss"], rel=1e-5)
    assert other["accuracy"] == straight.seeds[0].metrics["accuracy"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"optimizer": OptimizerConfig(learning_rate=5e-3)}, "optimizer.learning_rate"),
        ({"batch_size": 8}, "batch_size"),
        ({"from_scratch": True}, "model.weights"),
        ({"max_seq_length": 31}, "max_seq_length"),
        ({"group_by_length": True}, "group_by_length"),
        ({"hidden_dropout_prob": 0.3}, "hidden_dropout_prob"),
        ({"batch_size": 8, "seeds": (1,)}, "batch_size"),  # this seed was not trained before
        ({"learning_rates": (1e-3, 3e-3)}, "optimizer.learning_rate"),
        ({"epoch_counts": (1, 2)}, r"epochs \("),
    ],
)
def test_another_run_in_the_same_directory_is_refused_by_name(short, straight, change, name):
    with pytest.raises(UserError, match=f"another {name}") as caught:
        finetune(dataclasses.replace(short, **change), quiet, progress=False)
    assert "`fresh`" in str(caught.value)


def test_another_target_is_refused_by_name(short, straight, with_task):
    numbers = with_task(short, regression=True, label_column="stars")
    with pytest.raises(UserError, match=r"another task.regression \(false there, true here\)"):
        finetune(numbers, quiet, progress=False)


def test_a_refused_run_leaves_everything_as_it_was(finished, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="batch_size"):
        finetune(dataclasses.replace(finished, batch_size=8), quiet, progress=False)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # Mutable settings are written with the result.
    finetune(dataclasses.replace(finished, log_every=7, seeds=(0, 1)), quiet, progress=False)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["kind"], saved["log_every"], saved["seeds"]) == ("fine-tuning", 7, [0, 1])
    assert saved["task"]["kind"] == "classification"


@pytest.mark.parametrize("what", ["a pre-training run", "a config.json that is of no run"])
def test_a_directory_of_something_else_is_refused(config, tmp_path, what):
    other = tmp_path / "run"
    other.mkdir()
    kind = {"kind": "pre-training"} if "pre-training" in what else {"model_type": "bert"}
    (other / "config.json").write_text(json.dumps(kind))
    with pytest.raises(UserError, match=f"run: holds {what}, and this is a fine-tuning run"):
        finetune(config, quiet, progress=False)
    assert [path.name for path in other.iterdir()] == ["config.json"]
    assert json.loads((other / "config.json").read_text()) == kind


def test_other_dev_rows_are_scored_again(finished, files):
    lines = []
    result = finetune(
        dataclasses.replace(finished, dev=files["test"]), lines.append, progress=False
    )
    assert any("changed: dev rows " in line for line in lines)
    scores = predict.evaluate(from_pretrained(finished.workdir), files["test"])
    assert scores["examples"] == 13
    assert {"examples": 13.0, **result.seeds[0].metrics} == pytest.approx(scores, rel=1e-5)


def test_other_dev_rows_are_refused_if_they_chose_the_weights(short, files, tmp_path):
    config = dataclasses.replace(short, select="best", workdir=str(tmp_path / "run"))
    finetune(config, quiet, progress=False)
    with pytest.raises(
        UserError, match=r"another dev \(dev.tsv, SHA-256 \w+ there, test.tsv, SHA-256 \w+ here"
    ):
        finetune(dataclasses.replace(config, dev=files["test"]), quiet, progress=False)


@pytest.mark.parametrize("seeds_done", [0, 1])
def test_a_signal_while_test_rows_are_scored_stops_and_is_resumed(
    short, files, tmp_path, monkeypatch, seeds_done
):
    config = dataclasses.replace(
        short, workdir=str(tmp_path / "run"), seeds=(0, 1), test=files["test"]
    )
    evaluate, times = Trainer.evaluate, []

    def signalled(self, params, features, *more, **named):
        if features is self.task.test:
            times.append(1)
            if len(times) == seeds_done + 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, params, features, *more, **named)

    monkeypatch.setattr(Trainer, "evaluate", signalled)
    lines = []
    stopped = finetune(config, lines.append, progress=False)
    assert stopped.stopped and len(stopped.seeds) == seeds_done
    assert lines[-1] == f"Stopped after {seeds_done} finished seeds; the same command resumes."
    assert not (tmp_path / "run/export").exists() and not (tmp_path / "run/result.json").exists()
    resumed = finetune(config, quiet, progress=False)
    assert not resumed.stopped and len(resumed.seeds) == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("line", "nth", "seeds_done"),
    [
        ("Seed 0", 1, 0),  # before the first step
        ("eval at 4", 1, 1),  # in the last step of a seed, which leaves nothing of it to resume
        ("eval at 4", 3, 3),  # before the export
    ],
)
def test_a_signal_outside_of_the_steps_is_not_forgotten(
    short, straight, tmp_path, line, nth, seeds_done
):
    config = dataclasses.replace(short, workdir=str(tmp_path / "run"), seeds=(0, 1, 2))
    seen = []

    def log(said):
        seen.append(said.startswith(line))
        if seen[-1] and sum(seen) == nth:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = finetune(config, log, progress=False)
    assert stopped.stopped and len(stopped.seeds) == seeds_done
    assert not (tmp_path / "run/export").exists()
    assert not (tmp_path / f"run/seed-{seeds_done + 1}").exists()
    resumed = finetune(config, quiet, progress=False)
    assert [seed.seed for seed in resumed.seeds] == [0, 1, 2]
    assert resumed.seeds[0].metrics == straight.seeds[0].metrics


def test_a_second_run_in_the_directory_is_refused_and_changes_nothing(short, tmp_path):
    config = dataclasses.replace(short, workdir=str(tmp_path / "run"))
    refusals = []

    def log(said):
        if said.startswith("Seed 0"):
            with pytest.raises(UserError, match=f"another command .*process {os.getpid()} on "):
                finetune(config, quiet, progress=False)
            refusals.append(said)

    assert not finetune(config, log, progress=False).stopped
    assert len(refusals) == 1


def test_fresh_starts_beside_the_old_run(finished, tmp_path):
    other = dataclasses.replace(finished, fresh=True, from_scratch=True)
    second = finetune(other, quiet, progress=False)
    assert second.workdir == str(tmp_path / "run-2")
    assert (tmp_path / "run/export").exists() and (tmp_path / "run-2/export").exists()


def test_a_changed_setting_is_told_before_anything_is_read(finished, monkeypatch, files, with_task):
    monkeypatch.setattr("bertjax.finetune.run.load_model", None)
    recipe, kind = finished.optimizer, QuestionAnsweringConfig()
    for change, said in (
        ({"batch_size": 32}, r"another batch_size \(16 there, 32 here\): set `fresh`"),
        ({"batch_sizes": (8, 16)}, r"another batch_size \(16 there, several here\)"),
        (
            {"optimizer": dataclasses.replace(recipe, weight_decay=0.5)},
            r"another optimizer.weight_decay \(0.01 there, 0.5 here\)",
        ),
        ({"batch_tokens": 64}, r"another batch_tokens \(absent there, 64 here\)"),
        ({"hidden_dropout_prob": 0.3}, r"another hidden_dropout_prob \(absent there, 0.3 here\)"),
        ({"from_scratch": True}, r"another model.weights \("),
        ({"keep_head": True}, r"another keep_head \(absent there, true here\)"),
        ({"task": kind}, r"another task.kind \(classification there, question_answering here\)"),
        ({"epoch_counts": (1, 2)}, r"another epochs \(absent there, several here\)"),
        (
            {"train": files["test"]},
            r"another train \(train.tsv, SHA-256 \w+ there, test.tsv, SHA-256 \w+ here\)",
        ),
    ):
        with pytest.raises(UserError, match=said):
            finetune(dataclasses.replace(finished, **change), quiet, progress=False)
    windows = with_task(finished, long_documents="windows")
    with pytest.raises(UserError, match=r"another task.long_documents \(truncate there, windows"):
        finetune(windows, quiet, progress=False)


def test_another_model_is_told_before_weights_and_rows_are_read(
    finished, monkeypatch, tiny_model, tmp_path
):
    monkeypatch.setattr("bertjax.finetune.run.read_task", None)
    monkeypatch.setattr("bertjax.interop.huggingface.read_weights", None)
    other = copy.copy(tiny_model)
    other.config = dataclasses.replace(tiny_model.config, hidden_act="relu")
    save_pretrained(tmp_path / "other", other)
    for change, said in (
        ({"max_seq_length": 31}, r"another max_seq_length \(16 there, 31 here\)"),
        ({"model": str(tmp_path / "other")}, r"another model.hidden_act \(gelu there, relu here\)"),
    ):
        with pytest.raises(UserError, match=said):
            finetune(dataclasses.replace(finished, **change), quiet, progress=False)


def test_the_same_rows_under_another_name_go_on(finished, tmp_path):
    shutil.copy(finished.train, tmp_path / "copy.tsv")
    moved = dataclasses.replace(finished, train=str(tmp_path / "copy.tsv"))
    assert not finetune(moved, quiet, progress=False).stopped
