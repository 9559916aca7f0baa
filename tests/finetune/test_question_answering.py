"""Fine-tuning on questions, and what the export answers: a tiny model that finds the good words."""

import contextlib
import dataclasses
import json
import pathlib
import random
import runpy

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.model import bert
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.predictions import QuestionPredictor
from bertjax.tasks.task import NoOptions
from bertjax.train import loop
from bertjax.train.optimizer import OptimizerConfig

OTHERS = ["the", "a", "film", "was", "is", "plot", "acting", "one", "two", ",", "."]
QA = QuestionAnsweringConfig(doc_stride=8, max_query_length=6, max_answer_length=4)


def write_questions(path, count, seed, unanswerable):
    """Writes questions whose answer is the one good word of the document, if there is one."""
    generator, questions = random.Random(seed), []
    for number in range(count):
        words = generator.choices(OTHERS, k=generator.randint(3, 24))
        answers = []
        if not unanswerable or generator.random() < 0.7:
            place = generator.randrange(len(words))
            words[place] = generator.choice(["good", "great", "fine"])
            start = len(" ".join([*words[:place], ""]))
            answers = [{"text": words[place], "answer_start": start}]
        question = {"id": f"{seed}-{number}", "question": "what was good", "answers": answers}
        questions.append({"context": " ".join(words), "qas": [question]})
    data = {"version": "v2.0" if unanswerable else "1.1", "data": [{"paragraphs": questions}]}
    path.write_text(json.dumps(data))
    return str(path)


def quiet(line):
    del line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("squad")
    return {
        "train": write_questions(directory / "train.json", 120, 0, True),
        "dev": write_questions(directory / "dev.json", 40, 1, True),
        "test": write_questions(directory / "test.json", 10, 2, False),
    }


@pytest.fixture(scope="module")
def run(files, tmp_path_factory, tiny_model):
    """(configuration, result, lines) of a run of two seeds, with two learning rates."""
    directory = tmp_path_factory.mktemp("run")
    save_pretrained(directory / "model", tiny_model)
    config = FinetuneConfig(
        model=str(directory / "model"),
        workdir=str(directory / "run"),
        task=QA,
        max_seq_length=32,  # one bucket: one program to compile
        seeds=(0, 1),
        epochs=6,
        batch_size=16,
        eval_every=10**6,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        **files,
    )
    lines = []
    return config, finetune(config, lines.append, progress=False), lines


def test_learns_to_answer_and_not_to_answer(run):
    config, result, lines = run
    assert result.metric == "f1" and len(result.seeds) == 2 and not result.stopped
    best = max(seed.metrics["f1"] for seed in result.seeds)
    assert best > 90 > 50 > result.baseline.scores["f1"]
    for seed in result.seeds:
        assert seed.metrics["best_f1"] >= seed.metrics["f1"]
        assert "NoAns_f1" in seed.metrics and "NoAns_f1" not in seed.test_metrics
    assert "120 questions in" in lines[0] and "with an answer" in lines[0]
    assert lines[-1].startswith("f1 ") and f"{result.baseline.description}: " in lines[-1]
    repeated = []
    assert finetune(config, repeated.append, progress=False).seeds == result.seeds
    assert sum("is complete" in line for line in repeated) == 2


def test_the_export_says_how_it_answers_and_scores_as_the_run_did(run, files):
    config, result, _ = run
    best = max(result.seeds, key=lambda seed: seed.metrics["f1"])
    model = from_pretrained(config.workdir)
    threshold = best.metrics["best_f1_threshold"]
    names = ("doc_stride", "max_query_length", "max_answer_length")
    assert model.task == {
        "kind": "question_answering",
        "task": "question_answering",
        "max_seq_length": 32,
        **{name: getattr(QA, name) for name in names},
        "has_unanswerable": True,
        "null_threshold": threshold,
    }
    assert "pooler" not in model.params and "qa_outputs" in model.params
    scores = predict.evaluate(model, files["dev"])
    assert (scores["examples"], scores["null_threshold"]) == (40.0, threshold)
    assert scores["f1"] == scores["best_f1"] == best.metrics["best_f1"]
    zero = dataclasses.replace(model, task={**model.task, "null_threshold": 0.0})
    scores = predict.evaluate(zero, files["dev"])
    assert {name: scores[name] for name in best.metrics} == pytest.approx(best.metrics, rel=1e-5)
    scores = predict.evaluate(model, files["test"])
    assert {"examples": 10.0, **best.test_metrics} == scores


def test_test_questions_are_scored_at_the_threshold_of_the_dev_questions(run, tmp_path):
    """With the dev questions as test questions, they give the best F1 of the dev questions."""
    few = dataclasses.replace(run[0], workdir=str(tmp_path), test=run[0].dev, seeds=(0,), epochs=1)
    (seed,) = finetune(few, quiet, progress=False).seeds
    assert seed.metrics["f1"] < seed.metrics["best_f1"] == seed.test_metrics["f1"]
    assert "NoAns_f1" in seed.test_metrics
    assert not [name for name in seed.test_metrics if name.startswith("best_")]


