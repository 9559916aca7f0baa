import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import signal

import jax
import numpy as np
import optax
import pytest

from bertjax.errors import UserError
from bertjax.finetune import trainer as seeds
from bertjax.finetune.read_task import read_task
from bertjax.finetune.run import FinetuneConfig, finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.model.flops import task_flops, training_flops
from bertjax.train import loop
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig, make_schedule
from bertjax.train.sharding import MeshConfig
from bertjax.train.tree import named

LONG, SHORT = 10, 1
GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")


def write_rows(path, count, seed):
    """Rows whose words give the label away, of many lengths."""
    generator = random.Random(seed)
    lines = ["text\tlabel\tstars"]
    for _ in range(count):
        label = generator.choice(["pos", "neg"])
        words = generator.choices(GOOD if label == "pos" else BAD, k=generator.randint(1, 26))
        stars = 4.5 if label == "pos" else 1
        lines.append(f"the film was {' '.join(words)} .\t{label}\t{stars}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    return {
        "train": write_rows(directory / "train.tsv", 60, 0),
        "dev": write_rows(directory / "dev.tsv", 21, 1),
        "test": write_rows(directory / "test.tsv", 13, 2),
    }


@pytest.fixture
def config(files, tmp_path, tiny_model):
    """60 rows in batches of 16: the last batch of an epoch is ragged."""
    save_pretrained(tmp_path / "model", tiny_model)
    return FinetuneConfig(
        model=str(tmp_path / "model"),
        train=files["train"],
        dev=files["dev"],
        workdir=str(tmp_path / "run"),
        epochs=LONG,
        batch_size=16,
        max_seq_length=16,  # one bucket: one program to compile
        optimizer=OptimizerConfig(learning_rate=3e-3),
    )


def quiet(line):
    del line


def weights(directory):
    return (directory / "model.safetensors").read_bytes()


def stop_at_question(number):
    """As `stop_requests`, but a signal comes before the so-and-so-many-th question."""

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

    # What was exported is the best seed, and says of the files what the run said.
    best = max(result.seeds, key=lambda seed: seed.metrics["accuracy"])
    model = from_pretrained(config.workdir)
    for path, metrics in ((files["dev"], best.metrics), (files["test"], best.test_metrics)):
        again = predict.evaluate(model, path)
        assert again == pytest.approx({"examples": again["examples"], **metrics}, rel=1e-5)

    # The same command again: nothing is trained, everything is the same.
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
    config, tmp_path, monkeypatch, question
):
    config = dataclasses.replace(config, epochs=SHORT)
    straight = finetune(config, quiet, progress=False)
    broken = dataclasses.replace(config, workdir=str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_question(question))
        stopped = finetune(broken, quiet, progress=False)
    assert stopped.stopped and stopped.export is None and stopped.seeds == ()
    assert not (tmp_path / "other/export").exists()
    resumed = finetune(broken, quiet, progress=False)
    assert resumed.seeds[0].metrics == straight.seeds[0].metrics
    assert weights(tmp_path / "other/export") == weights(tmp_path / "run/export")


