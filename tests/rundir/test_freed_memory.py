"""Tests that a program's temporary arrays are mapped once."""

import ctypes
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from bertjax.rundir.freed_memory import keep_freed

if sys.argv[1] == "keep":
    keep_freed()
x = jnp.ones((3000, 50))
program = jax.jit(lambda x: (x @ x.T) @ x)  # its temporary array has 36 MB, 8,800 pages
for run in range(200):
    if run == 100:  # the heap grows in the first runs, until its free parts fit
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 100)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
def test_the_temporary_arrays_of_a_program_are_mapped_once():
    def page_faults(how: str) -> int:
        command = [sys.executable, "-c", _PROGRAM, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert page_faults("keep") < 500 < 5000 < page_faults("leave")
