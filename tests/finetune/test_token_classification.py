"""Token classification from end to end: a tiny model that finds two types of entities."""

import dataclasses
import json
import pathlib
import random

import numpy as np
import pytest

import bertjax
from bertjax import cli
from bertjax.errors import UserError
from bertjax.finetune.run import finetune, read_task
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained
from bertjax.report.run import report
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.train.lora import LoraConfig

ENTITIES = {"good": "B-POS", "great fine": "B-POS I-POS", "bad": "B-NEG", "awful": "B-NEG"}
OTHERS = ["the", "a", "film", "plot", "was", "is", "films", "plots"]


def write_sentences(path, count, seed):
    """Columns of words, an x, and tags that the words tell."""
    generator, blocks = random.Random(seed), ["-DOCSTART- O\n"]
    for _ in range(count):
        lines = []
        for phrase in generator.choices([*ENTITIES, *OTHERS], k=generator.randint(1, 20)):
            words, tags = phrase.split(), ENTITIES.get(phrase, "O").split()
            lines += [f"{word} x {tag}\n" for word, tag in zip(words, tags, strict=True)]
        blocks.append("".join(lines))
    path.write_text("\n".join(blocks))
    return str(path)


def quiet(line):
    del line


@pytest.fixture(scope="module")
def trained(train_kind):
    counts = {"train": 200, "dev": 40, "test": 10}
    return train_kind(
        write_sentences, ".conll", counts, TokenClassificationConfig(), max_seq_length=16, epochs=10
    )


@pytest.fixture(scope="module")
def files(trained):
    return trained[0]


@pytest.fixture(scope="module")
def run(trained):
    """(configuration, result, lines)."""
    return trained[1]


def test_learns_to_tag(run):
    _, result, lines = run
    metrics = result.seeds[0].metrics
    assert result.metric == "f1" and metrics["f1"] > 0.95 and metrics["accuracy"] > 0.97
    assert {"POS_f1", "NEG_recall", "precision", "loss"} < metrics.keys()
    assert result.baseline.scores["f1"] == 1.0  # here the words tell their tags
    assert "(iob2: O, B-NEG, I-NEG, B-POS, I-POS), in 307 windows" in lines[0]
    assert any("sentences have several windows of 16 tokens" in line for line in lines)
    assert any("f1 1.000 (majority 1.000)" in line for line in lines)


def test_the_report_has_types_and_confusions(run):
    (page,) = report([run[0].workdir], quiet)
    text = page.read_text()
    assert "Entities of the dev rows by type" in text and "tag, and predicted tag" in text


def test_the_export_evaluates_as_the_run_did(run, files, capsys):
    config, result, _ = run
    assert cli.run(["evaluate", config.workdir, files["test"]]) == 0
    scores = json.loads(capsys.readouterr().out)
    split = scores.pop("split_sentences")
    assert split > 0
    # Batches of other sizes round differently.
    assert scores == pytest.approx({"examples": 10.0, **result.seeds[0].test_metrics}, rel=1e-4)