def test_seeds_vary_head_order_and_dropout_but_not_the_weights_they_start_from(config, tiny_model):
    trainer = make_trainer(config, tiny_model)
    first, again, other = (trainer.initial(seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["classifier"]["kernel"] != other["classifier"]["kernel"]).all()
    for part in ("embeddings", "encoder", "pooler"):
        jax.tree.map(np.testing.assert_array_equal, first[part], other[part])
        jax.tree.map(np.testing.assert_array_equal, first[part], tiny_model.params[part])
    batches = [trainer.batch(seed, plan_of(trainer), 0) for seed in (0, 1)]
    assert trainer.task.train.labels.tolist() != []
    orders = [np.asarray(batch["input_ids"]).tolist() for batch in batches]
    assert orders[0] != orders[1]
    # The same batch and the same weights, but another seed: only dropout differs.
    losses = []
    for seed in (0, 1):
        state = trainer.programs.make_state(first)
        hyperparameters = trainer.hyperparameters(seed, plan_of(trainer))
        _, metrics = trainer.programs.train_step(state, batches[0], hyperparameters)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


def test_from_scratch_starts_from_random_weights_of_the_same_shape(config, tiny_model):
    scratch = make_trainer(dataclasses.replace(config, from_scratch=True), tiny_model)
    tuned = make_trainer(config, tiny_model)
    assert scratch.programs is tuned.programs  # compiled once for both arms
    a, b, other = scratch.initial(0), tuned.initial(0), scratch.initial(1)
    assert jax.tree.map(np.shape, a) == jax.tree.map(np.shape, b)
    table = ("embeddings", "word_embeddings", "embedding")
    assert (pick(a, table) != pick(b, table)).all()
    assert (pick(a, table) != pick(other, table)).all()


def test_programs_compile_once_a_width_whatever_the_seeds_rates_and_arms(config, tiny_model):
    config = dataclasses.replace(
        config,
        seeds=(0, 1),
        learning_rates=(1e-3, 1e-2),
        epochs=SHORT,
        batch_size=4,
        pair_column="text",
        max_seq_length=40,
    )
    trainer = make_trainer(config, tiny_model)
    before = trainer.programs.train_step._cache_size()
    widths = {
        trainer.batch(seed, plan_of(trainer), step)["input_ids"].shape[1]
        for seed in config.seeds
        for step in range(plan_of(trainer).steps)
    }
    for arm in (False, True):
        workdir = f"{config.workdir}-{arm}"
        change = {"from_scratch": arm, "workdir": workdir, "epochs": 1 + arm}
        finetune(dataclasses.replace(config, **change), quiet, progress=False)
    assert len(widths) == 2
    assert trainer.programs.train_step._cache_size() == before + 2


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_is_seen_once_an_epoch_and_padding_weighs_nothing(config, tiny_model, grouped):
    config = dataclasses.replace(config, group_by_length=grouped)
    trainer = make_trainer(config, tiny_model)
    assert plan_of(trainer).epoch_steps == 4
    lengths, weight = [], 0.0
    for step in range(4):
        batch = jax.device_get(trainer.batch(0, plan_of(trainer), step))
        real = batch["example_weight"] > 0
        lengths += batch["attention_mask"][real].sum(1).tolist()
        weight += batch["example_weight"].sum()
        assert batch["input_ids"].shape[1] in trainer.buckets
    assert sorted(lengths) == sorted(trainer.lengths.tolist())
    assert weight == 60


def test_a_steps_tokens_and_flops_are_of_the_rows_there_are(config, tiny_model, monkeypatch):
    steps = []

    def fit(*arguments, phases, **named):
        steps.append(phases[0].tokens_per_step)
        return loop.fit(*arguments, phases=phases, **named)

    monkeypatch.setattr(seeds, "fit", fit)
    config = dataclasses.replace(config, epochs=SHORT, log_every=1)
    result = finetune(config, quiet, progress=False)
    lengths = make_trainer(config, tiny_model).lengths.tolist()
    assert steps == [round(sum(lengths) / 4)]
    record = next(record for record in read_records(result) if "tokens_per_second" in record)
    seconds = steps[0] / record["tokens_per_second"]
    kind = "sequence_classification"
    forward = sum(task_flops(tiny_model.config, kind, 2, length) for length in lengths) / 4
    assert record["model_flops_per_second"] * seconds == pytest.approx(training_flops(forward))


def test_the_loss_of_a_ragged_batch_ignores_its_padding(config, tiny_model):
    trainer = make_trainer(config, tiny_model)
    ragged = dict(trainer.batch(0, plan_of(trainer), 3))  # 12 rows and 4 of padding
    params = trainer.initial(0)
    results = []
    for label in (0, 1):
        labels = np.array(ragged["label"])
        labels[np.asarray(ragged["example_weight"]) == 0] = label
        labels = jax.device_put(labels, ragged["label"].sharding)
        state = trainer.programs.make_state(params)
        batch = {**ragged, "label": labels}
        hyperparameters = trainer.hyperparameters(0, plan_of(trainer))
        state, _ = trainer.programs.train_step(state, batch, hyperparameters)
        results.append(jax.device_get(state.params))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_the_model_that_was_given_is_left_as_it_was(config, tiny_model):
    before = jax.tree.map(np.array, tiny_model.params)
    config = dataclasses.replace(config, epochs=SHORT)
    finetune(config, quiet, model=tiny_model, progress=False)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(tiny_model.params))


