"""Tests `bertjax plan` up to the compiler, whose process is replaced."""

import importlib.util
import json
import subprocess
import sys

import pytest

from bertjax import cli
from bertjax.plan import compile as compiling
from bertjax.plan import run, steps

KNOWN = ["--max-seq-length", "128", "--vocab-size", "30522"]
COMMAND = ["plan", "--topology", "v5e:2x2", *KNOWN]


@pytest.fixture
def children(monkeypatch, facts):
    """Replaces the compiler: each of its processes takes one answer (code, output, errors)."""
    calls, answers = [], []

    def child(words, **_):
        calls.append(words)
        code, output, errors = answers.pop(0) if answers else (0, json.dumps(facts), "")
        return subprocess.CompletedProcess(words, code, output, errors)

    monkeypatch.setattr(run.subprocess, "run", child)
    monkeypatch.setattr(run, "require_libtpu", lambda: None)
    return calls, answers


def test_a_plan_is_compiled_in_a_process_of_its_own(children, capsys, tmp_path):
    page = tmp_path / "new" / "plan.html"
    assert cli.run([*COMMAND, "--hourly-rate", "2", "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert "Fits: 4.00 of 15.75 GiB" in told
    assert "8.00 at 2 each" in told
    assert f"Wrote {page}." in told
    (words,) = children[0]
    assert words[:5] == [sys.executable, "-P", "-m", "bertjax", "plan"]
    assert words[5:][: len(COMMAND) - 1] == COMMAND[1:]
    assert words[-6:] == ["--json", "--no-search", "--compare", "None", "--html", "None"]
    written = page.read_text()
    assert "100.0 ms a step" in written
    assert "Predicted cycles by kind of operation" in written
    assert "src=" not in written


def test_two_recipes_are_compared(children, capsys, facts, tmp_path):
    for name, size in (("one.py", "base"), ("other.py", "large")):
        text = "from bertjax.pretrain.config import ModelConfig, PretrainConfig\n"
        text += f"config = PretrainConfig('shards', 'runs/mine', model=ModelConfig({size!r}))\n"
        (tmp_path / name).write_text(text)
    one, other = (str(tmp_path / name) for name in ("one.py", "other.py"))
    slow = {**facts, "seconds": {**facts["seconds"], "step": 0.2}}
    children[1].extend([(0, json.dumps(facts), ""), (0, json.dumps(slow), "")])
    assert cli.run(["plan", one, *COMMAND[1:], "--compare", other]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == [one, "4.00", "100.0"]
    assert lines[2].split()[:3] == [other, "4.00", "200.0"]
    assert [words[5] for words in children[0]] == [one, other]


def test_a_search_prints_the_fastest_in_full(children, capsys, facts):
    times = iter([0.3, 0.2, 0.4])
    children[1].extend(
        (0, json.dumps({**facts, "seconds": {**facts["seconds"], "step": step}}), "")
        for step in times
    )
    assert cli.run([*COMMAND, "--search", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["seconds"]["step"] for each in found] == [0.3, 0.2, 0.4]
    assert "--execution.scan-layers" in found[1]["variant"]


def test_a_step_that_does_not_fit_is_a_mistake(children, capsys, too_large):
    children[1].append((2, json.dumps(too_large), "bertjax: The step does not fit"))
    assert cli.run(COMMAND) == 2
    told = capsys.readouterr().err
    assert "does not fit: it needs about 41.0 GiB" in told
    assert "--accumulation 8" in told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((2, "", "W0000 a warning\nbertjax: --batch-size 6 does not divide.\n"), "--batch-size 6"),
        ((-9, "", ""), "Something ended the compilation (signal 9), often for lack of memory"),
        ((-11, "", "*** SIGSEGV ***"), r"The TPU compiler crashed on this program (signal 11)"),
    ],
    ids=["mistake", "killed", "crash"],
)
def test_failures_of_the_process_are_sentences(children, capsys, answer, told):
    children[1].append(answer)
    assert cli.run(COMMAND) == 2
    assert told in capsys.readouterr().err


def test_other_failures_keep_their_traceback(children):
    children[1].append((1, "", "Traceback: something"))
    with pytest.raises(RuntimeError, match="something"):
        cli.run(COMMAND)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--topology", "v9:2x2", *KNOWN], "Known are v5e and v6e"),
        (KNOWN, "--topology is missing"),
        (["--topology", "v5e:2x2"], "No --data: name shards, or give --max-seq-length and"),
        (["--topology", "v5e:2x2", "--data", "nowhere"], "nowhere: no manifest.json"),
        (["--topology", "v5e:2x2", *KNOWN, "--phase", "2"], "has one phase: give 1."),
        (["--topology", "v5e:2x2", *KNOWN, "--pack"], "--pack needs --packed-examples"),
        (["--topology", "v5e:2x2", *KNOWN, "--hourly-rate", "0"], "give a number above 0"),
        (["--topology", "v5e:2x2", *KNOWN, "--compare", "a.py", "--search"], "one of them"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(children, capsys, words, told):
    assert cli.run(["plan", *words]) == 2
    assert told in capsys.readouterr().err
    assert not children[0]


@pytest.mark.parametrize(
    ("system", "machine", "told"),
    [
        ("linux", "x86_64", "pip install 'bertjax[tpu]'"),
        ("darwin", "arm64", "this is macOS on arm64: run the same command on a Linux machine"),
        ("linux", "aarch64", "this is Linux on aarch64"),
    ],
)
def test_a_missing_libtpu_is_told_with_what_to_do(monkeypatch, capsys, system, machine, told):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(compiling.sys, "platform", system)
    monkeypatch.setattr(compiling.platform, "machine", lambda: machine)
    assert cli.run(COMMAND) == 2
    assert told in capsys.readouterr().err


def test_rows_come_from_the_shards_or_from_flags(monkeypatch):
    from types import SimpleNamespace

    from bertjax.plan.config import PlanConfig

    manifest = SimpleNamespace(max_seq_length=96, vocab_size=999, segments="single")
    corpora = SimpleNamespace(manifest=manifest)
    phase = SimpleNamespace(corpora=corpora, packed=5, real_tokens=0.75 * 96)
    monkeypatch.setattr(steps, "open_phases", lambda config: [phase])
    config = PlanConfig(data="shards", pack=True)
    assert steps.read_rows(config) == (96, 999, "single", 0.25, 5)
    longer = PlanConfig(data="shards", pack=True, max_seq_length=512)
    assert steps.read_rows(longer) == (512, 999, "single", None, 5)
    alone = PlanConfig(max_seq_length=512, vocab_size=1000, pack=True, packed_examples=4)
    assert steps.read_rows(alone) == (512, 1000, "next_sentence", None, 4)
