"""Locks of directories: one holder, freed by a kill; what killed commands leave is removed."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys

import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.files import temporary_directory
from bertjax.locks import LOCK, locked

HOLD = """
import sys, time
from bertjax.locks import locked
with locked(sys.argv[1], "workdir", print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def log():
    return [].append


def test_a_second_holder_is_refused_in_a_sentence_and_a_kill_frees_the_lock(tmp_path, log, killing):
    directory = tmp_path / "run"
    with killing.start([sys.executable, "-c", HOLD, str(directory)]) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, locked(directory, "workdir", log):
            pass
        process.send_signal(signal.SIGKILL)
    who = f"process {process.pid} on {platform.node()}"
    assert str(caught.value) == (
        f"{directory}: another command is at work there ({who}); wait for its end, or name another "
        "`workdir`."
    )
    assert (directory / LOCK).exists()
    with locked(directory, "workdir", log):
        assert (directory / LOCK).read_text() == f"process {os.getpid()} on {platform.node()}"
    assert not (directory / LOCK).exists()


def test_a_directory_that_stays_empty_is_removed_if_the_lock_made_it(tmp_path, log):
    for is_new in (True, False):
        with locked(tmp_path / "runs/one", "workdir", log):
            pass
        assert (tmp_path / "runs").exists() != is_new
        (tmp_path / "runs/one").mkdir(parents=True, exist_ok=True)
    with locked(tmp_path / "other", "workdir", log):
        (tmp_path / "other/file").touch()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def test_what_killed_commands_left_is_removed_and_nothing_else(tmp_path, log):
    ours = (
        ".export.0123abcd.tmp",
        "seed-1/.tables.json.00000000.tmp",
        "tokenizer/.a b.ffffffff.tmp",
    )
    others = (".export.tmp", "export.0123abcd.tmp", ".hidden/.file.0123ABCD.tmp", ".notes.txt")
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ours[0]).unlink()
    (tmp_path / ours[0] / "inner").mkdir(parents=True)
    with locked(tmp_path, "workdir", log):
        assert not any((tmp_path / name).exists() for name in ours)
        assert all((tmp_path / name).exists() for name in others)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path, log):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    directory = tmp_path / "run"
    with pytest.raises(UserError, match="run: can't"), locked(directory, "workdir", log):
        pass
    assert (tmp_path / "precious").read_text() == "text"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lines = []
    with locked(tmp_path, "workdir", lines.append):
        pass
    (line,) = lines
    assert "can't be locked (No locks available)" in line
    with temporary_directory(epath.Path(tmp_path / "export")):  # needs no lock either
        pass


def test_an_object_store_has_no_lock(remote, log):
    path, folder = remote
    with locked(path / "run", "workdir", log):
        assert list(folder.iterdir()) == []


def test_temporary_directories_of_the_living_stay_and_those_of_the_dead_go(tmp_path):
    code = "import sys, os; from etils import epath; from bertjax.files import temporary_directory"
    code += "\nwith temporary_directory(epath.Path(sys.argv[1])) as path:"
    code += "\n    (path / 'weights').touch(); os.kill(os.getpid(), 9)"
    target = epath.Path(tmp_path / "export")
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "weights").exists()
    with temporary_directory(target) as first, temporary_directory(target):
        assert first.exists() and not left.exists()
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
