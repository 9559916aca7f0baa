"""Multiple choice from end to end: a tiny model that chooses the good film."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from bertjax import cli
from bertjax.errors import UserError
from bertjax.finetune.records import Records
from bertjax.inference.predict import evaluate, predict
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.model.flops import task_flops
from bertjax.report.run import report
from bertjax.tasks.multiple_choice.config import MultipleChoiceConfig


def write_questions(path, count, seed):
    """Writes questions of two to four choices, one of which is good."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        choices = generator.choices(["bad plot", "bad", "the bad film"], k=generator.randint(1, 3))
        answer = generator.randint(0, len(choices))
        choices.insert(answer, generator.choice(["good plot", "good", "the good film"]))
        rows.append({"question": "the film was", "choices": choices, "answer": "ABCD"[answer]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def trained(train_kind):
    counts = {"train": 64, "dev": 20, "test": 10}
    return train_kind(
        write_questions, ".jsonl", counts, MultipleChoiceConfig(), max_seq_length=16, epochs=12
    )


@pytest.fixture(scope="module")
def files(trained):
    return trained[0]


@pytest.fixture(scope="module")
def run(trained):
    """(configuration, result, lines)."""
    return trained[1]


@pytest.fixture(scope="module")
def model(run):
    return from_pretrained(run[1].workdir)


def test_learns_to_choose(run):
    _, result, lines = run
    (seed,) = result.seeds
    assert result.metric == "accuracy" and result.mean > 0.95 > 0.6
    assert seed.test_metrics["accuracy"] > 0.8
    assert result.baseline.scores["accuracy"] < 0.6 and "most common place" in lines[-1]
    assert lines[0].startswith("Training on 64 questions with 2 to 4 choices, evaluating on 20; 0 ")
    assert lines[0].endswith("Answers are read as from_1.")


def test_speed_counts_the_tokens_of_all_choices(run, make_trainer):
    trainer, schedule = make_trainer(run[0])
    phase, sequences = Records(trainer).phase(schedule), trainer.task.train.sequences
    assert phase.tokens_per_step == round(sequences.lengths.sum() / 4) > trainer.lengths.sum() / 4
    shape = trainer.shape
    forward = sum(task_flops(shape, "multiple_choice", 1, int(each)) for each in sequences.lengths)
    assert phase.work.flops == pytest.approx(3 * forward / 4)


def test_the_export_is_a_bert_for_multiple_choice_and_evaluates_as_the_run_did(run, files, model):
    fields = json.loads(Path(run[1].export, "config.json").read_text())
    assert fields["architectures"] == ["BertForMultipleChoice"]
    assert model.task["choices"] == 4 and model.task["answer_form"] == "from_1"
    found = evaluate(model, files["dev"], batch_size=16)
    assert found.pop("examples") == 20
    # Other batches: float32 sums in another order.
    assert found == pytest.approx(run[1].seeds[0].metrics, rel=1e-4)


def test_predict_gives_the_choice_and_the_probabilities(run, model, capsys, give_stdin):
    question = {"question": "the film was", "choices": ["bad", "good plot", "bad plot"]}
    (answer,) = predict(model, [question])
    assert answer["choice"] == 1 and answer["answer"] == "good plot"
    assert len(answer["scores"]) == 3 and answer["scores"][1] == answer["score"] > 0.5
    assert sum(answer["scores"]) == pytest.approx(1)
    # Beside a question with more choices than training had, nothing changes but rounding.
    more = {**question, "choices": ["bad"] * 5}
    again, many = predict(model, [question, more])
    assert again["scores"] == pytest.approx(answer["scores"], rel=1e-4)
    assert many["scores"] == pytest.approx([0.2] * 5, rel=1e-4)

    give_stdin([json.dumps(question), "the film", '{"question": "x", "choices": ["a"]}', "{}"])
    assert cli.run(["predict", run[1].workdir]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["choice"] == 1 and all("error" in line for line in lines[1:])
    assert "Line 2: the model chooses among answers" in lines[1]["error"]
    assert "Line 3: choices: 1; write at least 2" in lines[2]["error"]
    with pytest.raises(UserError, match="Question 1: the model chooses among answers; give a dict"):
        predict(model, ["the film"])


def test_the_report_shows_the_largest_errors(run):
    assert report([run[0].workdir], lambda line: None)[0].exists()


def test_a_model_of_transformers_names_its_columns_itself(model, tmp_path, give_stdin, capsys):
    plain = dataclasses.replace(model, task={"kind": "multiple_choice"})
    save_pretrained(tmp_path, plain)
    give_stdin([json.dumps({"q": "the film was", "a": "bad", "b": "good"})])
    words = ["predict", str(tmp_path), "--question-column", "q", "--choice-columns", "a", "b"]
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "good"
