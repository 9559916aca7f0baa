"""GLUE from TFDS: what is written equals the official files."""

from typing import ClassVar

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.glue.benchmark import TASKS
from bertjax.glue.files import GlueData

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """glue/mrpc and glue/stsb as ArrayRecord, without TensorFlow."""
    directory = tmp_path_factory.mktemp("tfds")
    text = tfds.features.Text()

    def store(config, features, splits):
        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("2.0.0")
            BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=config)]

            def _info(self):
                shown = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=shown, disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {split: enumerate(rows) for split, rows in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

        Builder.name = "glue"
        Builder(data_dir=directory, file_format="array_record").download_and_prepare()

    names = tfds.features.ClassLabel(names=["not_equivalent", "equivalent"])
    row = {"sentence1": 'a "film', "sentence2": "one\ttab", "label": 1}
    splits = {"train": [row, {**row, "label": 0}], "validation": [row]}
    splits["test"] = [{**row, "label": -1}] * 2
    store("mrpc", {"sentence1": text, "sentence2": text, "label": names}, splits)
    scored = {"sentence1": "a", "sentence2": "b", "label": 3.8}
    features = {"sentence1": text, "sentence2": text, "label": np.float32}
    store("stsb", features, {"train": [scored], "validation": [scored]})
    return directory


def test_files_are_written_as_the_official_ones(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(stored))
    data = GlueData("tfds:glue", tmp_path, 0.0)
    files = data.find(TASKS["MRPC"])
    head = "#1 String\t#2 String\tQuality"
    assert files.train.read_text().splitlines() == [
        head,
        'a "film\tone tab\t1',
        'a "film\tone tab\t0',
    ]
    assert files.dev.read_text().splitlines() == [head, 'a "film\tone tab\t1']
    (test,) = TASKS["MRPC"].tests
    assert data.test_rows(TASKS["MRPC"], test) == [('a "film', "one tab")] * 2
    assert data.find(TASKS["STS-B"]).train.read_text().splitlines()[1] == "a\tb\t3.8"
    assert "tfds:glue/rte:train" in data.find(TASKS["RTE"])
    assert data.test_rows(TASKS["STS-B"], TASKS["STS-B"].tests[0]) is None


def test_other_labels_are_refused():
    from bertjax.glue.files import _label

    with pytest.raises(UserError, match=r"x:3: the label is None; build GLUE with one of \('not_e"):
        _label(TASKS["MRPC"], None, "x:3")
