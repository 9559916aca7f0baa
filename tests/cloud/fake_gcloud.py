"""A gcloud for tests: its machines are directories, and it fails, preempts and hangs on demand.

The directory in FAKE_CLOUD has `calls.jsonl` (every call), `machine.json` (hosts, and how many
looks remain until they are up), and a directory for each host, its home. A test writes
`rules.json`, a list of {"if": words in the call, "times": N, "stderr": text, "hang": seconds}, and
`preempt.json`, numbers: the machine is taken away, once for each, when FAKE_PROGRESS has as many
lines.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
MACHINE = CLOUD / "machine.json"
ARGUMENTS = [a for a in sys.argv[1:] if a != "--quiet"]
CALL = " ".join(ARGUMENTS)
# A host's Python installs nothing, and its doctor finds nothing.
BINARIES = {
    "python": """#!/bin/sh
case "$*" in
  *epath*)
    [ -z "$FAKE_BUCKET_REFUSES" ] || { echo "403 Forbidden: no storage.objects.create"; exit 1; }
    ;;
esac
""",
    "bertjax": '#!/bin/sh\n[ "$1" != doctor ] || echo "for $JAX_PLATFORMS"\necho $*\n',
}


def flag(name: str) -> str:
    return next((a.split("=", 1)[1] for a in ARGUMENTS if a.startswith(f"--{name}=")), "")


def fail(text: str, code: int = 1) -> None:
    sys.stderr.write(f"ERROR: (gcloud.{'.'.join(ARGUMENTS[:3])}) {text}\n")
    sys.exit(code)


def take(name: str) -> list:
    path = CLOUD / name
    return json.loads(path.read_text()) if path.exists() else []


def follow_rules() -> None:
    rules = take("rules.json")
    for rule in rules:
        if rule["if"] in CALL and rule["times"] > 0:
            rule["times"] -= 1
            (CLOUD / "rules.json").write_text(json.dumps(rules))
            # As a connection to a machine that is gone: a process below gcloud keeps the pipe open.
            subprocess.run(["sleep", str(rule.get("hang", 0))], check=False)
            fail(rule["stderr"])


def machine() -> dict:
    if not MACHINE.exists():
        fail("NOT_FOUND: Resource 'bertjax' was not found")
    return json.loads(MACHINE.read_text())


def homes() -> list[Path]:
    return sorted(CLOUD.glob("host-*"))


def make_host(home: Path) -> None:
    binaries = home / "bertjax" / ".venv-tpu" / "bin"
    binaries.mkdir(parents=True)
    (home / "bertjax-can-delete").touch()
    for name, text in BINARIES.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(stat.S_IRWXU)


def create(hosts: int) -> None:
    if MACHINE.exists():
        fail("ALREADY_EXISTS: bertjax")
    MACHINE.write_text(json.dumps({"hosts": hosts, "looks": 1, "state": "up"}))
    for host in range(hosts):
        make_host(CLOUD / f"host-{host}")


def take_away() -> None:
    """What a preemption leaves of the hosts: nothing."""
    for group in CLOUD.glob("groups/*"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(group.name), signal.SIGKILL)
        group.unlink()
    for home in homes():
        shutil.rmtree(home, ignore_errors=True)


def preempt_if_due() -> None:
    due, progress = take("preempt.json"), Path(os.environ["FAKE_PROGRESS"])
    lines = len(progress.read_text().splitlines()) if progress.exists() else 0
    if due and lines >= due[0]:
        (CLOUD / "preempt.json").write_text(json.dumps(due[1:]))
        take_away()
        MACHINE.write_text(json.dumps({**machine(), "state": "preempted"}))


def look() -> str:
    """The state of the machine. It is up from the second look on."""
    found = machine()
    if found["state"] != "up":
        return found["state"]
    if found["looks"]:
        MACHINE.write_text(json.dumps({**found, "looks": found["looks"] - 1}))
        return "waiting"
    return "up"


def ssh(home: Path) -> int:
    if machine()["state"] != "up" or not home.exists():
        fail("[/usr/bin/ssh] exited with return code [255].", 255)
    environment = {**os.environ, "HOME": str(home)}
    command = flag("command").replace("/var/lib/", f"{home}/")
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=home, env=environment, start_new_session=True
    )
    (CLOUD / "groups").mkdir(exist_ok=True)
    (CLOUD / "groups" / str(process.pid)).touch()
    return process.wait()


def remote(chosen: list[Path]) -> None:
    if "scp" in ARGUMENTS:
        source, target = (a for a in ARGUMENTS[ARGUMENTS.index("scp") + 1 :] if a[:2] != "--")
        for home in chosen:
            place = home / target.split(":", 1)[1]
            shutil.copy(source, place)
        return
    preempt_if_due()
    sys.exit(max(ssh(home) for home in chosen) if chosen else 1)


def cloud_tpu() -> None:
    if "create" in ARGUMENTS:
        create(hosts=1)
    elif "delete" in ARGUMENTS:
        machine()
        take_away()
        MACHINE.unlink()
    elif "failedData" in CALL:
        sys.stdout.write(machine().get("why", "") + "\n")
    elif "describe" in ARGUMENTS:
        states = {"up": "ACTIVE", "waiting": "WAITING_FOR_RESOURCES", "preempted": "SUSPENDED"}
        sys.stdout.write(states[look()] + "\n")


def instance_group() -> None:
    if "create" in ARGUMENTS:
        create(int(flag("size")))
    elif "delete" in ARGUMENTS:
        machine()
        take_away()
        MACHINE.unlink()
    elif "list-errors" in ARGUMENTS:
        sys.stdout.write(machine().get("why", "") + "\n")
    elif flag("format") == "value(name)":
        sys.stdout.write("".join(home.name + "\n" for home in homes()))
    else:
        line = {"up": "RUNNING\tNONE\n", "waiting": "\tCREATING\n", "preempted": ""}[look()]
        sys.stdout.write(line * machine()["hosts"])


def main() -> None:
    with (CLOUD / "calls.jsonl").open("a") as file:
        file.write(json.dumps(ARGUMENTS) + "\n")
    follow_rules()
    if ARGUMENTS[:2] == ["auth", "list"]:
        sys.stdout.write("someone@example.com\n")
    elif ARGUMENTS[:2] == ["config", "get-value"]:
        sys.stdout.write("a-project\n")
    elif "accelerator-types" in ARGUMENTS or "machine-types" in ARGUMENTS:
        pass
    elif "queued-resources" in ARGUMENTS:
        cloud_tpu()
    elif "managed" in ARGUMENTS:
        instance_group()
    elif "tpu-vm" in ARGUMENTS:
        remote(homes())
    elif ARGUMENTS[1] in ("ssh", "scp"):
        name = next(h.name for h in homes() if any(a.split(":")[0] == h.name for a in ARGUMENTS))
        remote([CLOUD / name])


if __name__ == "__main__":
    main()
