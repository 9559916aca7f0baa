"""Pre-training on packed rows: whole epochs, resuming, devices, and what is told and refused."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

import bertjax as bj
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import PretrainConfig, SecondPhase
from bertjax.train.loop import Hooks
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

WORDS = [f"w{number}" for number in range(40)]


def silent(line):
    del line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs of two sentences of 2 to 6 words, in shards with rows of 32 tokens."""
    root = tmp_path_factory.mktemp("packing")
    rng = np.random.default_rng(0)

    def sentence():
        return " ".join(rng.choice(WORDS, rng.integers(2, 7)))

    documents = [[sentence() for _ in range(2)] for _ in range(120)]
    (root / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
    (root / "tokenizer").mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (root / "tokenizer" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    text, tokenizer = (str(root / "text.txt"),), str(root / "tokenizer")
    output = str(root / "shards")
    prepare(PrepareConfig(text, tokenizer, output, max_seq_length=32, held_out=0.1), silent)
    return root


@pytest.fixture(scope="module")
def recipe(data, tiny_shape):
    def make(workdir, steps=4, **changes):
        loop = LoopConfig(train_steps=steps, log_every=1, eval_every=2, save_every=2)
        # Unlike others it does not know the number of steps: all runs share a program.
        optimizer = OptimizerConfig(schedule="constant", warmup_steps=0)
        fields = {"model": tiny_shape, "loop": loop, "batch_size": 8, "eval_examples": 10}
        fields |= {"optimizer": optimizer, "pack": True, **changes}
        return PretrainConfig(str(data / "shards"), str(workdir), **fields)

    return make


@pytest.fixture(scope="module")
def done(data, recipe):
    """A finished run on packed rows: configuration, result, log."""
    lines = []
    config = recipe(data / "run")
    return config, runs.pretrain(config, lines.append), lines


def test_it_says_how_full_the_rows_are_and_counts_epochs_of_examples(done):
    config, result, lines = done
    phase = runs.load(config).phases[0]
    manifest, reader = phase.corpora.manifest, phase.stream.readers[0]
    examples = manifest.examples("train")
    real = examples * 32 * (1 - manifest.padding)
    assert manifest.padding > 0.5 and real / (32 * len(reader)) > 0.9
    assert (
        f"{examples:,} training examples of at most 32 tokens, packed into {len(reader):,} rows "
        f"that are {real / (32 * len(reader)):.1%} full: 4 steps of 8 rows "
        f"({round(8 * examples / len(reader))} examples) are "
        f"{4 * 8 / len(reader):.1f} epochs."
    ) in "\n".join(lines)
    record = next(each for each in result.history if "tokens_per_second" in each)
    speeds = record["real_tokens_per_second"] / record["tokens_per_second"]
    # manifest.padding has six digits.
    assert speeds == pytest.approx(real / (32 * len(reader)), rel=1e-5)
    assert any(f"tok/s ({1 - speeds:.0%} padding)" in line for line in lines)


def test_evaluations_are_those_of_a_run_that_is_not_packed(done, recipe, tmp_path):
    config, result, _ = done
    phase = runs.load(dataclasses.replace(config, pack=False)).phases[0]
    assert "segment_ids" not in phase.rows(0, np.arange(8))
    model = bj.from_pretrained(result.workdir)
    assert model.kind == "pretraining"
    frozen = OptimizerConfig(schedule="constant", warmup_steps=0, learning_rate=1e-30)
    found = [
        runs.pretrain(recipe(tmp_path / str(pack), 1, pack=pack, optimizer=frozen), silent).metrics
        for pack in (True, False)
    ]
    assert found[0] == found[1]


def test_stopped_and_resumed_it_is_the_same_run(done, recipe, tmp_path):
    config = recipe(tmp_path / "run")

    def stop(step, metrics, state):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.pretrain(config, silent, hooks=Hooks(on_eval=stop)).stopped
    result = runs.pretrain(config, silent)
    assert result.metrics == done[1].metrics
    files = [run.workdir / "export" / "model.safetensors" for run in (result, done[1])]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(bj.UserError, match=r"another pack \(true there, absent here\)"):
        runs.pretrain(recipe(tmp_path / "run", steps=6, pack=False), silent)


def test_what_cannot_be_packed_is_refused(recipe, tmp_path):
    with pytest.raises(bj.UserError, match="`pack` and `length_buckets` both replace padding"):
        recipe(tmp_path / "run", length_buckets=(16,))
    second = SecondPhase("there", length_buckets=(16,), after_steps=2)
    with pytest.raises(bj.UserError, match="leave out one"):
        recipe(tmp_path / "run", second=second)
    masking = bj.MaskingConfig(max_predictions=5)
    with pytest.raises(bj.UserError, match=r"max_predictions` 5 is too small"):
        runs.pretrain(recipe(tmp_path / "run", masking=masking), silent)


ON_DEVICES = """
import json, sys

import jax
import numpy as np

from bertjax.config import Execution
from bertjax.pretrain.config import PretrainConfig, ModelConfig
from bertjax.pretrain.run import build_programs, load
from bertjax.train import sharding
from bertjax.train.loop_config import LoopConfig

data, shape = sys.argv[1], json.loads(sys.argv[2])
losses = []
for axes, accumulation in (((1, 1, 1), 1), ((2, 2, 2), 2)):
    config = PretrainConfig(
        data, "run", model=ModelConfig(**shape), batch_size=8, pack=True,
        accumulation=accumulation, loop=LoopConfig(train_steps=4),
        mesh=sharding.MeshConfig(*axes), execution=Execution(scan_layers=accumulation > 1),
    )
    every = jax.devices
    jax.devices = lambda: every()[: np.prod(axes)]
    inputs = load(config)
    built = build_programs(config, inputs)
    jax.devices = every
    program, state = built.programs[0], built.programs[0].init()
    losses.append([])
    for step in range(3):
        rows = lambda rows: inputs.phases[0].rows(step, rows)
        batch = sharding.make_global_batch(built.mesh, 8, rows)
        expected = {name: (one.shape, one.dtype) for name, one in program.abstract_batch.items()}
        assert {name: (one.shape, one.dtype) for name, one in batch.items()} == expected
        state, metrics = program.step(state, batch)
        losses[-1].append([float(metrics[name]) for name in ("loss", "nsp_loss", "grad_norm")])
print(json.dumps(losses))
"""


def test_eight_devices_and_microbatches_compute_what_one_device_does(data, tiny_shape, run_python):
    shape = {**dataclasses.asdict(tiny_shape), "hidden_dropout_prob": 0.1}
    out = run_python("-c", ON_DEVICES, str(data / "shards"), json.dumps(shape), devices=8)
    one, eight = json.loads(out.splitlines()[-1])
    # Dropout is on; float32 sums in another order.
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert len(set(map(tuple, one))) == 3
