"""Extractive summarization from end to end: a tiny model that picks the good sentences."""

import dataclasses
import json
import pathlib
import random
import shutil

import pytest
import safetensors.numpy

from bertjax import cli
from bertjax.errors import UserError
from bertjax.finetune.run import finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.report.run import report
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig

pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score: pip install 'bertjax[seq2seq]'")

WORDS = [
    "good",
    "great",
    "bad",
    "the",
    "a",
    "film",
    "was",
    "is",
    "very",
    "not",
    "plot",
    "one",
    "two",
]
PICKED = 3, 4
OPTIONS = ExtractiveSummarizationConfig(sentences=2)


def write_documents(path, count, seed):
    """Writes documents of one to four windows, whose summary is their sentences 3 and 4."""
    generator, rows = random.Random(seed), []
    for _ in range(count):
        sentences = [
            " ".join(generator.sample(WORDS, generator.randint(2, 6)))
            for _ in range(generator.randint(5, 14))
        ]
        summary = " . ".join(sentences[place] for place in PICKED)
        rows.append({"document": sentences, "summary": summary})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def quiet(line):
    del line


@pytest.fixture(scope="module")
def trained(train_kind):
    counts = {"train": 100, "dev": 30, "test": 10}
    return train_kind(
        write_documents, ".jsonl", counts, OPTIONS, max_seq_length=32, epochs=10, seeds=(1,)
    )


@pytest.fixture(scope="module")
def files(trained):
    return trained[0]


@pytest.fixture(scope="module")
def run(trained):
    """(configuration, result, lines)."""
    return trained[1]


def test_learns_to_pick(run):
    _, result, lines = run
    (seed,) = result.seeds
    metrics = seed.metrics
    assert metrics["oracle_rouge1"] >= metrics["rouge1"] > 95 > 50 > metrics["lead_rouge1"]
    assert metrics["f1"] > 0.95 and metrics["accuracy"] > 0.95
    assert result.metric == "rouge1" and result.baseline.scores["rouge1"] == metrics["lead_rouge1"]
    assert lines[0].startswith("Training on 100 documents, whose ") and "200 labels" in lines[0]
    assert lines[1].startswith("Lead-2, which picks the first sentences, has rouge1 ")
    assert any("(lead " in line and "oracle_rouge1" in line for line in lines)
    assert "Lead-2: " in lines[-1]
    # How ROUGE is computed is said, and kept.
    note = result.notes["rouge1"]
    assert "rouge-score" in note and "Porter" in note
    assert lines[-2] == f"rouge1, rouge2, rougeL, rougeLsum: {note}."
    saved = json.loads((pathlib.Path(result.workdir) / "result.json").read_text())
    assert saved["notes"] == result.notes


def test_the_report_draws_lead_and_oracle_beside(run):
    (page,) = report([run[0].workdir], quiet)
    figures = page.read_text().split("<figure>")
    (figure,) = (each for each in figures if "ROUGE-1, held out" in each)
    assert "Porter&#x27;s stemmer)</figcaption>" in figure
    assert all(f">{words}<" in figure for words in ("rouge1", "Lead-2", "oracle"))
    assert not any("lead_rouge" in each for each in figures if "config.json" not in each)


def test_the_export_evaluates_as_the_run_did(run, files):
    config, result, _ = run
    model = from_pretrained(config.workdir)
    recorded = {"kind": "sentence_extraction", "task": "summarization_extractive"}
    assert {**recorded, "max_seq_length": 32, "sentences": 2}.items() <= model.task.items()
    assert set(model.params) == {"embeddings", "encoder", "sentence_scorer"}
    scores = predict.evaluate(model, files["test"])
    assert scores.pop("notes") == result.notes
    # Batches of other sizes round differently.
    wanted = {"examples": 10.0, **result.seeds[0].test_metrics}
    assert scores == pytest.approx(wanted, rel=1e-4)
    few = predict.evaluate(model, files["test"], sentences=1)
    assert few["oracle_rouge1"] < 100 and few["lead_rouge1"] < scores["lead_rouge1"]


