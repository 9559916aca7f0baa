"""Immutable settings: a saved value holds, an unset one may be anything."""

import pytest

from bertjax.errors import UserError
from bertjax.train.checkpoint.settings import refuse_changed

HERE = {"model": {"size": 4}, "data": "abc", "seed": 1}


def test_every_changed_setting_is_named():
    refuse_changed(HERE, HERE, "run")
    for saved, said in (
        ({**HERE, "seed": 2}, r"another seed \(2 there, 1 here\)"),
        ({**HERE, "model": {"size": 8}}, r"another model.size \(8 there, 4 here\)"),
        ({"model": {"size": 4}, "data": "abc"}, r"another seed \(absent there, 1 here\)"),
    ):
        with pytest.raises(UserError, match=said):
            refuse_changed(saved, HERE, "run")


def test_an_unset_setting_may_be_anything_and_the_others_may_not():
    converted = {"model": {"size": 4}}
    refuse_changed(converted, HERE, "run", unset=["data", "seed"])
    with pytest.raises(UserError, match=r"another seed \(absent there"):
        refuse_changed(converted, HERE, "run", unset=["data"])
    with pytest.raises(UserError, match=r"another model.size"):
        refuse_changed({"model": {"size": 8}}, HERE, "run", unset=["data", "seed"])
    # A saved value holds even if its name is listed as unset.
    with pytest.raises(UserError, match=r"another seed \(2 there, 1 here\)"):
        refuse_changed({**converted, "seed": 2}, HERE, "run", unset=["data", "seed"])


def test_a_hash_is_not_told_beside_the_setting_that_changed_it():
    saved = {"order of the data": "abc", "batch_size": 8}
    with pytest.raises(UserError) as caught:
        refuse_changed(saved, {"order of the data": "def", "batch_size": 16}, "run")
    assert "another batch_size (8 there, 16 here):" in str(caught.value)
    assert "order" not in str(caught.value)
    with pytest.raises(UserError, match=r"another order of the data \(abc there, def here\)"):
        refuse_changed(saved, {"order of the data": "def", "batch_size": 8}, "run")
