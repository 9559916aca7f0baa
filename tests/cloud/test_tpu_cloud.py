"""tpu_setup.sh against a gcloud that fails, preempts and hangs: no call leaves this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASH = os.environ.get("BERTJAX_TEST_BASH", "bash")
V5E = {"BERTJAX_TPU_TYPE": "v5e:2x2", "BERTJAX_TPU_ZONE": "us-west4-a", "BERTJAX_TPU_RATE": "1.2"}
# Trains 24 steps, saves each fourth, and goes on from what it saved, as bertjax does. It stops at a
# step at which the machine will be taken away.
TRAIN = """
import json, pathlib, sys, time
progress, saved, plan = map(pathlib.Path, sys.argv[1:])
done = int(saved.read_text()) if saved.exists() else 0
rows = progress.read_text().splitlines()[:done] if progress.exists() else []
progress.write_text("".join(row + "\\n" for row in rows))
with progress.open("a", buffering=1) as file:
    for step in range(done + 1, 25):
        file.write(f"{step}\\n")
        if step % 4 == 0:
            saved.with_suffix(".new").write_text(str(step))
            saved.with_suffix(".new").rename(saved)
        while plan.exists() and step in json.loads(plan.read_text()):
            time.sleep(0.01)
"""
STEPS = list(range(1, 25))


class Cloud:
    """A directory with the fake gcloud, and what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.bucket = path / "cloud", path / "bucket"
        for directory in (self.path, self.bucket, path / "bin"):
            directory.mkdir()
        gcloud = path / "bin" / "gcloud"
        fake = Path(__file__).with_name("fake_gcloud.py")
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{fake}" "$@"\n')
        gcloud.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if "BERTJAX" not in name},
            "PATH": f"{path / 'bin'}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(self.path),
            "FAKE_PROGRESS": str(self.bucket / "steps"),
            "BERTJAX_PYTHON": sys.executable,
            "BERTJAX_TPU_POLL": "0",
            **V5E,
        }

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BASH, str(ROOT / "tpu_setup.sh"), *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def calls(self, *words: str) -> list[str]:
        """The calls that have all these words."""
        lines = (self.path / "calls.jsonl").read_text().splitlines()
        return [c for c in (" ".join(json.loads(x)) for x in lines) if all(w in c for w in words)]

    def rule(self, *calls: str, stderr: str = "INTERNAL: try again", **more: int) -> None:
        """Each of these calls fails once, or as often as `times` says."""
        rules = [{"if": call, "times": 1, "stderr": stderr, **more} for call in calls]
        (self.path / "rules.json").write_text(json.dumps(rules))

    def preempt(self, *lines: int) -> None:
        (self.path / "preempt.json").write_text(json.dumps(lines))

    def training(self) -> list[str]:
        (self.bucket / "train.py").write_text(TRAIN)
        files = [str(self.bucket / name) for name in ("train.py", "steps", "saved")]
        return ["--", sys.executable, *files, str(self.path / "preempt.json")]

    def steps(self) -> list[int]:
        return [int(line) for line in (self.bucket / "steps").read_text().split()]

    def exists(self) -> bool:
        return (self.path / "machine.json").exists()


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def one_sentence(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("tpu_setup.sh: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("kind", ["v5e:2x2", pytest.param("v6e:2x2", marks=pytest.mark.slow)])
def test_five_preemptions_leave_every_step_once(cloud: Cloud, kind: str) -> None:
    cloud.preempt(3, 7, 11, 18, 23)
    done = cloud("babysit", "--spot", "--type", kind, *cloud.training())
    assert done.returncode == 0, done.stdout + done.stderr
    assert cloud.steps() == STEPS
    assert done.stdout.count("was taken away") == 5
    made = "queued-resources create" if kind == "v5e:2x2" else "managed create"
    assert len(cloud.calls(made)) == 6
    assert not cloud.exists()


@pytest.mark.slow
def test_five_preemptions_of_a_pretraining_leave_every_step_once(cloud: Cloud) -> None:
    words = ["river", "stone", "cloud", "green", "house", "light", "paper", "sound"]
    text = "\n\n".join("\n".join(f"{a} {b} {c}." for b in words) for a in words for c in words)
    (cloud.bucket / "text.txt").write_text(text)
    bertjax = [sys.executable, "-m", "bertjax.cli"]
    tokenizer, shards, run = (str(cloud.bucket / name) for name in ("tokenizer", "shards", "run"))
    source = ["--input", str(cloud.bucket / "text.txt")]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    train = ["tokenizer", "train", *source, "--vocab-size", "30", "--output", tokenizer]
    for command in (train, ["prepare", *source, "--tokenizer", tokenizer, "--output", shards]):
        subprocess.run([*bertjax, *command], env={**cloud.environment, **environment}, check=True)
    flags = "--model.size tiny --model.hidden-size 16 --model.num-hidden-layers 1 --batch-size 4"
    flags += " --model.num-attention-heads 2 --model.intermediate-size 16 --loop.log-every 1"
    flags += " --loop.train-steps 2500 --loop.save-every 100 --loop.eval-every 2500"
    pretrain = [*bertjax, "pretrain", "--data", shards, "--workdir", run, *flags.split()]
    cloud.preempt(50, 500, 1000, 1500, 2000)
    metrics = cloud.bucket / "run" / "metrics.jsonl"
    done = cloud("babysit", "--", *pretrain, **environment, FAKE_PROGRESS=str(metrics))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("was taken away") == 5
    rows = map(json.loads, metrics.read_text().splitlines())
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 2501))


