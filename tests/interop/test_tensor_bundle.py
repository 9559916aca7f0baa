"""Tests that TensorFlow's checkpoint files are read, and that every damage to them is detected."""

import hashlib
import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.interop import tensor_bundle
from bertjax.interop.tensor_bundle import TensorBundle

GOLDEN = Path(__file__).with_name("tf1_golden.json")


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/bundle_writer.py")


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 5))
    named = {
        f"scope/{np.dtype(kind).name}": matrix.astype(kind)
        for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
    }
    named |= {
        "scope/int32": np.arange(-3, 4, dtype=np.int32),
        "scope/bool": np.array([[True, False]]),
        "global_step": np.int64(1 << 40),
        "empty": np.zeros((0, 4), np.float32),
    }
    # The index has more than one block, and its names have long common prefixes.
    return named | {f"scope/layer_{n}/kernel": np.float32([n]) for n in range(45)}


@pytest.fixture
def bundle(tmp_path, writer, tensors):
    def write(shards=1, **options):
        writer.write_bundle(tmp_path / "model.ckpt", tensors, shards, **options)
        return tmp_path / "model.ckpt"

    return write


def beside(prefix, suffix):
    return prefix.with_name(prefix.name + suffix)


def refusal(prefix, *names):
    with pytest.raises(UserError) as caught:
        read = TensorBundle(prefix)
        for name in names or read.names:
            read.read(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_and_shape_in_equal_bytes(bundle, tensors, shards):
    read = TensorBundle(bundle(shards))
    assert read.names == sorted(tensors)
    for name, value in tensors.items():
        array = read.read(name)
        assert (array.dtype, array.shape) == (np.asarray(value).dtype, np.shape(value))
        assert read.shape(name) == np.shape(value)
        assert array.tobytes() == value.tobytes()
    assert "scope/int32" in read and "scope/absent" not in read


@pytest.mark.data
def test_a_genuine_checkpoint_as_tensorflows_own_reader_gives_it(data_dir):
    golden = json.loads(GOLDEN.read_text())
    assert golden["generator"] == "tf.train.load_checkpoint" and golden["tensorflow"]
    read = TensorBundle(data_dir / golden["checkpoint"])
    found = {}
    for name in read.names:
        array = read.read(name)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        found[name] = [str(array.dtype), list(array.shape), digest]
    assert found == golden["tensors"]
    assert len(found) == 139


@pytest.mark.parametrize("shards", [1, 3])
def test_every_flip_in_the_data_is_noticed_and_the_tensor_named(bundle, tensors, shards):
    prefix = bundle(shards)
    order = sorted(tensors)
    for number in range(shards):
        path = beside(prefix, f".data-{number:05}-of-{shards:05}")
        whole = path.read_bytes()
        owners = [
            name for name in order[number::shards] for _ in range(np.asarray(tensors[name]).nbytes)
        ]
        assert len(owners) == len(whole) > 100
        for at, owner in enumerate(owners):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            read = TensorBundle(prefix)
            with pytest.raises(UserError, match=rf"the tensor {owner} \[.*CRC32C"):
                read.read(owner)
        path.write_bytes(whole)
        read = TensorBundle(prefix)
        assert all(read.read(name).tobytes() == tensors[name].tobytes() for name in order)


def test_every_flip_in_the_index_is_noticed(bundle):
    prefix = bundle()
    path = beside(prefix, ".index")
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.ckpt\.index: damaged \("):
            TensorBundle(prefix)


def test_a_cut_index_is_refused(bundle):
    prefix = bundle()
    path = beside(prefix, ".index")
    whole = path.read_bytes()
    for length in (0, 7, 8, 47, 48, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged" in refusal(prefix)
        path.write_bytes(whole[-length:] if length else b"")
        assert "damaged" in refusal(prefix)


def test_cut_and_absent_data_is_said_at_once(bundle):
    prefix = bundle(3)
    path = beside(prefix, ".data-00001-of-00003")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"00001-of-00003: cut off at byte \d+: the tensor scope/"):
        TensorBundle(prefix)
    path.unlink()
    with pytest.raises(UserError, match=r"00001-of-00003: no such file; .* names 3 data files"):
        TensorBundle(prefix)


def test_no_index(tmp_path):
    assert "model.ckpt.index: no such file; give the directory" in refusal(tmp_path / "model.ckpt")


def test_compressed_and_big_endian_indices_are_refused(bundle):
    assert "compressed by snappy" in refusal(bundle(compression=1))
    assert "compressed by number 9" in refusal(bundle(compression=9))
    assert "big-endian" in refusal(bundle(big_endian=True))


def test_what_can_not_be_read_harms_nothing_else(tmp_path, writer):
    tensors = {"bytes": np.arange(3, dtype=np.uint8), "pieces": np.zeros(2), "whole": np.ones(2)}
    prefix = tmp_path / "model.ckpt"
    pieces = writer.field(7, writer.field(1, b""))
    writer.write_bundle(prefix, tensors, extra={"pieces": pieces})
    np.testing.assert_array_equal(TensorBundle(prefix).read("whole"), np.ones(2))
    assert "the tensor bytes is of TensorFlow's type uint8; only float32" in refusal(prefix)
    assert "the tensor pieces is a partitioned variable" in refusal(prefix, "pieces")


def test_an_index_that_contradicts_itself_is_refused(tmp_path, writer):
    """The checksums are right, so the damage is deliberate."""
    prefix = tmp_path / "model.ckpt"
    one = np.ones((2, 2), np.float32)
    writer.write_bundle(prefix, {"w": one})

    def rewrite(*pairs):
        beside(prefix, ".index").write_bytes(writer.table(list(pairs)))

    def shape_of(*sizes):
        return b"".join(writer.field(2, writer.field(1, size)) for size in sizes)

    head = (b"", writer.header())
    wide = writer.entry(one, 0, 0, extra=writer.field(2, writer.field(2, writer.field(1, 9))))
    rewrite(head, (b"w", wide))
    assert "[2, 2, 9] of float32 can't have 16 bytes" in refusal(prefix)
    for pairs, reason in [
        ([(b"w", writer.entry(one, 0, 0))], "no header"),
        ([head, (b"w", writer.entry(one, 4, 0))], "out of range"),
        ([(b"", writer.header(0)), (b"w", writer.entry(one, 0, 0))], "out of range"),
        ([head, (b"\xff", writer.entry(one, 0, 0))], "not UTF-8"),
        ([head, (b"w", b"\x08")], "a number is cut off"),
        ([head, (b"w", b"\x08" + b"\xff" * 10)], "a number is too long"),
        ([head, (b"w", b"\x35\x01")], "an entry is cut off"),
        ([head, (b"w", b"\x0b")], "wire type 3"),
        ([head, (b"w", writer.field(1, b"text"))], "text where a number"),
        ([head, (b"w" * 5000, writer.entry(one, 0, 0))], "has a key of 5,000 bytes"),
        (
            [head, (b"w", writer.entry(one.reshape([1] * 31 + [4, 1]), 0, 0))],
            "too large for an array",
        ),
        ([head, (b"w", writer.field(2, shape_of(1 << 62, 0)))], "too large for an array"),
    ]:
        rewrite(*pairs)
        assert reason in refusal(prefix)


def test_names_that_grow_without_bound_are_refused(bundle, monkeypatch):
    prefix = bundle()
    monkeypatch.setattr(tensor_bundle, "_MAX_KEYS", 100)
    assert "damaged (its names take more than" in refusal(prefix)


def test_a_block_that_is_named_twice_is_refused(tmp_path, writer):
    prefix = tmp_path / "model.ckpt"
    one = np.ones((2, 2), np.float32)
    writer.write_bundle(prefix, {"w": one})
    out = bytearray()

    def put(content):
        handle = writer.varint(len(out)) + writer.varint(len(content))
        stored = content + b"\0"
        out.extend(stored + writer.masked_crc32c(stored).to_bytes(4, "little"))
        return handle

    pairs = [(b"", writer.header()), (b"w", writer.entry(one, 0, 0))]
    data, meta = put(writer.block(pairs, 16)), put(writer.block([], 16))
    for handles, damaged in (([(b"w", data)], False), ([(b"w", data), (b"x", data)], True)):
        footer = meta + put(writer.block(handles, 1))
        end = footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
        beside(prefix, ".index").write_bytes(bytes(out) + end)
        if damaged:
            assert "the block at byte 0 is out of order" in refusal(prefix)
        else:
            np.testing.assert_array_equal(TensorBundle(prefix).read("w"), one)


def test_wrong_entries_with_right_sums_are_read_or_refused(tmp_path, writer):
    prefix = tmp_path / "model.ckpt"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.write_bundle(prefix, {"w": array})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        values = [bytearray(writer.header()), bytearray(writer.entry(array, 0, 0))]
        value = values[rng.integers(2)]
        value[rng.integers(len(value))] = rng.integers(256)
        table = writer.table([(b"", bytes(values[0])), (b"w", bytes(values[1]))])
        beside(prefix, ".index").write_bytes(table)
        try:
            assert TensorBundle(prefix).read("w").nbytes == 24
        except UserError:
            refused += 1
    assert 200 < refused < 400


def test_random_bytes_are_refused(bundle):
    prefix = bundle()
    rng = np.random.default_rng(0)
    end = beside(prefix, ".index").read_bytes()[-8:]
    for length in rng.integers(0, 300, 300):
        beside(prefix, ".index").write_bytes(rng.bytes(length) + end)
        assert "damaged" in refusal(prefix)


def test_without_google_crc32c_one_sentence(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert "pip install google-crc32c" in refusal(bundle())


def test_remote_files(remote, bundle, tensors):
    there, folder = remote
    prefix = bundle(2)
    for path in prefix.parent.glob("model.ckpt.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    read = TensorBundle(there / "model.ckpt")
    assert all(read.read(name).tobytes() == tensors[name].tobytes() for name in tensors)