def test_the_hyperparameters_of_the_step_give_its_learning_rate(config, tiny_model):
    recipe = OptimizerConfig(
        learning_rate=3e-3, warmup_steps=2, schedule="cosine", end_ratio=0.1, cooldown_steps=3
    )
    trainer = make_trainer(dataclasses.replace(config, optimizer=recipe), tiny_model)
    state = jax.device_get(trainer.programs.make_state(trainer.initial(0)))
    plan = trainer.plan(trainer.settings[0])
    theirs = make_schedule(recipe, plan.steps)
    batch, given = trainer.batch(0, plan, 0), trainer.hyperparameters(0, plan)
    for count in (0, 1, 2, plan.steps - 3, plan.steps - 1):
        at = state.replace(updates=np.int32(count), opt_state=at_count(state.opt_state, count))
        new, metrics = trainer.programs.train_step(at, batch, given)
        rate = float(theirs(count))
        assert float(metrics["learning_rate"]) == pytest.approx(rate, rel=1e-6)  # float32
        changed = pick(new.params, ("classifier", "bias")) - state.params["classifier"]["bias"]
        # The first update of adamw_google is rate * 0.1 g / (sqrt(0.001) |g|).
        np.testing.assert_allclose(np.abs(changed), rate * 0.1 / np.sqrt(0.001), rtol=1e-3)


def at_count(opt_state, count):
    return optax.tree.set(opt_state, count=np.int32(count))


def test_a_frozen_encoder_is_exported_as_it_was(config, tiny_model):
    frozen = dataclasses.replace(config.optimizer, freeze=("embeddings", "encoder"))
    config = dataclasses.replace(config, optimizer=frozen, epochs=SHORT)
    finetune(config, quiet, progress=False)
    exported = named(from_pretrained(config.workdir).params)
    for name, before in named(tiny_model.params).items():
        if not name.startswith(("mlm/", "nsp/")):
            changed = np.asarray(before).tobytes() != np.asarray(exported[name]).tobytes()
            assert changed == name.startswith("pooler/"), name


def test_the_best_learning_rate_of_the_first_seed_is_kept_for_all(config):
    config = dataclasses.replace(config, learning_rates=(1e-6, 3e-3), seeds=(0, 1))
    result = finetune(config, quiet, progress=False)
    worse, better = result.tried.values()
    assert list(result.tried) == [(1e-6, 16, LONG), (3e-3, 16, LONG)]
    assert result.learning_rate == 3e-3 and better > worse
    assert {seed.learning_rate for seed in result.seeds} == {3e-3}
    records = read_records(result)
    rates = [record["learning_rate"] for record in records if record["kind"] == "train"]
    assert 0 < max(rates) <= 3e-3


