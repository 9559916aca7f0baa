"""Tests that Hugging Face -> bertjax -> Hugging Face keeps the bytes of every tensor.

This also holds attention's key biases to their places, which no output can show.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

import bertjax as bj

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def theirs(cases, golden):
    """Tensors with names and shapes of transformers' BertForPreTraining; all values differ."""
    arrays = golden.load(golden.FOLDER / "tiny_erf.npz")
    names = [name.removeprefix("gradients/") for name in arrays if "gradients/" in name]
    shapes = {name: arrays[f"gradients/{name}"].shape for name in names}
    tensors = {name: cases.tensor(name, shape) for name, shape in shapes.items()}
    assert len({array.tobytes() for array in tensors.values()}) == len(tensors) == 46
    return tensors


@pytest.fixture
def directory(tmp_path, cases, theirs):
    """A directory like those that transformers writes."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = {
        **cases.CONFIGS["tiny_erf"],
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(theirs, {"format": "pt"}))
    words = [chr(ord("a") + number) for number in range(26)]
    (folder / "vocab.txt").write_text("\n".join([*SPECIALS, *words]) + "\n")
    return folder


def test_every_tensor_comes_back_with_equal_bytes(directory, theirs, tmp_path, hold):
    model = bj.from_pretrained(directory)
    bj.save_pretrained(tmp_path / "ours", model)
    back = safetensors.numpy.load((tmp_path / "ours/model.safetensors").read_bytes())
    assert set(back) == set(theirs)
    different = [n for n, array in theirs.items() if back[n].tobytes() != array.tobytes()]
    note = f"of {len(theirs)} tensors"
    hold("Hugging Face -> bertjax -> Hugging Face: tensors of other bytes", len(different), 0, note)


def test_what_is_read_is_what_the_forward_tests_run_on(directory, ours):
    """test_forward.py compares the outputs of the very weights that are read here."""
    from bertjax.train.tree import named

    read, drawn = named(bj.from_pretrained(directory).params), named(ours.params("tiny_erf"))
    assert set(read) == set(drawn)
    for path, array in drawn.items():
        np.testing.assert_array_equal(read[path], array)


def test_a_flipped_bit_is_noticed(directory, theirs, tmp_path):
    """This includes key biases, which outputs do not depend on."""
    bits = {name: array.copy() for name, array in theirs.items()}
    flipped = [name for name in bits if name.endswith("key.bias")]
    assert len(flipped) == 2
    for name in flipped:
        bits[name].view(np.uint32)[-1] ^= 1
    file = directory / "model.safetensors"
    file.write_bytes(safetensors.numpy.save(bits, {"format": "pt"}))
    bj.save_pretrained(tmp_path / "ours", bj.from_pretrained(directory))
    back = safetensors.numpy.load((tmp_path / "ours/model.safetensors").read_bytes())
    assert [n for n, array in theirs.items() if back[n].tobytes() != array.tobytes()] == flipped
