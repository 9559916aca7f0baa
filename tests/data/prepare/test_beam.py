"""Tests of `prepare` on Apache Beam: the shards of the local path, and mistakes in Beam's flags."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.beam import _call
from bertjax.data.prepare.run import PrepareConfig
from bertjax.errors import UserError

THREADS = "--direct_num_workers=2 --direct_running_mode=multi_threading"
LOOPBACK = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"
# The command, which tells at its end whether Beam was imported.
PROGRAM = """
import atexit, sys
from bertjax import cli

if __name__ == "__main__":
    atexit.register(lambda: print("apache_beam" in sys.modules))
    cli.main()
"""
# Beam's own, none of which preparing causes.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def config(vocabulary, tmp_path):
    """Makes a configuration for a corpus, with other fields by name."""

    def make(corpus, output, **fields):
        where = {"input": (str(corpus),), "output": str(tmp_path / output)}
        return PrepareConfig(
            **{"tokenizer": str(vocabulary), "max_seq_length": 64, "held_out": 0.1}
            | {"processes": 1, "block_mib": 1, **where, **fields}
        )

    return make


@pytest.fixture
def beam():
    return pytest.importorskip("apache_beam", reason="the extra beam brings it")


def test_the_threads_of_a_process_make_one_call_at_a_time(tmp_path):
    running, most = [], []

    def function():
        running.append(1)
        time.sleep(0.05)
        most.append(len(running))
        running.pop()

    calls = [
        threading.Thread(target=_call, args=(number, function, [()] * 3, str(tmp_path)))
        for number in range(3)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert most == [1, 1, 1]


def test_a_missing_package_and_flags_without_the_runner_are_sentences(
    config, make_corpus, log, monkeypatch
):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    cfg = config(make_corpus(5), "out", runner="beam")
    with pytest.raises(UserError, match=r"pip install 'bertjax\[beam\]'"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()
    with pytest.raises(UserError, match="`beam_flags` are for `runner` beam"):
        dataclasses.replace(cfg, runner="local", beam_flags=THREADS)
    with pytest.raises(UserError, match="`runner` 'spark' is unknown: give one of local, beam"):
        dataclasses.replace(cfg, runner="spark")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--runner=Nope", "Unexpected pipeline runner: Nope. Valid values are DataflowRunner, "),
        ("--direct_num_worker=2", "no --direct_num_worker; did you mean --direct_num_workers"),
        ("--direct_num_workers=two", "direct_num_workers: invalid int value: 'two'"),
        ("direct_num_workers=2", "'direct_num_workers=2' is no flag"),
        ("--project='x", "No closing quotation; quote it as in a shell"),
        ("--runner=FlinkRunner --flink_master=host:1", "workers of Beam's FlinkRunner can't reach"),
    ],
)
def test_mistakes_in_flags_are_sentences(beam, config, make_corpus, log, flags, says):
    cfg = config(make_corpus(5), "out", runner="beam", beam_flags=flags)
    with pytest.raises(UserError, match=says) as caught:
        prepare.prepare(cfg, log)
    assert "\n" not in str(caught.value)
    assert not Path(cfg.output).exists()


@pytest.mark.parametrize("flags", [THREADS, LOOPBACK])
def test_several_workers_give_the_bytes_of_the_local_path(
    beam, config, make_corpus, log, differing, flags
):
    corpus = make_corpus(300, sentences=(10, 40), files=3)
    local = config(corpus, "local", max_seq_length=(64, 32))
    manifest = prepare.prepare(local, log)
    there = dataclasses.replace(local, output=f"{local.output}-beam", runner="beam")
    there = dataclasses.replace(there, beam_flags=flags)
    assert prepare.prepare(there, log) == manifest
    assert differing(local.output, there.output) == []
    assert "with Apache Beam" in log.text and "Tokenizing: a pipeline of 3 tasks." in log.text


def test_object_storage_gives_the_same_bytes(beam, config, make_corpus, log, remote, differing):
    corpus = make_corpus(30)
    local = config(corpus, "local")
    prepare.prepare(local, log)
    (remote[1] / "corpus").mkdir()
    for file in corpus.iterdir():
        (remote[1] / "corpus" / file.name).write_bytes(file.read_bytes())
    places = {"input": ("gs://bucket/corpus",), "output": "gs://bucket/out"}
    prepare.prepare(dataclasses.replace(local, runner="beam", beam_flags=THREADS, **places), log)
    assert differing(local.output, remote[1] / "out") == []


def test_bad_text_is_a_sentence_and_leaves_nothing(beam, config, make_corpus, log):
    corpus = make_corpus(50)
    with (corpus / "00.txt").open("ab") as file:
        file.write(b"\xff\n")
    cfg = config(corpus, "out", runner="beam", beam_flags=THREADS)
    with pytest.raises(UserError, match=r"00\.txt:\d+: not UTF-8"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()


def test_killed_processes_leave_what_the_next_run_finishes(
    beam, config, make_corpus, log, differing, run_python
):
    corpus = make_corpus(500, sentences=(10, 40))
    local, killed = config(corpus, "local"), config(corpus, "killed")
    words = ["-c", PROGRAM, "prepare", "--input", str(corpus), "--tokenizer", local.tokenizer]
    words += ["--max-seq-length", "64", "--held-out", "0.1", "--block-mib", "1"]
    assert run_python(*words, "--output", local.output).endswith("False\n")
    here = {**os.environ, "PYTHONPATH": str(Path(prepare.__file__).parents[3])}
    words += ["--output", killed.output, "--runner", "beam", "--processes", "2"]

    def start(*more):
        return subprocess.Popen(
            [sys.executable, *words, *more], env=here, stderr=subprocess.DEVNULL
        )

    process = start(f"--beam-flags={THREADS}")
    while process.poll() is None and not any(Path(killed.output).glob(".building/*/*.tokens")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert start().wait() == 0  # in worker processes, as DirectRunner does without flags
    assert differing(local.output, killed.output) == []