def test_the_whole_grid_is_tried_with_the_first_seed(config, tiny_model, tmp_path):
    config = dataclasses.replace(
        config,
        batch_sizes=(10, 20),
        epoch_counts=(1, 2),
        seeds=(0, 1),
        best_metric="loss",
    )
    program = make_trainer(config, tiny_model).programs.train_step
    before, lines = program._cache_size(), []
    result = finetune(config, lines.append, progress=False)
    assert program._cache_size() == before + 2  # a shape for each batch size
    assert list(result.tried) == list(itertools.product((3e-3,), (10, 20), (1, 2)))
    best = min(result.tried, key=result.tried.get)
    assert (result.learning_rate, result.batch_size, result.epochs) == best
    assert result.metric == "loss"
    assert [seed[1:4] for seed in result.seeds] == [best, best]
    assert result.seeds[0].metrics["loss"] == result.tried[best]
    # Each setting has so many steps and rows as it says.
    for _, size, epochs in result.tried:
        seed = tmp_path / "run" / f"batch-size-{size}-epochs-{epochs}" / "seed-0"
        assert sorted(path.name for path in (seed / "checkpoints").iterdir()) == [
            str(epochs * -(-60 // size))
        ]
    # The table is told at the end, and kept; the export is the seed with the least loss.
    table = lines[-len(result.tried) - 2 : -1]
    assert table[0].split() == ["batch", "size", "epochs", "loss"]  # of one learning rate
    marked = [line.split() for line in table if line.endswith("  best")]
    assert marked == [[str(best[1]), str(best[2]), f"{result.tried[best]:.4f}", "best"]]
    saved = json.loads((tmp_path / "run/result.json").read_text())
    assert saved["tried"][0].keys() == {"learning_rate", "batch_size", "epochs", "loss"}
    least = min(seed.metrics["loss"] for seed in result.seeds)
    evaluated = predict.evaluate(from_pretrained(config.workdir), config.dev)
    assert evaluated["loss"] == pytest.approx(least, rel=1e-5)  # another batch size


def test_patience_ends_a_seed_and_another_start_finds_it_done(config):
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


def test_less_loss_is_better(config):
    """Rates so high that the loss rises in the end."""
    high = dataclasses.replace(config.optimizer, learning_rate=0.3, schedule="constant")
    config = dataclasses.replace(
        config, optimizer=high, select="best", best_metric="loss", epochs=3, eval_every=2
    )
    result = finetune(config, quiet, progress=False)
    losses = [record["loss"] for record in read_records(result) if record["kind"] == "eval"]
    assert result.mean == min(losses) < losses[-1]
    assert result.baseline is None and "commonest" not in result.sentence()


def test_select_best_takes_the_weights_of_the_best_evaluation(config):
    config = dataclasses.replace(config, select="best")
    result = finetune(config, quiet, progress=False)
    records = read_records(result)
    best = max(record["accuracy"] for record in records if record["kind"] == "eval")
    assert result.mean == best
    model = from_pretrained(config.workdir)
    assert predict.evaluate(model, config.dev)["accuracy"] == pytest.approx(best)


def test_regression(config, tmp_path):
    config = dataclasses.replace(config, regression=True, label_column="stars")
    result = finetune(config, quiet, progress=False)
    assert result.metric == "spearman" and result.labels == () and result.baseline is None
    assert result.mean > 0.5
    model = from_pretrained(tmp_path / "run")
    assert model.kind == "regression"
    bad, good = predict.predict(
        model, ["the film was bad", "the film was" + " very" * 20 + " good"]
    )
    assert good["score"] > bad["score"] and set(bad) == {"text", "score"}


def test_class_weights_are_of_the_training_rows_alone(config, tiny_model):
    weighted = dataclasses.replace(config, class_weights={"neg": 4.0}, epochs=SHORT)
    trainer = make_trainer(weighted, tiny_model)
    batch = jax.device_get(trainer.batch(0, plan_of(trainer), 0))
    assert batch["example_weight"].tolist() == np.where(batch["label"] == 0, 4.0, 1.0).tolist()
    assert trainer.task.labels == ("neg", "pos")
    dev = trainer.task.dev.batch(np.arange(5), 32)
    assert dev["example_weight"].tolist() == [1.0] * 5
    plain = make_trainer(dataclasses.replace(weighted, class_weights=None), tiny_model)
    assert plain.programs is trainer.programs
    finetune(dataclasses.replace(weighted, class_weights="balanced"), quiet, progress=False)
    with pytest.raises(UserError, match="another class_weights"):
        finetune(weighted, quiet, progress=False)


def test_long_documents_are_read_to_their_end_by_windows(config, tmp_path):
    """The word that tells comes after more tokens than a row has: cut, no row would have it."""
    generator = random.Random(6)
    for name, count in (("train", 48), ("dev", 24)):
        lines = ["text\tlabel"]
        for _ in range(count):
            word = generator.choice(["good", "bad"])
            neutral = "the film was " * generator.randint(3, 5)
            lines.append(f"{neutral}{' '.join([word] * 4)}\t{word}")
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    config = dataclasses.replace(
        config,
        train=str(tmp_path / "train.tsv"),
        dev=str(tmp_path / "dev.tsv"),
        max_seq_length=10,
        long_documents="windows",
        window_logits="max",
        eval_every=1000,
    )
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert "windows of up to 10 tokens" in lines[0] and "48 rows" in lines[0]
    assert result.mean > 0.9
    model = from_pretrained(config.workdir)
    fields = ("long_documents", "window_overlap", "window_logits")
    assert [model.task[field] for field in fields] == ["windows", 2, "max"]
    scores = predict.evaluate(model, config.dev)
    assert scores == pytest.approx({"examples": 24, **result.seeds[0].metrics}, rel=1e-5)
    (answer,) = predict.predict(model, ["the film was " * 6 + "bad bad bad bad"])
    assert answer["label"] == "bad"
    cut = dataclasses.replace(model, task={**model.task, "long_documents": "cut"})
    assert predict.evaluate(cut, config.dev)["accuracy"] < scores["accuracy"]


def test_lora_trains_adapters_and_head_and_exports_an_ordinary_model(config, tiny_model, tmp_path):
    config = dataclasses.replace(
        config,
        lora=LoraConfig(rank=4, alpha=8.0),
        select="best",
        save_every=7,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-2),
    )
    result = finetune(config, quiet, progress=False)
    assert result.mean > 0.8  # the commonest label: 0.57
    exported = named(from_pretrained(config.workdir).params)
    for name, before in named(tiny_model.params).items():
        changes = name.endswith(("query/kernel", "value/kernel")) or name.startswith("pooler/")
        if not name.startswith(("mlm/", "nsp/")):
            assert (np.asarray(before).tobytes() != exported[name].tobytes()) == changes, name
    # Neither moments nor a checkpoint of what is frozen.
    with Checkpoints(tmp_path / "run/seed-0/checkpoints", read_only=True) as checkpoints:
        saved = named(checkpoints.restore_params(which="best").state)
    trained = {name for name in saved if name.startswith("lora/encoder/layer_0/attention/")}
    assert len(trained) == 4
    assert saved.keys() - trained == {
        f"{part}/{leaf}" for part in ("pooler", "classifier") for leaf in ("kernel", "bias")
    }
    trainer = make_trainer(config, tiny_model)
    moments = named(trainer.programs.abstract_state.opt_state)
    assert not any("embedding" in name or name.endswith("query/kernel") for name in moments)
    # The export says what the run said.
    evaluated = predict.evaluate(from_pretrained(config.workdir), config.dev)
    assert evaluated == pytest.approx({"examples": 21, **result.seeds[0].metrics}, rel=1e-5)
    # It is held on resume.
    another = {LoraConfig(3, 8.0): r"lora\.rank \(4 there, 3 here\)", LoraConfig(): "lora"}
    for change, name in another.items():
        with pytest.raises(UserError, match=f"another {name}"):
            finetune(dataclasses.replace(config, lora=change), quiet, progress=False)


def test_before_the_first_step_lora_is_the_model_with_a_new_head(config, tiny_model):
    plain = make_trainer(config, tiny_model)
    adapted = make_trainer(dataclasses.replace(config, lora=LoraConfig(rank=2)), tiny_model)
    whole = adapted._whole(adapted.initial(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), plain.initial(0))


def test_several_labels_a_text(config, tmp_path):
    generator = random.Random(5)
    for name, count in (("train", 80), ("dev", 30)):
        lines = ["text\tlabel"]
        for _ in range(count):
            there = generator.sample(["good", "bad"], generator.randint(0, 2))
            lines.append(f"the film was {' '.join(there)} .\t{', '.join(there)}")
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    config = dataclasses.replace(
        config,
        train=str(tmp_path / "train.tsv"),
        dev=str(tmp_path / "dev.tsv"),
        multi_label=True,
        label_separator=",",
        epochs=2 * LONG,  # 100 steps
        eval_every=50,
    )
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert result.metric == "micro_f1" and result.labels == ("bad", "good")
    assert result.baseline is None and result.mean > 0.95
    assert any(line.startswith("eval") and "exact_match" in line for line in lines)
    model = from_pretrained(tmp_path / "run")
    assert model.kind == "multi_label_classification"
    evaluated = predict.evaluate(model, config.dev)
    assert evaluated == pytest.approx({"examples": 30, **result.seeds[0].metrics}, rel=1e-5)
    texts = ["the film was bad good .", "the film was good .", "the film was ."]
    answers = predict.predict(model, texts)
    assert [answer["labels"] for answer in answers] == [["bad", "good"], ["good"], []]
    assert answers[1].keys() == {"text", "labels", "scores"}
    assert answers[1]["scores"]["good"] >= 0.5 > answers[1]["scores"]["bad"]


PROGRAM = """
import dataclasses, json, sys
from bertjax.config import Execution
from bertjax.finetune.run import FinetuneConfig, finetune
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig

fields = json.loads(sys.argv[1])
fields["mesh"] = MeshConfig(**fields["mesh"])
fields["optimizer"] = OptimizerConfig(**fields["optimizer"])
fields["execution"] = Execution(**fields["execution"])
fields["seeds"] = tuple(fields["seeds"])
for name in ("initialization", "lora", "telemetry", "question_answering"):
    del fields[name]  # as they are by default
result = finetune(FinetuneConfig(**fields), lambda line: None, progress=False)
print(json.dumps(result.seeds[0].metrics))
"""


def test_four_devices_give_what_one_gives(config, run_python):
    config = dataclasses.replace(config, epochs=SHORT)
    one = finetune(config, quiet, progress=False)
    four = dataclasses.replace(
        config, workdir=config.workdir + "-4", mesh=MeshConfig(data=2, fsdp=2)
    )
    said = run_python("-c", PROGRAM, json.dumps(dataclasses.asdict(four)), devices=4)
    other = json.loads(said.splitlines()[-1])
    # Sums of float32 in another order, which Adam divides by the size of small gradients: after
    # 4 steps at 3e-3 the loss differed by 1.6e-6 of itself.
    assert other["loss"] == pytest.approx(one.seeds[0].metrics["loss"], rel=1e-5)
    assert other["accuracy"] == one.seeds[0].metrics["accuracy"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"optimizer": OptimizerConfig(learning_rate=5e-3)}, "optimizer.learning_rate"),
        ({"batch_size": 8}, "batch_size"),
        ({"from_scratch": True}, "model.weights"),
        ({"max_seq_length": 31}, "max_seq_length"),
        ({"group_by_length": True}, "group_by_length"),
        ({"regression": True, "label_column": "stars"}, "objective"),
    ],
)
def test_another_run_in_the_same_directory_is_refused_by_name(config, change, name):
    finetune(dataclasses.replace(config, epochs=SHORT), quiet, progress=False)
    with pytest.raises(UserError, match=name) as caught:
        finetune(dataclasses.replace(config, epochs=SHORT, **change), quiet, progress=False)
    assert "fresh" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "known"), [("task", "classification"), ("select", "last"), ("window_logits", "mean")]
)
def test_what_a_recipe_says_is_checked_as_the_command_line_is(config, field, known):
    with pytest.raises(UserError, match=f"{field} 'x' is unknown: give one of {known}, "):
        dataclasses.replace(config, **{field: "x"})