def test_a_babysit_that_was_closed_goes_on_with_what_runs(cloud: Cloud) -> None:
    command = ["--", "sh", "-c", "until [ -e $FAKE_PROGRESS ]; do sleep 0.1; done"]
    assert cloud("create").returncode == 0
    assert "for tpu,cpu\ndoctor --timeout 300" in cloud("setup").stdout
    assert cloud("run", *command).returncode == 0
    assert "already" in cloud("run", *command).stdout
    (cloud.bucket / "steps").touch()
    assert cloud("babysit", *command).returncode == 0
    for once in ("queued-resources create", "--install"):
        assert len(cloud.calls(once)) == 1
    assert not cloud.exists()


def test_a_babysit_gives_up_and_leaves_nothing(cloud: Cloud) -> None:
    done = cloud("babysit", "--restarts", "2", "--", "sh", "-c", "echo no luck; exit 75")
    assert done.returncode == 1
    assert "no luck" in done.stdout
    assert "gave up on bertjax after 2 restarts" in done.stderr
    assert not cloud.exists()


def test_a_mistake_of_the_command_is_not_repeated(cloud: Cloud) -> None:
    done = cloud("babysit", "--", "sh", "-c", "echo no such file; exit 2")
    assert done.returncode == 2
    assert "no such file" in done.stdout
    assert "restart" not in done.stdout
    assert not cloud.exists()


def test_a_babysit_survives_calls_that_fail(cloud: Cloud) -> None:
    cloud.rule("queued-resources create", "scp", "--install", "start", "delete")
    done = cloud("babysit", *cloud.training())
    assert done.returncode == 0, done.stdout + done.stderr
    assert cloud.steps() == STEPS
    assert not cloud.exists()


def test_a_machine_that_never_answers_is_replaced(cloud: Cloud) -> None:
    assert cloud("create").returncode == 0
    cloud.rule("host -- look", stderr="Connection timed out", times=11)
    done = cloud("babysit", *cloud.training())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "did not answer" in done.stdout
    assert len(cloud.calls("queued-resources create")) == 2


def test_an_unknown_state_creates_nothing(cloud: Cloud) -> None:
    cloud.rule("describe bertjax", stderr="UNAVAILABLE: the service is away", times=3)
    one_sentence(cloud("create"), "the service is away", code=1)
    assert not cloud.calls("queued-resources create")
    assert cloud("babysit", *cloud.training()).returncode == 0


