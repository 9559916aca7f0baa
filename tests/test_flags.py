"""Tests flags: in messages, without their group, misspelt."""

import dataclasses
from typing import Annotated

import pytest
import tyro

from bertjax.errors import UserError
from bertjax.flags import with_flags, written_whole
from bertjax.pretrain.config import PretrainConfig
from bertjax.task_options import FinetuneArguments


@dataclasses.dataclass(frozen=True)
class Loop:
    train_steps: int = 1
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Search:
    beams: int = 4


@dataclasses.dataclass(frozen=True)
class Options:
    doc_stride: int = 128
    search: Search = Search()


@dataclasses.dataclass(frozen=True)
class Other:
    learning_rate: float = 1.0
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    source: tyro.conf.Positional[str]
    fresh: bool = False
    max_seq_length: int = 128
    seeds: tuple[int, ...] = ()
    loop: Loop = Loop()
    second: Annotated[Loop | None, tyro.conf.arg(help="...")] = None
    optimizer: Other = Other()
    teacher: Other = Other()
    options: tyro.conf.OmitArgPrefixes[Options] = Options()


@pytest.mark.parametrize(
    "said, printed",
    [
        ("set `fresh` or `max_seq_length` 16", "set --fresh or --max-seq-length 16"),
        ("give `loop.train_steps` above 10.", "give --loop.train-steps above 10."),
        ("`second.train_steps`", "--second.train-steps"),
        ("`options.doc_stride` or `doc_stride`", "--doc-stride or --doc-stride"),
        ("`beams`, `search.beams` or `options.search.beams`", "--beams, --beams or --beams"),
        ("`source` is absent", "SOURCE is absent"),
        ("fresh, `train_steps`, `fresh = 1`", "fresh, `train_steps`, `fresh = 1`"),
        ("`held_out` of `bertjax prepare`", "`held_out` of `bertjax prepare`"),
    ],
)
def test_fields_in_backquotes_become_flags(said, printed):
    assert with_flags(said, Config) == printed


@pytest.mark.parametrize(
    "given, whole",
    [
        ("--train-steps", "--loop.train-steps"),
        ("--train_steps=9", "--loop.train-steps=9"),
        ("--no-quick", "--loop.no-quick"),
        ("--seed", "--seeds"),
        ("--doc-stride", "--doc-stride"),
        ("--second.train-steps", "--second.train-steps"),
        ("--max_seq_length=3", "--max_seq_length=3"),
        ("--no-fresh", "--no-fresh"),
        ("--beams", "--beams"),
        ("-1", "-1"),
        ("--", "--"),
    ],
)
def test_the_group_of_a_flag_may_be_left_out(given, whole):
    assert written_whole(Config, "verb", ["x", given, "5"]) == ["x", whole, "5"]


@pytest.mark.parametrize(
    "given, asked",
    [
        ("--lop.train-steps", "did you mean --loop.train-steps?"),
        ("--trainsteps", "did you mean --loop.train-steps or --second.train-steps?"),
        ("--optimizer.max-seq-length", "did you mean --max-seq-length?"),
        ("--doc-strid=9", "did you mean --doc-stride?"),
        ("--learning-rate", "did you mean --optimizer.learning-rate or --teacher.learning-rate?"),
        ("--zzz", "`bertjax verb --help-all` lists all."),
    ],
)
def test_the_nearest_flag_is_suggested(given, asked):
    with pytest.raises(UserError) as caught:
        written_whole(Config, "verb", ["x", given])
    assert str(caught.value).startswith(f"verb has no {given.partition('=')[0]}: {asked}")


def test_the_flags_that_are_guessed_at_first_are_found():
    optimizer = {f"--{name}": f"--optimizer.{name}" for name in ("learning-rate", "weight-decay")}
    optimizer["--warmup-steps"] = "--optimizer.warmup-steps"
    pretraining = {"--batch-size": "--batch-size", "--train-steps": "--loop.train-steps"}
    finetuning = {"--batch-size": "--batch-size", "--seed": "--seeds", "--rank": "--lora.rank"}
    for kind, more in (
        (
            PretrainConfig,
            {**pretraining, "--seed": "--seed", "--whole-word": "--masking.whole-word"},
        ),
        (FinetuneArguments("finetune", None, []).type, {**finetuning, "--task": "--task"}),
    ):
        for given, whole in {**optimizer, **more}.items():
            assert written_whole(kind, "verb", [given]) == [whole]