def test_a_refused_run_leaves_everything_as_it_was(config, tmp_path):
    config = dataclasses.replace(config, epochs=SHORT)
    finetune(config, quiet, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for change, name in (
        ({"batch_size": 8, "seeds": (1,)}, "batch_size"),  # no seed of these was trained before
        ({"learning_rates": (1e-3, 3e-3)}, "optimizer.learning_rate"),
        ({"epoch_counts": (1, 2)}, r"another epochs \("),
    ):
        with pytest.raises(UserError, match=name):
            finetune(dataclasses.replace(config, **change), quiet, progress=False)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # What may change is kept with the result.
    finetune(dataclasses.replace(config, log_every=7, seeds=(0, 1)), quiet, progress=False)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["kind"], saved["log_every"], saved["seeds"]) == ("fine-tuning", 7, [0, 1])


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


def test_other_dev_rows_are_scored_again_or_refused(config, tmp_path):
    config = dataclasses.replace(config, epochs=SHORT)
    dev = write_rows(tmp_path / "other.tsv", 9, 7)
    for select in ("last", "best"):
        here = dataclasses.replace(config, select=select, workdir=str(tmp_path / select))
        finetune(here, quiet, progress=False)
        here, lines = dataclasses.replace(here, dev=dev), []
        if select == "best":  # those rows chose the weights
            with pytest.raises(UserError, match=r"another dev rows \("):
                finetune(here, quiet, progress=False)
            continue
        result = finetune(here, lines.append, progress=False)
        assert any("changed: dev rows " in line for line in lines)
        scores = predict.evaluate(from_pretrained(here.workdir), dev)
        assert scores["examples"] == 9
        assert {"examples": 9.0, **result.seeds[0].metrics} == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("seeds_done", [0, 1])
