"""Compiling for TPU chips that this machine does not have."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[2]


_MARKS = (
    pytest.mark.tpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed: pip install '.[tpu]' (Linux on x86-64) brings it",
    ),
)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for mark in _MARKS:
                item.add_marker(mark)


@pytest.fixture
def compile_for(capsys):
    """Runs a program that compiles for so many v5e chips; prints and returns the facts it prints.

    The last line of the program is JSON with `peak`, in bytes a chip, and `seconds`.
    """

    def run(program, chips, what):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",  # the process computes nothing; it only compiles
                "TPU_ACCELERATOR_TYPE": f"v5litepod-{chips}",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several of these may run side by side
            },
            capture_output=True,
            text=True,
            timeout=840,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found = json.loads(done.stdout.splitlines()[-1])
        with capsys.disabled():
            print(
                f"\n{what}, {chips} x v5e: peak HBM {found['peak'] / GIB:.2f} GiB of 16 a device, "
                f"compiled in {found['seconds']:.0f} s"
            )
        return found

    return run


@pytest.fixture
def cycles(tmp_path, capsys):
    """Runs benchmarks/tpu_cycles.py with options; returns the facts it prints."""

    def run(*options):
        output = ["--output", str(tmp_path / "facts.json")]
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks/tpu_cycles.py", *options, *output],
            capture_output=True,
            text=True,
            timeout=840,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        facts = json.loads(done.stdout.splitlines()[0])
        with capsys.disabled():
            print(f"\n{' '.join(options)}: peak HBM {facts['peak_gib']:.3f} GiB of 16 a device")
        return facts

    return run
