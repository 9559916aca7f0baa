"""The words of a command line: configurations out of them, flags in messages."""

import dataclasses
from typing import Annotated

import pytest
import tyro

from bertjax.commands import command
from bertjax.parsing import with_flags


@dataclasses.dataclass(frozen=True)
class Loop:
    train_steps: int = 1


@dataclasses.dataclass(frozen=True)
class Options:
    doc_stride: int = 128


@dataclasses.dataclass(frozen=True)
class Config:
    source: tyro.conf.Positional[str]
    fresh: bool = False
    max_seq_length: int = 128
    loop: Loop = Loop()
    second: Annotated[Loop | None, tyro.conf.arg(help="...")] = None
    options: tyro.conf.OmitArgPrefixes[Options] = Options()


def verb(model: str, data: tuple[str, ...], *, batch_size: int = 1) -> int:
    return batch_size


@pytest.mark.parametrize(
    "said, printed",
    [
        ("set `fresh` or `max_seq_length` 16", "set --fresh or --max-seq-length 16"),
        ("give `loop.train_steps` above 10.", "give --loop.train-steps above 10."),
        ("`second.train_steps`", "--second.train-steps"),
        ("`options.doc_stride`", "--doc-stride"),
        ("`source` is absent", "SOURCE is absent"),
        ("fresh, `train_steps`, `fresh = 1`", "fresh, `train_steps`, `fresh = 1`"),
        ("`held_out` of `bertjax prepare`", "`held_out` of `bertjax prepare`"),
    ],
)
def test_fields_in_backquotes_become_flags(said, printed):
    assert with_flags(said, Config) == printed


def test_parameters_of_a_function_become_flags_or_positions():
    assert (
        with_flags("`model`, `data`, `batch_size`, `k`", verb) == "MODEL, DATA, --batch-size, `k`"
    )


def test_a_command_is_written_with_names_of_fields():
    line = command("tokenizer train", input=("a b", "c"), vocab_size=8, output=None, lower=True)
    assert line == "bertjax tokenizer train --input 'a b' c --vocab-size 8 --lower"
    assert command("pretrain", "r.py", **{"loop.train_steps": 2}) == (
        "bertjax pretrain r.py --loop.train-steps 2"
    )
