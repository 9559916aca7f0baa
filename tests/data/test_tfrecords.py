"""Tests of reading TFRecords: examples are restored, or refused by file and record."""

import gzip
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import tfrecords
from bertjax.data.tfrecords import read_examples
from bertjax.errors import UserError

GOLDEN = Path(__file__).with_name("golden")
LENGTH, PREDICTIONS = 24, 4


@pytest.fixture(scope="module")
def google(load_helper):
    return load_helper("data/google_examples.py")


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/bundle_writer.py")


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "old.json").read_text())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that the examples of hypothesis overwrite."""
    return tmp_path_factory.mktemp("old") / "old.tfrecord"


@pytest.fixture
def features(google):
    """Returns the features of an example with ids 5 to 99, some replaced by those given."""

    def make(**changed):
        vocabulary = google.Vocabulary(100, 2, 3, 4)
        rng = random.Random(1)
        made = google.example(
            [*range(5, 12)], [*range(60, 66)], True, vocabulary, LENGTH, PREDICTIONS, rng
        )
        return {**made, **changed}

    return make


@pytest.fixture
def write(google, writer, tmp_path):
    """Writes examples, given as features or as bytes; returns the file."""

    def make(*examples):
        records = [
            each if isinstance(each, bytes) else google.serialized(each, writer)
            for each in examples
        ]
        path = tmp_path / "old.tfrecord"
        path.write_bytes(b"".join(google.framed(record, writer) for record in records))
        return path

    return make


def pairs(path, *arguments, **named):
    found = [example.pair for example in read_examples(path, *arguments, **named)]
    return [[pair.a.tolist(), pair.b.tolist(), pair.is_random] for pair in found]


def tokenizer(vocab_size=100, cls_id=2, sep_id=3, mask_id=4):
    return SimpleNamespace(vocab_size=vocab_size, cls_id=cls_id, sep_id=sep_id, mask_id=mask_id)


def refusal(path, *arguments, **named):
    with pytest.raises(UserError) as caught:
        list(read_examples(path, *arguments, **named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["old.tfrecord", "old.tfrecord.gz"])
def test_files_written_by_tensorflow_are_read(golden, name):
    assert golden["generator"] == "tf.io.TFRecordWriter" and golden["tensorflow"]
    ids = [golden[field] for field in ("size", "cls_id", "sep_id", "mask_id")]
    assert pairs(GOLDEN / name, tokenizer(*ids)) == golden["pairs"]
    assert pairs(GOLDEN / name) == golden["pairs"]
    examples = list(read_examples(GOLDEN / name))
    assert {example.max_seq_length for example in examples} == {golden["max_seq_length"]}
    assert {example.predictions for example in examples} <= {1, 2, 3, 4}


IDS = st.lists(st.integers(5, 300) | st.integers(5, (1 << 31) - 1), min_size=1, max_size=9)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(IDS, IDS, st.booleans()), min_size=1, max_size=5), seed=st.integers()
)
def test_any_pairs_come_back(google, writer, file, rows, seed):
    vocabulary = google.Vocabulary(1 << 31, 2, 3, 4)
    rng, expected = random.Random(seed), []
    with file.open("wb") as target:
        for a, b, is_random in rows:
            made = google.example(a, b, is_random, vocabulary, LENGTH, PREDICTIONS, rng)
            expected.append(int(sum(made["masked_lm_weights"])))
            target.write(google.framed(google.serialized(made, writer), writer))
    assert pairs(file, tokenizer(1 << 31)) == [list(row) for row in rows]
    assert [example.predictions for example in read_examples(file)] == expected


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_any_file_gives_examples_or_a_sentence(file, data):
    file.write_bytes(data)
    if data:
        assert "record 1" in refusal(file)
    else:
        assert list(read_examples(file)) == []


NUMBERS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 6), max_size=6)
VALUES = NUMBERS | st.lists(st.floats(width=32), max_size=6)
CHANGES = st.dictionaries(st.sampled_from([*tfrecords._FEATURES, "other"]), VALUES, max_size=2)


@settings(deadline=None)
@given(changes=CHANGES, cut=st.integers(0), more=st.binary(max_size=3))
def test_any_features_give_examples_or_a_sentence(google, writer, file, changes, cut, more):
    made = google.features([2, 5, 3, 6, 3], 1, [1], [5], False, 6, 2)
    record = google.serialized({**made, **changes}, writer)
    cut %= len(record)
    file.write_bytes(google.framed(record[:cut] + more + record[cut:], writer))
    try:
        examples = list(read_examples(file))
    except UserError as error:
        assert ", record 1: " in str(error)
    else:
        assert all(len(pair.a) and len(pair.b) for pair, *_ in examples)


def test_every_flipped_byte_is_an_error(write, features):
    path = write(features(), features())
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        number = 1 + (place >= len(whole) // 2)
        assert f"old.tfrecord, record {number}: damaged" in refusal(path)


def test_truncation_is_an_error_except_between_records(write, features):
    path = write(features(), features())
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        if end == len(whole) // 2:
            assert len(pairs(path)) == 1
        else:
            assert "damaged (the file ends in it)" in refusal(path)
    compressed = gzip.compress(whole)
    for end in range(len(compressed) // 2, len(compressed)):
        path.write_bytes(compressed[:end])
        assert "damaged (the gzip data is truncated or damaged)" in refusal(path)


FAULTS = {
    "has no input_mask, next_sentence_labels; give TFRecords of create": {
        "input_mask": None,
        "next_sentence_labels": None,
    },
    "its input_ids is of another type": {"input_ids": [1.0] * LENGTH},
    "its masked_lm_weights is of another type": {"masked_lm_weights": [1] * PREDICTIONS},
    "its segment_ids has 23 numbers instead of 24": {"segment_ids": [0] * 23},
    "its next_sentence_labels has 2 numbers instead of 1": {"next_sentence_labels": [0, 0]},
    "its next_sentence_labels is neither 0 nor 1": {"next_sentence_labels": [2]},
    "different numbers of masked_lm_positions": {"masked_lm_ids": [7]},
    "its masked_lm_weights are not all 0 or 1": {"masked_lm_weights": [0.5] * PREDICTIONS},
    "are not those of [CLS] A [SEP] B [SEP]": {"segment_ids": [0] * LENGTH},
    "input_mask and segment_ids are not": {"input_mask": [1 << 40] + [1] * (LENGTH - 1)},
    "masks a position outside its text": {"masked_lm_positions": [16] * PREDICTIONS},
    "has the id 100, but the vocabulary has 100": {"masked_lm_ids": [100] * PREDICTIONS},
    "has a [MASK] (id 4) that no label replaces": {"masked_lm_weights": [0.0] * PREDICTIONS},
    "has the ids 9, 9 and 9 instead of [CLS], [SEP] and [SEP]": {"input_ids": [9] * LENGTH},
}


@pytest.mark.parametrize("says", FAULTS)
def test_faults_are_named(write, features, says):
    made = {name: value for name, value in features(**FAULTS[says]).items() if value is not None}
    path = write(*[features()] * 600, made, features())
    sentence = refusal(path, tokenizer())
    assert sentence.startswith(f"{path}, record 601: ")
    assert says in sentence


def test_records_of_other_lengths(write, features, google):
    longer = google.features([2, 5, 3, 6, 3], 1, [1], [5], False, LENGTH + 1, PREDICTIONS)
    path = write(features(), longer)
    assert "record 2: its input_ids has 25 numbers instead of 24" in refusal(path)
    assert "record 1: its input_ids has 24 numbers" in refusal(path, max_seq_length=16)


def test_records_that_are_not_examples_are_refused(write, features, writer):
    path = write(features(), writer.field(1, writer.field(1, b"\x12\x05ab")))
    assert "record 2: damaged (an entry is cut off); copy the file again" in refusal(path)
    lists = writer.field(1, b"input_ids") + writer.field(2, writer.field(3, writer.field(1, 7)))
    path = write(writer.field(1, writer.field(1, lists)))
    assert "record 1: damaged (its input_ids is not packed" in refusal(path)
    assert "absent: no such file" in refusal(path.with_name("absent"))
    assert "can't be read" in refusal(path.parent)


def test_tfrecords_are_told_from_text(write, features, tmp_path):
    path = write(features()).rename(tmp_path / "part-00000-of-00001")
    (tmp_path / "packed").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "text").write_text("A sentence of some length.\n")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"A sentence of some length.\n"))
    (tmp_path / "half.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "empty").touch()
    found = {path.name for path in epath.Path(tmp_path).iterdir() if tfrecords.is_tfrecord(path)}
    assert found == {"part-00000-of-00001", "packed"}
    for name in ("a.tfrecord", "b.TFRecords.gz", "c.tfrecord-00000-of-00010", "eval.tf_record"):
        assert tfrecords.is_named_tfrecord(epath.Path(name))
    for name in ("a.tfrecord.txt", "tfrecord", "tfrecords/a.txt"):
        assert not tfrecords.is_named_tfrecord(epath.Path(name))