def test_entities_of_raw_text_and_tags_of_words(run, capsys, give_stdin):
    workdir = run[0].workdir
    lines = ["  The film, bad. Was great fine", '{"tokens": ["great", "fine", "a"]}', " "]
    give_stdin([*lines, '{"tokens": [1]}', '{"question": "?"}', "a\0b", "the plot"])
    assert cli.run(["predict", workdir]) == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    spans = [(each["start"], each["end"], each["label"]) for each in answers[0]["entities"]]
    assert spans == [(12, 15, "NEG"), (21, 31, "POS")]
    assert [each["text"] for each in answers[0]["entities"]] == ["bad", "great fine"]
    assert all(0.5 < each["score"] <= 1 for each in answers[0]["entities"])
    assert answers[1]["tags"] == ["B-POS", "I-POS", "O"] and len(answers[1]["scores"]) == 3
    (again,) = bertjax.predict(from_pretrained(workdir), ["great fine a"], pre_split=True)
    assert again["tags"] == answers[1]["tags"]
    starts = ["Line 3 is blank", "Line 4: the words are no list", "Line 5: the object has no text"]
    for answer, start in zip(answers[2:5], starts, strict=True):
        assert answer["error"].startswith(start)
    assert "NUL" in answers[5]["error"] and answers[6] == {"text": "the plot", "entities": []}
    give_stdin(["great fine , ," * 20])
    assert cli.run(["predict", workdir, "--pre-split"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == ("great fine , ," * 20).split()
    assert answer["tags"][:4] == ["B-POS", "I-POS", "O", "O"] and len(answer["tags"]) == 61


def test_the_export_is_a_hugging_face_model(run, tmp_path, files):
    """Without bertjax's own entry it is a model from elsewhere, with the same answers."""
    export = pathlib.Path(run[0].workdir) / "export"
    fields = json.loads((export / "config.json").read_text())
    assert fields["architectures"] == ["BertForTokenClassification"]
    assert fields["id2label"]["1"] == "B-NEG" and fields["label2id"]["I-POS"] == 4
    ours = from_pretrained(export)
    foreign = dataclasses.replace(ours, task={"kind": ours.kind, "labels": ours.task["labels"]})
    texts = ["the film was bad the great fine", ["bad", "film"]]
    assert predict.predict(foreign, texts)[0]["entities"][1]["text"] == "great fine"
    scores = predict.evaluate(foreign, files["test"])  # in rows of all 40 positions
    assert scores["f1"] > 0.5 and scores["examples"] == 10 and "split_sentences" not in scores
    # Tags without a scheme are given word by word.
    plain = dataclasses.replace(foreign, task={**foreign.task, "labels": list("ABCDE")})
    (answer,) = predict.predict(plain, ["bad film"])
    assert [(each["text"], each["label"]) for each in answer["words"]] == [
        ("bad", "B"),
        ("film", "A"),
    ]
    with pytest.raises(UserError, match=r"test.conll:3: the tag '.*' was not seen in training"):
        predict.evaluate(plain, files["test"])


def test_options_change_what_is_trained(run, tiny_model):
    config, _, _ = run

    def task(**options):
        own = dataclasses.replace(config.task, **options)
        return read_task(dataclasses.replace(config, task=own), tiny_model, quiet)

    plain, every = task(), task(label_all_pieces=True)
    assert every.train.weights.sum() > plain.train.weights.sum()
    context = task(document_context=True)
    assert context.train.lengths.mean() > plain.train.lengths.mean()
    assert len({str(each.immutable) for each in (plain, every, context)}) == 3
    weighted = task(class_weights={"B-NEG": 3.0})
    assert set(np.unique(weighted.train.weights)) == {0.0, 1.0, 3.0}
    # I-NEG never occurs, and has no weight.
    balanced = task(class_weights="balanced").train
    totals = np.bincount(balanced.labels, balanced.weights, minlength=5)
    assert totals[2] == 0 and np.ptp(totals[[0, 1, 3, 4]]) < 1e-3 * totals.max()
    with pytest.raises(UserError, match="'X', which is no label"):
        task(class_weights={"X": 2.0})
    words = task(token_column="2", tag_column="1")
    assert words.metric == "accuracy" and "awful" in words.labels and words.metrics[-1] == "loss"


def test_a_label_of_dev_alone_is_named_with_its_line(run, tmp_path):
    config, _, _ = run
    (tmp_path / "dev.conll").write_text("good x B-POS\n\nbad x B-OTHER\n")
    words = ["finetune", "--task", "token_classification", "--model", config.model]
    words += ["--train", config.train, "--dev", str(tmp_path / "dev.conll")]
    with pytest.raises(UserError, match=r"dev.conll:3: the tag 'B-OTHER' was not seen"):
        changed = {"dev": str(tmp_path / "dev.conll"), "workdir": str(tmp_path / "run")}
        finetune(dataclasses.replace(config, **changed), quiet, progress=False)
    assert cli.run([*words, f"--workdir={tmp_path / 'run'}"]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_adapters_spans_and_seeds(run, tmp_path):
    """LoRA on character spans, two seeds; the export splits text at punctuation marks."""
    config, _, _ = run
    rows = [
        {"text": f"the{mark}good film", "entities": [{"start": 4, "end": 8, "label": "POS"}]}
        for mark in ",.-'" * 8
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spans = str(tmp_path / "train.jsonl")
    changed = dataclasses.replace(
        config,
        train=spans,
        dev=spans,
        test=None,
        workdir=str(tmp_path / "run"),
        seeds=(0, 1),
        lora=LoraConfig(rank=4),
        epochs=15,
    )
    lines = []
    result = finetune(changed, lines.append, progress=False)
    assert len(result.seeds) == 2 and result.mean > 0.9
    assert any("Warning: of 32 dev rows, 32 are among the training rows" in line for line in lines)
    (answer,) = bertjax.predict(from_pretrained(result.export), ["the-good film"])
    (entity,) = answer["entities"]
    assert (entity["start"], entity["end"], entity["text"]) == (4, 8, "good")
