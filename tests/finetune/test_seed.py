"""One seed: which weights it keeps, when it ends, what its checkpoints hold."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.finetune import seed as seed_module
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained
from bertjax.model.flops import task_flops, training_flops
from bertjax.rundir.records import read_tables
from bertjax.tasks.tables import read_table
from bertjax.train import loop
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.tree import named

# Dropout doubles the time to compile a step.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def quiet(line):
    del line


def test_patience_ends_a_seed_and_another_start_finds_it_done(config, read_records):
    """A learning rate at which nothing changes: no evaluation is better than the first."""
    still = dataclasses.replace(config.optimizer, learning_rate=1e-12)
    config = dataclasses.replace(
        config, optimizer=still, patience=2, select="best", eval_every=1, seeds=(0, 1)
    )
    lines = []
    result = finetune(config, lines.append, progress=False)
    ends = [line for line in lines if line.startswith("Ended early at step 3 of 40")]
    assert len(ends) == 2
    records = read_records(result)
    assert [record["step"] for record in records if record["kind"] == "eval"] == [1, 2, 3]
    lines.clear()
    again = finetune(config, lines.append, progress=False)
    assert again.seeds == result.seeds and not again.stopped
    assert sum("complete: step 3 of 40, where it ended early" in line for line in lines) == 2
    # The dev rows, and the metric on them, decided on the weights.
    with pytest.raises(UserError, match="another best_metric"):
        finetune(dataclasses.replace(config, best_metric="loss"), quiet, progress=False)


def test_the_lowest_loss_is_the_best(config, read_records):
    """The learning rate is so high that the loss rises."""
    high = dataclasses.replace(config.optimizer, learning_rate=0.3)
    config = dataclasses.replace(
        config, optimizer=high, select="best", best_metric="loss", epochs=3, eval_every=1
    )
    result = finetune(config, quiet, progress=False)
    losses = [record["loss"] for record in read_records(result) if record["kind"] == "eval"]
    assert result.mean == min(losses) < losses[-1]
    accuracy = result.seeds[0].metrics["accuracy"]
    scores = result.baseline.scores
    assert f"the most common label: {scores['loss']:.4f}), accuracy {accuracy:.4f} (the most " in (
        result.sentence()
    )


def test_select_best_takes_the_weights_of_the_best_evaluation(config, read_records):
    config = dataclasses.replace(config, select="best")
    result = finetune(config, quiet, progress=False)
    records = read_records(result)
    best = max(record["accuracy"] for record in records if record["kind"] == "eval")
    assert result.mean == best
    model = from_pretrained(config.workdir)
    assert predict.evaluate(model, config.dev)["accuracy"] == pytest.approx(best)


def test_tokens_and_flops_of_a_step_are_those_of_its_rows(
    short, tiny_model, make_trainer, monkeypatch, tmp_path, read_records
):
    steps = []

    def fit(*arguments, phases, **named):
        steps.append(phases[0].tokens_per_step)
        return loop.fit(*arguments, phases=phases, **named)

    monkeypatch.setattr(seed_module, "fit", fit)
    config = dataclasses.replace(short, workdir=str(tmp_path), log_every=1)
    result = finetune(config, quiet, progress=False)
    lengths = make_trainer(config)[0].lengths.tolist()
    assert steps == [round(sum(lengths) / 4)]
    record = next(record for record in read_records(result) if "tokens_per_second" in record)
    seconds = steps[0] / record["tokens_per_second"]
    head = "sequence_classification"
    forward = sum(task_flops(tiny_model.config, head, 2, length) for length in lengths) / 4
    assert record["model_flops_per_second"] * seconds == pytest.approx(training_flops(forward))


def test_lora_trains_adapters_and_head_and_exports_an_ordinary_model(
    config, tiny_model, make_trainer, tmp_path
):
    config = dataclasses.replace(
        config,
        **NO_DROPOUT,
        lora=LoraConfig(rank=4, alpha=8.0),
        select="best",
        save_every=7,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-2),
    )
    result = finetune(config, quiet, progress=False)
    assert result.mean > 0.8  # the most common label: 0.57
    exported = named(from_pretrained(config.workdir).params)
    for name, before in named(tiny_model.params).items():
        changes = name.endswith(("query/kernel", "value/kernel")) or name.startswith("pooler/")
        if not name.startswith(("mlm/", "nsp/")):
            assert (np.asarray(before).tobytes() != exported[name].tobytes()) == changes, name
    # Frozen parameters have neither moments nor a checkpoint.
    with Checkpoints(tmp_path / "run/seed-0/checkpoints", read_only=True) as checkpoints:
        saved = named(checkpoints.restore_params(which="best").state)
    trained = {name for name in saved if name.startswith("lora/encoder/layer_0/attention/")}
    assert len(trained) == 4
    assert saved.keys() - trained == {
        f"{part}/{leaf}" for part in ("pooler", "classifier") for leaf in ("kernel", "bias")
    }
    moments = named(make_trainer(config)[0].programs.abstract_state.opt_state)
    assert not any("embedding" in name or name.endswith("query/kernel") for name in moments)
    # The export scores as the run did.
    evaluated = predict.evaluate(from_pretrained(config.workdir), config.dev)
    assert evaluated == pytest.approx({"examples": 21, **result.seeds[0].metrics}, rel=1e-5)
    # A resumed run can't change it.
    another = {LoraConfig(3, 8.0): r"lora\.rank \(4 there, 3 here\)", LoraConfig(): "lora"}
    for change, name in another.items():
        with pytest.raises(UserError, match=f"another {name}"):
            finetune(dataclasses.replace(config, lora=change), quiet, progress=False)


def test_fine_tuning_with_frozen_parts_and_an_average(tiny_model, tmp_path):
    (tmp_path / "rows.tsv").write_text("text\tlabel\nthe good film\tpos\nthe bad film\tneg\n" * 8)
    rows = str(tmp_path / "rows.tsv")
    recipe = OptimizerConfig(
        "adamw",
        learning_rate=3e-2,
        schedule="wsd",
        layer_decay=0.8,
        freeze=("embeddings", "layer_0"),
        ema_decay=0.5,
    )
    config = FinetuneConfig(
        "given",
        rows,
        rows,
        workdir=str(tmp_path / "run"),
        epochs=4,
        batch_size=8,
        max_seq_length=16,
        optimizer=recipe,
        select="best",
        **NO_DROPOUT,
    )
    result = finetune(config, quiet, model=tiny_model, progress=False)
    exported = from_pretrained(str(tmp_path / "run"))
    found, before = named(exported.params), named(tiny_model.params)
    for name, leaf in found.items():
        frozen = name.startswith(("embeddings/", "encoder/"))
        assert frozen == (name in before and np.array_equal(leaf, before[name])), name
    scores = predict.evaluate(exported, rows)
    assert scores["loss"] == pytest.approx(result.seeds[0].metrics["loss"], rel=1e-5)

    other = dataclasses.replace(config, optimizer=OptimizerConfig(freeze=("nsp",)))
    wrong = dataclasses.replace(other, workdir=str(tmp_path / "other"))
    with pytest.raises(UserError, match="no group 'nsp'; it has classifier"):
        finetune(wrong, quiet, model=tiny_model, progress=False)
    moved = dataclasses.replace(config, optimizer=dataclasses.replace(recipe, layer_decay=1.0))
    with pytest.raises(UserError, match=r"optimizer.layer_decay \(0.8 there, 1.0 here\)"):
        finetune(moved, quiet, model=tiny_model, progress=False)


@contextlib.contextmanager
def stop_at_the_fifth_question():
    questions = itertools.count(1)
    yield lambda: next(questions) >= 5


def damage(step):
    """Truncates the arrays of a checkpoint."""
    for file in (file for file in step.rglob("*") if file.parent.name == "d"):
        file.write_bytes(file.read_bytes()[:10])


def test_the_mean_of_the_last_checkpoints_is_scored_and_exported(config, tmp_path, monkeypatch):
    """12 steps with checkpoints of 3, 6, 9 and 12, and one of a signal in step 4's evaluation."""
    config = dataclasses.replace(config, epochs=3, save_every=3, average_last=3)
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert "Averaged 3 of 3 checkpoints, of the steps 6, 9, 12." in lines
    score = result.seeds[0].metrics["accuracy"]
    assert f"The mean of the checkpoints has accuracy {score:.4f}." in lines
    model = from_pretrained(config.workdir)
    evaluated = predict.evaluate(model, config.dev)
    assert evaluated == pytest.approx({"examples": 21, **result.seeds[0].metrics}, rel=1e-5)
    directory = tmp_path / "run/seed-0/checkpoints"
    with Checkpoints(directory, read_only=True) as checkpoints:
        saved = [named(checkpoints.restore_params(which=step).state) for step in (6, 9, 12)]
    for name, leaf in named(model.params).items():
        wanted = np.mean([np.float64(params[name]) for params in saved], 0)
        # Roundings of float32, of weights up to 1 that change little from step to step.
        np.testing.assert_allclose(leaf, wanted, rtol=1e-6, atol=1e-7, err_msg=name)

    # The same command again, and a run that was stopped and resumed, have the same bits.
    weights = (tmp_path / "run/export/model.safetensors").read_bytes()
    assert finetune(config, quiet, progress=False).seeds == result.seeds
    other = dataclasses.replace(config, workdir=str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_the_fifth_question)
        assert finetune(other, quiet, progress=False).stopped
    assert (tmp_path / "other/seed-0/checkpoints/4").exists()
    assert finetune(other, quiet, progress=False).seeds[0].metrics == result.seeds[0].metrics
    for run in ("run", "other"):
        assert (tmp_path / run / "export/model.safetensors").read_bytes() == weights

    for name, value in (("average_last", 2), ("average_last", 0), ("save_every", 4)):
        with pytest.raises(UserError, match=f"another {name}"):
            finetune(dataclasses.replace(config, **{name: value}), quiet, progress=False)
    damage(directory / "9")
    lines.clear()
    finetune(config, lines.append, progress=False)
    assert "Warning: Averaged 2 of 3 checkpoints, of the steps 6, 12." in lines
    assert any(line.startswith("Warning: the checkpoint of step 9") for line in lines)


