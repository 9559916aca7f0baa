"""Tests directories and files whose contents do not match their names."""

import errno
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from bertjax.config import BertConfig, read_json_object
from bertjax.errors import UserError
from bertjax.interop import google, huggingface, tensors
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.interop.weights import read_weights
from bertjax.model.bert import init_params
from bertjax.text.tokenizer import load_tokenizer

CONFIG = BertConfig(
    vocab_size=12,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
NORM = "bert.embeddings.LayerNorm.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return Pretrained(CONFIG, params, load_tokenizer(directory), None)


@pytest.fixture
def exported(tmp_path, model):
    return save_pretrained(tmp_path / "out", model)


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/bundle_writer.py")


def refusal(directory):
    with pytest.raises(UserError) as caught:
        from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Headers of safetensors ---------------------------------------------------------------------------


def header(directory, change):
    """Rewrites the header of an export's weights."""
    file = directory / "model.safetensors"
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    head = json.dumps(change(json.loads(data[8:begin]))).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + data[begin:])


def test_metadata_of_null(exported, model):
    header(exported, lambda fields: {**fields, "__metadata__": None})
    same(from_pretrained(exported).params, model.params)


@pytest.mark.parametrize("shape", [[1] * 65, [0, (1 << 64) - 1], [0, (1 << 63) - 1]])
def test_shapes_that_no_array_has(exported, shape):
    def change(fields):
        fields = {**fields, "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        if 0 not in shape:  # removes the bytes of one number
            end = max(each["data_offsets"][1] for n, each in fields.items() if "_meta" not in n)
            fields["a"]["data_offsets"] = [end, end + 4]
        return fields

    header(exported, change)
    if 0 not in shape:
        file = exported / "model.safetensors"
        file.write_bytes(file.read_bytes() + bytes(4))
    assert "damaged (the tensor a has an impossible shape)" in refusal(exported)


# Two names of one parameter -----------------------------------------------------------------------


def rewrite(directory, **added):
    file = directory / "model.safetensors"
    arrays = safetensors.numpy.load(file.read_bytes())
    file.write_bytes(safetensors.numpy.save({**arrays, **added}))
    return arrays


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (QUERY, QUERY.removeprefix("bert.")),
        (NORM, NORM.replace("weight", "gamma")),
        (BIAS, DECODER_BIAS),
    ],
)
def test_two_names_of_one_parameter(exported, model, name, other):
    arrays = rewrite(exported)
    rewrite(exported, **{other: arrays[name]})
    same(from_pretrained(exported).params, model.params)
    rewrite(exported, **{other: arrays[name] + 1})
    sentence = refusal(exported)
    assert (
        "stand for the same parameter and differ" in sentence
        and name in sentence
        and other in sentence
    )


def test_expected_shapes_of_the_largest_configuration():
    most = (1 << 31) - 1
    config = BertConfig(
        vocab_size=most,
        hidden_size=most,
        num_hidden_layers=1000,
        num_attention_heads=1,
        intermediate_size=most,
        max_position_embeddings=most,
        type_vocab_size=most,
    )
    shapes = tensors.expected_shapes(config, most)
    assert shapes["embeddings"]["word_embeddings"]["embedding"].shape == (most, most)


# Errors of the file system ------------------------------------------------------------------------


def test_an_export_under_a_file(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"lies under .*file, which is a file; name a directory"):
        save_pretrained(tmp_path / "file/a/out", model)


def test_an_export_to_a_full_disk(tmp_path, model, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface, "write_params", full)
    with pytest.raises(UserError, match=r"out: can't be written \(No space left on device\)"):
        save_pretrained(tmp_path / "out", model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.safetensors", "holds no weights"),
        ("config.json", "holds model.safetensors without config.json"),
    ],
)
def test_directories_where_files_should_be(exported, name, sentence):
    (exported / name).unlink()
    (exported / name).mkdir()
    assert sentence in refusal(exported)


def test_a_shard_that_is_a_directory(exported):
    (exported / "model.safetensors").unlink()
    (exported / "a.safetensors").mkdir()
    index = {"weight_map": {QUERY: "a.safetensors"}}
    (exported / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "a.safetensors: no such file" in refusal(exported)


def test_what_can_not_be_read(tmp_path):
    """A directory in place of the file, because permissions do not stop a superuser."""
    for read in (read_json_object, read_weights):
        with pytest.raises(UserError, match=r"can't be read \(Is a directory\); make it a file"):
            read(epath.Path(tmp_path))


# The choice between models ------------------------------------------------------------------------


def test_an_index_alone_is_no_checkpoint(exported, model, writer):
    (exported / "notes.index").write_text("")
    assert not google.is_checkpoint(exported)
    same(from_pretrained(exported).params, model.params)
    (exported / "model.safetensors").unlink()
    assert "holds no weights" in refusal(exported)
    writer.write_google(exported, model.params, CONFIG)
    assert google.is_checkpoint(exported)


@pytest.mark.parametrize("name", ["flax_model.msgpack", "pytorch_model.bin"])
def test_hugging_faces_weights_beside_a_checkpoint(exported, model, writer, name):
    writer.write_google(exported, model.params, CONFIG)
    assert not google.is_checkpoint(exported)
    (exported / "model.safetensors").rename(exported / name)
    assert not google.is_checkpoint(exported)
    (exported / "config.json").unlink()
    assert google.is_checkpoint(exported)


def test_a_model_comes_before_the_export_in_it(exported, model):
    other = Pretrained(CONFIG, jax.tree.map(lambda leaf: leaf + 1, model.params), model.tokenizer)
    save_pretrained(exported / "export", other)
    assert huggingface.find_export(exported) == epath.Path(exported)
    same(from_pretrained(exported).params, model.params)
    (exported / "config.json").unlink()
    same(from_pretrained(exported).params, other.params)
