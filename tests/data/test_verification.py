"""Shards of another content are refused; files that are known are not read again."""

import os

import pytest
from etils import epath

from bertjax.data import shards
from bertjax.data.verification import Verification
from bertjax.errors import UserError


@pytest.fixture
def data(make_data, some_pairs):
    return make_data(some_pairs(30), some_pairs(5, seed=1))


@pytest.fixture
def verify(data, tmp_path):
    """Verifies the directory and returns how many files were read."""

    def verify(**options):
        known = epath.Path(tmp_path / "known.json")
        with Verification([(data, shards.read_manifest(data))], known, **options) as verification:
            started = len(verification._futures)
            verification.wait()
            verification.check()
        return started

    return verify


def rewritten(path):
    """Writes the same records in another order: the same size, and other bytes."""
    reader = shards.open_records(path)
    records = reader.read(0, reader.num_records())
    size = path.stat().length
    shards.write_records(path, reversed(records))
    assert path.stat().length == size


@pytest.mark.parametrize("split", shards.SPLITS)
def test_another_file_of_the_same_size_is_refused_by_name(data, verify, split):
    assert verify(read_only=True) == 6
    path = data / shards.read_manifest(data).files[split][-1].name
    rewritten(path)
    for _ in range(2):  # nothing remembers it as verified
        with pytest.raises(UserError, match=f"{path.name}: is not the file that the manifest"):
            verify()


def test_known_files_are_read_again_only_when_they_changed(data, verify, tmp_path):
    assert [verify(), verify()] == [6, 0]
    path = data / shards.read_manifest(data).files["train"][0].name
    os.utime(path, (1, 1))
    assert [verify(), verify()] == [1, 0]
    for damage in ("", "[", "[1]", '{"x": 3}', "[" * 100_000):
        (tmp_path / "known.json").write_text(damage)
        assert verify() == 6
    rewritten(path)
    with pytest.raises(UserError, match="another SHA-256"):
        verify()
