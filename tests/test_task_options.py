"""The command lines whose options depend on the kind of task; nothing is trained."""

import dataclasses

import pytest

from bertjax import cli, parsing
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.flags import saying_flags
from bertjax.inference.config import MaskedLmOptions
from bertjax.model.generation_config import GenerationConfig
from bertjax.task_options import FinetuneArguments, evaluate_type, predict_type
from bertjax.tasks import kinds
from bertjax.tasks.classification.config import (
    ClassificationConfig,
    EvaluationColumns,
    LineOptions,
)
from bertjax.tasks.question_answering.config import (
    AnswerOptions,
    QuestionAnsweringConfig,
    QuestionFile,
)
from bertjax.tasks.seq2seq.predictions import ScoringOptions, WritingOptions

FILES = ["--model", "m", "--train", "t", "--dev", "d"]


def parse(*words):
    arguments = FinetuneArguments(*parsing.read_recipe("finetune", list(words), FinetuneConfig))
    with saying_flags(arguments.type):
        return arguments.parse()


def test_without_a_task_the_options_are_those_of_classification():
    config = parse(*FILES, "--column-names", "a", "b", "--text-column", "a", "--regression")
    task = ClassificationConfig(text_column="a", column_names=("a", "b"), regression=True)
    assert config == FinetuneConfig("m", "t", "d", task=task)
    config = parse(*FILES, "--multi-label", "--label-separator", ";", "--label_column", "x")
    options = {"multi_label": True, "label_separator": ";", "label_column": "x"}
    assert config.task == ClassificationConfig(**options)
    config = parse(*FILES, "--class-weights", "pos", "2", "neg", "1")
    assert config.task.class_weights == {"pos": 2.0, "neg": 1.0}
    assert type(config) is FinetuneConfig


def test_a_task_has_its_own_options():
    config = parse(*FILES, "--task", "question_answering", "--doc-stride", "64")
    assert config.task == QuestionAnsweringConfig(doc_stride=64)
    assert parse(*FILES, "--task=question_answering").task == QuestionAnsweringConfig()


