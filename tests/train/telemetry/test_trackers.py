"""Event files, compared with TensorBoard's own files and reader."""

import json
import pathlib

import pytest

from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.phases import PhaseInfo
from bertjax.train.telemetry.trackers import EventFiles, TelemetryConfig, make_trackers

RECORDS = [
    {"step": step, "kind": kind, "time": 1.7e9 + step, "mlm_loss": 7 - step / 8, "x": None}
    for step in (8, 16)
    for kind in ("train", "eval")
]


def event_file(directory):
    (path,) = directory.glob("*tfevents*")
    return path


def test_event_files_are_those_of_tensorboard(tmp_path, load_helper):
    made = load_helper("train/telemetry/make_events.py")
    files = EventFiles(tmp_path, clock=lambda: made.START)
    files.begin(made.RECORDS[:1])
    for record in made.RECORDS[1:]:
        files.record(record)
    files.end()
    golden = pathlib.Path(made.__file__).parent / "golden" / "events.tfevents"
    assert event_file(tmp_path / "train").read_bytes() == golden.read_bytes()


def test_resumed_files_hold_every_step_once(tmp_path):
    def run(name, *parts):
        done = 0
        for upto, last in parts:
            files = EventFiles(tmp_path / name, clock=lambda: 1.7e9)
            telemetry = Telemetry(
                tmp_path / f"{name}.jsonl",
                log=lambda line: None,
                progress=False,
                trackers=[files],
                now=lambda: 1.8e9,
            )
            telemetry.begin(done, [PhaseInfo(12)], log_every=2)
            for step in range(done + 1, last + 1):
                telemetry.step(step, {"loss": 1 / step})
            done = upto  # the step of the checkpoint
        return event_file(tmp_path / name / "train")

    killed, straight = run("killed", (4, 9), (12, 12)), run("straight", (12, 12))
    assert killed.read_bytes() == straight.read_bytes()
    assert killed.name > straight.name  # TensorBoard continues only with later files


def test_a_run_that_began_without_event_files_gets_all_of_its_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    trackers = make_trackers(TelemetryConfig(tensorboard=True), tmp_path, {})
    telemetry = Telemetry(path, log=lambda line: None, progress=False, trackers=trackers)
    telemetry.begin(16, [PhaseInfo(16)], log_every=2)
    telemetry.end()
    whole = EventFiles(tmp_path / "other", clock=lambda: 1.7e9)
    whole.begin([])
    for record in RECORDS:
        whole.record(record)
    for kind in ("train", "eval"):
        ours, theirs = (
            event_file(tmp_path / name / kind).read_bytes() for name in ("tensorboard", "other")
        )
        preamble = len(ours) - len(ours.split(b"mlm_loss", 1)[1])
        assert ours[preamble:] == theirs[preamble:] and len(ours) > preamble


def test_without_the_setting_and_in_other_processes_nothing_is_written(tmp_path):
    assert make_trackers(TelemetryConfig(), tmp_path, {}) == ()
    trackers = make_trackers(TelemetryConfig(tensorboard=True), tmp_path, {})
    telemetry = Telemetry(tmp_path / "m.jsonl", log=print, progress=False, trackers=trackers)
    telemetry.begin(0, [PhaseInfo(2)], log_every=1, quiet=True)
    telemetry.step(1, {"loss": 1.0})
    telemetry.end()
    assert list(tmp_path.iterdir()) == []


def test_in_an_object_store_files_are_whole_at_every_save(tmp_path, remote):
    place, there = remote
    files, local = EventFiles(place, lambda: 1.7e9), EventFiles(tmp_path / "here", lambda: 1.7e9)
    for each in (files, local):
        each.begin(RECORDS[:2])
        each.record(RECORDS[2])
    assert (
        event_file(there / "train").read_bytes()
        != event_file(tmp_path / "here" / "train").read_bytes()
    )
    files.flush()
    for kind in ("train", "eval"):
        expected = event_file(tmp_path / "here" / kind).read_bytes()
        assert event_file(there / kind).read_bytes() == expected


def test_tensorboard_reads_them(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra parity, reads the files")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventFiles(tmp_path)
    files.begin(RECORDS[:2])
    for record in RECORDS[2:]:
        files.record(record)
    files.begin(RECORDS[:2])  # resumes at step 8
    for record in RECORDS[2:]:
        files.record(record)
    reader = EventAccumulator(str(tmp_path / "eval"))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["mlm_loss"]
    found = [(event.wall_time, event.step, event.value) for event in reader.Scalars("mlm_loss")]
    assert found == [(1.7e9 + 8, 8, 6.0), (1.7e9 + 16, 16, 5.0)]
