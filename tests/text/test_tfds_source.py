"""Tests of finding and reading TFDS data sets, which TFDS itself has stored, without TensorFlow."""

import json
import random

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text import corpus, tfds_source


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, store_tfds):
    """A data_dir with several versions, configs, splits and features."""
    root = tmp_path_factory.mktemp("tfds")
    texts = [f"Text {n}. It has 2 sentences." for n in range(150)]
    for version, splits in (("1.9.0", {"train": ["old"]}), ("1.10.0", {"train": texts})):
        store_tfds(root, {**splits, "test": ["a", "b"]}, name="novels", version=version)
    for config in ("20.en", "20.de"):
        store_tfds(root, {"train": [config]}, name="wiki", config=config)
    store_tfds(root, {"test": ["only"]}, name="small", config="one", features=("body", "title"))
    return root


def find(data_dir, name, feature="text"):
    return tfds_source.find(name, feature, data_dir)


def texts(split, *ends):
    return [text.decode() for text in split.texts(*ends)]


def refused(data_dir, name, feature="text"):
    with pytest.raises(UserError) as caught:
        find(data_dir, name, feature)
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and message.endswith(".") and "\n" not in message
    return message


def test_the_newest_version_is_read_in_order(data_dir):
    split = find(data_dir, "tfds:novels")
    assert str(split) == "tfds:novels:1.10.0:train" and split.examples == 150
    assert split.stored_bytes > 150 * 26
    expected = [f"Text {n}. It has 2 sentences." for n in range(150)]
    assert texts(split) == expected
    assert texts(split, 60, 140) == expected[60:140]
    documents = list(corpus.read_documents(split))
    assert documents[7] == ("Text 7.", "It has 2 sentences.") and len(documents) == 150


def test_versions_configs_splits_and_features_by_name(data_dir):
    assert texts(find(data_dir, "tfds:novels:1.9.0")) == ["old"]
    assert texts(find(data_dir, "tfds:novels:test")) == ["a", "b"]
    assert (
        texts(find(data_dir, "tfds:novels:1.10.0:train[:2%]"))[2] == "Text 2. It has 2 sentences."
    )
    assert texts(find(data_dir, "tfds:novels:1.9.0:train+test[1:]")) == ["old", "b"]
    split = find(data_dir, "tfds:wiki/20.de")
    assert (str(split), texts(split)) == ("tfds:wiki/20.de:1.0.0:train", ["20.de"])
    split = find(data_dir, "tfds:small:test", "body")  # the only config
    assert (str(split), texts(split)) == ("tfds:small/one:1.0.0:test", ["only"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tfds:", "not the name of a TFDS data set; write tfds:NAME"),
        ("tfds:../novels", "not the name of a TFDS data set"),
        ("tfds:novels:1.9", "not the name of a TFDS data set"),
        ("tfds:novel", "such a data set; the nearest are novels"),
        ("tfds:imdb_review", "the nearest are imdb_reviews"),
        ("tfds:qqqqqqqq", "such a data set; there are novels, small/one, wiki/20.de"),
        ("tfds:novels:1.0.0", "give one of 1.9.0, 1.10.0"),
        ("tfds:novels:tset", "has no split 'tset', but train, test"),
        ("tfds:novels:train[:", "has no split 'train[:', but train, test"),
        ("tfds:small", "has no split 'train', but test"),
        ("tfds:wiki", "has several configs in"),
        ("tfds:wiki/20.fr", "the nearest are wiki/20.en, wiki/20.de"),
    ],
)
def test_a_missing_data_set_is_refused_with_those_that_exist(data_dir, name, says):
    assert says in refused(data_dir, name, "text" if "small" not in name else "body")


def test_a_data_set_that_tfds_knows_is_never_downloaded(data_dir):
    message = refused(data_dir, "tfds:wikipedia/20230601.en:1.0.0:train")
    assert "bertjax downloads nothing" in message
    command = f"`tfds build wikipedia/20230601.en --file_format=array_record --data_dir={data_dir}`"
    assert command in message
    assert {path.name for path in data_dir.iterdir()} <= {"novels", "wiki", "small", "downloads"}


