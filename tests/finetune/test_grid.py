"""The grid of settings: which are tried, and what is chosen."""

import dataclasses
import itertools
import json

import pytest

from bertjax.finetune.run import finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained


def test_the_best_learning_rate_of_the_first_seed_is_kept_for_all(config, read_records):
    config = dataclasses.replace(config, learning_rates=(1e-6, 3e-3), seeds=(0, 1))
    result = finetune(config, quiet, progress=False)
    worse, better = result.tried.values()
    assert list(result.tried) == [(1e-6, 16, 10), (3e-3, 16, 10)]
    assert result.learning_rate == 3e-3 and better > worse
    assert {seed.learning_rate for seed in result.seeds} == {3e-3}
    rates = [
        record["learning_rate"] for record in read_records(result) if record["kind"] == "train"
    ]
    assert 0 < max(rates) <= 3e-3


def test_the_whole_grid_is_tried_with_the_first_seed(config, make_trainer, tmp_path):
    config = dataclasses.replace(
        config,
        batch_sizes=(16, 20),
        epoch_counts=(1, 2),
        seeds=(0, 1),
        best_metric="loss",
    )
    trainer, schedule = make_trainer(config)
    state = trainer.programs.make_state(trainer.initial_params(0))
    program, given = trainer.programs.train_step, trainer.hyperparameters(0, schedule)
    program(state, trainer.batch(0, schedule, 0), given)  # compiles 16 rows
    before, lines = program._cache_size(), []
    result = finetune(config, lines.append, progress=False)
    assert program._cache_size() == before + 1  # a shape for each batch size
    assert list(result.tried) == list(itertools.product((3e-3,), (16, 20), (1, 2)))
    best = min(result.tried, key=result.tried.get)
    assert (result.learning_rate, result.batch_size, result.epochs) == best
    assert result.metric == "loss"
    assert [seed[1:4] for seed in result.seeds] == [best, best]
    assert result.seeds[0].metrics["loss"] == result.tried[best]
    # Each setting has its own steps and rows.
    for _, size, epochs in result.tried:
        seed = tmp_path / "run" / f"batch-size-{size}-epochs-{epochs}" / "seed-0"
        assert sorted(path.name for path in (seed / "checkpoints").iterdir()) == [
            str(epochs * -(-60 // size))
        ]
    table = lines[-6:-1]
    assert table[0].split() == ["batch", "size", "epochs", "loss"]
    marked = [line.split() for line in table if line.endswith("  best")]
    assert marked == [[str(best[1]), str(best[2]), f"{result.tried[best]:.4f}", "best"]]
    saved = json.loads((tmp_path / "run/result.json").read_text())
    assert saved["tried"][0].keys() == {"learning_rate", "batch_size", "epochs", "loss"}
    least = min(seed.metrics["loss"] for seed in result.seeds)
    evaluated = predict.evaluate(from_pretrained(config.workdir), config.dev)
    assert evaluated["loss"] == pytest.approx(least, rel=1e-5)  # another batch size


def quiet(line):
    del line
