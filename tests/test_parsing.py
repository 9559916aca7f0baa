"""Tests the parser of command lines and its help."""

import dataclasses
import re
from typing import Annotated, Literal

import pytest
import tyro

from bertjax.errors import UserError
from bertjax.parsing import parse
from bertjax.tasks.question_answering.config import AnswerOptions


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long to train."""

    train_steps: int = 1
    """Applied updates."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on a source,
    for a while.

    Set `fresh` to start again.
    """

    source: tyro.conf.Positional[str]
    fresh: bool = False
    name: str | None = None
    """One two three four five six seven eight
    nine ten (of `loop.train_steps`),
    eleven twelve."""
    rates: tuple[float, ...] | None = None
    lengths: int | tuple[int, ...] = 1
    mode: Literal["a", "b"] | dict[str, float] | None = None
    window: tuple[int, float] | None = None
    flag: bool | None = None
    max_seq_length: int = 128
    loop: Loop = Loop()
    second: Annotated[Loop | None, tyro.conf.arg(help="...")] = None
    options: tyro.conf.OmitArgPrefixes[AnswerOptions] = dataclasses.field(
        default_factory=AnswerOptions
    )


@pytest.fixture
def help_of(monkeypatch, capsys):
    """The help of a configuration at a width, its lines without frames and spaces around them."""

    def run(kind, width):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            parse(kind, "verb", ["--help"])
        return [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]

    return run


def test_help_fills_the_terminal(help_of):
    lines = help_of(Config, 200)
    assert lines[2:4] == ["Train on a source, for a while.", "Set --fresh to start again."]
    text = (
        "One two three four five six seven eight nine ten (of --loop.train-steps), eleven twelve."
    )
    assert [line for line in lines if line.endswith(text)]
    narrow = help_of(Config, 60)
    assert max(map(len, narrow[1:])) <= 60  # below the usage
    assert text.replace(" ", "") in "".join(narrow).replace(" ", "")


def test_metavars_are_plain(help_of):
    lines = help_of(Config, 200)
    for usage in (
        *("SOURCE", "-h, --help", "--fresh, --no-fresh", "--name STR", "--rates FLOAT ..."),
        *("--lengths INT ...", "--mode {a,b}|STR FLOAT ...", "--window INT FLOAT"),
        *("--flag {True,False}", "--loop.train-steps INT", "--top-k INT"),
    ):
        assert [line for line in lines if re.match(rf"{re.escape(usage)}(  |$)", line)], usage
    assert not [line for line in lines if "None" in line]
    assert [line for line in lines if "(default: 128)" in line]


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: int = 1

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"`inner.steps` is {self.steps}: give at least 1.")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    size: int = 1

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"`size` is {self.size}: give at least 1.")


@pytest.mark.parametrize(
    "kind, words, sentence",
    [
        (Outer, ["--size", "0"], "`size` is 0: give at least 1."),
        (Outer, ["--inner.steps", "0"], "`inner.steps` is 0: give at least 1."),
    ],
)
def test_a_configuration_that_refuses_its_values_is_no_parsing_error(kind, words, sentence, capsys):
    """tyro catches ValueError, which UserError is, and would print it in its own words."""
    with pytest.raises(UserError) as caught:
        parse(kind, "train", words)
    assert str(caught.value) == sentence
    assert capsys.readouterr() == ("", "")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two numbers in one word."""

    first: int
    second: int

    @classmethod
    def parse(cls, word):
        first, plus, second = word.partition("+")
        if not plus:
            raise UserError(f"`pairs` {word}: write two numbers.")
        return cls(int(first), int(second))

    def __str__(self):
        return f"{self.first}+{self.second}"


@dataclasses.dataclass(frozen=True)
class Pairs:
    pairs: tuple[Pair, ...] = (Pair(1, 2), Pair(3, 4))
    size: int = 1


def test_a_dataclass_that_parses_is_one_word(help_of):
    assert parse(Pairs, "verb", ["--pairs", "5+6", "7+8"]).pairs == (Pair(5, 6), Pair(7, 8))
    assert parse(Pairs, "verb", ["--pairs"]).pairs == ()
    given = Pairs((Pair(9, 9),))
    assert parse(Pairs, "verb", ["--size", "2"], default=given) == Pairs(given.pairs, 2)
    with pytest.raises(UserError, match="`pairs` 5: write two numbers"):
        parse(Pairs, "verb", ["--pairs", "5"])
    shown = r"--pairs PAIR \.\.\. +\(default: 1\+2 3\+4\)"
    assert [line for line in help_of(Pairs, 200) if re.match(shown, line)]


def test_the_short_help_shows_the_fields_that_are_common(monkeypatch, capsys):
    def flags(*words):
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit):
            parse(Config, "verb", [*words], common=("source", "loop.train_steps", "options"))
        shown = capsys.readouterr().out
        return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", shown.split("all of them.")[-1]))

    short = {"--help", "--loop.train-steps", "--top-k"}
    for words in (["--help"], ["--rates", "1", "-h"]):
        assert flags(*words) == short
    assert flags("--help-all") > {*short, "--fresh", "--max-seq-length"}
    # A flag that the help leaves out is taken.
    given = parse(Config, "verb", ["x", "--rates", "1"], common=("source",))
    assert given.rates == (1.0,)
