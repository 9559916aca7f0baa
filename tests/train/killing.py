"""Kills a training command at random points and restarts it.

The command must print `step 12/100` lines, as `bertjax.train.telemetry.logger` does.
"""

import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Sequence

import numpy as np
from etils import epath

from bertjax.train.telemetry.metrics_file import read_records

_STEP = re.compile(r"^step +([\d,]+)/")
# A clock measures these; they differ from run to run.
_TIMES = ("time", "tokens_per_second", "real_tokens_per_second", "model_flops_per_second")
_TIMES += ("data_wait", "seconds")


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run_killed(
    command: Sequence[str], checkpoints: pathlib.Path, *, kills: int, save_every: int, seed: int
) -> tuple[list[str], int]:
    """Runs a command, kills it `kills` times with SIGKILL, and lets it finish.

    Every second kill comes within a quarter of a second after the step of a save, while its files
    are being written. The others come after a random step of the next two intervals.

    Returns the output of each run, and the number of kills that left a half-written checkpoint.
    """
    rng = np.random.default_rng(seed)
    outputs = []
    in_saves = 0
    for kill in range(kills):
        process = start(command)
        seen: list[str] = []
        target = None
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if not (match := _STEP.match(line)):
                continue
            step = int(match[1].replace(",", ""))
            if target is None:
                target = step + int(rng.integers(0, 2 * save_every))
                target += -target % save_every if kill % 2 else 0
            if step >= target:
                time.sleep(rng.uniform(0, 0.25) if kill % 2 else rng.uniform(0, 0.02))
                process.kill()
        process.stdout.close()
        outputs.append("".join(seen))
        assert process.wait() in (-signal.SIGKILL, 0), outputs[-1]
        in_saves += any(checkpoints.glob("*-tmp*"))
    process = start(command)
    outputs.append(process.communicate()[0])
    assert process.returncode == 0, outputs[-1]
    return outputs, in_saves


def records_in_hex(metrics: pathlib.Path) -> list[str]:
    """Returns the records of a metrics.jsonl with floats in hex, without measured times."""
    return [
        " ".join(
            f"{key}={value.hex() if isinstance(value, float) else value}"
            for key, value in record.items()
            if key not in _TIMES
        )
        for record in read_records(epath.Path(metrics))
    ]
