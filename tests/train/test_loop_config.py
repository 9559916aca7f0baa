"""LoopConfig: its checks, and what importing it loads."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from bertjax.errors import UserError
from bertjax.train.loop_config import LoopConfig


def test_importing_it_loads_no_jax():
    code = (
        "import sys, bertjax.train.loop_config;"
        "print(sorted({'jax', 'orbax', 'grain', 'tqdm'} & set(sys.modules)))"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(LoopConfig)])
def test_negative_intervals_are_refused(field):
    with pytest.raises(UserError, match=f"`loop.{field}` is -1"):
        LoopConfig(**{field: -1})