def test_a_mean_of_more_checkpoints_than_are_saved_is_refused(config, make_trainer):
    config = dataclasses.replace(config, epochs=2, save_every=3, average_last=4)  # 8 steps
    with pytest.raises(UserError, match=r"`average_last` is 4, and a run of 8 steps saves 3 reg"):
        make_trainer(config)
    make_trainer(dataclasses.replace(config, average_last=3))


def test_the_dev_rows_that_a_seed_gets_wrong_are_kept_for_its_report(finished, straight):
    """The same for a run that was complete, and for the best evaluation."""
    directory = epath.Path(finished.workdir) / "seed-0"
    (table,) = read_tables(directory)
    assert list(table.columns) == ["text", "label", "predicted"]
    texts = read_table(finished.dev, ["text", "label"]).columns
    answers = predict.predict(from_pretrained(finished.workdir), texts["text"])
    wrong = [
        [text, label, answer["label"]]
        for text, label, answer in zip(texts["text"], texts["label"], answers, strict=True)
        if answer["label"] != label
    ]
    assert sorted(table.rows) == sorted(wrong) and len(wrong) > 0
    assert len(wrong) == round(21 * (1 - straight.seeds[0].metrics["accuracy"]))
    (directory / "tables.json").unlink()
    finetune(finished, quiet, progress=False)
    assert read_tables(directory) == [table]
    best = dataclasses.replace(finished, select="best", fresh=True)
    result = finetune(best, quiet, progress=False)
    assert read_tables(epath.Path(result.workdir) / "seed-0") == [table]


def test_a_few_steps_have_about_ten_lines_and_one_says_that_it_compiles(config):
    """There are 4 steps an epoch."""
    lines = []
    finetune(dataclasses.replace(config, epochs=2, seeds=(0, 1)), lines.append, progress=False)
    steps = [line.split("  ")[0] for line in lines if line.startswith("step ")]
    assert steps == [f"step {step}/8" for step in range(1, 9)] * 2
    compiling = [line for line in lines if line.startswith("Compiling the step ...")]
    assert len(compiling) == 1
    assert lines.index(compiling[0]) + 1 == next(
        at for at, line in enumerate(lines) if line.startswith("step 1/8")
    )
