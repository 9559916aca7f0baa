"""Signals: exit codes, handlers, and several processes."""

import pathlib
import signal
import socket
import sys
import threading
import time

import pytest

from bertjax.train.loop_config import LoopConfig

SCRIPT = str(pathlib.Path(__file__).with_name("toy_run.py"))


def test_exit_code_and_repeated_signals(killing, tmp_path):
    def signalled_in_a_step(seconds):
        process = killing.start(
            [sys.executable, SCRIPT, str(tmp_path / seconds), "--sleep", seconds]
        )
        assert "sleeping\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGTERM)
        return process

    process = signalled_in_a_step("3")
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 75, "a signal that is passed on counts once"
    assert "to be resumed" in output
    process = signalled_in_a_step("60")
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:  # a busy machine reacts late
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM, "a later signal ends the process at once"


def start_two(killing, script, *words):
    """Starts a script beside this one as the two processes of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(pathlib.Path(SCRIPT).with_name(script))
    words = list(map(str, words))
    return [killing.start([sys.executable, script, str(rank), port, *words]) for rank in range(2)]


def together(killing, workdir, stop_at):
    """Returns the last line of each of two processes that train the same run."""
    processes = start_two(killing, "two_processes.py", workdir, stop_at)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [
        [line for line in o.splitlines() if line.startswith(("stopped", "done"))] for o in outputs
    ]


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_and_resume(killing, tmp_path):
    stopped = together(killing, tmp_path / "stopped", 6)
    assert stopped[0] == stopped[1]
    state, step, _ = stopped[0][0].split()
    assert state == "stopped"
    assert 6 <= int(step) < 24
    finished = together(killing, tmp_path / "stopped", 0)
    assert finished[0][0].startswith("done 24 ")
    assert finished == together(killing, tmp_path / "straight", 0)
    records = [
        killing.records_in_hex(tmp_path / n / "metrics.jsonl") for n in ("stopped", "straight")
    ]
    assert records[0] == records[1]


def test_handlers_are_restored_and_other_threads_install_none(toy, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    seen = []

    def look(state, batch):
        seen.append(signal.getsignal(signal.SIGTERM))
        return toy.train_step(state, batch)

    def run(name):
        toy.run(tmp_path / name, LoopConfig(1), step=look)

    run("main")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    thread = threading.Thread(target=run, args=("thread",))
    thread.start()
    thread.join()
    assert seen[0] != before[0]
    assert seen[1] == before[0]


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1], ids=["coordinator", "worker"])
def test_a_dead_peer_ends_the_job_within_half_a_minute(killing, tmp_path, dead):
    """With a heartbeat of 10 s; JAX's default of 100 s ends it within two minutes."""
    processes = start_two(killing, "dying_peer.py", tmp_path)
    for process in processes:
        assert "step 6\n" in iter(process.stdout.readline, "")
    processes[dead].kill()
    started = time.monotonic()
    try:
        output = processes[1 - dead].communicate(timeout=60)[0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - dead].returncode not in (0, 75), output[-2000:]
    assert time.monotonic() - started < 30
