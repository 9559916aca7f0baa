"""Lines, records and speeds of a run."""

import json

import pytest
from etils import epath

from bertjax.train.telemetry.fields import Field, duration
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.metrics_file import read_records
from bertjax.train.telemetry.mfu import Work
from bertjax.train.telemetry.phases import PhaseInfo

FIELDS = (
    Field("mlm_loss", "mlm", ".2f", ("unigram", 6.71)),
    Field("mlm_accuracy", "mlm_acc"),
    Field("nsp_accuracy", "nsp_acc", ".3f", ("majority", 0.571)),
    Field("learning_rate", "lr", ".1e", last=True),
    Field("grad_norm", "grad", ".2f"),
)
METRICS = {
    "grad_norm": 1.12,
    "learning_rate": 9.8e-4,
    "mlm_accuracy": 0.121,
    "mlm_loss": 6.23,
    "nsp_accuracy": 0.661,
    "unlisted": 3.0,
}


class Clock:
    """Seconds that the test advances."""

    now = 100.0

    def __call__(self):
        return self.now


def make(path, **options):
    """(telemetry, its lines, its clock)"""
    lines, clock = [], Clock()
    options = {"progress": False, "now": lambda: 1.7e9, **options}
    return Telemetry(path, FIELDS, log=lines.append, clock=clock, **options), lines, clock


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(telemetry, clock, steps, *, seconds=0.5, metrics=METRICS):
    for step in steps:
        clock.now += seconds
        telemetry.step(step, metrics)


def test_a_line_and_a_record_hold_everything(tmp_path):
    telemetry, lines, clock = make(tmp_path / "metrics.jsonl")
    telemetry.begin(0, [PhaseInfo(10_000, 8192)], log_every=600)
    clock.now += 60  # compilation is not timed
    with telemetry.waiting():
        clock.now += 5
    run(telemetry, clock, range(1, 601))
    run(telemetry, clock, range(601, 1201), seconds=0.5)
    telemetry.end()
    assert lines[0] == (  # the step that compiles, without a speed and a record
        "step      1/10,000  mlm 6.23 (unigram 6.71)  mlm_acc 0.121  nsp_acc 0.661 "
        "(majority 0.571)  lr 9.8e-04  grad 1.12"
    )
    assert lines[2] == (
        "step  1,200/10,000  mlm 6.23 (unigram 6.71)  mlm_acc 0.121  nsp_acc 0.661 "
        "(majority 0.571)  lr 9.8e-04  grad 1.12  16,400 tok/s  data wait 0%  ETA 1h13m"
    )
    record = records(tmp_path / "metrics.jsonl")[1]
    assert record["step"] == 1200
    assert record["kind"] == "train"
    assert record["tokens_per_second"] == pytest.approx(16384)
    assert {key: record[key] for key in METRICS} == pytest.approx(METRICS)
    assert telemetry.history == records(tmp_path / "metrics.jsonl")


def test_lines_and_records_hold_model_flops(tmp_path):
    work = Work(flops=5e9, peak=2e10, devices="1 fast thing")
    telemetry, lines, clock = make(tmp_path / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(20, 100, work=work)], log_every=10)
    assert telemetry.speed() == ""
    run(telemetry, clock, range(1, 11))
    telemetry.evaluated(10, {"mlm_loss": 5.0}, seconds=0.0)
    run(telemetry, clock, range(11, 21), seconds=1.0)
    assert "200 tok/s  MFU 50.0%  data wait" in lines[1]
    first, _, second = records(tmp_path / "m.jsonl")
    assert (first["mfu"], first["model_flops_per_second"]) == (0.5, 1e10)
    assert (second["mfu"], second["model_flops_per_second"]) == (0.25, 5e9)
    # 9 steps of half a second, without the one that compiles, and 10 of one second
    assert telemetry.speed() == ("Trained at 131 tok/s, MFU 32.8%, over 19 steps on 1 fast thing.")


def test_lines_hold_means_but_the_newest_learning_rate(tmp_path):
    telemetry, _, _ = make(tmp_path / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(4)], log_every=2)
    for step in range(1, 5):
        telemetry.step(step, {"mlm_loss": float(step), "learning_rate": float(step)})
    first, second = records(tmp_path / "m.jsonl")
    assert (first["mlm_loss"], first["learning_rate"]) == (1.5, 2.0)
    assert (second["mlm_loss"], second["learning_rate"]) == (3.5, 4.0)


