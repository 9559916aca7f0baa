"""Files of sources and targets -> a task; nothing is trained."""

import dataclasses

import pytest

from bertjax.errors import UserError
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.reading import read
from bertjax.tasks.task import TaskFiles

OPTIONS = Seq2SeqConfig(max_target_length=4, generation=GenerationConfig(max_length=6))
ROWS = ["the film was good\ta good film", "a film\tgood", "the plot was bad\tnot bad"]


@pytest.fixture
def read_rows(tmp_path, tiny_model):
    """Reads rows as a training and as a dev file; returns the task and the lines of the log.

    Most tests have equal files, so the warning about equal rows, the last line, is left out.
    """

    def run(rows=ROWS, options=OPTIONS, dev=ROWS, model=tiny_model, max_seq_length=12):
        for name, each in (("train", rows), ("dev", dev)):
            text = "".join(f"{row}\n" for row in ["source\ttarget", *each])
            (tmp_path / f"{name}.tsv").write_text(text)
        paths = [str(tmp_path / f"{name}.tsv") for name in ("train", "dev")]
        lines = []
        files = TaskFiles(*paths, None, model, max_seq_length, lines.append, load=None)
        task = read(options, files)
        assert lines.pop().startswith("Warning: of ")
        return task, lines

    return run


def test_a_task_of_pairs(read_rows, tiny_model):
    task, lines = read_rows()
    assert lines == [
        "Training on 3 pairs of 5.3 source and 3.0 target tokens on average, evaluating on 3."
    ]
    assert task.head.name == "encoder_decoder" and task.test is None
    assert task.metric == "rougeL" and task.metrics[0] == "rougeL"
    assert task.baseline.name == "copy" and 0 < task.baseline.scores[task.metric] < 100
    assert task.decoder_tokenizer is None and task.dev_sample is None
    assert task.judged_by("rouge2").best_mode == "max"
    assert task.judged_by("nll_loss").best_mode == "min"
    assert read_rows(rows=ROWS[:2])[0].data_hash != task.data_hash
    bleu = dataclasses.replace(OPTIONS, scoring="bleu")
    assert read_rows(options=bleu)[0].metrics == ("bleu", "chrf", "nll_loss")


def test_evaluations_during_training_take_the_first_dev_rows(read_rows):
    sampled, lines = {}, {}
    for count in (0, 1, 2, 3):
        options = dataclasses.replace(OPTIONS, eval_rows=count)
        sampled[count], lines[count] = read_rows(options=options)
    assert lines[2][0].endswith("on average, evaluating on 3, during training on the first 2.")
    assert lines[3][0].endswith("on average, evaluating on 3.")
    assert [len(sampled[count].dev) for count in sampled] == [3] * 4
    assert sampled[0].dev_sample is None and sampled[3].dev_sample is None
    assert sampled[2].dev_sample.references == ["a good film", "good"]
    # They may choose the weights.
    assert len({task.dev_hash for task in sampled.values()}) == 4


def test_the_export_records_what_evaluation_and_prediction_need(read_rows):
    task, _ = read_rows()
    recorded = task.export({})
    assert recorded["generation"]["max_length"] == 6 and recorded["max_target_length"] == 4
    assert recorded["source_column"] == "source" and recorded["scoring"] == "rouge"
    assert not {"eval_rows", "column_names", "decoder", "label_smoothing"} & recorded.keys()


def test_targets_that_are_too_long_are_named_or_truncated(read_rows, tmp_path):
    long = [*ROWS, "a film\ta very good film", "a plot\tone two one two one"]
    with pytest.raises(UserError) as caught:
        read_rows(rows=long)
    assert str(caught.value) == (
        f"{tmp_path / 'train.tsv'}:5: the target has more than `max_target_length` 4 tokens, like "
        "2 of 5 targets: raise it, or set `truncate_targets`."
    )
    with pytest.raises(UserError, match=r"dev.tsv:5: the target has more than"):
        read_rows(dev=long)
    task, lines = read_rows(rows=long, options=dataclasses.replace(OPTIONS, truncate_targets=True))
    assert task.train.lengths[:, 1].max() == 4
    assert lines[1:] == ["2 training targets have more than 4 tokens and are truncated."]
    assert task.train.references[-1] == "one two one two one"


def test_sources_that_are_too_long_are_truncated_and_counted(read_rows):
    task, lines = read_rows(max_seq_length=5)
    assert task.train.lengths[:, 0].tolist() == [5, 4, 5]
    assert lines[1:] == ["2 training sources have more than 5 tokens and are truncated."]


def test_the_row_of_a_prefix_model_holds_the_longest_target_too(read_rows):
    prefix = dataclasses.replace(OPTIONS, architecture="prefix")
    task, lines = read_rows(options=prefix)
    assert task.head.name == "masked_lm" and task.train.lengths[:, 0].max() == 6
    assert lines[1:] == []
    task, lines = read_rows(options=prefix, max_seq_length=11)
    assert task.train.lengths[:, 0].max() == 5
    # A resumed run may write longer texts, if that does not truncate the sources it learns from.
    assert task.immutable["max_source_length"] == 5
    assert lines[1:] == ["2 training sources have more than 5 tokens and are truncated."]
    with pytest.raises(UserError, match="`max_length` is 6, which leaves 2 of the 8 tokens of a r"):
        read_rows(options=prefix, max_seq_length=8)


@pytest.mark.parametrize(
    ("options", "rows", "sentence"),
    [
        (
            {"tokenize": "13a"},
            ROWS,
            "`tokenize` is '13a', which ROUGE does not have: give one of e",
        ),
        ({"scoring": "bleu", "tokenize": "x"}, ROWS, "`tokenize` is 'x', which sacreBLEU does not"),
        ({"scoring": "bleu"}, ["a film\t一部好电影"], "written without spaces between words"),
        ({}, ["a film\t一部好电影"], "Most letters of the references are not a-z"),
    ],
)
def test_metrics_are_checked_before_training(read_rows, options, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        read_rows(options=dataclasses.replace(OPTIONS, max_target_length=9, **options), dev=rows)
