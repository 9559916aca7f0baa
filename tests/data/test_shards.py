"""Records, shard files and the manifest."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import shards
from bertjax.data.pairs import Pair
from bertjax.errors import UserError
from bertjax.files import file_sha256


# No deadline: a busy machine is no fault of the code's.
@settings(deadline=None)
@given(
    a=st.lists(st.integers(0, 65535), min_size=1, max_size=50),
    b=st.lists(st.integers(0, 65535), max_size=50),
    is_random=st.booleans(),
    wide=st.booleans(),
)
def test_a_record_decodes_to_what_was_encoded(encode_pair, a, b, is_random, wide):
    is_random &= bool(b)  # without B there is nothing to be random
    pair = Pair(np.array(a, np.int32), np.array(b, np.int32), is_random)
    record = encode_pair(pair, wide=wide)
    assert len(record) == 4 + (4 if wide else 2) * (len(a) + len(b))
    found = shards.decode_pair(record)
    assert (found.a.tolist(), found.b.tolist(), found.is_random) == (a, b, is_random)


def test_wide_ids(encode_pair):
    assert not shards.needs_wide_ids(65536) and shards.needs_wide_ids(65537)
    pair = Pair(np.array([119_546]), np.array([70_000, 1]), True)
    found = shards.decode_pair(encode_pair(pair, wide=True))
    assert found.a.tolist() == [119_546] and found.b.tolist() == [70_000, 1] and found.is_random


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_crash_the_decoder(data):
    try:
        pair = shards.decode_pair(data)
    except ValueError:
        return
    assert len(pair.a) and (len(pair.b) or not pair.is_random)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\0\0\1",
        b"\0\0\0\0" + bytes(8),  # no A
        b"\0\0\4\0" + bytes(8),  # no B
        b"\0\0\1\0" + bytes(7),  # half an id
        b"\2\0\1\0" + bytes(10),  # half a wide id
        b"\4\0\1\0" + bytes(8),  # a single sequence with a B
        b"\4\0\0\0",  # without an A
        b"\5\0\4\0" + bytes(8),  # with a label
        b"\x08\0\1\0" + bytes(8),  # an unknown flag
        b"\0\1\1\0" + bytes(8),
    ],
)
def test_a_wrong_record_is_refused(record):
    with pytest.raises(ValueError):
        shards.decode_pair(record)


def test_the_same_records_give_the_same_bytes(tmp_path, some_pairs, encode_pair):
    records = [encode_pair(pair, wide=False) for pair in some_pairs(500)]
    path = epath.Path(tmp_path)
    first = shards.write_records(path / "a.array_record", records)
    second = shards.write_records(path / "b.array_record", iter(records))
    assert first == dataclasses.replace(second, name="a.array_record")
    assert first.examples == 500
    written = path / "a.array_record"
    assert (first.bytes, first.sha256) == (written.stat().length, file_sha256(written))
    assert sorted(file.name for file in path.iterdir()) == ["a.array_record", "b.array_record"]
    reader = shards.open_records(path / "a.array_record")
    for number in (499, 0, 250):
        reader.seek(number)
        assert reader.read() == records[number]


def test_a_remote_shard_is_the_local_one(tmp_path, some_pairs, remote, encode_pair):
    records = [encode_pair(pair, wide=False) for pair in some_pairs(50)]
    local = shards.write_records(epath.Path(tmp_path) / "a.array_record", records)
    assert shards.write_records(remote[0] / "a.array_record", records) == local
    assert (remote[1] / "a.array_record").read_bytes() == (tmp_path / "a.array_record").read_bytes()


def test_manifest_survives_its_file(make_data, some_pairs):
    directory = make_data(some_pairs(20), some_pairs(3))
    manifest = shards.read_manifest(directory)
    assert (manifest.examples("train"), manifest.examples("held_out")) == (20, 3)
    assert [file.examples for file in manifest.files["train"]] == [7, 7, 6]
    again = make_data(some_pairs(20), some_pairs(3), name="again")
    assert shards.read_manifest(again) == manifest
    assert shards.read_manifest(again).hash == manifest.hash


def test_hash_follows_what_training_depends_on(make_data, some_pairs):
    manifest = shards.read_manifest(make_data(some_pairs(20), some_pairs(3)))
    other = shards.read_manifest(make_data(some_pairs(20, seed=1), some_pairs(3), name="other"))
    assert manifest.hash != other.hash
    for change in ({"vocab_size": 101}, {"tokenizer_sha256": "1"}, {"sep_id": 9}):
        assert dataclasses.replace(manifest, **change).hash != manifest.hash
    # The text's origin and counts are not part of the hash.
    assert dataclasses.replace(manifest, corpus=(), words=5).hash == manifest.hash


def test_missing_directory_and_manifest(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no manifest\.json; give a directory that"):
            shards.read_manifest(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "format version None"),
        ('{"format_version": 99}', "format version 99 where this bertjax reads 1"),
        ('{"format_version": 1}', "is not a manifest"),
    ],
)
def test_garbled_manifest(tmp_path, text, says):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        shards.read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)


def _change(directory, **changes):
    path = directory / shards.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": "100"},
        {"vocab_size": True},
        {"vocab_size": 0},
        {"max_seq_length": -1},
        {"max_seq_length": 4},
        {"pad_id": None},
        {"unigram_entropy": "low"},
        {"corpus": 7},
        {"files": {"train": []}},
        {"files": {"train": [{"name": "a"}], "held_out": []}},
        {"surprise": 1},
    ],
)
def test_wrong_fields(make_data, some_pairs, changes):
    directory = make_data(some_pairs(3))
    _change(directory, **changes)
    with pytest.raises(UserError, match="prepare the data again"):
        shards.read_manifest(directory)


@pytest.mark.parametrize("name", ["../train", "/etc/passwd", "a\\b", "..", ""])
def test_a_shard_is_beside_its_manifest(make_data, some_pairs, name):
    directory = make_data(some_pairs(3))
    file = {"name": name, "examples": 1, "bytes": 1, "sha256": "0"}
    _change(directory, files={"train": [file], "held_out": []})
    with pytest.raises(UserError, match="prepare the data again"):
        shards.read_manifest(directory)


def test_missing_and_truncated_shards_are_named(make_data, some_pairs):
    directory = make_data(some_pairs(20))
    shard = directory / "train-00007.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"train-00007\.array_record: has \d+ bytes where"):
        shards.read_manifest(directory)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00007\.array_record: missing"):
        shards.read_manifest(directory)
    shard.write_bytes(data)
    shards.read_manifest(directory)


@pytest.mark.parametrize(("examples", "length"), [(1, 10), (3000, 20), (3000, 125), (12_000, 60)])
def test_the_size_of_a_file_is_known_to_a_block(tmp_path, examples, length):
    """`prepare --estimate` predicts the size of ArrayRecord files from this."""
    record = shards.encode_bytes(bytes(2 * length), bytes(2 * length), is_random=False, wide=False)
    file = shards.write_records(epath.Path(tmp_path / "a.array_record"), [record] * examples)
    expected = shards.file_bytes(examples * (shards.RECORD_BYTES + 4 * length))
    assert abs(file.bytes - expected) <= 1 << 16
    if file.bytes > 1 << 20:
        assert expected == pytest.approx(file.bytes, rel=0.03)