@pytest.mark.parametrize("kind", kinds.names())
def test_help_shows_the_options_of_the_task_and_no_others(kind, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--task", kind, "--help-all")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    names = {
        name: {field.name for field in dataclasses.fields(kinds.get(name).options)}
        for name in kinds.names()
    }
    names["seq2seq"] -= {"generation"}
    names["seq2seq"] |= {field.name for field in dataclasses.fields(GenerationConfig)}
    for name in set().union(*names.values()):
        flag = f"--{name.replace('_', '-')}"
        assert (f"{flag} " in shown or f"{flag}," in shown) == (name in names[kind]), flag
    assert "--task{" + ",".join(kinds.names()) in "".join(shown.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--doc-stride", "64"], "--doc-stride is an option of the task question_answering, and"),
        (["--task", "question_answering", "--no-regression"], "option of the task classification"),
        (["--task", "question_answering", "--text_column=a"], "--text-column is an option of the"),
        (["--num-beams", "2"], "--num-beams is an option of the task seq2seq, and the task is"),
        (["--task", "x"], "--task 'x' is unknown: give one of classification, "),
        (["--label-separator", ";"], "--label-separator needs --multi-label: give it too"),
        (["--window-logits", "max"], "--window-logits needs --long-documents windows"),
        (["--epochs", "0"], "--epochs is 0: give at least 1"),
    ],
)
def test_what_is_refused_is_named_as_a_flag(words, sentence, capsys):
    assert cli.run(["finetune", *FILES, *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


RECIPE = """
import bertjax as bj

config = bj.FinetuneConfig("m", "t", "d", epochs=7, task=bj.{options})
"""


def test_a_recipe_brings_its_task(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(options="QuestionAnsweringConfig(doc_stride=64)"))
    config = parse(str(recipe), "--max-query-length", "32")
    assert config.task == QuestionAnsweringConfig(doc_stride=64, max_query_length=32)
    assert config.epochs == 7
    # Another task leaves the recipe's options behind.
    other = parse(str(recipe), "--task", "classification", "--text-column", "a")
    assert other.task == ClassificationConfig(text_column="a") and other.epochs == 7
    with pytest.raises(UserError, match="--text-column is an option of the tasks classification, "):
        parse(str(recipe), "--text-column", "a")


class Model:
    """A trained model, as far as its kind goes."""

    def __init__(self, task, kind):
        self.task, self.kind, self.sentence_modules = {"task": task}, kind, None


TEXTS = Model("classification", "sequence_classification")
QUESTIONS = Model("question_answering", "question_answering")
PRETRAINED = Model(None, "pretraining")


def test_evaluation_has_the_options_of_the_models_task():
    words = ["m", "f", "--label-column", "y", "--column-names", "x", "y"]
    config = parsing.parse(evaluate_type(words, TEXTS), "evaluate", words)
    assert (config.model, config.data) == ("m", "f")
    assert config.task == EvaluationColumns(label_column="y", column_names=("x", "y"))
    with pytest.raises(UserError, match="--label-column is an option of the tasks classif"):
        evaluate_type(words, QUESTIONS)
    config = parsing.parse(evaluate_type(words[:2], QUESTIONS), "evaluate", words[:2])
    assert config.task == QuestionFile()


def test_extractive_summaries_are_evaluated_with_another_tokenization():
    model = Model("summarization_extractive", "sentence_extraction")
    words = ["m", "f", "--tokenize", "words"]
    assert parsing.parse(evaluate_type(words, model), "evaluate", words).task.tokenize == "words"


def test_prediction_has_the_options_of_the_models_task():
    words = ["m", "--top-k", "3"]
    for model, expected in ((QUESTIONS, AnswerOptions(3)), (PRETRAINED, MaskedLmOptions(3))):
        config = parsing.parse(predict_type(words, model), "predict", words)
        assert (config.model, config.task) == ("m", expected)
    words = ["m", "--pair-column", "second"]
    for columns, expected in (
        ({}, LineOptions(False, "text", "second")),
        ({"text_column": "a", "pair_column": None}, LineOptions(False, "a", "second")),
        ({"text_column": "a", "pair_column": "b"}, LineOptions(True, "a", "second")),
    ):
        model = Model("classification", "sequence_classification")
        model.task |= columns
        config = parsing.parse(predict_type(words, model), "predict", words)
        assert config.task == expected
    words = ["m", "--top-k", "3"]
    with pytest.raises(UserError, match="`top_k` is 0: give at least 1"):
        parsing.parse(
            predict_type(["m", "--top-k", "0"], PRETRAINED), "predict", ["m", "--top-k", "0"]
        )
    with pytest.raises(UserError) as caught:
        predict_type(words, TEXTS)
    assert str(caught.value) == (
        "--top-k is an option of the tasks question_answering, seq2seq, masked_lm, and the "
        "task is classification: leave it out."
    )
    with pytest.raises(UserError, match="--pseudo-log-likelihood is an option of the task masked"):
        predict_type(["m", "--pseudo-log-likelihood"], QUESTIONS)
    config = parsing.parse(predict_type(["--batch-size", "8", "m"], None), "predict", words[:1])
    assert config.model == "m"
    for flag in ("--top-k", "--num-beams"):
        with pytest.raises(UserError, match=f"{flag} depends on the model: write the model before"):
            predict_type([flag, "3", "m"], None)


def test_writing_defaults_to_the_options_of_training(capsys):
    model = Model("seq2seq", "encoder_decoder")
    model.task |= {"generation": {"num_beams": 7, "max_length": 9}, "source_column": "de"}
    words = ["m", "--n-best", "2"]
    config = parsing.parse(predict_type(words, model), "predict", words)
    assert config.task == WritingOptions(num_beams=7, max_length=9, n_best=2)
    words = ["m", "f", "--num-beams", "1"]
    config = parsing.parse(evaluate_type(words, model), "evaluate", words)
    assert config.task == ScoringOptions(num_beams=1, max_length=9)
    with pytest.raises(SystemExit):
        parsing.parse(predict_type(["m", "--help"], model), "predict", ["m", "--help"])
    assert "(default: 7)" in capsys.readouterr().out
