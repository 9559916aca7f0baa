"""Runs with a teacher: what they train, export and refuse, and that they resume to the bit."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax import cli
from bertjax.convert.run import ConvertConfig, convert
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.objectives.options import MiniLMOptions, ObjectiveOptions
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.report.run import report
from bertjax.train.loop_config import LoopConfig

WORDS = [f"w{number}" for number in range(40)]
STUDENT = ModelConfig(
    "tiny",
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
)
TEACHING = bj.BertConfig(
    vocab_size=45,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=40,
)


def silent(line):
    del line


def write_tokenizer(directory, words):
    directory.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return bj.load_tokenizer(directory)


def write_teacher(directory, tokenizer, seed=0, **changes):
    shape, rng = dataclasses.replace(TEACHING, **changes), np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(init_params, shape), jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes)
    save_pretrained(directory, Pretrained(shape, params, tokenizer, {"kind": "pretraining"}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    rng = np.random.default_rng(0)
    documents = [[" ".join(rng.choice(WORDS, 6)) for _ in range(6)] for _ in range(40)]
    (root / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
    tokenizer = write_tokenizer(root / "tokenizer", WORDS)
    for segments in ("single", "next_sentence"):
        config = PrepareConfig(
            (str(root / "text.txt"),),
            str(root / "tokenizer"),
            str(root / segments),
            segments=segments,
            max_seq_length=32,
            held_out=0.1,
        )
        prepare(config, silent)
    write_teacher(root / "model", tokenizer)
    return root


@pytest.fixture(scope="module")
def recipe(data):
    def make(workdir, **changes):
        fields = {
            "teacher": str(data / "model"),
            "model": STUDENT,
            "loop": LoopConfig(train_steps=4, log_every=1, eval_every=2, save_every=2),
            "batch_size": 4,
            "eval_examples": 6,
            **changes,
        }
        return PretrainConfig(str(data / "single"), str(workdir), **fields)

    return make


@pytest.fixture(scope="module")
def done(data, recipe):
    """A finished run: configuration, result, log."""
    lines = []
    config = recipe(data / "run")
    return config, runs.pretrain(config, lines.append), lines


def final_state(workdir):
    """The fingerprints of every array of the last checkpoint, and the exported bytes."""
    meta = json.loads((workdir / "checkpoints" / "4" / "meta" / "metadata").read_text())
    return meta["arrays"], (workdir / "export" / "model.safetensors").read_bytes()


def test_a_run_learns_from_a_teacher_and_exports_an_encoder(done, data):
    _, result, lines = done
    text = "\n".join(lines)
    assert f"The teacher is {data / 'model'}: layer 2 of 2, 8 relation heads." in text
    assert "parameters are trained, the rest is frozen." in text
    assert lines[-1].startswith("Trained 4 steps: held-out relation loss ")
    losses = {name: result.metrics[f"{name}_loss"] for name in ("query", "key", "value")}
    assert result.metrics["minilm_loss"] == pytest.approx(sum(losses.values()))
    assert len(result.metrics) == 4 and min(losses.values()) > 0
    model = bj.from_pretrained(result.workdir)
    assert model.kind == result.kind == "encoder"
    assert model.params.keys() == {"embeddings", "encoder"}
    assert bj.embed(model, ["w1 w2"]).shape == (1, 16)
    arrays, _ = final_state(result.workdir)
    assert not any("teacher" in name for name in arrays)
    # What has no gradient keeps its first values, and has no moments.
    untrained = "encoder/layer_1/output/kernel"
    moments = {name for name in arrays if name.startswith("opt_state/") and "layer_1" in name}
    assert len(moments) == 12 and not any(name.endswith(untrained) for name in moments)
    described = json.loads((result.workdir / "config.json").read_text())["metrics"]
    assert {each["name"] for each in described} == result.metrics.keys()
    (page,) = report([result.workdir], silent)
    assert "relation loss</figcaption>" in page.read_text()


def test_a_run_resumes_to_the_bit_with_its_teacher_from_another_place(done, data, tmp_path):
    config, result, _ = done
    shutil.copytree(result.workdir, tmp_path / "run")
    shutil.copytree(data / "model", tmp_path / "moved")
    for left in ("export", "checkpoints/4"):
        shutil.rmtree(tmp_path / "run" / left)
    lines = []
    again = dataclasses.replace(
        config, workdir=str(tmp_path / "run"), teacher=str(tmp_path / "moved")
    )
    runs.pretrain(again, lines.append)
    assert any(line.startswith("Resumed at step 2 of 4") for line in lines)
    assert final_state(tmp_path / "run") == final_state(result.workdir)


def test_another_teacher_is_refused(done, data, tmp_path):
    config, _, _ = done
    write_teacher(tmp_path / "model", bj.load_tokenizer(data / "tokenizer"), seed=1)
    with pytest.raises(bj.UserError, match=r"holds a run with another teacher \(\w{57}\.\.\. ther"):
        runs.pretrain(dataclasses.replace(config, teacher=str(tmp_path / "model")), silent)
    options = ObjectiveOptions(minilm=MiniLMOptions(layer=1))
    with pytest.raises(bj.UserError, match=r"objective.layer \(2 there, 1 here\)"):
        runs.pretrain(dataclasses.replace(config, objective_options=options), silent)


def test_a_run_is_converted_into_a_model_alone(done, tmp_path):
    _, result, _ = done
    convert(ConvertConfig(str(result.workdir), str(tmp_path / "hf")), silent)
    assert bj.from_pretrained(tmp_path / "hf").kind == "encoder"
    with pytest.raises(bj.UserError, match="has frozen parameters and no moments of them"):
        convert(ConvertConfig(str(result.workdir), str(tmp_path / "two"), to="run"), silent)
    config = ConvertConfig(str(tmp_path / "hf"), str(tmp_path / "3"), "run", objective="minilm")
    with pytest.raises(bj.UserError, match="The objective minilm trains a new model: give the sou"):
        convert(config, silent)


def test_a_teacher_that_does_not_fit_is_refused_before_its_weights_are_read(
    data, recipe, tmp_path, monkeypatch
):
    tokenizer = bj.load_tokenizer(data / "tokenizer")
    other = write_tokenizer(tmp_path / "tokenizer", WORDS[::-1])
    write_teacher(tmp_path / "other", other)
    write_teacher(tmp_path / "short", tokenizer, max_position_embeddings=16)
    write_teacher(tmp_path / "untyped", tokenizer, type_vocab_size=1)
    shutil.copytree(data / "model", tmp_path / "electra")
    (tmp_path / "electra" / "bertjax_sha256.json").unlink()
    fields = json.loads((tmp_path / "electra" / "config.json").read_text())
    (tmp_path / "electra" / "config.json").write_text(
        json.dumps({**fields, "model_type": "electra"})
    )

    def read(path):
        pytest.fail(f"{path} was read")

    monkeypatch.setattr("bertjax.interop.huggingface.read_weights", read)
    refused = {
        "other": "other has another vocabulary than the shards, so that the same ids are other ",
        "short": "has 16 positions, and the shards have rows of 32 tokens",
        "electra": "model_type is 'electra'; only 'bert'",
        "none": "no such",
    }
    for name, said in refused.items():
        with pytest.raises(bj.UserError, match=said):
            runs.load(recipe("run", teacher=str(tmp_path / name)))
    pairs = dataclasses.replace(
        recipe("run", teacher=str(tmp_path / "untyped")), data=str(data / "next_sentence")
    )
    with pytest.raises(bj.UserError, match="has one token type, and the shards have pairs of seg"):
        runs.load(pairs)
    assert runs.load(dataclasses.replace(pairs, teacher=str(data / "model"))).teacher is not None
    model = dataclasses.replace(STUDENT, hidden_size=20)
    with pytest.raises(bj.UserError, match="8 relation heads do not divide both hidden sizes, 24"):
        runs.load(recipe("run", model=model))


def test_a_teacher_and_an_objective_that_do_not_belong_together(data, tmp_path, capsys):
    words = ["pretrain", "--data", str(data / "single"), "--workdir", str(tmp_path / "run")]
    assert cli.run([*words, "--objective", "minilm"]) == 2
    said = "The objective minilm learns from another model: name it in --teacher."
    assert said in capsys.readouterr().err
    assert cli.run([*words, "--teacher", str(data / "model"), "--objective", "rtd"]) == 2
    said = "--teacher is for the objective minilm, and --objective is rtd: leave out one of the two"
    assert said in capsys.readouterr().err
    assert cli.run([*words, "--teacher", str(data / "model"), "--layer", "9"]) == 2
    said = "--objective-options.minilm.layer is 9, and the teacher has 2 layers: give 1 to 2, or"
    assert said in capsys.readouterr().err
    assert cli.run([*words, "--teacher", str(data / "model"), "--masking.rate", "0.3"]) == 2
    assert "--masking.rate has no effect with --teacher" in capsys.readouterr().err


ON_DEVICES = """
import json, sys

