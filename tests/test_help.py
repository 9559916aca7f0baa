"""Tests the help of every verb at 80 columns."""

import itertools
import re

import pytest

from bertjax import cli
from bertjax.tasks import kinds

HELPS = [
    *(verb.split() for verb in cli.VERBS),
    *(["finetune", "--task", kind] for kind in kinds.names()),
    ["prepare", "--audit"],
]
LONGEST = {"--help": 160, "--help-all": 360}


@pytest.fixture(params=LONGEST)
def lines(request, words, monkeypatch, capsys):
    """The lines of a help, without the frames of its boxes."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        cli.run([*words, request.param])
    assert not stop.value.code
    found = capsys.readouterr().out.splitlines()
    assert len(found) <= LONGEST[request.param]
    assert max(map(len, found)) <= 80
    return [re.sub(r"^[│ ] | *│?$", "", line) for line in found]


def blocks(lines):
    """The groups of consecutive lines with the same indentation."""
    block = []
    for line in lines:
        if block and (not line or indentation(line) != indentation(block[-1])):
            yield block
            block = []
        if line:
            block.append(line)
    yield block


def indentation(line):
    return len(line) - len(line.lstrip())


def stubs(lines):
    """The lines of text that end before the next word would have had to."""
    found = []
    for block in blocks(lines):
        for line, following in itertools.pairwise(block):
            word = following.split()[0]
            is_text = not re.match(r" *(-|[─╭╰]|[A-Z]+ {2,})", line) and word[0] not in "-─╭╰"
            if is_text and not line.endswith(".") and len(line) + 1 + len(word) < 76:
                found.append(line)
    return found


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_paragraphs_are_joined_and_metavars_are_plain(lines):
    assert lines[0].startswith("usage: bertjax ")
    assert not stubs(lines)
    text = "\n".join(lines)
    assert not re.search(r"\{[^}]*\{|\[[A-Z]+ \[|\bNone\b", text)


def test_stubs_are_found():
    stub = "   a line that its docstring has wrapped at another width,"
    assert stubs([stub, "   and its end."]) == [stub]
    assert not stubs([stub, "", "   Another paragraph."])


def test_the_audit_is_among_the_options_of_prepare(capsys):
    with pytest.raises(SystemExit):
        cli.run(["prepare", "--help"])
    assert "--audit STR ..." in capsys.readouterr().out