def test_stopped_and_resumed_is_bitwise_the_run_that_was_not(run, tmp_path, monkeypatch):
    config = dataclasses.replace(run[0], seeds=(0,), epochs=1, test=None)
    straight = dataclasses.replace(config, workdir=str(tmp_path / "straight"))
    broken = dataclasses.replace(config, workdir=str(tmp_path / "broken"))
    wanted = finetune(straight, quiet, progress=False)

    @contextlib.contextmanager
    def requests():
        asked = iter(range(100))
        yield lambda: next(asked) >= 3

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", requests)
        assert finetune(broken, quiet, progress=False).stopped
    assert finetune(broken, quiet, progress=False).seeds[0].metrics == wanted.seeds[0].metrics
    one, other = ((tmp_path / name / "export") for name in ("straight", "broken"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    for change, name in (
        ({"task": dataclasses.replace(QA, doc_stride=7)}, "task.doc_stride"),
        ({"max_seq_length": 31}, "max_seq_length"),
    ):
        with pytest.raises(UserError, match=name):
            finetune(dataclasses.replace(broken, **change), quiet, progress=False)


def by_hand(model, question, context):
    """Finds the best span among all tokens of a document with one window."""
    encoding = model.tokenizer.encode(question, context)
    logits_of = jax.jit(bert.task_logits, static_argnums=(2, 3))
    inputs = {
        "input_ids": np.array([encoding.ids], np.int32),
        "token_type_ids": np.array([encoding.token_type_ids], np.int32),
    }
    logits = np.asarray(logits_of(model.params, inputs, model.config, "question_answering")[0])
    first = encoding.token_type_ids.index(1)
    places = range(first, len(encoding.ids) - 1)
    spans = [(logits[i, 0] + logits[j, 1], i, j) for i in places for j in places if 0 <= j - i < 4]
    score, start, end = max(spans)
    null = logits[0].sum()
    return encoding.offsets[start][0], encoding.offsets[end][1], null - score


def test_predictions_are_pieces_of_the_document(run):
    model = from_pretrained(run[0].workdir)
    pairs = [("what was good", "the plot was  Great , one"), ("what", "the film was a plot .")]
    for (question, context), result in zip(
        pairs, predict.predict(model, pairs, top_k=3), strict=True
    ):
        best = result["n_best"][0]
        start, end, difference = by_hand(model, question, context)
        assert (best["start"], best["end"], best["text"]) == (start, end, context[start:end])
        # Padding changes the order of float32 sums.
        assert result["null_difference"] == pytest.approx(difference, rel=1e-4, abs=1e-5)
        assert result["question"] == question and len(result["n_best"]) == 3
        scores = [each["score"] for each in result["n_best"]]
        assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1
        refused = difference > model.task["null_threshold"]
        assert (result["text"], result["start"]) == (
            ("", None) if refused else (context[start:end], start)
        )
    assert predict.predict(model, pairs)[0]["text"] == "Great"
    assert predict.predict(model, []) == []


def test_an_answer_is_found_at_the_end_of_a_long_document(run):
    model = from_pretrained(run[0].workdir)
    context = "the film was a plot . " * 300 + "the acting was fine ."
    for position in (context, context[::-1].replace("enif", "fine")):
        (result,) = predict.predict(model, [("what was good", position)])
        assert result["n_best"][0]["text"] == "fine"
        assert result["n_best"][0]["start"] == position.index("fine")


def test_lines_are_json_or_have_a_tab(run, tmp_path, capsys, give_stdin):
    workdir = run[0].workdir
    question = {"question": "what was good", "context": "the\tplot was great\n"}
    text = json.dumps(question) + "\nwhat was good\tthe plot was great\n"
    give_stdin(text.splitlines())
    assert cli.run(["predict", workdir, "--top-k", "2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == second["text"] == "great" and first["start"] == second["start"] == 13
    assert len(first["n_best"]) == 2
    model = from_pretrained(workdir)
    wrong = ["no tab", "a\tb\tc", '{"question": "a"}', "a\t "]
    told = predict.predict_lines(model, [*wrong, "what was good\tthe plot was great"])
    answers = [json.loads(next(told)) for _ in range(5)]
    assert answers[4]["text"] == "great"
    sentences = [f"Line {number}: the model answers questions; write" for number in (1, 2, 3)]
    sentences.append("Line 4: the question or its document is empty")
    for answer, sentence in zip(answers[:4], sentences, strict=True):
        assert list(answer) == ["error"] and answer["error"].startswith(sentence)
    with pytest.raises(UserError, match="4 of 5 lines have an error instead"):
        next(told)
    with pytest.raises(UserError, match="`top_k` is 0: give at least 1"):
        predict.predict(model, [("a", "b")], top_k=0)
    with pytest.raises(UserError, match="`beams` is no option of this verb for a question_ans"):
        predict.predict(model, [("a", "b")], beams=2)
    with pytest.raises(UserError, match=r"give a list of \(question, document\)"):
        predict.predict(model, ["good"])
    assert cli.run(["evaluate", workdir, run[0].dev, "--label-column", "x"]) == 2
    assert (
        "--label-column is an option of the tasks classification, summarization_extractive, and "
        "the task is question_answering: leave it out." in capsys.readouterr().err
    )
    assert cli.run(["evaluate", workdir, run[0].dev]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 40


def test_a_model_of_hugging_faces_answers_with_googles_defaults(tiny_model, tmp_path):
    """The config.json of a BertForQuestionAnswering does not describe its windows."""
    head = bert.init_head(tiny_model.config, jax.random.key(0), "question_answering")
    params = {name: tiny_model.params[name] for name in ("embeddings", "encoder")}
    save_pretrained(
        tmp_path, Pretrained(tiny_model.config, {**params, **head}, tiny_model.tokenizer)
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]
    model = from_pretrained(tmp_path)
    context = "the film was good . " * 20
    (result,) = predict.predict(model, [("what was good", context)])
    assert result["text"] == context[result["start"] : result["end"]] != ""
    assert "null_difference" not in result
    # With enough positions they are Google's.
    wide = dataclasses.replace(model.config, max_position_embeddings=512)
    predictor = QuestionPredictor(dataclasses.replace(model, config=wide), NoOptions())
    assert predictor.recorded == QuestionAnsweringConfig()


def test_mistakes_are_told_before_any_training(run, tmp_path):
    def refusal(**change):
        config = dataclasses.replace(run[0], workdir=str(tmp_path / "other"), **change)
        with pytest.raises(UserError) as caught:
            finetune(config, quiet, progress=False)
        assert not (tmp_path / "other").exists()
        return str(caught.value)

    assert "longer than the model's 40 positions" in refusal(max_seq_length=41)
    defaults = refusal(task=QuestionAnsweringConfig())
    assert "`max_query_length` 64 leaves no room" in defaults
    data = json.loads(pathlib.Path(run[0].train).read_text())
    first = data["data"][0]["paragraphs"][0]["qas"][0]
    first["answers"] = [{"text": "good", "answer_start": 10**6}]
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(data))
    assert "question '0-0': at 1000000 stands ''" in refusal(dev=str(wrong))
    assert "nothing.json: no such file" in refusal(train=str(tmp_path / "nothing.json"))


def test_the_recipe_splits_a_file_by_articles(tmp_path):
    recipe = runpy.run_path(pathlib.Path(__file__).parents[2] / "experiments" / "squad.py")
    whole = {"version": "1.1", "data": [{"title": name, "paragraphs": []} for name in "äbcde"]}
    (tmp_path / "all.json").write_text(json.dumps(whole))
    recipe["split"](tmp_path / "all.json", tmp_path / "squad", 2)
    parts = {}
    for name in ("train", "dev"):
        assert getattr(recipe["config"], name) == f"squad/{name}.json"
        parts[name] = json.loads((tmp_path / "squad" / f"{name}.json").read_text())
        assert parts[name]["version"] == "1.1"
    assert [each["title"] for each in parts["train"]["data"]] == ["ä", "b", "c"]
    assert parts["train"]["data"] + parts["dev"]["data"] == whole["data"]


@pytest.mark.data
@pytest.mark.slow
def test_a_slice_of_squad_trains_and_scores(tiny_config, data_dir, tmp_path):
    """A tiny model over the real vocabulary, 3 articles to train on and 1 to evaluate on."""
    from bertjax.text.tokenizer import load_tokenizer

    data = json.loads((data_dir / "squad/train-part-v1.1.json").read_text())
    for name, articles in (("train", data["data"][2:5]), ("dev", data["data"][5:6])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**data, "data": articles}))
    tokenizer = load_tokenizer(data_dir / "vocab/bert-base-uncased-vocab.txt")
    shape = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 128}
    config = dataclasses.replace(tiny_config, **shape)
    params = jax.jit(lambda key: bert.init_params(config, key))(jax.random.key(1))
    save_pretrained(tmp_path / "model", Pretrained(config, params, tokenizer))
    result = finetune(
        FinetuneConfig(
            model=str(tmp_path / "model"),
            train=str(tmp_path / "train.json"),
            dev=str(tmp_path / "dev.json"),
            workdir=str(tmp_path / "run"),
            task=QuestionAnsweringConfig(doc_stride=32, max_query_length=32),
            epochs=1,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
        quiet,
        progress=False,
    )
    assert set(result.seeds[0].metrics) == {"exact", "f1"}
    scores = predict.evaluate(
        from_pretrained(tmp_path / "run"), data_dir / "squad/dev-part-v2.0.json"
    )
    assert scores["examples"] == 1503 and scores["best_f1"] >= 100 * 712 / 1503
