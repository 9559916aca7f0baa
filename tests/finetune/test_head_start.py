"""Fine-tuning from the head of a model."""

import dataclasses

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.finetune import head_start
from bertjax.finetune.run import finetune, read_task
from bertjax.interop.huggingface import from_pretrained, save_pretrained


def quiet(line):
    del line


@pytest.fixture(scope="module")
def task(short, tiny_model):
    return read_task(short, tiny_model, quiet)


@pytest.fixture(scope="module")
def classifier(tiny_model):
    """Makes a classifier with labels, or with as many outputs."""

    def make(labels, outputs=None, kind="sequence_classification"):
        outputs = outputs or len(labels)
        kernel = np.arange(16 * outputs, dtype=np.float32).reshape(16, outputs)
        head = {"kernel": kernel, "bias": np.arange(outputs, dtype=np.float32)}
        record = {"kind": kind, **({"labels": labels} if labels else {})}
        return dataclasses.replace(
            tiny_model, params={**tiny_model.params, "classifier": head}, task=record
        )

    return make


@pytest.mark.parametrize(
    ("labels", "given", "columns"),
    [
        (["neg", "pos"], {}, [0, 1]),
        (["x", "POS", "Neg"], {}, [2, 1]),
        (["pos", "POS", "neg"], {}, [2, 0]),
        (["good", "fair", "bad"], {"pos": "good", "neg": "bad"}, [2, 0]),
        (["neg", "good"], {"pos": "good"}, [0, 1]),
    ],
)
def test_outputs_start_from_the_labels_of_their_names(task, classifier, labels, given, columns):
    model = classifier(labels)
    sources = head_start.label_sources(task, model, given)
    assert [sources[label] for label in ("neg", "pos")] == [labels[each] for each in columns]
    params = dict.fromkeys(("embeddings", "encoder", "pooler", "classifier"), "random")
    kept = head_start.keep_head(params, task, model, sources)
    head = model.params["classifier"]
    assert kept["classifier"]["bias"].tolist() == columns
    np.testing.assert_array_equal(kept["classifier"]["kernel"], head["kernel"][:, columns])
    assert kept["pooler"] is model.params["pooler"] and kept["encoder"] == "random"


def test_labels_without_names_are_numbers(task, classifier):
    numbered = dataclasses.replace(task, labels=("0", "1"))
    sources = head_start.label_sources(numbered, classifier(None, 3), {})
    assert sources == {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.mark.parametrize(
    ("labels", "given", "says"),
    [
        (["neg", "other"], {}, "has the labels neg, other, and not 'pos': name the one from which"),
        (["neg", "other"], {"pos": "more"}, "and not 'more'"),
        (["neg", "pos"], {"up": "pos"}, "`head_labels` has 'up', which is no label"),
    ],
)
def test_labels_that_do_not_agree(task, classifier, labels, given, says):
    with pytest.raises(UserError, match=says):
        head_start.label_sources(task, classifier(labels), given)


def test_heads_that_do_not_fit(task, classifier, tiny_model, short):
    with pytest.raises(UserError, match="`keep_head` needs a model with a head for sequence_class"):
        head_start.label_sources(task, tiny_model, {})
    number = classifier(None, 1, "regression")
    with pytest.raises(UserError, match="another shape than that of the task"):
        head_start.label_sources(task, number, {})
    with pytest.raises(UserError, match="`head_labels` needs labels in the task and in the model"):
        head_start.label_sources(task, number, {"pos": "a"})
    with pytest.raises(UserError, match="`head_labels` needs `keep_head`"):
        dataclasses.replace(short, head_labels={"pos": "a"})
    with pytest.raises(UserError, match="`keep_head` and `from_scratch` exclude"):
        dataclasses.replace(short, keep_head=True, from_scratch=True)


def test_a_classifier_goes_on_where_it_was(short, straight, tmp_path):
    """With a learning rate of almost nothing, it keeps its metrics."""
    still = dataclasses.replace(short.optimizer, learning_rate=1e-12)
    config = dataclasses.replace(
        short, model=straight.workdir, optimizer=still, workdir=str(tmp_path / "on")
    )
    lines = []
    kept = finetune(dataclasses.replace(config, keep_head=True), lines.append, progress=False)
    assert "The head is that of the model: neg from neg, pos from pos." in lines
    assert kept.seeds[0].metrics == pytest.approx(straight.seeds[0].metrics, rel=1e-5)
    with pytest.raises(UserError, match=r"another keep_head"):
        finetune(config, quiet, progress=False)
    lines.clear()
    new = finetune(dataclasses.replace(config, fresh=True), lines.append, progress=False)
    assert any(line.startswith("The head is new: that of the model (sequ") for line in lines)
    assert new.seeds[0].metrics["loss"] != pytest.approx(kept.seeds[0].metrics["loss"], rel=1e-3)


def test_outputs_in_another_order_answer_the_same(short, straight, tmp_path):
    model = from_pretrained(straight.workdir)
    head = {name: leaf[..., ::-1] for name, leaf in model.params["classifier"].items()}
    turned = dataclasses.replace(
        model,
        params={**model.params, "classifier": head},
        task={**model.task, "labels": ["POSITIVE", "NEGATIVE"]},
    )
    save_pretrained(tmp_path / "turned", turned)
    config = dataclasses.replace(
        short,
        model=str(tmp_path / "turned"),
        optimizer=dataclasses.replace(short.optimizer, learning_rate=1e-12),
        workdir=str(tmp_path / "on"),
        keep_head=True,
        head_labels={"pos": "POSITIVE", "neg": "NEGATIVE"},
    )
    result = finetune(config, quiet, progress=False)
    assert result.seeds[0].metrics == pytest.approx(straight.seeds[0].metrics, rel=1e-5)
