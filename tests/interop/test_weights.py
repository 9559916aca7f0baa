"""Tests that all weight files give the same parameters, and the messages about damaged files."""

import json

import flax.serialization
import jax
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import weights
from bertjax.interop.flax_files import read_flax
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.interop.tensors import to_tensors, weights_hash
from bertjax.model.bert import init_params
from bertjax.text.tokenizer import load_tokenizer

CONFIG = BertConfig(
    vocab_size=12,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def exported(tmp_path, params):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    tokenizer = load_tokenizer(tmp_path)
    return save_pretrained(tmp_path / "out", Pretrained(CONFIG, params, tokenizer, None))


@pytest.fixture(scope="module")
def torch_writer(load_helper):
    return load_helper("interop/torch_writer.py")


def as_shards(directory, tensors, suffix=".safetensors", save=safetensors.numpy.save):
    """Three files with every third tensor each, and their index, with transformers' names."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = sorted(tensors)
    files = {name: f"{stem}-{i % 3 + 1:05}-of-00003{suffix}" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        (directory / file).write_bytes(save(part))
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (directory / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def flax_tree(tensors):
    """The tensors in the tree of `transformers/models/bert/modeling_flax_bert.py`."""
    tree = {}
    for name, array in tensors.items():
        *modules, module, leaf = name.split(".")
        if module == "LayerNorm" and leaf == "weight":
            leaf = "scale"
        elif module.endswith("_embeddings"):
            leaf = "embedding"
        elif leaf == "weight":
            leaf, array = "kernel", np.ascontiguousarray(array.T)
        place = tree
        for step in (*modules, module):
            place = place.setdefault(step, {})
        place[leaf] = array
    return tree


def as_flax(directory, tensors, **_):
    data = flax.serialization.msgpack_serialize(flax_tree(tensors))
    (directory / "flax_model.msgpack").write_bytes(data)


def writers(torch_writer):
    return {
        "safetensors": lambda directory, tensors: (directory / "model.safetensors").write_bytes(
            safetensors.numpy.save(tensors)
        ),
        "sharded": as_shards,
        "flax": as_flax,
        "zip": lambda directory, tensors: (directory / "pytorch_model.bin").write_bytes(
            torch_writer.save(tensors)
        ),
        "legacy": lambda directory, tensors: (directory / "pytorch_model.bin").write_bytes(
            torch_writer.save_legacy(tensors)
        ),
        "sharded bin": lambda directory, tensors: as_shards(
            directory, tensors, ".bin", torch_writer.save
        ),
    }


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def refusal(directory):
    with pytest.raises(UserError) as caught:
        from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["sharded", "flax", "zip", "legacy", "sharded bin"])
def test_every_kind_of_file_gives_the_same_parameters(exported, params, torch_writer, kind):
    (exported / "model.safetensors").unlink()
    writers(torch_writer)[kind](exported, to_tensors(params))
    same(from_pretrained(exported).params, params)


def test_safetensors_come_first_and_pickles_last(exported, params, torch_writer):
    kinds = ["safetensors", "sharded", "flax", "zip", "sharded bin"]
    tensors = to_tensors(params)
    for value, kind in enumerate(kinds):
        tensors["bert.pooler.dense.bias"] = np.full(8, value, np.float32)
        writers(torch_writer)[kind](exported, tensors)
    for value, name in enumerate(weights.FILES):
        assert from_pretrained(exported).params["pooler"]["bias"][0] == value
        (exported / name).unlink()
    assert "which bertjax does not read; give model.safetensors" in refusal(exported)


# Shards -----------------------------------------------------------------------------------------


@pytest.fixture
def sharded(exported, params):
    (exported / "model.safetensors").unlink()
    as_shards(exported, to_tensors(params))
    return exported


def rewrite_index(directory, **changes):
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps({"weight_map": index["weight_map"] | changes}))
    return index["weight_map"]


def test_a_shard_that_is_missing_or_lacks_a_tensor(sharded):
    shards = rewrite_index(sharded)
    path = sharded / shards[QUERY]
    tensors = safetensors.numpy.load(path.read_bytes())
    del tensors[QUERY]
    path.write_bytes(safetensors.numpy.save(tensors))
    assert refusal(sharded).startswith(f"{path}: lacks the tensor {QUERY}")
    path.unlink()
    assert refusal(sharded).startswith(f"{path}: no such file, but model.safetensors.index.json")


def test_what_is_wrong_with_a_tensor_names_its_shard(sharded):
    path = sharded / rewrite_index(sharded)[QUERY]
    tensors = safetensors.numpy.load(path.read_bytes())
    for value, reason in (
        (np.zeros((8, 9), np.float32), "has the shape [8, 9]"),
        (np.full((8, 8), np.inf, np.float32), "not finite"),
        (np.zeros((8, 8), np.int32), "has the type int32"),
    ):
        path.write_bytes(safetensors.numpy.save({**tensors, QUERY: value}))
        sentence = refusal(sharded)
        assert sentence.startswith(f"{path}: the tensor {QUERY}") and reason in sentence
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal(sharded).startswith(f"{path}: damaged (cut off")


def test_a_tensor_that_no_shard_has(sharded):
    index = sharded / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    del shards[QUERY]
    index.write_text(json.dumps({"weight_map": shards}))
    assert refusal(sharded).startswith(f"{index}: the tensor {QUERY} [8, 8] is missing")


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "/x.safetensors", "a/x.safetensors", "..", "", ".x.safetensors"),
        *("x.bin", "x\\y.safetensors", "gs://bucket/x.safetensors", "x.safetensors\n", None, 5),
    ],
)
def test_a_shard_outside_of_the_directory(sharded, name):
    (sharded.parent / "x.safetensors").write_bytes(b"")
    rewrite_index(sharded, **{QUERY: name})
    assert f"names the shard {name!r} for {QUERY}" in refusal(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "x"])
def test_an_index_that_is_none(sharded, content):
    index = sharded / "model.safetensors.index.json"
    index.write_text(content)
    assert refusal(sharded).startswith(f"{index}: ")


def test_a_file_larger_than_any_bert(exported, monkeypatch):
    monkeypatch.setattr(weights, "_MAX_SIZE", 100)
    assert "the maximum is 100" in refusal(exported)


def test_shards_that_together_are_larger_than_any_bert(sharded, monkeypatch):
    largest = max(path.stat().length for path in sharded.glob("*.safetensors"))
    monkeypatch.setattr(weights, "_MAX_SIZE", largest)
    sentence = refusal(sharded)
    assert sentence.startswith(f"{sharded / 'model.safetensors.index.json'}: has ")
    assert f"the maximum is {largest:,}" in sentence


# Flax -------------------------------------------------------------------------------------------

PATH = epath.Path("flax_model.msgpack")


def flax_refusal(data):
    with pytest.raises(UserError, match=r"flax_model\.msgpack: damaged \(") as caught:
        read_flax(data, PATH)
    assert str(caught.value).count("damaged (") == 1
    return str(caught.value)


def packed(shape, dtype, numbers, code=1):
    content = msgpack.packb((shape, dtype, numbers), use_bin_type=True)
    return msgpack.packb({"a": msgpack.ExtType(code, content)})


CHUNKED = {"__msgpack_chunked_array__": True}
ONE = msgpack.ExtType(1, msgpack.packb(([1], "float32", bytes(4)), use_bin_type=True))


def chunked(shape, size=1):
    """A file with one array of that many numbers."""
    content = msgpack.packb(([size], "float32", bytes(4 * size)), use_bin_type=True)
    sizes = {str(axis): value for axis, value in enumerate(shape)}
    pieces = {"0": msgpack.ExtType(1, content)}
    return msgpack.packb({"a": {**CHUNKED, "shape": sizes, "chunks": pieces}})


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_arrays_of_flax_in_one_piece_and_in_several(monkeypatch, dtype):
    array = np.arange(60).reshape(3, 4, 5).astype(jax.numpy.dtype(dtype))
    for size in (1 << 30, 48):
        monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", size)
        data = flax.serialization.msgpack_serialize({"a": {"bias": array, "0": array[0, 0]}})
        tensors = read_flax(data, PATH)
        np.testing.assert_array_equal(tensors["a.bias"], array, strict=True)
        np.testing.assert_array_equal(tensors["a.0"], array[0, 0], strict=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (msgpack.packb(5), "the file is neither an array"),
        (msgpack.packb({"a": {"b": "text"}}), "a/b is neither an array"),
        (msgpack.packb({"a": [1]}), "array"),
        (packed([1], "object", bytes(8)), "the type b'object'"),
        (packed([1], "U2", bytes(8)), "the type b'U2'"),
        (packed([1], ["float32"], bytes(4)), "the type [b'float32']"),
        (packed([3], "float32", bytes(8)), "2 numbers can't have the shape [3]"),
        (packed([-1], "float32", bytes(8)), "can't have the shape [-1]"),
        (packed([1 << 40, 1 << 40], "float32", bytes(8)), "can't have the shape"),
        (packed([2.0], "float32", bytes(8)), "no shape"),
        (packed(None, "float32", bytes(8)), "no shape"),
        (packed([2], "float32", bytes(7)), "multiple of element size"),
        (packed([1], "float32", bytes(4), code=3), "type 3"),
        (packed([1] * 33, "float32", bytes(4)), "33"),
        (msgpack.packb({1: {}}), "int is not allowed"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True}}), "no shape or no chunks"),
        (
            msgpack.packb({"a": {**CHUNKED, "shape": {"0": 1}, "chunks": {"1": 1}}}),
            "chunk of an array is missing",
        ),
        (
            msgpack.packb({**CHUNKED, "shape": {"0": 1}, "chunks": {"0": ONE}}),
            "the file is neither",
        ),
        (chunked([1] * 65), "has 65 axes"),
        (chunked([0, (1 << 63) - 1], 0), "0 numbers can't have the shape"),
        (packed([0, (1 << 63) - 1], "float32", b""), "0 numbers can't have the shape"),
        (msgpack.packb({"a": {"scale": ONE, "weight": ONE}}), "holds a.weight twice"),
        (b"\x81\xa1a" * 5000 + b"\x80", "damaged"),
        (b"\xdf\xff\xff\xff\xff", "damaged"),
    ],
    ids=range(25),
)
def test_what_is_no_tree_of_arrays(data, reason):
    assert reason in flax_refusal(data)


def test_too_many_entries():
    one = msgpack.packb({str(index): {} for index in range(300)})
    data = b"\xde\x01\x90" + b"".join(msgpack.packb(str(index)) + one for index in range(400))
    assert "more than 100,000 entries" in flax_refusal(data)


def test_every_truncation_of_flax_and_flipped_bytes(params):
    data = flax.serialization.msgpack_serialize(
        {"a": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}, "b": {}}
    )
    for cut in range(len(data)):
        flax_refusal(data[:cut])
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                tensors = read_flax(bytes(changed), PATH)
            except UserError:
                continue
            assert all(isinstance(array, np.ndarray) for array in tensors.values())


# PyTorch ----------------------------------------------------------------------------------------


@pytest.mark.data
def test_a_legacy_pickle_of_allennlp(data_dir):
    model = from_pretrained(data_dir / "hf_tiny" / "allennlp-bert-xsmall-dummy")
    assert model.kind == "encoder" and model.config.hidden_size == 20
    # The SHA-256 of the tensors that torch.load (2.13) reads, in the order of their names.
    assert (
        weights_hash(model.params)
        == "bfc1efec54a4f9c1cb899948afb546aa3accad86f3dd7a88f5cb60bbfabed142"
    )