def test_skipped_steps_are_counted_but_not_in_the_mean(tmp_path):
    telemetry, lines, _ = make(tmp_path / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(6)], log_every=3)
    for step in range(1, 7):
        bad = step != 2
        telemetry.step(step, {"mlm_loss": float("nan") if bad else 2.0}, skipped=bad)
    first, second = records(tmp_path / "m.jsonl")
    assert first == {
        **{"step": 3, "kind": "train", "time": 1.7e9},
        **{"mlm_loss": 2.0, "skipped": 2},
    }
    assert second["skipped"] == 3
    assert "mlm_loss" not in second
    assert lines[0] == "step 1/6" and "skipped 2" in lines[1]


def test_speed_excludes_evaluations_and_shows_waiting(tmp_path):
    telemetry, lines, clock = make(tmp_path / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(100, 100)], log_every=10)
    run(telemetry, clock, [1])
    for step in range(2, 11):
        with telemetry.waiting():
            clock.now += 0.25
        run(telemetry, clock, [step], seconds=0.75)
    clock.now += 90
    telemetry.evaluated(10, {"mlm_loss": 5.0}, seconds=90.0, best="best")
    for step in range(11, 21):
        run(telemetry, clock, [step], seconds=1.0)
    assert "100 tok/s  data wait 25%" in lines[1]
    assert lines[2] == "eval at 10  mlm 5.00 (unigram 6.71)  in 1m30s  best"
    assert "100 tok/s  data wait 0%" in lines[3]
    # 19 steps and an evaluation took 109 s; 80 steps are left, with their evaluations.
    assert lines[3].endswith(f"ETA {duration(109 / 19 * 80)}")


def test_eval_fields_may_differ(tmp_path):
    telemetry, lines, _ = make(tmp_path / "m.jsonl", eval_fields=(Field("matthews", "MCC", ".1f"),))
    telemetry.begin(0, [PhaseInfo(10)], log_every=10)
    telemetry.evaluated(5, {"matthews": 0.5, "other": 1.0}, seconds=0.1)
    assert lines == ["eval at 5  MCC 0.5"]
    assert records(tmp_path / "m.jsonl")[0]["other"] == 1.0


def test_resuming_drops_later_records_and_damaged_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    telemetry, _, clock = make(path)
    telemetry.begin(0, [PhaseInfo(100)], log_every=2)
    run(telemetry, clock, range(1, 9))
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 10, "kind": "tra')
    telemetry, _, clock = make(path)
    telemetry.begin(5, [PhaseInfo(100)], log_every=2)
    assert [record["step"] for record in telemetry.history] == [2, 4]
    run(telemetry, clock, range(6, 9))
    assert [record["step"] for record in records(path)] == [2, 4, 6, 8]
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "1", "kind": "train"}',
        '{"step": null, "kind": "train"}',
        '{"step": true, "kind": "train"}',
        '{"step": 1, "kind": ["train"]}',
        '{"step": 1, "kind": "test", "time": 1}',
        '{"step": 1, "kind": "train", "time": true}',
        '{"step": 1, "kind": "train", "time": 1, "x": NaN}',
        '{"step": 1, "kind": "train", "time": 1, "x\\ud800": 1}',
        '{"step": 1, "kind": 3}',
        '{"step": 1, "kind": "train", "loss": %s}' % ("9" * 400),
        '{"step": 1, "kind": "train", "loss": %s}' % ("9" * 5000),
        '{"step": 1, "x": ' + "[" * 100_000,
        "3",
    ],
    ids=lambda line: line[:40],
)
def test_a_damaged_record_is_left_out(tmp_path, line):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_text(line + '\n{"step": 2, "kind": "train", "time": 1, "loss": 1.5}\n')
    assert [record["step"] for record in read_records(path)] == [2]


