"""The words of a command that are missing or wrong are told in one sentence."""

import shlex

import pytest

from bertjax import cli
from bertjax.mistakes import EXAMPLES
from bertjax.tasks import kinds

PRETRAIN = "pretrain --data shards --workdir run"
HELP = "`bertjax {} --help` explains the options."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "pretrain --batch-size 8",
            "pretrain needs --data (Directory that `bertjax prepare` wrote; several are mixed) and "
            "--workdir (Run directory), as in `bertjax pretrain --data shards --workdir runs/mine`."
            f" {HELP.format('pretrain')}",
        ),
        (
            "convert source",
            "convert needs DEST (Directory to make), as in `bertjax convert runs/mine exported`. "
            + HELP.format("convert"),
        ),
        (f"{PRETRAIN} --batch-size 8.5", "--batch-size is '8.5': give a whole number."),
        (f"{PRETRAIN} --learning-rate=fast", "--optimizer.learning-rate is 'fast': give a number."),
        (f"{PRETRAIN} --length-buckets 32 6x", "--length-buckets is '32 6x': give whole numbers."),
        (
            f"{PRETRAIN} --telemetry.profile-steps 1 x",
            "--telemetry.profile-steps is '1 x': give INT INT.",
        ),
        (
            f"{PRETRAIN} --objective nspp",
            "--objective is 'nspp': give one of nsp, sop, mlm, rtd, minilm; did you mean nsp?",
        ),
        (
            f"{PRETRAIN} --objective=albert",
            "--objective is 'albert': give one of nsp, sop, mlm, rtd, minilm.",
        ),
        (
            f"{PRETRAIN} --seed --fresh",
            f"--seed has no value: write one after it. {HELP.format('pretrain')}",
        ),
        (
            f"{PRETRAIN} --seed",
            f"--seed has no value: write one after it. {HELP.format('pretrain')}",
        ),
        (
            f"{PRETRAIN} --seed 1 2",
            f"'2' is one word too many: leave it out. {HELP.format('pretrain')}",
        ),
        ("completion fish", "SHELL is 'fish': give one of bash, zsh."),
        (
            "finetune --task question_answering --model m --train t --dev d --doc-stride x",
            "--doc-stride is 'x': give a whole number.",
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, capsys):
    assert cli.run(words.split()) == 2
    assert capsys.readouterr() == ("", f"bertjax: {sentence}\n")


NEEDY = [verb for verb in cli.VERBS if verb not in ("demo", "doctor")]
NEEDS = [verb for verb in NEEDY if verb != "plan"]  # it names the chips that there are instead
COMMANDS = [*NEEDS, *(f"finetune --task {kind}" for kind in kinds.names())]


@pytest.mark.parametrize("words", COMMANDS)
def test_what_a_verb_needs_is_told_with_an_example(words, capsys):
    assert cli.run(words.split()) == 2
    out, said = capsys.readouterr()
    verb = words.split(" --")[0]
    assert not out and said.startswith(f"bertjax: {verb} needs ") and said.count("\n") == 1
    assert f"`bertjax {verb} {EXAMPLES[verb]}`" in said


@pytest.mark.parametrize("verb", NEEDY)
def test_the_examples_can_be_parsed(verb, monkeypatch, capsys):
    """What is wrong with an example is that its files are not there, not its words."""
    monkeypatch.chdir("/")
    if verb == "completion":
        with pytest.raises(SystemExit):
            cli.run(["completion", "bash"])
        return
    assert cli.run([*verb.split(), *shlex.split(EXAMPLES[verb])]) == 2
    said = capsys.readouterr().err
    assert any(path in said for path in EXAMPLES[verb].split() if not path.startswith("-")), said
    assert not any(words in said for words in ("needs", "too many", "has no value", "is unknown"))