import jax
import numpy as np

from bertjax.config import Execution
from bertjax.pretrain.config import PretrainConfig, ModelConfig
from bertjax.pretrain.run import build_programs, load
from bertjax.train import sharding
from bertjax.train.loop_config import LoopConfig

data, teacher, shape = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
losses = {}
for axes, accumulation in (((1, 1, 1), 1), ((2, 2, 2), 2)):
    config = PretrainConfig(
        data, "run", teacher=teacher, model=ModelConfig(**shape), batch_size=8,
        accumulation=accumulation, loop=LoopConfig(train_steps=4),
        mesh=sharding.MeshConfig(*axes), execution=Execution(scan_layers=accumulation > 1),
    )
    every = jax.devices
    jax.devices = lambda: every()[: np.prod(axes)]
    inputs = load(config)
    built = build_programs(config, inputs)
    jax.devices = every
    program, state = built.programs[0], built.programs[0].init()
    found = losses[str(axes)] = []
    for step in range(3):
        rows = lambda rows: inputs.phases[0].rows(step, rows)
        batch = sharding.make_global_batch(built.mesh, 8, rows)
        state, metrics = program.step(state, batch, built.teacher.params)
        found.append([float(metrics[name]) for name in ("loss", "grad_norm")])
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_eight_devices_and_microbatches_compute_what_one_device_does(data, run_python):
    shape = json.dumps(dataclasses.asdict(STUDENT))
    out = run_python("-c", ON_DEVICES, str(data / "single"), str(data / "model"), shape, devices=8)
    one, eight = json.loads(out.splitlines()[-1]).values()
    # Dropout is on; float32 sums in another order.
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert len(set(map(tuple, one))) == 3