def test_a_call_that_hangs_ends(cloud: Cloud, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tpu_setup.sh", tmp_path)
    text = (ROOT / "tpu_cloud.sh").read_text()
    assert "limited 120" in text
    (tmp_path / "tpu_cloud.sh").write_text(text.replace("limited 120", "limited 2"))
    cloud.rule("describe bertjax", hang=60)
    done = subprocess.run(
        [BASH, str(tmp_path / "tpu_setup.sh"), "create"],
        env=cloud.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    one_sentence(done, "gcloud did not answer in time", code=1)


def test_all_hosts_of_a_group_get_the_command(cloud: Cloud) -> None:
    large = {"BERTJAX_TPU_TYPE": "v6e:4x4"}
    command = ["--", "sh", "-c", "echo >> $FAKE_PROGRESS; pwd"]
    for step in (["create"], ["create"], ["setup"], ["run", *command]):
        assert (done := cloud(*step, **large)).returncode == 0, done.stdout + done.stderr
    assert "/host-2/bertjax" in cloud("logs", "--worker", "2", **large).stdout
    with subprocess.Popen(
        [BASH, str(ROOT / "tpu_setup.sh"), "logs", "--follow"],
        env={**cloud.environment, **large},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as follow:
        assert follow.stdout is not None
        assert [follow.stdout.readline() for _ in range(2)][-1].endswith("/host-0/bertjax\n")
        os.killpg(follow.pid, signal.SIGINT)
    while "command: running" in (done := cloud("status", **large)).stdout:
        pass
    assert "command: 0" in done.stdout
    assert (cloud.bucket / "steps").read_text() == "\n" * 4
    assert len(cloud.calls("managed create")) == 1
    assert cloud.calls("--accelerator-topology=4x4", "workload-policy")
    assert cloud("delete", **large).returncode == cloud("delete", **large).returncode == 0
    assert not cloud.exists()


def test_the_price_is_printed_before_anything_is_created(cloud: Cloud) -> None:
    done = cloud("create", "--spot", "--max-hours", "3")
    cost = "4 chips at 1.20 dollars an hour, 4.80 dollars an hour in all"
    assert done.stdout.index(cost) < done.stdout.index("queued-resources create")
    assert "4.80 dollars an hour in all" in cloud("status").stdout
    assert "after 3 hours, when it has cost 14.40 dollars" in done.stdout


def test_a_machine_deletes_itself(cloud: Cloud) -> None:
    """The queue's machine by its own script, that of Compute Engine by a limit of its template."""
    cloud("create", "--max-hours", "0.5")
    (call,) = cloud.calls("queued-resources create")
    script = call[call.index("startup-script=") :]
    assert "+ 1800)" in script
    assert "queued-resources delete bertjax --zone=us-west4-a --force" in script
    assert "," not in script  # gcloud would split it
    check = subprocess.run(["bash", "-n"], input=script.split("=", 1)[1], text=True, check=False)
    assert check.returncode == 0
    (cloud.path / "host-0" / "bertjax-can-delete").unlink()
    assert "may not delete itself" in cloud("setup").stderr
    cloud("delete")
    cloud("create", "--max-hours", "0.5", "--type", "v6e:2x2")
    (call,) = cloud.calls("instance-templates create")
    assert "--max-run-duration=1800s --instance-termination-action=DELETE" in call


def test_a_babysit_ends_with_its_hours(cloud: Cloud) -> None:
    done = cloud("babysit", "--max-hours", "0.001", "--", "sleep", "60")
    assert done.returncode == 1
    assert "hours of bertjax are over" in done.stderr
    assert not cloud.exists()


def test_a_dry_run_prints_every_command_and_calls_nothing(cloud: Cloud) -> None:
    done = cloud("babysit", "--dry-run", "--spot", "--", "bertjax", "pretrain", PATH=os.defpath)
    assert done.returncode == 0, done.stderr
    position = 0
    for step in ("create bertjax", "--spot", "scp", "--install", "host -- start", "delete bertjax"):
        assert step in done.stdout[position:], f"{step} is missing, or not in its order"
        position = done.stdout.index(step, position)
    assert not (cloud.path / "calls.jsonl").exists()


def test_another_command_is_refused_while_one_runs(cloud: Cloud) -> None:
    for step in (["create"], ["setup"], ["run", "--", "sleep", "60"]):
        assert cloud(*step).returncode == 0
    one_sentence(cloud("run", "--", "sleep", "61"), "runs another command")
    assert "is set up" in cloud("setup").stdout
    cloud("delete")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BERTJAX_TPU_TYPE": "v5e-4"}, ("'v5e-4'", "v5e:4x4")),
        ({"BERTJAX_TPU_TYPE": ""}, ("--type",)),
        ({"BERTJAX_TPU_ZONE": ""}, ("--zone",)),
        ({"BERTJAX_TPU_RATE": ""}, ("--rate", "pricing")),
        ({"BERTJAX_TPU_RATE": "much"}, ("'much'",)),
        ({"BERTJAX_TPU_MAX_HOURS": "0"}, ("--max-hours is '0'",)),
        ({"BERTJAX_TPU_NAME": "A b"}, ("'A b'",)),
    ],
)
def test_a_wrong_setting_is_one_sentence(cloud: Cloud, changes: dict, words: tuple) -> None:
    one_sentence(cloud("create", **changes), *words)
    assert not cloud.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["create", "bertjax"], "a command follows --"),
        (["run"], "which command?"),
        (["create", "--zone"], "--zone needs a value"),
        (["create", "--zones", "x"], "unknown option --zones"),
        (["profile"], "of which run?"),
        (["setup"], "create makes it"),
    ],
)
def test_a_wrong_call_is_one_sentence(cloud: Cloud, arguments: list[str], word: str) -> None:
    one_sentence(cloud(*arguments), word)