def test_a_signal_while_test_rows_are_scored_stops_and_is_resumed(
    config, files, tmp_path, monkeypatch, seeds_done
):
    config = dataclasses.replace(config, epochs=SHORT, seeds=(0, 1), test=files["test"])
    scores, times = seeds.SeedTrainer._scores, []

    def signalled(self, params, examples, *more, **named):
        if examples is self.task.test:
            times.append(1)
            if len(times) == seeds_done + 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return scores(self, params, examples, *more, **named)

    monkeypatch.setattr(seeds.SeedTrainer, "_scores", signalled)
    lines = []
    stopped = finetune(config, lines.append, progress=False)
    assert stopped.stopped and len(stopped.seeds) == seeds_done
    assert lines[-1] == f"Stopped after {seeds_done} finished seeds, to be resumed."
    assert not (tmp_path / "run/export").exists() and not (tmp_path / "run/result.json").exists()
    resumed = finetune(config, quiet, progress=False)
    assert not resumed.stopped and len(resumed.seeds) == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_warm_up_of_no_steps_is_none(config, tiny_model):
    def warmup(steps):
        recipe = dataclasses.replace(config.optimizer, warmup_steps=steps)
        trainer = make_trainer(dataclasses.replace(config, optimizer=recipe), tiny_model)
        return plan_of(trainer).warmup

    assert (warmup(0), warmup(3), warmup(None)) == (0, 3, 4)  # of 40 steps


