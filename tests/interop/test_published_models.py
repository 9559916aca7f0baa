"""Directories as other programs leave them: read as they are meant, or refused in a sentence."""

import dataclasses
import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy

import bertjax as bj
from bertjax.convert.run import ConvertConfig, convert
from bertjax.errors import UserError
from bertjax.files import location
from bertjax.interop import vocabulary
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.text.corpus import read_documents
from bertjax.text.tokenizer import load_tokenizer


@pytest.fixture
def make(tmp_path, tiny_model, tiny_config):
    """Saves a model of a kind; changes fields of config.json and names of tensors."""

    def make(kind="pretraining", labels=(), *, fields=None, rename=None, tensors=None):
        model = dataclasses.replace(tiny_model, task={"kind": kind})
        if labels:
            model.task["labels"] = list(labels)
            head = jax.random.key(0)
            own = bj.init_params(tiny_config, head, heads=("classifier",), num_labels=len(labels))
            model.params = {**tiny_model.params, "classifier": own["classifier"]}
        path = save_pretrained(tmp_path / "model", model)
        (path / "bertjax_sha256.json").unlink()  # another program wrote it
        config = json.loads((path / "config.json").read_text())
        del config["bertjax_task"]
        config |= fields or {}
        config = {name: value for name, value in config.items() if value is not None}
        (path / "config.json").write_text(json.dumps(config))
        held = safetensors.numpy.load_file(path / "model.safetensors")
        held = {(rename or str)(name): array for name, array in held.items()} | (tensors or {})
        safetensors.numpy.save_file(held, path / "model.safetensors")
        return path

    return make


def read(path):
    notes = []
    return from_pretrained(path, log=notes.append), notes


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def refusal(path):
    with pytest.raises(UserError) as caught:
        from_pretrained(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names with something before them


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod.", "encoder.backbone."])
@pytest.mark.parametrize("kind", ["pretraining", "encoder"])
def test_names_are_read_without_what_a_program_put_before_them(make, tiny_model, prefix, kind):
    model, notes = read(make(kind, rename=lambda name: f"{prefix}{name}"))
    assert model.kind == kind
    assert same(model.params, {part: tiny_model.params[part] for part in model.params})
    (note,) = notes
    assert note.endswith(
        f"model.safetensors: the names of its tensors are read without '{prefix}' before them."
    )


def test_a_head_beside_the_prefix_is_found(make, tiny_model):
    # torch.nn.DataParallel wraps the whole model, others the encoder alone.
    path = make(rename=lambda name: name if name.startswith("cls.") else f"wrapped.{name}")
    model, _ = read(path)
    assert same(model.params, tiny_model.params)


@pytest.mark.parametrize("family", ["roberta", "electra", "deberta"])
def test_another_architecture_is_named(make, family):
    path = make(
        rename=lambda name: name.replace("bert.", f"{family}."), fields={"model_type": None}
    )
    assert f"another architecture ({family}.embeddings...)" in refusal(path)


def test_several_encoders_are_refused(make):
    path = make(rename=lambda name: f"query.{name}")
    held = safetensors.numpy.load_file(path / "model.safetensors")
    held |= {name.replace("query.", "passage."): array for name, array in held.items()}
    safetensors.numpy.save_file(held, path / "model.safetensors")
    assert "several encoders (passage., query.)" in refusal(path)


# Tensors that no BERT has


@pytest.mark.parametrize(
    "tensors",
    [
        {"crf.transitions": np.zeros((3, 3), np.float32), "crf.start": np.zeros(3, np.float32)},
        {"linear.weight": np.zeros((4, 16), np.float32)},
        {"bn.num_batches_tracked": np.array(3)},
        {f"mlp.{n}.weight": np.zeros(1, np.float32) for n in range(9)},
    ],
)
def test_tensors_that_no_bert_has_are_listed(make, tmp_path, tensors):
    path = make("encoder", tensors=tensors)
    model, (note,) = read(path)
    assert "not part of a BERT, and left out: " + sorted(tensors)[0] in note
    assert ("4 more" in note) == (len(tensors) == 9)
    told = []
    convert(ConvertConfig(str(path), str(tmp_path / "out")), told.append)
    assert note in told
    assert same(model.params, from_pretrained(tmp_path / "out").params)


def test_nothing_is_left_out_of_the_classes_of_transformers(make):
    tied = {"cls.predictions.decoder.weight": None, "bert.embeddings.position_ids": None}
    path = make()
    held = safetensors.numpy.load_file(path / "model.safetensors")
    words = held["bert.embeddings.word_embeddings.weight"]
    held |= dict(zip(tied, (words, np.arange(512)[None]), strict=True))
    safetensors.numpy.save_file(held, path / "model.safetensors")
    assert read(path)[1] == []


# Classifiers

TAGS = ("O", "B-PER", "I-PER")


def test_a_tagger_without_architectures_is_known_by_its_labels(make):
    path = make("multi_label_classification", TAGS)
    fields = json.loads((path / "config.json").read_text())
    for name in ("architectures", "problem_type"):
        del fields[name]
    (path / "config.json").write_text(json.dumps(fields))
    assert read(path)[0].task == {"kind": "token_classification", "labels": list(TAGS)}


@pytest.mark.parametrize("labels", [("good", "bad"), ("score",), ("O", "AB-")])
def test_a_classifier_without_architectures_is_refused_or_known_by_an_entry(make, labels):
    kind = "sequence_classification"
    gone = {"architectures": None, "problem_type": None}
    told = refusal(make(kind, labels, fields=gone))
    assert 'add "architectures": ["BertForSequenceClassification"] or' in told
    path = make(kind, labels, fields={**gone, "finetuning_task": "mrpc"})
    assert read(path)[0].kind == ("regression" if len(labels) == 1 else kind)


def test_two_labels_alike_are_refused(make):
    path = make(
        "sequence_classification",
        ("a", "b", "c"),
        fields={"id2label": {"0": "x", "1": "y", "2": "x"}},
    )
    assert "two outputs have the label 'x'; give each its own name" in refusal(path)


def test_several_numbers_of_a_regression_are_refused(make):
    path = make("sequence_classification", ("a", "b"), fields={"problem_type": "regression"})
    assert "the task is regression and the classifier has 2 outputs, but only one" in refusal(path)


def test_the_dropout_of_the_classifier_is_kept(make, tmp_path):
    path = make("sequence_classification", ("a", "b"), fields={"classifier_dropout": 0.4})
    model, _ = read(path)
    assert model.config.classifier_dropout == 0.4
    again = from_pretrained(save_pretrained(tmp_path / "again", model))
    assert again.config == model.config
    path = make("sequence_classification", ("a", "b"), fields={"classifier_dropout": 2})
    assert "classifier_dropout is 2: give a number" in refusal(path)


# Files that are not there, or not the files themselves

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440473133\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_pointer_of_git_lfs_is_named(make, name):
    path = make()
    (path / name).write_bytes(POINTER)
    assert f"{name}: is a pointer of Git LFS, not the file itself; run git lfs" in refusal(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "flax_model.msgpack", "bert.ckpt.index"])