def test_transformers_finds_a_plain_encoder_and_a_file_that_it_does_not_read(run, tmp_path):
    config, _, _ = run
    export = pathlib.Path(config.workdir) / "export"
    assert json.loads((export / "config.json").read_text())["architectures"] == ["BertModel"]
    tensors = safetensors.numpy.load((export / "model.safetensors").read_bytes())
    assert all(name.startswith(("embeddings.", "encoder.")) for name in tensors)
    model = from_pretrained(export)
    save_pretrained(tmp_path / "again", model)
    for name in ("model.safetensors", "bertjax_head.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (export / name).read_bytes()
    # An export of another kind removes the file of the head.
    encoder = {name: model.params[name] for name in ("embeddings", "encoder")}
    plain = dataclasses.replace(model, params=encoder, task={"kind": "encoder"})
    save_pretrained(tmp_path / "again", plain)
    assert set(from_pretrained(tmp_path / "again").params) == {"embeddings", "encoder"}
    (tmp_path / "again" / "config.json").write_text((export / "config.json").read_text())
    (tmp_path / "again" / "bertjax_sha256.json").unlink()
    with pytest.raises(UserError, match="needs the part sentence_scorer, which the weights lack"):
        from_pretrained(tmp_path / "again")


def test_a_damaged_head_is_refused(run, tmp_path):
    shutil.copytree(pathlib.Path(run[0].workdir) / "export", tmp_path / "export")
    file = tmp_path / "export" / "bertjax_head.safetensors"
    tensors = safetensors.numpy.load(file.read_bytes())
    del tensors["sentence_scorer/classifier/bias"]
    file.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(UserError, match=r"sentence_scorer/classifier/bias \[1\] is missing"):
        from_pretrained(tmp_path / "export")


def test_predicts_summaries_of_lines(run, files, capsys, give_stdin):
    config, _, _ = run
    rows = [json.loads(line) for line in pathlib.Path(files["test"]).read_text().splitlines()]
    lines = [json.dumps({"document": rows[0]["document"]}), json.dumps(rows[1]["document"])]
    lines.append("One film. The plot. Very good. Fine acting! Is it? Not bad.")
    lines += ["One sentence", " ", '{"document": ["One", ""]}', '{"text": "One"}', "[1, 2]"]
    give_stdin(lines)
    assert cli.run(["predict", config.workdir]) == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for answer, row in zip(answers[:2], rows, strict=False):
        assert answer["sentences"] == list(PICKED)
        assert answer["summary"] == " ".join(row["document"][place] for place in PICKED)
        assert len(answer["scores"]) == 2 and 0 < min(answer["scores"]) < 1
    assert answers[2]["sentences"] == [3, 4] and answers[2]["summary"] == "Fine acting! Is it?"
    assert answers[3]["summary"] == "One sentence" and answers[3]["sentences"] == [0]
    assert [list(answer) for answer in answers[4:]] == [["error"]] * 4
    assert answers[4]["error"].startswith("Line 5 is blank")
    assert answers[5]["error"].startswith("Line 6: sentence 1 of the document (from 0) is empty")
    assert answers[6]["error"].startswith("Line 7: the model summarizes documents; write")
    assert answers[7]["error"].startswith("Line 8: sentence 0 of the document (from 0) is no text")
    give_stdin(lines[:1])
    assert cli.run(["predict", config.workdir, "--sentences", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sentences"]) == 1


def test_trigram_blocking_is_an_option_of_evaluating(run, tmp_path):
    """Sentence 4 repeats sentence 3, and is skipped unless told otherwise."""
    same = ["one film", "the plot", "a plot", "it was very bad", "it was very bad", "two film"]
    row = {"document": same, "summary": ["it was very bad"]}
    (tmp_path / "same.jsonl").write_text(json.dumps(row))
    model = from_pretrained(run[0].workdir)
    blocked, free = (
        predict.evaluate(model, tmp_path / "same.jsonl", trigram_blocking=value)
        for value in (None, False)
    )
    assert blocked["rouge1"] != free["rouge1"] == pytest.approx(200 / 3)


def test_mistakes_name_the_line(run, tmp_path):
    config, _, _ = run

    def refusal(row, **options):
        (tmp_path / "bad.jsonl").write_text('{"document": "A. B.", "summary": "A."}\n' + row)
        task = dataclasses.replace(OPTIONS, **options)
        changed = dataclasses.replace(
            config, task=task, dev=str(tmp_path / "bad.jsonl"), workdir=str(tmp_path / "other")
        )
        with pytest.raises(UserError) as caught:
            finetune(changed, quiet, progress=False)
        assert not (tmp_path / "other").exists()
        return str(caught.value)

    assert "bad.jsonl:2: the document is empty" in refusal('{"document": " ", "summary": "A."}')
    assert "bad.jsonl:2: the summary is empty" in refusal('{"document": "A.", "summary": ""}')
    words = [f"--train={config.train}", f"--dev={tmp_path / 'bad.jsonl'}"]
    words += [f"--model={config.model}", "--task", "summarization_extractive"]
    assert cli.run(["finetune", *words, f"--workdir={tmp_path / 'other'}"]) == 2


def test_a_model_goes_on_to_another_summary_task(run, tmp_path):
    """The weights of its head have names, so that a run that starts from them has a hash."""
    config, _, _ = run
    further = dataclasses.replace(
        config, model=config.workdir, workdir=str(tmp_path / "further"), epochs=1, test=None
    )
    assert finetune(further, quiet, progress=False).mean > 0