def test_gcloud_is_missing(cloud: Cloud, tmp_path: Path) -> None:
    for name in ("dirname", "mktemp", "awk", "rm"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "bin" / "gcloud").unlink()
    done = subprocess.run(
        [shutil.which(BASH) or BASH, str(ROOT / "tpu_setup.sh"), "create"],
        env={**cloud.environment, "PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    one_sentence(done, "gcloud was not found", "install")


@pytest.mark.parametrize(
    ("call", "complaint", "words"),
    [
        ("auth list", "", ("not logged in", "gcloud auth login")),
        ("config get-value", "", ("no project", "gcloud config set project")),
        ("accelerator-types", "NOT_FOUND: no such type", ("us-west4-a has no v5litepod-4",)),
        (
            "queued-resources create",
            "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded. Limit: 0",
            ("Quota limit 'TPUV5sLitepod' has been exceeded", "ask for 4 chips of v5e"),
        ),
        (
            "describe bertjax",
            "There was a problem refreshing your tokens: run gcloud auth login",
            ("not logged in",),
        ),
    ],
)
def test_a_refusal_of_google_cloud(cloud: Cloud, call: str, complaint: str, words: tuple) -> None:
    cloud.rule(call, stderr=complaint, times=9)
    one_sentence(cloud("create"), *words)
    assert not cloud.exists()


def test_a_quota_that_is_refused_later_ends_a_babysit(cloud: Cloud) -> None:
    """A managed instance group is made first and says afterwards that it gets no machines."""
    cloud("create", "--type", "v6e:2x2")
    state = json.loads((cloud.path / "machine.json").read_text())
    why = "Quota 'PREEMPTIBLE_TPU_V6E' exceeded. Limit: 0.0 in zone us-west4-a."
    (cloud.path / "machine.json").write_text(json.dumps({**state, "looks": 99, "why": why}))
    done = cloud("babysit", "--spot", "--type", "v6e:2x2", *cloud.training())
    assert done.returncode == 2
    assert why[:-1] in done.stderr
    assert "ask for 4 preemptible chips of v6e" in done.stderr
    assert not cloud.exists()


def test_a_bucket_that_cannot_be_written(cloud: Cloud) -> None:
    cloud("create")
    cloud("setup")
    command = ["run", "--", "bertjax", "pretrain", "--workdir", "gs://bucket/run"]
    done = cloud(*command, FAKE_BUCKET_REFUSES="1")
    one_sentence(done, "can't write to gs://bucket/run", "403 Forbidden", "storage.objectAdmin")