def test_fresh_starts_beside_the_old_run(config, tmp_path):
    first = finetune(dataclasses.replace(config, epochs=SHORT), quiet, progress=False)
    other = dataclasses.replace(config, epochs=SHORT, fresh=True, from_scratch=True)
    second = finetune(other, quiet, progress=False)
    assert second.workdir == str(tmp_path / "run-2") != first.workdir
    assert (tmp_path / "run/export").exists() and (tmp_path / "run-2/export").exists()


def test_mistakes_are_told_before_any_training(config, tmp_path, files):
    def refusal(**change):
        with pytest.raises(UserError) as caught:
            finetune(dataclasses.replace(config, **change), quiet, progress=False)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    assert "max_seq_length 41 is longer than the model's 40 positions" in refusal(max_seq_length=41)
    dev = tmp_path / "dev.tsv"
    dev.write_text("text\tlabel\nfine\tpos\nbad\tmeh\n")
    assert f"{dev}:3: label 'meh' was not seen in training" in refusal(dev=str(dev))
    assert f"{dev}:3: label 'meh' was not seen" in refusal(test=str(dev))
    assert "no column 'sentence'" in refusal(text_column="sentence")
    assert "is no finite number" in refusal(regression=True)
    assert "no such directory" in refusal(model=str(tmp_path / "nothing"))
    assert "no such file" in refusal(train=str(tmp_path / "nothing.tsv"))
    assert "window_overlap 30 leaves nothing new in a window" in refusal(
        long_documents="windows", window_overlap=30
    )
    known = "give one of accuracy, macro_f1, mcc, loss, f1."
    assert f"best_metric is 'bleu', which this task has not: {known}" in refusal(best_metric="bleu")


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
        {"learning_rates": (0.0,)},
        {"learning_rates": ()},
        {"learning_rates": (1e-5, 1.0000001e-5)},
        {"batch_sizes": ()},
        {"batch_sizes": (16, 16)},
        {"batch_sizes": (0, 16)},
        {"epoch_counts": ()},
        {"patience": -1},
        {"regression": True, "multi_label": True},
        {"class_weights": "balanced", "multi_label": True},
        {"long_documents": "windows", "pair_column": "b"},
        {"window_overlap": 3},
        {"window_logits": "max"},
        {"window_overlap": -1, "long_documents": "windows"},
        {"class_weights": {"a": 2.0}, "regression": True},
        {"class_weights": "blanced"},
        {"lora": LoraConfig(2), "from_scratch": True},
        {"label_separator": ";"},
        {"label_separator": "", "multi_label": True},
        {"accumulation": 3, "batch_sizes": (9, 10)},
        {"warmup_proportion": 1.0},
        {"batch_size": 10, "accumulation": 3},
        {"max_seq_length": 3},
        {"eval_every": -1},
    ],
)
def test_a_configuration_that_makes_no_sense(change):
    with pytest.raises(UserError, match=next(iter(change))):
        FinetuneConfig(model="m", train="t", dev="d", workdir="w", **change)


def make_trainer(config, model):
    task = read_task(config, model, quiet)
    return seeds.SeedTrainer(config, model, task, quiet, False)


def plan_of(trainer):
    return trainer.plan(trainer.settings[0])


def read_records(result):
    text = (pathlib.Path(result.seeds[0].workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def pick(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree)
