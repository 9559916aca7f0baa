"""What every test shares: a CPU, the real data where there is some, processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
