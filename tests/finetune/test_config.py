"""What the configuration of a fine-tuning run refuses; nothing is compiled."""

import dataclasses

import pytest

import bertjax as bj
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig


def configure(**change):
    return FinetuneConfig(model="m", train="t", dev="d", workdir="w", **change)


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
        {"lora": LoraConfig(2), "from_scratch": True},
        {"accumulation": 3, "batch_sizes": (9, 10)},
        {"warmup_proportion": 1.0},
        {"batch_size": 10, "accumulation": 3},
        {"max_seq_length": 3},
        {"eval_every": -1},
        {"batch_tokens": 100, "group_by_length": True},
        {"batch_tokens": 100, "batch_sizes": (8, 16)},
        {"average_last": -1},
        {"average_last": 1},
        {"average_last": 3, "select": "best"},
        {"average_last": 3, "optimizer": OptimizerConfig(ema_decay=0.9)},
        {"task": "classification"},
    ],
)
def test_a_configuration_that_makes_no_sense(change):
    with pytest.raises(UserError, match=f"`{next(iter(change))}"):
        configure(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"regression": True, "multi_label": True},
        {"class_weights": "balanced", "multi_label": True},
        {"long_documents": "windows", "pair_column": "b"},
        {"window_overlap": 3},
        {"window_logits": "max"},
        {"window_overlap": -1, "long_documents": "windows"},
        {"class_weights": {"a": 2.0}, "regression": True},
        {"label_separator": ";"},
        {"label_separator": "", "multi_label": True},
    ],
)
def test_options_that_make_no_sense(change):
    with pytest.raises(UserError, match=f"`{next(iter(change))}"):
        ClassificationConfig(**change)


@pytest.mark.parametrize(
    ("kind", "field", "known"),
    [
        (configure, "select", "last"),
        (ClassificationConfig, "window_logits", "mean"),
        (ClassificationConfig, "class_weights", "balanced"),
    ],
)
def test_choices_of_a_recipe_are_checked(kind, field, known):
    with pytest.raises(UserError, match=f"{field}`? 'x' is unknown: give one of {known}"):
        kind(**{field: "x"})


def test_the_task_is_classification_unless_another_is_given():
    assert configure().task == ClassificationConfig() == bj.ClassificationConfig()
    assert configure().kind.name == "classification"
    config = configure(task=QuestionAnsweringConfig(doc_stride=64))
    assert config.kind.name == "question_answering"
    saved = config.to_dict()["task"]
    assert saved == {"kind": "question_answering", **dataclasses.asdict(config.task)}


def test_a_row_has_the_tasks_length_or_the_models_positions():
    assert configure().row_length(512) == 128 and configure().row_length(40) == 40
    questions = configure(task=QuestionAnsweringConfig())
    assert questions.row_length(512) == 384 and questions.row_length(40) == 40
    assert configure(max_seq_length=30).row_length(40) == 30


def test_mistakes_are_told_before_any_training(config, tmp_path, files, with_task):
    def refusal(config):
        with pytest.raises(UserError) as caught:
            finetune(config, lambda line: None, progress=False)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    def change(**fields):
        return refusal(dataclasses.replace(config, **fields))

    def option(**options):
        return refusal(with_task(config, **options))

    assert "longer than the model's 40 positions" in change(max_seq_length=41)
    dev = tmp_path / "dev.tsv"
    dev.write_text("text\tlabel\nfine\tpos\nbad\tmeh\n")
    assert f"{dev}:3: label 'meh' was not seen in training" in change(dev=str(dev))
    assert f"{dev}:3: label 'meh' was not seen" in change(test=str(dev))
    assert "no column 'sentence'" in option(text_column="sentence")
    assert "is no finite number" in option(regression=True)
    assert "no such directory" in change(model=str(tmp_path / "nothing"))
    assert "no such file" in change(train=str(tmp_path / "nothing.tsv"))
    overlap = option(long_documents="windows", window_overlap=30)
    assert "`window_overlap` 30 leaves nothing new in a window" in overlap
    known = "give one of accuracy, macro_f1, mcc, loss, f1."
    assert f"`best_metric` is 'bleu', which this task does not have: {known}" in change(
        best_metric="bleu"
    )
