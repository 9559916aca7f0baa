"""`bertjax doctor`, with made-up answers in place of its processes."""

import json

import pytest
from etils import epath

from bertjax import cli
from bertjax.doctor import machine, probe, start
from bertjax.doctor.start import Answer

STARTED = {
    **{"cache": "", "seconds": 0.1, "platform": "cpu", "kind": "cpu", "devices": 1, "hosts": 1},
    **{"host": 0, "dtype": "float32", "flops_per_second": 1e11},
}
HUNG = Answer({"stage": "import jax"}, "Timeout (0:02:00)!\nin_a_function", None)
STORED = {"directory": "here", "seconds": 0.1, "free": 10**12}


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Runs the command with the answers of its two processes."""
    monkeypatch.setattr(machine, "inspect", machine.Machine)

    def call(*words, started=None, stored=None):
        answers = {"start": started or Answer(STARTED, "", 0)}
        answers["store"] = stored or Answer(STORED, "", 0)
        monkeypatch.setattr(start, "probe", lambda what, *rest: answers[what])
        code = cli.run(["doctor", *words])
        return code, capsys.readouterr().out

    return call


def test_a_healthy_machine(doctor):
    code, out = doctor()
    checks, report = out.split("\n\nFor a bug report:\n")
    assert code == 0 and all(line.startswith("ok  ") for line in checks.splitlines())
    assert "written and read in here in 0.1 s, 1,000.0 GB are free." in checks
    assert "  versions: bertjax " in report and report.endswith(
        "\nFailed checks: 0, warnings: 0.\n"
    )


def test_json_is_one_line_with_the_same(doctor):
    code, out = doctor("--json", started=HUNG)
    found = json.loads(out)
    assert code == 1 and out.count("\n") == 1 and "jax" in found["versions"]
    assert [check["status"] for check in found["checks"]] == ["ok", "ok", "failed", "ok"]
    assert found["message"] == ["Timeout (0:02:00)!", "in_a_function"]


def test_a_failure_exits_1_and_a_warning_does_not(doctor):
    code, out = doctor(started=HUNG)
    assert code == 1 and "devices: to import jax did not end within 120 s" in out
    assert "  in_a_function\n\nFailed checks: 1, warnings: 0.\n" in out
    code, out = doctor(stored=Answer({**STORED, "free": 10**9}, "", 0))
    assert code == 0 and "BERT-base need 5.3 GB" in out and "warnings: 1." in out


@pytest.mark.parametrize(
    ("place", "answer", "told"),
    [
        ("runs", Answer({}, "PermissionError: no", 1), " runs: no. Make it a directory that you"),
        ("gs://b", Answer({}, "google.auth.RefreshError: x", 1), " gs://b: x. Check the network"),
        (
            "gs://b",
            Answer({"stage": "find it"}, "", None),
            " gs://b: to find it did not end within",
        ),
        ("f", Answer({}, "x\nbertjax.errors.UserError: f: is a file; y.", 1), ": f: is a file; y."),
    ],
)
def test_a_workdir_that_fails_says_why(doctor, place, answer, told):
    code, out = doctor("--workdir", place, stored=answer)
    assert code == 1 and f"failed   workdir{told}" in out


def test_nothing_is_started_while_a_process_holds_the_tpu(doctor, monkeypatch):
    monkeypatch.setattr(machine, "holders", lambda machine: ["process 42 (python)"])
    code, out = doctor()
    assert code == 1 and "failed   devices: not started while another process holds them." in out


def test_bad_flags_exit_2(capsys):
    assert cli.run(["doctor", "--timeout", "0"]) == 2
    assert capsys.readouterr().err == "bertjax: --timeout is 0: give at least 1.\n"


def test_a_file_is_written_read_and_removed(tmp_path, remote, capsys):
    bucket, folder = remote
    for place, found in ((tmp_path / "new" / "run", str(tmp_path)), (bucket, "gs://bucket")):
        probe.store(str(place))
        facts = json.loads(capsys.readouterr().out.splitlines()[1])
        assert facts["directory"] == found and (facts["free"] is None) == (place == bucket)
    assert not [*folder.iterdir()] and not (tmp_path / "new").exists()


def test_other_bytes_than_were_written_are_an_error(tmp_path, monkeypatch):
    place = epath.Path(tmp_path)
    monkeypatch.setattr(type(place), "read_bytes", lambda path: b"other")
    with pytest.raises(OSError, match="other bytes"):
        probe.write_and_read(place)
    assert not [*tmp_path.iterdir()]
