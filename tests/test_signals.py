"""Requests to stop: flags, threads that answer while native code runs, and exit codes."""

import os
import signal
import sys
import threading
import time

import pytest

from bertjax import signals
from bertjax.errors import Stopped

# A command that is in native code for some seconds, where Python runs no handler, then checks.
COMMAND = """
import hashlib, signal, sys, time
from bertjax import signals
from bertjax.errors import Stopped

# A shell ignores interrupts for background jobs, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signals._GRACE_SECONDS = 0.5
kind, seconds = sys.argv[1], int(sys.argv[2])
code = 0
with signals.command(75, "stopped for good"):
    signals.must_finish(kind == "saving")
    print("begun", flush=True)
    try:
        if kind != "done":
            hashlib.pbkdf2_hmac('sha256', b'', b'', seconds * 2_000_000)  # about so long
            signals.check()
    except Stopped as stopped:
        print(stopped, flush=True)
        code = 75
print("done", flush=True)
if kind == "done":
    time.sleep(seconds)
sys.exit(code)
"""


@pytest.fixture
def begun(killing):
    """Starts a command and returns it when it listens."""

    def begin(kind, seconds, line="begun"):
        process = killing.start([sys.executable, "-c", COMMAND, kind, str(seconds)])
        while process.stdout.readline().strip() != line:
            assert process.poll() is None
        return process

    return begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_with_nothing_to_save_exits_while_native_code_runs(begun, number):
    process = begun("starting", 60)
    process.send_signal(number)
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 75
    assert "Stopping now; a second signal" in output
    assert output.endswith("bertjax: stopped for good\n")


def test_work_to_save_is_finished_and_the_answer_comes_at_once(begun):
    process = begun("saving", 3)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("bertjax: Stopping after this step; ")
    assert process.poll() is None
    output = process.communicate(timeout=20)[0]
    assert (process.returncode, output) == (75, "stopped by SIGTERM\ndone\n")


def test_a_later_second_signal_ends_a_command_at_once_with_the_same_code(begun):
    process = begun("saving", 60)
    for _ in range(2):  # a signal that is passed on at once counts as the same
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_signal_changes_the_exit_code_of_a_command_that_is_done(begun, number):
    process = begun("done", 1, line="done")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_block_listens_for_the_blocks_in_it_and_restores_the_handlers():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with signals.listening() as requested:
        with signals.listening() as inner:
            assert not inner()
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner() and requested()
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            signals.check()
    assert not requested()
    signals.check()
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_signal_that_the_program_handles_or_ignores_stays_its_own():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` and `&` of a shell do
    try:
        with signals.listening() as requested:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == [signal.SIGTERM] and not requested()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)


def test_other_threads_install_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look():
        with signals.listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
