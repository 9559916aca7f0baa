"""Fine-tuning on the targets and options of classification, beside one label per text."""

import dataclasses
import random

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.finetune.run import finetune, read_task
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained


def quiet(line):
    del line


def write(path, rows):
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def without_dropout(config):
    """Dropout doubles the time to compile a step."""
    return dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_regression(config, with_task, tmp_path):
    config = without_dropout(config)
    config = with_task(config, regression=True, label_column="stars")
    result = finetune(config, quiet, progress=False)
    assert result.metric == "spearman" and result.labels == ()
    baseline = result.baseline.scores
    assert (baseline["spearman"], result.baseline.name) == (0.0, "mean")
    assert baseline["loss"] > result.seeds[0].metrics["loss"]
    assert "the mean of the numbers: 0.0000)" in result.sentence()
    assert result.mean > 0.5
    model = from_pretrained(tmp_path / "run")
    assert model.kind == "regression"
    bad, good = predict.predict(
        model, ["the film was bad", "the film was" + " very" * 20 + " good"]
    )
    assert good["score"] > bad["score"] and set(bad) == {"text", "score"}


def test_files_that_the_vocabulary_can_not_spell_are_said(config, tiny_model, tmp_path):
    known, strange = [("good", "a"), ("bad", "b")], [("東京", "a"), ("京都", "b")]
    files = {"train": write(tmp_path / "train.tsv", known)}
    for name in ("dev", "test"):
        files[name] = write(tmp_path / f"{name}.tsv", strange)
    lines = []
    read_task(dataclasses.replace(config, **files), tiny_model, lines.append)
    said = [line for line in lines if "[UNK]" in line]
    assert [line.split(" are [UNK]")[0] for line in said] == [
        f"Warning: 100% of the tokens of {files[name]}" for name in ("dev", "test")
    ]


def test_class_weights_apply_to_training_rows_alone(finished, with_task, make_trainer):
    weighted = with_task(finished, class_weights={"neg": 4.0})
    trainer, schedule = make_trainer(weighted)
    batch = jax.device_get(trainer.batch(0, schedule, 0))
    assert batch["example_weight"].tolist() == np.where(batch["label"] == 0, 4.0, 1.0).tolist()
    assert trainer.task.labels == ("neg", "pos")
    dev = trainer.task.dev.batch(np.arange(5), 32)
    assert dev["example_weight"].tolist() == [1.0] * 5
    plain, _ = make_trainer(finished)
    assert plain.programs is trainer.programs
    with pytest.raises(UserError, match=r"another task.class_weights \(null there"):
        finetune(weighted, quiet, progress=False)


def test_long_documents_are_read_to_their_end_by_windows(config, with_task, tmp_path):
    """The word that tells comes after more tokens than a row has."""
    generator, files = random.Random(6), {}
    for name, count in (("train", 48), ("dev", 24)):
        rows = []
        for _ in range(count):
            word = generator.choice(["good", "bad"])
            neutral = "the film was " * generator.randint(5, 8)
            rows.append((f"{neutral}{' '.join([word] * 4)}", word))
        files[name] = write(tmp_path / f"{name}.tsv", rows)
    windows = {"long_documents": "windows", "window_logits": "max"}
    config = with_task(dataclasses.replace(config, eval_every=1000, **files), **windows)
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert "windows of up to 16 tokens" in lines[0] and "48 rows" in lines[0]
    assert result.mean > 0.9
    model = from_pretrained(config.workdir)
    fields = ("long_documents", "window_overlap", "window_logits")
    assert [model.task[field] for field in fields] == ["windows", 4, "max"]
    scores = predict.evaluate(model, config.dev)
    assert scores == pytest.approx({"examples": 24, **result.seeds[0].metrics}, rel=1e-5)
    (answer,) = predict.predict(model, ["the film was " * 8 + "bad bad bad bad"])
    assert answer["label"] == "bad"
    truncated = dataclasses.replace(model, task={**model.task, "long_documents": "truncate"})
    assert predict.evaluate(truncated, config.dev)["accuracy"] < scores["accuracy"]


def test_several_labels_a_text(config, with_task, tmp_path):
    generator, files = random.Random(5), {}
    for name, count in (("train", 80), ("dev", 30)):
        rows = []
        for _ in range(count):
            there = generator.sample(["good", "bad"], generator.randint(0, 2))
            rows.append((f"the film was {' '.join(there)} .", ", ".join(there)))
        files[name] = write(tmp_path / f"{name}.tsv", rows)
    config = dataclasses.replace(config, epochs=20, eval_every=50, **files)  # 100 steps
    config = with_task(config, multi_label=True, label_separator=",")
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert result.metric == "micro_f1" and result.labels == ("bad", "good")
    assert result.mean > 0.95 and result.baseline.name == "commonest"
    assert result.baseline.scores["micro_f1"] < result.mean
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