def test_an_evaluation_to_repeat_is_dropped_and_written_once(tmp_path):
    path = tmp_path / "m.jsonl"
    telemetry, _, clock = make(path)
    telemetry.begin(0, [PhaseInfo(6)], log_every=2)
    for step in (2, 4):
        run(telemetry, clock, [step - 1, step])
        telemetry.evaluated(step, {"mlm_loss": 5.0}, seconds=0.1)
    telemetry, _, _ = make(path)
    telemetry.begin(4, [PhaseInfo(6)], log_every=2, evaluated=2)
    known = [(2, "train"), (2, "eval"), (4, "train")]
    assert [(record["step"], record["kind"]) for record in telemetry.history] == known
    telemetry.evaluated(4, {"mlm_loss": 5.0}, seconds=0.1)
    written = [(record["step"], record["kind"]) for record in records(path)]
    assert written == [*known, (4, "eval")]


def test_a_saved_window_continues_with_the_same_bits(tmp_path):
    losses = [0.1, 0.7, 1e-9, 3.3, 0.2, 0.9]

    def line(*parts):
        path = tmp_path / f"{len(parts)}.jsonl"
        window, done = None, 0
        for part in parts:
            telemetry, _, _ = make(path)
            telemetry.begin(done, [PhaseInfo(6)], log_every=6, window=window)
            for step in part:
                telemetry.step(step, {"mlm_loss": losses[step - 1]})
            window, done = json.loads(json.dumps(telemetry.window())), part[-1]
        return records(path)[-1]["mlm_loss"].hex()

    assert line(range(1, 7)) == line(range(1, 3), range(3, 6), range(6, 7))


def test_nan_and_infinity_are_null_in_the_file(tmp_path):
    telemetry, lines, _ = make(tmp_path / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(1)], log_every=1)
    telemetry.step(1, {"mlm_loss": float("inf"), "grad_norm": 1.0})
    assert json.loads((tmp_path / "m.jsonl").read_text())["mlm_loss"] is None
    assert "mlm inf" in lines[0]


def test_a_quiet_process_writes_nothing(tmp_path):
    telemetry, lines, clock = make(tmp_path / "sub" / "m.jsonl")
    telemetry.begin(0, [PhaseInfo(4)], log_every=1, quiet=True)
    run(telemetry, clock, range(1, 5))
    telemetry.say("nothing")
    telemetry.end()
    assert lines == []
    assert list(tmp_path.iterdir()) == []
    assert len(telemetry.history) == 4


def test_the_bar_replaces_training_lines_only(tmp_path, capsys):
    telemetry, lines, clock = make(tmp_path / "m.jsonl", progress=True)
    telemetry.begin(2, [PhaseInfo(6)], log_every=2)
    run(telemetry, clock, range(3, 7))
    telemetry.evaluated(6, {"mlm_loss": 5.0}, seconds=0.1)
    telemetry.end()
    telemetry.end()
    assert lines == ["eval at 6  mlm 5.00 (unigram 6.71)"]
    bar = capsys.readouterr().err
    assert "6/6" in bar
    assert "mlm 6.23" in bar


def test_phases_have_their_own_name_tokens_and_end(tmp_path):
    telemetry, lines, clock = make(tmp_path / "m.jsonl")
    other = (Field("mlm_loss", "mlm", ".2f", ("unigram", 5.5)),)
    phases = (PhaseInfo(15, 100, "1"), PhaseInfo(40, 400, "2", other))
    telemetry.begin(0, phases, log_every=10)
    run(telemetry, clock, range(1, 16), seconds=1.0)
    run(telemetry, clock, [16], seconds=50.0)  # compiles
    run(telemetry, clock, range(17, 21), seconds=2.0)
    telemetry.evaluated(20, {"mlm_loss": 5.0}, seconds=0.1)
    found = [(r["step"], r["phase"], r.get("tokens_per_second")) for r in telemetry.history]
    # The last step of a phase has a record, so that none spans two phases.
    assert found == [(10, "1", 100.0), (15, "1", 100.0), (20, "2", 200.0), (20, "2", None)]
    assert lines[0].startswith("step  1/40  phase 1  mlm 6.23 (unigram 6.71)  ")
    assert lines[2].startswith("step 15/40  phase 1  mlm 6.23 (unigram 6.71)  ")
    assert lines[3].startswith("step 20/40  phase 2  mlm 6.23 (unigram 5.50)  200 tok/s")
    assert lines[4] == "eval at 20  phase 2  mlm 5.00 (unigram 5.50)"
    # 14 steps of 100 tokens and 5 of 400 took 72 s; 20 of 400 are left.
    assert lines[3].endswith(f"ETA {duration(72 / 3400 * 8000)}")
