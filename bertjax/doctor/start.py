"""Starts the devices in a process with a time limit, and explains why a start fails or hangs."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bertjax.doctor.check import Check
from bertjax.doctor.machine import Machine
from bertjax.train.telemetry.mfu import peak_flops

# Below this share of the peak, something else uses the device, or it is throttled.
_SLOW = 1 / 3
_ONE_PROCESS = "One process can use the TPU at a time: "
# Each message has its advice. The most telling one comes first.
_FAILURES = {
    r"in use by process with pid (\d+)": _ONE_PROCESS + "wait until process {} ends, or end it.",
    "already in use|resource busy": _ONE_PROCESS + "sudo lsof -w /dev/accel* /dev/vfio/* names it.",
    "libtpu multi-process lockfile": "Its user has ended: run sudo rm /tmp/libtpu_lockfile.",
    "ermission denied|not permitted": "Run as root, and a container privileged.",
    "index_on_host": "Run pip install -U 'jax[tpu]', for jax 0.10.1 or later (jax issue 37230).",
    "Unknown flags? in XLA_FLAGS": "Remove this flag from XLA_FLAGS.",
    "RESOURCE_EXHAUSTED|OUT_OF_MEMORY": "Another process has its memory: end that one.",
    "CUDA": "Run nvidia-smi: the driver must work, and be as new as JAX's CUDA plugin asks for.",
    "(?i)deadline.exceeded": "{waiting}",
}


class Answer(NamedTuple):
    """The facts that a process told, the end of its standard error, and its exit code.

    The code is None if the process did not end in time.
    """

    facts: dict[str, Any]
    error: str
    code: int | None

    @property
    def reason(self) -> str:
        """The line of the standard error that says why the process failed."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        telling = [line for line in lines if re.match(r"F\d{4} |[\w.]+(Error|Exception)\b", line)]
        if not lines:
            return f"exit code {self.code}"
        said = re.sub(r"^F\d{4} .*?\] |^[\w.]+(Error|Exception): ", "", (telling or lines)[-1])
        return said.partition(" (set JAX_PLATFORMS=")[0].strip().rstrip(".")[:500]

    def failed(self, name: str, seconds: float, remedy: str) -> Check:
        """Returns the failed check of a process that had some seconds."""
        stage = self.facts.get("stage", "start Python")
        hung = f"to {stage} did not end within {seconds:g} s"
        return Check("failed", name, hung if self.code is None else self.reason, remedy)


def probe(what: str, argument: str, seconds: float) -> Answer:
    """Runs a part of `bertjax.doctor.probe`, which ends by itself after so many seconds."""
    words = ["-m", "bertjax.doctor.probe", what, argument, str(seconds)]
    return ask(words, seconds + 5)  # it imports bertjax before it counts


