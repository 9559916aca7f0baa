"""Atomic writing: complete files or none, and a sentence for paths that can't be written."""

import errno
import os
import pickle

import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.files import CannotWrite, filling, reading, replacing, write_atomically, writing


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path / "new" / "file")


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_file_is_complete_and_alone(path):
    for data in (b"one", b"another"):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert names(path) == ["file"]


def test_a_failure_leaves_the_old_file_and_no_temporary_one(path):
    write_atomically(path, b"old")
    for number in range(3):
        with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
            temporary.write_bytes(b"half")
            assert 1 / (number - number)
    assert names(path) == ["file"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_no_space_and_no_permission_are_sentences(path, code):
    with pytest.raises(CannotWrite) as caught, writing(path):
        raise OSError(code, os.strerror(code))
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: can't be written ({os.strerror(code)}); make room")
    assert "\n" not in sentence
    assert str(pickle.loads(pickle.dumps(caught.value))) == sentence  # worker processes pickle it


def test_a_pipe_is_no_file_to_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in (("pipe", "is a pipe and no regular file"), ("loop", "can't be read")):
        with pytest.raises(UserError, match=f"{name}: {reason}"), reading(tmp_path / name):
            (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match="is a device"), reading("/dev/null"):
        pass


def test_errors_name_the_place_that_was_asked_for(path):
    for message, kind in (("is full", CannotWrite), ("holds NaN", UserError)):
        with pytest.raises(kind) as caught, filling(path) as temporary:
            file = temporary / "weights"
            raise CannotWrite(file, message) if kind is CannotWrite else kind(f"{file} {message}")
        assert str(caught.value).startswith(str(path / "weights")) and message in str(caught.value)
        assert list(path.parent.iterdir()) == []


def test_other_errors_pass_unchanged(path):
    with pytest.raises(FileNotFoundError), writing(path):
        path.read_bytes()