def test_a_pointer_of_git_lfs_in_other_formats(make, name):
    path = make()
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(POINTER)
    if name.endswith("index"):
        (path / "bert.ckpt.data-00000-of-00001").write_bytes(POINTER)
    assert f"{name}: is a pointer of Git LFS" in refusal(path)


def test_a_pointer_of_git_lfs_is_no_text(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_bytes(POINTER)
    with pytest.raises(UserError, match="is a pointer of Git LFS"):
        list(read_documents(file))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ("config.json", "tf_model.h5"),
            "holds tf_model.h5, which bertjax does not read; download ",
        ),
        (
            ("config.json", "model.onnx"),
            "holds model.onnx, which bertjax does not read; give model.",
        ),
        (("adapter_model.safetensors",), "holds adapter_model.safetensors, which"),
        (("config.json",), "holds no weights; download model.safetensors, flax"),
        (("model.safetensors",), "holds model.safetensors without config.json; put the one of"),
        ((), "holds no config.json with model.safetensors"),
    ],
)
def test_what_a_directory_lacks_is_named(tmp_path, files, sentence):
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    assert f"{tmp_path}: {sentence}" in refusal(tmp_path)


def test_a_directory_of_pytorch_pretrained_bert_is_read(make, tiny_model):
    path = make(fields={"architectures": None, "model_type": None})
    (path / "config.json").rename(path / "bert_config.json")
    assert same(read(path)[0].params, tiny_model.params)


# Rows beyond the vocabulary


def test_rows_beyond_the_vocabulary_get_tokens(tiny_model, tmp_path, tiny_tokenizer):
    rows = tiny_model.config.vocab_size
    tokens = [tiny_tokenizer.decode([n], skip_special=False) for n in range(rows)]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens[:-3]) + "\n")
    small = dataclasses.replace(tiny_model, tokenizer=load_tokenizer(tmp_path))
    path = save_pretrained(tmp_path / "padded", small)
    told = []
    convert(ConvertConfig(str(path), str(tmp_path / "run"), to="run"), told.append)
    assert "The model has 3 rows beyond its vocabulary, which gets as many [unused...]." in told
    grown = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert grown.vocab_size == rows
    filled, added = vocabulary.fill_rows(small)
    assert (filled.tokenizer.sha256, added) == (grown.sha256, 3)
    text = "the film was good"
    assert grown.encode(text).ids == small.tokenizer.encode(text).ids
    assert vocabulary.fill_rows(filled) == (filled, 0)


# Sizes without bounds


def test_a_header_of_too_many_tensors_is_refused_at_once(make):
    path = make()
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(n): entry for n in range(30_000)}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "it has more than 20,000 tensors" in refusal(path)


@pytest.mark.parametrize("field", ["model_type", "architectures", "hidden_act", "x" * 50_000])
def test_a_message_does_not_quote_all_of_its_input(make, field):
    long = "y" * 50_000
    labels, kind = ("a", "b"), "sequence_classification"
    path = make(
        kind,
        labels,
        fields={field: long},
        tensors={f"bert.encoder.layer.9.{field}.weight": np.zeros(1, np.float32)},
    )
    assert len(refusal(path)) < 2200


@pytest.mark.parametrize("address", ["https://huggingface.co/bert-base-uncased", "http://a/b"])
def test_an_address_is_no_path(address):
    for read_path in (location, from_pretrained):
        with pytest.raises(UserError, match="is a web address, which can't be read; download it"):
            read_path(address)
    with pytest.raises(UserError, match="begins with 'ftp://'"):
        location("ftp://a/b")
