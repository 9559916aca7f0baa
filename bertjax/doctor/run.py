"""`bertjax doctor`: checks whether this machine can train, and prints a report of its versions."""

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

from bertjax.doctor import machine, packages, start
from bertjax.doctor.check import Check
from bertjax.errors import UserError
from bertjax.files import is_local
from bertjax.train.hosts_config import HostsConfig

Log = Callable[[str], None]

# Three checkpoints of BERT-base and a fourth one being written, of 110 million parameters with two
# moments in float32 each.
_LITTLE = 4 * 110e6 * 12
# Seconds in which any storage writes and reads 16 bytes. Without a login, gcsfs tries for minutes.
_LONG = 30


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Check whether this machine can train: versions that belong together, devices, their speed,
    the compilation cache and the place of runs. It prints a line for each check with what to do,
    and what a bug report needs. What hangs is given up. The exit code is 1 if a check failed."""

    workdir: str = "runs"
    """Directory of runs, local or gs://, in which a small file is written, read and removed."""
    timeout: int = 120
    """Seconds after which a start of the devices is given up, of which half are for the other
    hosts; access to `workdir` is given up after 30."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Several hosts that run the same command."""
    json: bool = False
    """Print all of it as one line of JSON."""

    def __post_init__(self) -> None:
        if self.timeout < 1:
            raise UserError(f"`timeout` is {self.timeout}: give at least 1.")


def doctor(config: DoctorConfig, log: Log, note: Log) -> bool:
    """Logs the results of all checks, and notes what it waits for; returns whether none failed."""
    system = {"Python": platform.python_version(), "platform": platform.platform()}
    report: dict[str, Any] = {"system": {**system, "cores": os.cpu_count()}}
    report |= {"versions": packages.versions(), "variables": machine.variables(os.environ)}
    checks = []
    for check in _checks(config, report, note):
        checks.append(check)
        if not config.json:
            log(check.line)
    failed, warned = (sum(c.status == kind for c in checks) for kind in ("failed", "warning"))
    if config.json:
        log(json.dumps({"checks": [check._asdict() for check in checks], **report}))
        return not failed
    log("")
    log("For a bug report:")
    for name in ("system", "versions", "variables"):
        if report[name]:
            log(f"  {name}: {', '.join(f'{key} {value}' for key, value in report[name].items())}")
    for line in report.get("message", ()):
        log(f"  {line}")
    log("")
    log(f"Failed checks: {failed}, warnings: {warned}.")
    return not failed


def _checks(config: DoctorConfig, report: dict[str, Any], note: Log) -> Iterator[Check]:
    """Yields the results of the checks, and adds to the report what they find."""
    yield from packages.check_packages()
    found = machine.inspect()
    held = machine.holders(found)
    yield machine.check_machine(found, held)
    if held:  # a start could disturb that process
        yield Check("failed", "devices", "not started while another process holds them")
    else:
        note(f"Starting the devices, for at most {config.timeout} s ...")
        seconds = min(config.hosts.timeout, max(config.timeout // 2, 1))
        hosts = dataclasses.asdict(config.hosts) | {"timeout": seconds}
        answer = start.probe("start", json.dumps(hosts), config.timeout)
        checks = list(start.check_start(answer, found, os.environ, config.timeout))
        report["devices"] = answer.facts
        if any(check.status != "ok" for check in checks):
            report["message"] = answer.error.splitlines()[-20:]
        yield from checks
    seconds = min(config.timeout, _LONG)
    yield _check_workdir(config.workdir, start.probe("store", config.workdir, seconds), seconds)


def _check_workdir(place: str, answer: start.Answer, seconds: float) -> Check:
    name, facts = f"workdir {place}", answer.facts
    if "\nbertjax.errors." in answer.error:  # a `UserError` names the place and says what to do
        return answer.failed("workdir", seconds, "")
    if answer.code != 0:
        return answer.failed(name, seconds, _remedy(place))
    told = f"a file was written and read in {facts['directory']} in {facts['seconds']:.1f} s"
    if (free := facts["free"]) is None:
        return Check("ok", name, told)
    told += f", {free / 1e9:,.1f} GB are free"
    if free < _LITTLE:
        remedy = f"The checkpoints of BERT-base need {_LITTLE / 1e9:.1f} GB: make room."
        return Check("warning", name, told, remedy)
    return Check("ok", name, told)


def _remedy(place: str) -> str:
    """Returns what to do about a place that can't be written and read."""
    if is_local(place):
        return "Make it a directory that you can write, or name another `workdir`."
    return (
        "Check the network and the bucket's name, log in by gcloud auth application-default login, "
        "or give the service account of this machine the role Storage Object Admin."
    )
