"""Tests commands that are written with names of fields."""

from bertjax.commands import command


def test_a_command_is_written_with_names_of_fields():
    line = command(
        "tokenizer train", input=("a b", "c"), vocab_size=8, output=None, names=(), lower=True
    )
    assert line == "bertjax tokenizer train --input 'a b' c --vocab-size 8 --lower"
    nested = {"loop.train_steps": 2, "telemetry.tensorboard": False}
    assert command("pretrain", "r.py", fresh=False, **nested) == (
        "bertjax pretrain r.py --no-fresh --loop.train-steps 2 --telemetry.no-tensorboard"
    )
