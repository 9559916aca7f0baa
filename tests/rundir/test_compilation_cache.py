"""The directory of the compilation cache, and when it is on."""

import io
import json
import os
import pathlib
import sys

import jax
import pytest

from bertjax import cli
from bertjax.interop.huggingface import save_pretrained
from bertjax.rundir import compilation_cache
from bertjax.rundir.compilation_cache import keep_compiled


@pytest.fixture(autouse=True)
def as_before():
    """Restores the cache directory of the tests."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def unnamed(monkeypatch, tmp_path):
    """No directory is named; the user's caches are in tmp_path."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    jax.config.update("jax_compilation_cache_dir", None)
    return tmp_path


def test_it_is_in_the_directory_of_the_users_caches(unnamed, monkeypatch):
    told = keep_compiled()
    directory = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert told == f"Compiled programs are kept in {directory}."
    assert directory.parent == unnamed / "bertjax" and jax.lib.__version__ in directory.name
    assert directory.stat().st_mode & 0o077 == 0  # it holds executable code
    for place, system in ((".cache", "linux"), ("Library/Caches", "darwin")):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        found = pathlib.Path(jax.config.jax_compilation_cache_dir)
        assert found == unnamed / "home" / place / "bertjax" / directory.name


def test_another_processor_has_another_directory(unnamed, monkeypatch):
    keep_compiled()
    here = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "one without avx512f")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir != here


@pytest.mark.skipif(not pathlib.Path("/proc/cpuinfo").exists(), reason="Linux has it")
def test_a_processor_is_known_by_its_instructions():
    found = compilation_cache._processor()
    assert any(line.startswith(("flags", "Features", "CPU")) for line in found.splitlines())
    assert "MHz" not in found  # it changes from one command to the next


def test_jax_own_variables_decide(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert keep_compiled() == f"Compiled programs are kept in {tmp_path / 'mine'}."
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert keep_compiled() == ""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert keep_compiled() == ""
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not (tmp_path / "caches").exists()


def test_a_place_that_cannot_be_written_is_a_warning(unnamed):
    (unnamed / "bertjax").write_text("a file in the way")
    told = keep_compiled()
    assert told.startswith("Warning: compiled programs are not kept, because ")
    assert "set JAX_COMPILATION_CACHE_DIR" in told
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("is_named", [True, False])
def test_a_directory_that_others_can_write_is_not_used(unnamed, monkeypatch, is_named):
    """Its programs would be run."""
    if is_named:
        (unnamed / "named").mkdir(mode=0o700)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(unnamed / "named"))
    keep_compiled()
    directory = pathlib.Path(jax.config.jax_compilation_cache_dir)
    for mode in (0o777, 0o770, 0o702):
        directory.chmod(mode)
        told = keep_compiled()
        assert f"because {directory} can be written by other users (chmod go-w" in told
        assert jax.config.jax_compilation_cache_dir is None
    directory.chmod(0o755)
    assert keep_compiled() == f"Compiled programs are kept in {directory}."
    monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    assert f"because {directory} belongs to another user" in keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_release_that_crashes_on_macos_keeps_nothing(unnamed, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(jax.lib, "__version__", "0.9.2")
    assert keep_compiled() == ""
    assert jax.config.jax_compilation_cache_dir is None


def test_verbs_say_it_beside_their_data(unnamed, monkeypatch, tmp_path, tiny_model, capsys):
    save_pretrained(tmp_path / "model", tiny_model)
    lines = io.TextIOWrapper(io.BytesIO(b"the good film\n"))
    monkeypatch.setattr(sys, "stdin", lines)
    assert cli.run(["embed", str(tmp_path / "model")]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == tiny_model.config.hidden_size
    assert err == f"Compiled programs are kept in {jax.config.jax_compilation_cache_dir}.\n"
    with pytest.raises(SystemExit):  # help touches nothing
        cli.run(["embed", "--help"])
    assert "Compiled programs" not in "".join(capsys.readouterr())