def test_an_empty_data_dir(tmp_path):
    assert "; that directory has no data set." in refused(tmp_path / "no", "tfds:qqqqqqqq")


def test_a_text_that_examples_do_not_have(data_dir):
    assert "has no text feature 'txt', but it has text" in refused(data_dir, "tfds:novels", "txt")
    assert "but it has body, title (`text_feature`)" in refused(data_dir, "tfds:small:test")
    assert "no text feature 'number'" in refused(data_dir, "tfds:novels", "number")


def test_a_data_set_stored_as_tfrecord_says_how_to_convert_it(tmp_path, store_tfds):
    directory = store_tfds(tmp_path, {"train": ["a"]})
    path = directory / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    message = refused(tmp_path, "tfds:tiny")
    assert "is stored as tfrecord, and only array_record is read" in message
    command = "`tfds convert_format --out_file_format=array_record --dataset_version_dir="
    assert f"{command}{directory}`" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"splits": 3}', '{"name": "tiny"}'])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_descriptions(tmp_path, store_tfds, name, text):
    directory = store_tfds(tmp_path, {"train": ["a"]})
    (directory / name).write_text(text)
    assert "can't be read as a data set (" in refused(tmp_path, "tfds:tiny")


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_examples_are_named(tmp_path, store_tfds, damage):
    numbers = random.Random(0)
    texts_there = [numbers.randbytes(2000).hex() for _ in range(300)]
    directory = store_tfds(tmp_path, {"train": texts_there})
    (file,) = directory.glob("*train*")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 3] ^= 1
    file.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    if damage == "gone":
        file.unlink()
    with pytest.raises(UserError) as caught:
        texts(find(tmp_path, "tfds:tiny"))
    assert str(caught.value).startswith("tfds:tiny:1.0.0:train: one of the examples ")
    assert f"{directory} is damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"ok \xff", "not UTF-8 (byte 0xff at byte 4 of the text)"),
        (b"\0", "contains a NUL character"),
    ],
)
def test_bad_text_is_named_by_its_example(tmp_path, store_tfds, text, says):
    store_tfds(tmp_path, {"train": ["Fine.", "Fine.", text]})
    with pytest.raises(UserError) as caught:
        list(corpus.read_documents(find(tmp_path, "tfds:tiny")))
    assert str(caught.value).startswith(f"tfds:tiny:1.0.0:train: example 2: {says}")


def test_where_data_sets_lie(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert tfds_source.find("tfds:novels", "text", None).examples == 150
    with pytest.raises(UserError, match="local disk"):
        tfds_source.find("tfds:novels", "text", "gs://bucket/tfds")


def test_neither_tensorflow_nor_jax_is_loaded(data_dir, run_python):
    program = (
        "import sys; from bertjax.text import corpus\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"(source,) = corpus.expand_inputs(['tfds:novels'], tfds_data_dir={str(data_dir)!r})\n"
        "assert len(list(corpus.read_documents(source))) == 150\n"
        "print({name.split('.')[0] for name in sys.modules} & "
        "{'jax', 'tensorflow', 'torch', 'grain', 'tensorflow_datasets'})"
    )
    assert run_python("-c", program).strip() == "{'tensorflow_datasets'}"


def test_rows_have_the_values_of_json(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    features = tfds.features
    schema = {
        "question": features.Text(),
        "answers": features.Sequence({"text": features.Text(), "answer_start": np.int32}),
        "label": features.ClassLabel(names=["no", "yes"]),
        "score": np.float32,
        "seen": np.bool_,
    }
    rows = [
        ("\u00e9?", {"text": ["x", "yz"], "answer_start": [3, 0]}, 1, 0.6, True),
        ("b", {"text": [], "answer_start": []}, -1, 2.0, False),
    ]

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(schema), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(dict(zip(schema, row, strict=True)) for row in rows)

    Builder.name = "asked"
    Builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    name, found = tfds_source.rows("tfds:asked:test")
    assert name == "tfds:asked:1.0.0:test"
    first, second = found
    assert first == dict(zip(schema, (*rows[0][:2], "yes", 0.6, True), strict=True))
    assert second == dict(zip(schema, (*rows[1][:2], None, 2.0, False), strict=True))
    assert json.loads(json.dumps(first)) == first
