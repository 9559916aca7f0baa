"""What every test shares: a CPU, the real data where there is some, processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from etils.epath import backend, gpath

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that BERTJAX_TEST_DATA names."""
    named = os.environ.get("BERTJAX_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("real data: set BERTJAX_TEST_DATA to its folder")
    return Path(named)


@pytest.fixture(scope="session")
def run_python():
    """Runs a Python program in a process of its own; returns its standard output."""

    def run(*arguments: str, devices: int = 1, timeout: float = 300, **environment: str) -> str:
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


class _Elsewhere(type(backend.os_backend)):
    """The os backend, with gs:// names mapped into a folder."""

    def __init__(self, root: Path):
        self._root = root

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name.startswith("_") or not callable(method):
            return method
        root = super().__getattribute__("_root")

        def local(path):
            return str(path).replace("gs://", f"{root}/", 1)

        def call(*arguments, **named):
            plain = [local(a) if str(a).startswith("gs://") else a for a in arguments]
            result = method(*plain, **named)
            if name == "glob":
                return [f.replace(f"{root}/", "gs://", 1) for f in result]
            return result

        return call


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """gs://bucket, which is a folder, and that folder: what reaches it went through epath."""
    root = tmp_path / "remote"
    (root / "bucket").mkdir(parents=True)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", _Elsewhere(root))
    return epath.Path("gs://bucket"), root / "bucket"