def ask(arguments: Sequence[str], seconds: float) -> Answer:
    """Runs Python with these arguments and collects the facts that it prints as lines of JSON.

    What does not end within `seconds` is killed, with the processes that it has started.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        words = [sys.executable, "-P", *arguments]
        child, code = subprocess.Popen(words, start_new_session=True, **how), None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(seconds)
        finally:
            if code is None:
                os.killpg(child.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):  # a driver can keep it longer
                    child.wait(5)
        out.seek(0)
        err.seek(0)
        told, error = (file.read().decode(errors="replace") for file in (out, err))
    facts: dict[str, Any] = {}
    for line in told.splitlines():
        with contextlib.suppress(ValueError):  # a library's line, or one that was cut short
            facts |= json.loads(line) if line.startswith("{") else {}
    return Answer(facts, error[-4000:], None if "\nTimeout (" in f"\n{error}" else code)


def check_start(
    answer: Answer, machine: Machine, environment: Mapping[str, str], seconds: float
) -> Iterator[Check]:
    """Yields the checks of a start of the devices: compilation cache, devices, matrix product."""
    facts = answer.facts
    if (cache := facts.get("cache")) is not None:
        told, _, remedy = cache.rstrip(".").removeprefix("Warning: ").partition("; ")
        status = "warning" if remedy else "ok"
        advice = f"{remedy[:1].upper()}{remedy[1:]}." if remedy else ""
        yield Check(status, "compilation cache", told or "turned off by a variable of JAX", advice)
    if joined := facts.get("joined", ""):
        yield Check("ok", "hosts", joined.rstrip("."))
    if "platform" in facts:
        yield _check_devices(facts, machine, environment)
    if "flops_per_second" in facts:
        yield _check_product(facts)
        return
    waiting = waiting_for(machine, environment)
    remedy = waiting if answer.code is None else _advice(answer.error, waiting, environment)
    is_joining = facts.get("stage") == "join the other hosts"
    if is_joining and "\nbertjax.errors." in answer.error:  # which says whom it missed
        remedy = waiting if machine.kind == "TPU" else ""
    name = "matrix product" if "platform" in facts else "hosts" if is_joining else "devices"
    yield answer.failed(name, seconds, remedy)


def _advice(error: str, waiting: str, environment: Mapping[str, str]) -> str:
    for pattern, text in _FAILURES.items():
        if found := re.search(pattern, error):
            return text.format(*found.groups(), waiting=waiting)
    if platforms := environment.get("JAX_PLATFORMS"):
        return f"JAX_PLATFORMS={platforms} asks for these devices alone: run unset JAX_PLATFORMS."
    return "The report below has the whole message."


def waiting_for(machine: Machine, environment: Mapping[str, str]) -> str:
    """Returns what a start that does not end waits for, as far as the environment shows it."""
    named = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    hosts = len(named.split(",")) if named else 0
    others = [n for n in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES") if environment.get(n)]
    if (slices := environment.get("MEGASCALE_NUM_SLICES", "1")) != "1":
        return (
            f"MEGASCALE_NUM_SLICES={slices}: run the same command on all hosts of all slices at "
            "once. JAX uses TCP port 8482 since 0.8.1, which a firewall may close: open it, or "
            "give `hosts.coordinator` an open port, such as 8476 (jax issue 35905)."
        )
    if hosts == 1 and others:
        return (
            f"TPU_WORKER_HOSTNAMES names one host, as on Kaggle (flaxchat issue 8), and "
            f"{' and '.join(others)} says that there are others: unset what is wrong."
        )
    if machine.kind == "TPU":
        count = f"The TPU has {hosts} hosts ({named})" if hosts > 1 else "If the TPU has more hosts"
        return (
            f"{count}, each waits for all: run the same command on all of them at once (jax issue "
            "19971)."
        )
    if machine.kind == "GPU":
        return "Run nvidia-smi: if it hangs too, restart the machine."
    return "The report below says where it hangs."


def _check_devices(
    facts: Mapping[str, Any], machine: Machine, environment: Mapping[str, str]
) -> Check:
    count, hidden = facts["devices"], environment.get("JAX_PLATFORMS")
    if facts["platform"] == "cpu" and machine.kind:
        told = f"JAX uses the CPU alone, and this machine has a {machine.kind}"
        if hidden:
            return Check("warning", "devices", told, "Run unset JAX_PLATFORMS.")
        return Check("failed", "devices", told, "The report below has JAX's message.")
    told = f"{count} {facts['kind']}, started in {facts['seconds']:.1f} s"
    if facts["hosts"] > 1:
        told += f"; host {facts['host']} of {facts['hosts']} (from 0)"
    if count < machine.chips:
        remedy = "Variables such as TPU_VISIBLE_CHIPS and CUDA_VISIBLE_DEVICES choose among them."
        return Check("warning", "devices", f"{told}, of {machine.chips} in this machine", remedy)
    return Check("ok", "devices", told)


def _check_product(facts: Mapping[str, Any]) -> Check:
    rate, kind, dtype = facts["flops_per_second"], facts["kind"], facts["dtype"]
    told = f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.0f} GFLOP/s"
    told += f" in {dtype}"
    if (peak := peak_flops(kind, dtype)) is None:
        return Check("ok", "matrix product", f"{told} (no peak is known for {kind})")
    told += f", {rate / peak:.0%} of the peak of {kind}"
    if rate < _SLOW * peak:
        remedy = "Look for another process that uses the device, and at its temperature and clock."
        return Check("warning", "matrix product", told, remedy)
    return Check("ok", "matrix product", told)
