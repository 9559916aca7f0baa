"""Whose run it is: what a checkpoint knows holds, what it leaves undecided is anyone's."""

import pytest

from bertjax.errors import UserError
from bertjax.train.checkpoint.identity import refuse_another_run

HERE = {"model": {"size": 4}, "data": "abc", "seed": 1}


def test_what_differs_is_named():
    refuse_another_run(HERE, HERE, "run")
    for saved, said in (
        ({**HERE, "seed": 2}, r"another seed \(2 there, 1 here\)"),
        ({**HERE, "model": {"size": 8}}, r"another model.size \(8 there, 4 here\)"),
        ({"model": {"size": 4}, "data": "abc"}, r"another seed \(absent there, 1 here\)"),
    ):
        with pytest.raises(UserError, match=said):
            refuse_another_run(saved, HERE, "run")


def test_what_is_undecided_may_be_anything_and_the_rest_may_not():
    converted = {"model": {"size": 4}}
    refuse_another_run(converted, HERE, "run", undecided=["data", "seed"])
    with pytest.raises(UserError, match=r"another seed \(absent there"):
        refuse_another_run(converted, HERE, "run", undecided=["data"])
    with pytest.raises(UserError, match=r"another model.size"):
        refuse_another_run({"model": {"size": 8}}, HERE, "run", undecided=["data", "seed"])
    # A value that is there holds, whatever is said of its name.
    with pytest.raises(UserError, match=r"another seed \(2 there, 1 here\)"):
        refuse_another_run({**converted, "seed": 2}, HERE, "run", undecided=["data", "seed"])
