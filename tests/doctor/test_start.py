"""Starts that end, fail and hang."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bertjax.doctor import start
from bertjax.doctor.machine import Machine
from bertjax.doctor.start import Answer, ask

NOTHING, TPU, GPU = Machine(), Machine(tpus=2), Machine(gpus=1)
STARTED = {
    **{"cache": "", "seconds": 1.0, "platform": "tpu", "kind": "TPU v6 lite", "devices": 2},
    **{"host": 0, "hosts": 1, "dtype": "bfloat16", "flops_per_second": 800e12},
}


def lines(answer, machine=NOTHING, **environment):
    return [check.line for check in start.check_start(answer, machine, environment, 60)]


def test_a_program_that_ends_tells_its_facts():
    told = ask(["-c", "print('{\"a\": 1}'); print('{noise'); print('{\"b\": 2}')"], 60)
    assert told == Answer({"a": 1, "b": 2}, "", 0)


@pytest.mark.parametrize(
    "hang",
    [
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)",
        "import re; re.match('(a+)+$', 'a' * 60 + 'b')",  # native code, which holds the GIL
    ],
)
def test_a_program_that_hangs_ends_at_the_limit(hang):
    began = time.monotonic()
    told = ask(["-c", f'print(\'{{"stage": "wait"}}\', flush=True); {hang}'], 1)
    assert told == Answer({"stage": "wait"}, "", None) and time.monotonic() - began < 5
    assert lines(told)[0].startswith("failed   devices: to wait did not end within 60 s. ")


def test_the_probe_says_where_it_hangs(tmp_path, monkeypatch):
    """A jax whose import never ends, like a start of devices that waits for other hosts."""
    package = tmp_path / "jax" / "__init__.py"
    package.parent.mkdir()
    package.write_text("import time\n\ndef wait():\n    time.sleep(60)\n\nwait()\n")
    paths = [str(tmp_path), str(Path(start.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    told = start.probe("start", "{}", 1)
    assert told.code is None and told.facts == {"stage": "import jax"} and "in wait" in told.error


def test_the_cpu_of_this_machine_starts(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    cache, devices, product = lines(start.probe("start", "{}", 120))
    assert cache.startswith("ok") and devices.startswith("ok       devices: 1 cpu, started in ")
    assert product.startswith("ok") and "in float32 (no peak is known for cpu)" in product


def test_a_flag_that_xla_does_not_know_is_named(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag")
    told = "Unknown flag in XLA_FLAGS: --no_such_flag. Remove this flag from XLA_FLAGS."
    assert lines(start.probe("start", "{}", 120))[-1] == f"failed   devices: {told}"


def test_hosts_are_joined_and_a_missing_one_is_named():
    """Two processes on loopback, and then one that waits for a second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def join(index, seconds):
        hosts = {"coordinator": address, "count": 2, "index": index, "timeout": seconds}
        return start.probe("start", json.dumps(hosts), 120)

    with ThreadPoolExecutor() as threads:
        for index, answer in enumerate(threads.map(join, (0, 1), (60, 60))):
            _, hosts, devices, _ = lines(answer)
            assert hosts.startswith("ok       hosts: 2 hosts, by ") and address in hosts
            assert f"host {index} of 2 (from 0)" in devices
    answer = join(0, 1)
    told = f"failed   hosts: Of 2 hosts, 1 did not come to {address} within 1 seconds: "
    assert lines(answer)[1].startswith(told)
    assert "(jax issue 19971)" in lines(answer, TPU)[1] and "jax issue" not in lines(answer)[1]


CPU = {"platform": "cpu", "kind": "cpu", "devices": 1}
NOT_KEPT = "Warning: compiled programs are not kept, because x; set Y to z."


@pytest.mark.parametrize(
    ("changes", "environment", "line"),
    [
        ({}, {}, "ok       compilation cache: turned off by a variable of JAX."),
        ({"cache": "Kept in x."}, {}, "ok       compilation cache: Kept in x."),
        ({"cache": NOT_KEPT}, {}, "warning  compilation cache: compiled programs are not kept, "),
        ({}, {}, "ok       devices: 2 TPU v6 lite, started in 1.0 s."),
        ({"hosts": 4}, {}, "ok       devices: 2 TPU v6 lite, started in 1.0 s; host 0 of 4 (from"),
        ({"devices": 1}, {}, "warning  devices: 1 TPU v6 lite, started in 1.0 s, of 2 in this "),
        (CPU, {}, "failed   devices: JAX uses the CPU alone, and this machine has a TPU."),
        (CPU, {"JAX_PLATFORMS": "cpu"}, "warning  devices: JAX uses the CPU alone, and this "),
        ({}, {}, "ok       matrix product: 800.0 TFLOP/s in bfloat16, 87% of the peak of TPU"),
        ({"flops_per_second": 9e13}, {}, "warning  matrix product: 90.0 TFLOP/s in bfloat16, 10%"),
    ],
)
def test_what_was_started_is_judged(changes, environment, line):
    found = lines(Answer(STARTED | changes, "", 0), TPU, **environment)
    assert len(found) == 3 and any(each.startswith(line) for each in found), found


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("ABORTED: The TPU is already in use by process with pid 42.", "until process 42 ends"),
        ("open(/dev/vfio/1): Device or resource busy", "sudo lsof -w"),
        ("Internal error when accessing libtpu multi-process lockfile.", "rm /tmp/libtpu_lockfile"),
        ("open(/dev/accel3): Operation not permitted", "Run as root"),
        ("GetChip(i)->location().index_on_host() == i (0 vs. 1)", "jax issue 37230"),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", "Another process has its memory"),
        ("DEADLINE_EXCEEDED: RegisterTask", "jax issue 19971"),
        ("something else", "JAX_PLATFORMS=tpu asks for these devices alone"),
    ],
)
def test_an_error_says_what_to_do(error, told):
    text = f"Traceback\nRuntimeError: Unable to start: {error} (set JAX_PLATFORMS='' to choose)"
    (line,) = lines(Answer({}, text, 1), TPU, JAX_PLATFORMS="tpu")
    assert line.startswith(f"failed   devices: Unable to start: {error.rstrip('.')}")
    assert told in line


def test_a_crash_without_words_has_its_code():
    assert lines(Answer({}, "", -11))[0].startswith("failed   devices: exit code -11. The report")


SLICES = {"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a,b"}


@pytest.mark.parametrize(
    ("machine", "environment", "told"),
    [
        (TPU, {"TPU_WORKER_HOSTNAMES": "a,b"}, "The TPU has 2 hosts (a,b), each waits for all"),
        (TPU, SLICES, "MEGASCALE_NUM_SLICES=2: run the same command on all hosts"),
        (TPU, {"TPU_WORKER_HOSTNAMES": "localhost", "JAX_NUM_PROCESSES": "4"}, "as on Kaggle"),
        (TPU, {"TPU_WORKER_HOSTNAMES": "localhost"}, "If the TPU has more hosts"),
        (GPU, {}, "nvidia-smi"),
        (NOTHING, {}, "The report below says where it hangs."),
    ],
)
def test_a_known_hang_is_named_by_its_environment(machine, environment, told):
    (line,) = lines(Answer({"stage": "start the devices"}, "", None), machine, **environment)
    assert line.startswith("failed   devices: to start the devices did not end within 60 s. ")
    assert told in line
