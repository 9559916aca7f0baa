"""Tests that files of PyTorch are read like torch reads them, and other pickles refused."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.interop.torch_files import read_torch

GOLDEN = Path(__file__).parent / "golden"
PATH = epath.Path("pytorch_model.bin")
ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], np.float16),
    "c": np.array([[7]], np.int64),
}


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/torch_writer.py")


def refusal(data):
    with pytest.raises(UserError) as caught:
        read_torch(data, PATH)
    sentence = str(caught.value)
    assert sentence.startswith("pytorch_model.bin: ") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", ["state_dict.bin", "state_dict_legacy.bin"])
def test_what_torch_wrote(name):
    tensors = read_torch((GOLDEN / name).read_bytes(), PATH)
    with np.load(GOLDEN / "state_dict.npz") as expected:
        assert expected["made_by"].item().startswith("torch ")
        assert {*tensors, "made_by"} == set(expected.files)
        for key, array in tensors.items():
            np.testing.assert_array_equal(array.astype(np.float64), expected[key], strict=True)
            kind = key.removeprefix("torch.") if key.startswith("torch.") else "float32"
            assert array.dtype.name == kind


@pytest.mark.parametrize("how", ["save", "save_legacy"])
def test_the_writer_of_these_tests_writes_such_files(writer, how):
    tensors = read_torch(getattr(writer, how)(ARRAYS), PATH)
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def test_the_numbers_are_not_copied(writer):
    array = read_torch(writer.save(ARRAYS), PATH)["a"]
    assert not array.flags.owndata and not array.flags.writeable


class Shell:
    """An object that writes a file when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", ["bare", "zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_never_runs(writer, tmp_path, protocol, layout):
    program = pickle.dumps({"a": Shell(f"touch {tmp_path / 'ran'}")}, protocol)
    data = {
        "bare": lambda: program,
        "zip": lambda: writer.zip_file(program),
        "legacy": lambda: writer.legacy_file(program),
    }[layout]()
    sentence = refusal(data)
    assert "convert it to model.safetensors" in sentence
    if protocol == 2:  # torch writes protocol 2; others begin with opcodes that it never writes
        assert f"contains '{os.system.__module__}.system'" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"cbuiltins\neval\n", "'builtins.eval'"),
        (b"ctorch\nload\n", "'torch.load'"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n", "'torch._utils._rebuild_tensor_v3'"),
        (b"ccollections\nOrderedDict.__init__\n", "'collections.OrderedDict.__init__'"),
        (b"cos\x1b[2J\nsystem\n", r"'os\x1b[2J.system'"),
        (b"c\n\n", "'.'"),
    ],
)
def test_a_name_that_is_not_on_the_list(writer, name, shown):
    data = writer.zip_file(writer.state_dict({"a": name + b")R"}))
    assert f"this pickle contains {shown}, but only plain tensors are read" in refusal(data)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"ctorch\nFloatStorage\n)R", "contains a call"),
        (b"K\x01)R", "contains a call"),
        (b"ccollections\nOrderedDict\nK\x01R", "contains a call"),
        (b"ccollections\nOrderedDict\nK\x01\x85R", "OrderedDict with 1 arguments"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01K\x02K\x03tR", "not a tensor"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR", "no storage or no shape"),
        (b"K\x01", "an entry 'a' that is not a plain tensor"),
        (b"NQ", "not a storage"),
        (b"(tQ", "not a storage"),
        (b"h\x07", "never stored"),
        (b"a", "fills a list"),
        (b"tttt", "never stored"),
        (b"}))s", "that are not names"),
        (b"}" + b"(K\x01u", "not names"),
        (b"\x93", "the opcode b'\\x93'"),
        (b"i", "the opcode b'i'"),
        (b"X\xff\xff\xff\xff", "more than 1,048,576 bytes"),
        (b"X\x01\x00\x00\x00\xff", "not UTF-8"),
        (b"c" + b"x" * 300, "has no end"),
        (b"", "not names"),
    ],
)
def test_a_program_that_makes_no_sense(writer, value, reason):
    assert reason in refusal(writer.zip_file(writer.state_dict({"a": value})))


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "reason"),
    [
        ((2, 3), (3, 1), 1, "[2, 3] in its pickle reaches beyond"),
        ((2, 3), (4, 1), 0, "reaches beyond"),
        ((6,), (2,), 0, "reaches beyond"),
        ((1,), (1,), 6, "reaches beyond"),
        ((7,), (0,), 0, "reaches beyond"),  # one number repeated, which a copy would expand
        ((1 << 62, 1 << 62), (0, 0), 0, "reaches beyond"),
        ((0, 1 << 62), (1, 1), 0, "reaches beyond"),
        ((2, 3), (3,), 0, "more or fewer strides"),
        ((1,) * 33, (1,) * 33, 0, "more or fewer strides"),
        ((2,), (-1,), 1, "no shape"),
        ((-2,), (1,), 0, "no shape"),
        ((2,), (1,), -1, "no shape"),
        ((1 << 63,), (1,), 0, "no shape"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_view_beyond_its_storage(writer, shape, strides, offset, reason, legacy):
    value = writer.tensor(writer.storage("0", 6, legacy=legacy), shape, strides, offset)
    program = writer.state_dict({"a": value})
    if legacy:
        data = writer.legacy_file(program, {"0": (6, bytes(24))})
    else:
        data = writer.zip_file(program, {"0": bytes(24)})
    assert reason in refusal(data)


def test_storages_that_are_not_what_the_pickle_says(writer):
    program = writer.plain({"a": ARRAYS["a"]})
    assert "the storage 0 of the tensor a is missing" in refusal(writer.zip_file(program))
    assert "the tensor a holds 23 bytes" in refusal(writer.zip_file(program, {"0": bytes(23)}))
    legacy = writer.plain({"a": ARRAYS["a"]}, legacy=True)
    assert "the tensor a is missing" in refusal(writer.legacy_file(legacy))
    two = {"0": (6, bytes(24)), "1": (1, bytes(4))}
    assert "a storage that no tensor uses" in refusal(writer.legacy_file(legacy, two))
    assert "does not have the size" in refusal(writer.legacy_file(legacy, {"0": (5, bytes(24))}))
    other = writer.storage("0", 6), writer.storage("0", 3, "DoubleStorage")
    views = {name: writer.tensor(each, (1,), (1,)) for name, each in zip("ab", other, strict=True)}
    assert "has two types" in refusal(writer.zip_file(writer.state_dict(views), {"0": bytes(24)}))
    huge = writer.tensor(writer.storage("0", 1 << 50), (1 << 50,), (1,))
    assert "holds 4 bytes" in refusal(
        writer.zip_file(writer.state_dict({"a": huge}), {"0": b"1234"})
    )
    sentence = refusal(writer.legacy_file(writer.state_dict({"a": huge}), {"0": (1 << 50, b"")}))
    assert "cut off" in sentence
    quantized = writer.storage("0", 6, "QInt8Storage")
    program = writer.state_dict({"a": writer.tensor(quantized, (1,), (1,))})
    assert "contains 'torch.QInt8Storage'" in refusal(writer.zip_file(program))


def test_archives_that_torch_does_not_write(writer):
    program = writer.plain(ARRAYS)
    assert "compressed" in refusal(writer.zip_file(bytes(10_000), (), zipfile.ZIP_DEFLATED))
    assert "0 entries are named data.pkl" in refusal(
        writer.save(ARRAYS).replace(b"data.pkl", b"data.pkx")
    )
    assert "big-endian" in refusal(writer.zip_file(program, byteorder="big"))
    flipped = bytearray(writer.save(ARRAYS))
    flipped[flipped.index(ARRAYS["a"].tobytes()) + 7] ^= 1
    assert "archive/data/0 fails its CRC-32" in refusal(bytes(flipped))


@pytest.mark.parametrize(
    "program",
    [
        b"(" * 1_500_000,
        b"}" * 1_500_000,
        b"]q\x00" + b"(h\x00h\x00e" * 150_000,  # a list of itself
        b")q\x00" + b"h\x00h\x00\x86q\x00" * 150_000,  # a tuple of 2^150,000 leaves
        b"}(" + b")" + b"2" * 100 + b"u.",
        b"}" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"Ns.",  # a key, which would be hashed
        b"}X\x01\x00\x00\x00a"
        + b")q\x00"
        + b"h\x00h\x00\x86q\x00" * 100
        + b"s.",  # an entry, which would be printed
        b"]q\x00h\x00a" + b"b",
    ],
    ids=range(8),
)
def test_bombs_end_in_a_sentence_soon(writer, program):
    """Hashing, copying or printing such a value would not end."""
    refusal(writer.zip_file(b"\x80\x02" + program))


@pytest.mark.parametrize("how", ["save", "save_legacy"])
def test_every_truncation_and_every_flipped_byte_is_a_sentence_or_plain_arrays(writer, how):
    data = getattr(writer, how)(ARRAYS)
    for cut in range(len(data)):
        refusal(data[:cut])
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        try:
            tensors = read_torch(bytes(changed), PATH)
        except UserError:
            continue
        assert all(type(array) is np.ndarray for array in tensors.values())
        assert sum(array.nbytes for array in tensors.values()) < 1000
