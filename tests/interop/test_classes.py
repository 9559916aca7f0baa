"""Tests the tensors of Hugging Face's classes, and that a round trip keeps them unchanged."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import huggingface
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.text.tokenizer import load_tokenizer

CONFIG = BertConfig(
    vocab_size=6,
    hidden_size=4,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=5,
    max_position_embeddings=7,
)

# transformers 5: names and shapes of the state dicts, tied tensors once.
ENCODER = {
    "embeddings.word_embeddings.weight": [6, 4],
    "embeddings.position_embeddings.weight": [7, 4],
    "embeddings.token_type_embeddings.weight": [2, 4],
    "embeddings.LayerNorm.weight": [4],
    "embeddings.LayerNorm.bias": [4],
    "encoder.layer.0.attention.self.query.weight": [4, 4],
    "encoder.layer.0.attention.self.query.bias": [4],
    "encoder.layer.0.attention.self.key.weight": [4, 4],
    "encoder.layer.0.attention.self.key.bias": [4],
    "encoder.layer.0.attention.self.value.weight": [4, 4],
    "encoder.layer.0.attention.self.value.bias": [4],
    "encoder.layer.0.attention.output.dense.weight": [4, 4],
    "encoder.layer.0.attention.output.dense.bias": [4],
    "encoder.layer.0.attention.output.LayerNorm.weight": [4],
    "encoder.layer.0.attention.output.LayerNorm.bias": [4],
    "encoder.layer.0.intermediate.dense.weight": [5, 4],
    "encoder.layer.0.intermediate.dense.bias": [5],
    "encoder.layer.0.output.dense.weight": [4, 5],
    "encoder.layer.0.output.dense.bias": [4],
    "encoder.layer.0.output.LayerNorm.weight": [4],
    "encoder.layer.0.output.LayerNorm.bias": [4],
}
POOLER = {"pooler.dense.weight": [4, 4], "pooler.dense.bias": [4]}
PREDICTIONS = {
    "cls.predictions.bias": [6],
    "cls.predictions.transform.dense.weight": [4, 4],
    "cls.predictions.transform.dense.bias": [4],
    "cls.predictions.transform.LayerNorm.weight": [4],
    "cls.predictions.transform.LayerNorm.bias": [4],
}
NEXT = {"cls.seq_relationship.weight": [2, 4], "cls.seq_relationship.bias": [2]}


def prefixed(tensors):
    return {f"bert.{name}": shape for name, shape in tensors.items()}


def classifier(columns):
    return {"classifier.weight": [columns, 4], "classifier.bias": [columns]}


# kind, columns of the classifier, Hugging Face's class, its tensors
CLASSES = [
    (
        "pretraining",
        3,
        "BertForPreTraining",
        prefixed(ENCODER | POOLER) | PREDICTIONS | NEXT,
    ),
    ("masked_lm", 3, "BertForMaskedLM", prefixed(ENCODER) | PREDICTIONS),
    ("next_sentence", 3, "BertForNextSentencePrediction", prefixed(ENCODER | POOLER) | NEXT),
    (
        "sequence_classification",
        3,
        "BertForSequenceClassification",
        prefixed(ENCODER | POOLER) | classifier(3),
    ),
    (
        "regression",
        1,
        "BertForSequenceClassification",
        prefixed(ENCODER | POOLER) | classifier(1),
    ),
    (
        "multi_label_classification",
        3,
        "BertForSequenceClassification",
        prefixed(ENCODER | POOLER) | classifier(3),
    ),
    (
        "token_classification",
        3,
        "BertForTokenClassification",
        prefixed(ENCODER) | classifier(3),
    ),
    (
        "question_answering",
        3,
        "BertForQuestionAnswering",
        prefixed(ENCODER) | {"qa_outputs.weight": [2, 4], "qa_outputs.bias": [2]},
    ),
    (
        "multiple_choice",
        1,
        "BertForMultipleChoice",
        prefixed(ENCODER | POOLER) | classifier(1),
    ),
    ("encoder", 3, "BertModel", ENCODER | POOLER),
]
every_class = pytest.mark.parametrize(
    ("kind", "columns", "name", "shapes"), CLASSES, ids=[kind for kind, *_ in CLASSES]
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    return load_tokenizer(directory)


def random_params(columns):
    """Parameters with all heads."""
    rng = np.random.default_rng(0)
    heads = ("mlm", "nsp", "classifier", "qa_outputs")
    shapes = jax.eval_shape(
        lambda: init_params(CONFIG, jax.random.key(0), heads=heads, num_labels=columns)
    )
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def tensors_of(path):
    return safetensors.numpy.load((path / "model.safetensors").read_bytes())


def change_config(path, **changes):
    fields = json.loads((path / "config.json").read_text()) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    (path / "config.json").write_text(json.dumps(fields))
    (path / "bertjax_sha256.json").unlink(missing_ok=True)  # as in other programs' directories


@every_class
def test_a_class_is_written_and_read_with_its_own_tensors(
    tmp_path, tokenizer, kind, columns, name, shapes
):
    params = random_params(columns)
    first = save_pretrained(
        tmp_path / "first", Pretrained(CONFIG, params, tokenizer, {"kind": kind})
    )
    assert {n: list(array.shape) for n, array in tensors_of(first).items()} == shapes
    assert json.loads((first / "config.json").read_text())["architectures"] == [name]
    change_config(first, bertjax_task=None)
    model = from_pretrained(first)
    assert model.kind == kind
    jax.tree.map(
        np.testing.assert_array_equal, model.params, {part: params[part] for part in model.params}
    )
    again = save_pretrained(tmp_path / "again", model)
    file = "model.safetensors"
    assert (first / file).read_bytes() == (again / file).read_bytes()
    assert from_pretrained(again).task == model.task
    # Without a task, the heads determine the kind of a model.
    model.task = None
    alone = {
        "multiple_choice": "regression",
        "multi_label_classification": "sequence_classification",
    }
    assert model.kind == alone.get(kind, kind)


def test_an_encoder_may_have_no_pooler(tmp_path, tokenizer):
    params = {name: random_params(2)[name] for name in ("embeddings", "encoder")}
    path = save_pretrained(tmp_path / "out", Pretrained(CONFIG, params, tokenizer, None))
    assert {n: list(array.shape) for n, array in tensors_of(path).items()} == ENCODER
    model = from_pretrained(path)
    assert model.kind == "encoder" and set(model.params) == {"embeddings", "encoder"}


@pytest.mark.parametrize("labels", [["O", "B-PER", "I-PER"], None])
def test_labels_of_tokens(tmp_path, tokenizer, labels):
    task = {"kind": "token_classification"} | ({"labels": labels} if labels else {})
    model = Pretrained(CONFIG, random_params(3), tokenizer, task)
    path = save_pretrained(tmp_path / "out", model)
    fields = json.loads((path / "config.json").read_text())
    labels = labels or ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert fields["id2label"] == {str(index): label for index, label in enumerate(labels)}
    assert fields["label2id"] == {label: index for index, label in enumerate(labels)}
    assert "problem_type" not in fields
    wanted = {"kind": "token_classification", "labels": labels}
    assert from_pretrained(path).task == wanted
    change_config(path, bertjax_task=None)
    assert from_pretrained(path).task == wanted
    change_config(path, id2label={"0": "O"})
    with pytest.raises(UserError, match="labels don't match the classifier's 3 outputs"):
        from_pretrained(path)


def test_architectures_tell_apart_what_is_named_classifier(tmp_path, tokenizer):
    """All three classes have a `classifier`; one with a pooler does not classify tokens."""
    model = Pretrained(CONFIG, random_params(1), tokenizer, {"kind": "multiple_choice"})
    path = save_pretrained(tmp_path / "out", model)
    change_config(path, bertjax_task=None)
    for architectures, kind in (
        (["BertForMultipleChoice"], "multiple_choice"),
        (["BertForTokenClassification"], "token_classification"),
        (["BertForSequenceClassification"], "regression"),
        (["AnotherClass", "BertForMultipleChoice"], "multiple_choice"),
    ):
        change_config(path, architectures=architectures)
        assert from_pretrained(path).kind == kind
    model.task = {"kind": "token_classification"}
    path = save_pretrained(tmp_path / "tokens", model)
    change_config(path, bertjax_task=None, architectures=None)
    assert from_pretrained(path).kind == "token_classification"
    change_config(path, architectures=["BertForSequenceClassification"])
    with pytest.raises(UserError, match="'regression' needs the part pooler, which the weights"):
        from_pretrained(path)


@pytest.mark.parametrize(
    "kind", sorted(huggingface.TASK_PARTS.keys() - {"encoder", "encoder_decoder"})
)
def test_a_model_without_what_its_task_needs_is_not_written(tmp_path, tokenizer, kind):
    params = random_params(1)
    for part in huggingface.TASK_PARTS[kind]:
        less = {name: tree for name, tree in params.items() if name != part}
        with pytest.raises(UserError, match=f"the task '{kind}' needs the part {part}, which"):
            save_pretrained(tmp_path / "out", Pretrained(CONFIG, less, tokenizer, {"kind": kind}))
    with pytest.raises(UserError, match=r"the task 'x' is unknown \(known are pretraining, masked"):
        save_pretrained(tmp_path / "out", Pretrained(CONFIG, params, tokenizer, {"kind": "x"}))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sequences(tmp_path, tokenizer):
    """An exported classifier with two labels."""
    task = {"kind": "sequence_classification", "labels": ["neg", "pos"], "text_column": "text"}
    model = Pretrained(CONFIG, random_params(2), tokenizer, task)
    return save_pretrained(tmp_path / "out", model)


def test_what_transformers_trained_further_is_what_it_says_it_is(sequences):
    """transformers keeps our entry in config.json, even if it trains the model for another task."""
    assert from_pretrained(sequences).task["text_column"] == "text"
    change_config(sequences, id2label={"0": "ham", "1": "spam"})
    assert from_pretrained(sequences).task["labels"] == ["ham", "spam"]
    change_config(sequences, bertjax_task={"kind": "pretraining"})
    task = {"kind": "sequence_classification", "labels": ["ham", "spam"]}
    assert from_pretrained(sequences).task == task
    change_config(sequences, bertjax_task={"kind": "sequence_classification", "labels": ["a", "b"]})
    change_config(sequences, architectures=["BertForTokenClassification"])
    assert from_pretrained(sequences).kind == "token_classification"
    change_config(
        sequences,
        architectures=["BertForSequenceClassification"],
        problem_type="multi_label_classification",
    )
    task = {"kind": "multi_label_classification", "labels": ["ham", "spam"]}
    assert from_pretrained(sequences).task == task


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"is_decoder": True}, "is_decoder is True; only encoders"),
        ({"add_cross_attention": True}, "add_cross_attention is True; only encoders"),
        ({"id2label": {"0": ["a"], "1": {}}}, r"id2label has a label \['a'\]"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "labels don't match .* 2 outputs; put"),
    ],
)
def test_configurations_that_say_something_else(sequences, changes, sentence):
    change_config(sequences, **changes)
    with pytest.raises(UserError, match=sentence):
        from_pretrained(sequences)
