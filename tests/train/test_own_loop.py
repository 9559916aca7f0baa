"""experiments/own_loop.py: the example of a training loop of one's own."""

import dataclasses
import functools
import itertools
import pathlib
import re
import runpy
import shutil

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "own_loop.py"


def test_it_learns_resumes_and_exports(tiny_config, tiny_tokenizer, tmp_path, capsys):
    assert len(SCRIPT.read_text().splitlines()) <= 60
    words = [tiny_tokenizer.decode([token]) for token in range(5, 15)]
    lines = [f"{a} {b} {a} {b} {a}" for a, b in itertools.product(words, words)]
    train = runpy.run_path(str(SCRIPT))["train"]
    config = dataclasses.replace(  # dropout doubles the time to compile a step
        tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    train = functools.partial(train, config, tiny_tokenizer, lines, tmp_path)
    train(steps=40, rows=16, length=16, save_every=10)
    losses = re.findall(r"step (\d+): loss ([\d.]+)", capsys.readouterr().out)
    assert [int(step) for step, _ in losses] == [10, 20, 30, 40]
    assert float(losses[-1][1]) < float(losses[0][1])
    weights = (tmp_path / "export" / "model.safetensors").read_bytes()
    for step in ("30", "40"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    shutil.rmtree(tmp_path / "export")
    train(steps=40, rows=16, length=16, save_every=10)
    assert re.findall(r"step (\d+): loss ([\d.]+)", capsys.readouterr().out) == losses[2:]
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == weights
