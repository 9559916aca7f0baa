"""Pre-training as a user runs it: by command, killed, stopped, resumed, and refused."""

import contextlib
import dataclasses
import json
import re
import resource
import shutil
import signal
import socket
import sys

import numpy as np
import pytest
from etils import epath

import bertjax as bj
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.data.shards import open_records, read_manifest, write_records
from bertjax.files import CannotWrite
from bertjax.model import initializers
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import InitializationConfig, ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.loop import Hooks
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig, make_mesh
from bertjax.train.telemetry.trackers import TelemetryConfig

SHAPE = ModelConfig(
    "tiny",
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
LOOP = LoopConfig(train_steps=12, log_every=1, eval_every=4, save_every=4)
# Unlike others it does not know the number of steps, so that runs of all lengths share a program.
CONSTANT = OptimizerConfig(learning_rate=3e-3, schedule="constant", warmup_steps=0)


STEPS = 24


def silent(line):
    del line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of text whose words follow each other: there is something to learn."""
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "lmnrs"]
    documents = []
    for _ in range(120):
        topic = rng.choice(len(words) - 20)
        sentences = [
            " ".join(words[i] for i in topic + np.sort(rng.choice(20, 6))) + "." for _ in range(8)
        ]
        documents.append("\n".join(sentences))
    (root / "text.txt").write_text("\n\n".join(documents))
    text = (str(root / "text.txt"),)
    train_tokenizer(TokenizerConfig(text, str(root / "tokenizer"), vocab_size=200), silent)
    config = PrepareConfig(
        text, str(root / "tokenizer"), str(root / "shards"), max_seq_length=32, held_out=0.1
    )
    prepare(config, silent)
    return root


@pytest.fixture
def recipe(data, tmp_path):
    def make(**changes):
        fields = {
            "data": str(data / "shards"),
            "workdir": str(tmp_path / "run"),
            "model": SHAPE,
            "batch_size": 8,
            "eval_examples": 12,
            "loop": LOOP,
            "optimizer": CONSTANT,
        }
        return PretrainConfig(**{**fields, **changes})

    return make


def command(data, workdir, steps=STEPS, save_every=4):
    flags = {
        "--data": data / "shards",
        "--workdir": workdir,
        "--batch-size": 8,
        "--eval-examples": 12,
        "--model.size": "tiny",
        "--model.hidden-size": 32,
        "--model.num-hidden-layers": 1,
        "--model.num-attention-heads": 2,
        "--model.intermediate-size": 32,
        "--loop.train-steps": steps,
        "--loop.log-every": 1,
        "--loop.eval-every": save_every,
        "--loop.save-every": save_every,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    return [sys.executable, "-m", "bertjax.cli", "pretrain", *words]


def final_state(workdir, step):
    """The fingerprints of every array of the last checkpoint, and the exported bytes."""
    meta = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
    return meta["arrays"], (workdir / "export" / "model.safetensors").read_bytes()


def test_a_unigram_start_begins_at_the_unigram_entropy(recipe, data):
    result = {
        kind: runs.pretrain(
            recipe(
                workdir=f"{data}/start-{kind}",
                initialization=InitializationConfig(mlm_bias=kind, positions="sinusoidal"),
                loop=LoopConfig(train_steps=1, eval_every=1, save_every=1),
                optimizer=OptimizerConfig(learning_rate=1e-12),
            ),
            silent,
        )
        for kind in ("zeros", "unigram")
    }
    entropy = read_manifest(data / "shards").unigram_entropy
    loss = {kind: done.metrics["mlm_loss"] for kind, done in result.items()}
    assert loss["zeros"] == pytest.approx(np.log(200), abs=0.1)
    assert loss["unigram"] == pytest.approx(entropy, abs=0.3)
    assert loss["unigram"] < loss["zeros"] - 0.4
    positions = bj.from_pretrained(result["unigram"].export).params["embeddings"][
        "position_embeddings"
    ]["embedding"]
    np.testing.assert_allclose(
        positions, initializers.sinusoidal_positions(32, 32, 0.008), atol=1e-6
    )


def test_it_learns_exports_and_says_so(recipe, tmp_path):
    lines, seen = [], []
    loop = LoopConfig(train_steps=60, log_every=20, eval_every=30, save_every=60)
    result = runs.pretrain(
        recipe(loop=loop, telemetry=TelemetryConfig(tensorboard=True, profile_steps=(2, 2))),
        lines.append,
        hooks=Hooks(
            on_init=lambda state: seen.append(0),
            on_eval=lambda step, metrics, state: seen.append(step),
        ),
    )
    first, last = (record for record in result.history if record["kind"] == "eval")
    assert seen == [0, 30, 60]
    assert last["mlm_loss"] < first["mlm_loss"]
    assert last["mlm_loss"] < np.log(200)  # better than knowing nothing
    assert result.metrics["nsp_accuracy"] == last["nsp_accuracy"]
    assert lines[-1].startswith("Trained 60 steps: held-out masked-LM loss ")
    assert str(result.export) in lines[-1]
    workdir = tmp_path / "run"
    assert {
        *("config.json", "tokenizer", "checkpoints", "metrics.jsonl", "export", "result.json"),
        *("tensorboard", "profile", "verified.json"),
    } == {path.name for path in workdir.iterdir()}
    assert {"mlm_accuracy_rank_1_100", "mlm_accuracy_rank_101_up"} < set(last)
    assert set(result.metrics) == {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    train = next(record for record in result.history if record["kind"] == "train")
    # The products of a row, by hand: D 32, T 32, F 32, V 200, 5 predictions, forward and backward.
    # The one layer has keys and values of 32 tokens, and the rest of [CLS] and the predictions.
    layer = 2 * 32 * 2 * 32 * 32 + 6 * (2 * (2 * 32 * 32 + 2 * 32 * 32) + 4 * 32 * 32)
    row = 3 * (layer + 2 * 5 * (32 * 32 + 32 * 200) + 2 * 32 * (32 + 2))
    per_token = train["model_flops_per_second"] / train["tokens_per_second"]
    assert per_token == pytest.approx(row / 32)
    assert "mfu" not in train  # a CPU has no peak in the table
    assert lines[-3].startswith("Trained at ") and lines[-3].endswith("over 59 steps on 1 cpu.")
    assert re.match(r"Goodput \d+\.\d% of \d+s: ", lines[-2])
    model = bj.from_pretrained(str(workdir))
    assert model.config == result.model
    assert len(bj.fill_mask(model, ["bal [MASK]"], top_k=3)) == 1


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory, killing):
    """A run without any interruption."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    killing.run_killed(command(data, workdir), workdir, kills=0, save_every=4, seed=0)
    return workdir


def test_killed_and_resumed_it_is_the_same_run(data, straight, tmp_path, killing):
    workdir = tmp_path / "run"
    outputs, _ = killing.run_killed(
        command(data, workdir), workdir / "checkpoints", kills=3, save_every=10, seed=1
    )
    assert any("Resumed at step" in output for output in outputs)
    assert final_state(workdir, STEPS) == final_state(straight, STEPS)
    one, two = (killing.records_in_hex(run / "metrics.jsonl") for run in (workdir, straight))
    assert one == two


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_change_nothing(data, tmp_path, killing):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    long = {"steps": 240, "save_every": 10}
    killing.run_killed(command(data, whole, **long), whole, kills=0, save_every=10, seed=0)
    _, in_saves = killing.run_killed(
        command(data, killed, **long), killed / "checkpoints", kills=20, save_every=10, seed=2
    )
    assert in_saves >= 1
    assert final_state(killed, 240) == final_state(whole, 240)
    one, two = (killing.records_in_hex(run / "metrics.jsonl") for run in (killed, whole))
    assert one == two


def test_sigterm_saves_and_exits_75(data, straight, tmp_path, killing):
    workdir = tmp_path / "run"
    with killing.start(command(data, workdir)) as process:
        for line in process.stdout:
            if line.startswith("step  2/"):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 75
    assert not (workdir / "export").exists()
    killing.run_killed(command(data, workdir), workdir, kills=0, save_every=4, seed=0)
    assert final_state(workdir, STEPS) == final_state(straight, STEPS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": ModelConfig("tiny", max_position_embeddings=32)}, "model.hidden_size"),
        ({"seed": 7}, "seed"),
        ({"batch_size": 16}, "batch_size"),
        ({"optimizer": OptimizerConfig("adamw")}, "optimizer"),
    ],
)
def test_another_run_is_refused_by_name(recipe, straight, changes, named):
    fields = {"workdir": str(straight), **changes}
    before = (straight / "config.json").read_bytes()
    with pytest.raises(bj.UserError, match=named) as caught:
        runs.pretrain(recipe(**fields), silent)
    assert "`fresh`" in str(caught.value)
    assert (straight / "config.json").read_bytes() == before


def test_a_changed_setting_is_told_before_anything_is_read(recipe, straight, monkeypatch):
    monkeypatch.setattr("bertjax.pretrain.run.load", None)
    config = recipe(workdir=str(straight), batch_size=16, seed=1)
    said = r"another batch_size \(8 there, 16 here\) and another seed \(0 there, 1 here\): set"
    with pytest.raises(bj.UserError, match=said):
        runs.pretrain(config, silent)


def test_another_objective_and_other_data_are_refused(recipe, data, tmp_path):
    short = LoopConfig(train_steps=2, eval_every=0)
    runs.pretrain(recipe(loop=short), silent)
    other = MaskingConfig(rate=0.2)
    with pytest.raises(bj.UserError, match="objective"):
        runs.pretrain(recipe(loop=short, masking=other), silent)
    again = PrepareConfig(
        (str(data / "text.txt"),),
        str(data / "tokenizer"),
        str(tmp_path / "other"),
        max_seq_length=32,
        held_out=0.1,
        seed=5,
    )
    prepare(again, silent)
    with pytest.raises(bj.UserError, match="data"):
        runs.pretrain(recipe(loop=short, data=str(tmp_path / "other")), silent)


def test_what_may_change_is_said(recipe):
    runs.pretrain(recipe(loop=LoopConfig(train_steps=2, eval_every=0)), silent)
    lines = []
    longer = LoopConfig(train_steps=3, eval_every=0, save_every=7)
    runs.pretrain(recipe(loop=longer, accumulation=2), lines.append)
    resumed = next(line for line in lines if line.startswith("Resumed at step 2 of 3"))
    assert "accumulation 1 -> 2" in resumed
    assert "train_steps 2 -> 3 (the learning rate follows the new schedule" in resumed


MESHES = """
import json, sys
from bertjax.pretrain import run as pretrain
from bertjax.pretrain.config import LoopConfig, MeshConfig, ModelConfig, PretrainConfig

fields = json.loads(sys.argv[1])
fields["model"] = ModelConfig(**fields["model"])
for steps, mesh in ((1, MeshConfig(data=4)), (2, MeshConfig(data=2, fsdp=2))):
    loop = LoopConfig(train_steps=steps, eval_every=0)
    pretrain.pretrain(PretrainConfig(**fields, mesh=mesh, loop=loop), print)
"""


@pytest.mark.slow
def test_another_mesh_is_said_in_one_line(recipe, run_python):
    config = recipe()
    fields = {"data": config.data, "workdir": config.workdir, "batch_size": 8}
    fields["model"] = dataclasses.asdict(config.model)
    out = run_python("-c", MESHES, json.dumps(fields), devices=4)
    (line,) = (line for line in out.splitlines() if line.startswith("Resumed"))
    assert line.startswith("Resumed at step 1 of 2; changed: mesh.data 4 -> 2; mesh.fsdp 1 -> 2; ")
    assert "on 4 cpu devices (data 2 x fsdp 2)" in out
    assert out.splitlines()[-1].startswith("Trained 2 steps")


@contextlib.contextmanager
def largest_file(size):
    """No file can be longer than this, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(recipe, tmp_path):
    # Weights of a megabyte, which are longer than the vocabulary.
    wide = dataclasses.replace(SHAPE, intermediate_size=4096)
    config = recipe(model=wide, loop=LoopConfig(train_steps=2, log_every=1, eval_every=0))
    export = runs.pretrain(config, silent).export
    weights = (export / "model.safetensors").read_bytes()
    export.rmtree()
    full = r"model\.safetensors: can't be written \(File too large\); make room"
    with largest_file(len(weights) - 1), pytest.raises(CannotWrite, match=full):
        runs.pretrain(config, silent)
    assert not list((tmp_path / "run").glob("*export*"))
    assert runs.pretrain(config, silent).export == export
    assert (export / "model.safetensors").read_bytes() == weights

    config = dataclasses.replace(config, workdir=str(tmp_path / "other"))
    metrics = tmp_path / "other" / "metrics.jsonl"
    metrics.parent.mkdir()
    # A record from before the first step: metrics.jsonl is the first file that grows too long.
    metrics.write_text(json.dumps({"step": 0, "kind": "train", "pad": "x" * 600_000}) + "\n")
    full = rf"{metrics}: can't be written \(File too large\); make room"
    with largest_file(600_050), pytest.raises(CannotWrite, match=full):
        runs.pretrain(config, silent)
    assert runs.pretrain(config, silent).export is not None


def test_another_start_is_refused(recipe):
    runs.pretrain(recipe(loop=LoopConfig(train_steps=1, eval_every=0)), silent)
    with pytest.raises(
        bj.UserError, match=r"initialization.mlm_bias \(zeros there, unigram here\)"
    ):
        runs.pretrain(recipe(initialization=InitializationConfig(mlm_bias="unigram")), silent)


def test_a_unigram_start_without_counts_is_no_start(recipe):
    config = recipe(initialization=InitializationConfig(mlm_bias="unigram"))
    vocabulary = Vocabulary(200, 0, 4, np.arange(200) < 5, np.ones(200, bool))
    with pytest.raises(ValueError, match="counts"):
        build(config, make_mesh(MeshConfig()), vocabulary, 32)


def test_the_directory_of_a_fine_tuning_is_refused(recipe, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"kind": "fine-tuning", "model": "m"}')
    sentence = "holds a fine-tuning run, and this is a pre-training run: name another `workdir`"
    with pytest.raises(bj.UserError, match=sentence):
        runs.pretrain(recipe(), silent)
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_a_run_that_saved_nothing_leaves_nothing_to_the_next(recipe, data, tmp_path):
    run, seen = tmp_path / "run", []
    text = (str(data / "text.txt"),)
    train_tokenizer(TokenizerConfig(text, str(run / "tokenizer"), vocab_size=180), silent)
    (run / "config.json").write_text('{"kind": "pre-training", "batch_size": 99}')

    def look(state):
        config = json.loads((run / "config.json").read_text())
        seen.append(
            (int(state.step), config["batch_size"], load_tokenizer(run / "tokenizer").sha256)
        )

    short = LoopConfig(train_steps=1, eval_every=0)
    runs.pretrain(recipe(loop=short), silent, hooks=Hooks(on_init=look))
    assert seen[0] == (0, 8, read_manifest(data / "shards").tokenizer_sha256)


def test_fresh_starts_beside(recipe, tmp_path):
    short = LoopConfig(train_steps=1, eval_every=0)
    for name in ("run", "run-2", "run-3"):
        result = runs.pretrain(recipe(loop=short, fresh=True), silent)
        assert result.workdir == epath.Path(tmp_path / name)
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


_ONE_OF_TWO = """
import json, sys
import jax
import bertjax.pretrain.run as runs
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig

rank, port = int(sys.argv[1]), sys.argv[2]
address = f"127.0.0.1:{port}"
jax.distributed.initialize(address, 2, rank, coordinator_bind_address=address)

def refuse(*_):
    raise AssertionError("only the first process writes")

if rank == 1:
    load = runs.load_tokenizer
    def load_tokenizer(path):
        tokenizer = load(path)
        type(tokenizer).save = refuse
        return tokenizer
    runs.load_tokenizer, runs.save_pretrained = load_tokenizer, refuse

parts = {"model": ModelConfig, "loop": LoopConfig, "optimizer": OptimizerConfig}
fields = json.loads(sys.argv[3])
fields |= {name: kind(**fields[name]) for name, kind in parts.items()}
config = PretrainConfig(**fields, mesh=MeshConfig(data=1, fsdp=2), fresh=True)
result = runs.pretrain(config, lambda line: print("told:", line, flush=True))
print(json.dumps([str(result.export), result.metrics]))
"""


@pytest.mark.slow
def test_two_processes_tell_and_write_once_what_one_would(recipe, tmp_path, killing):
    config = recipe(loop=LoopConfig(train_steps=2, log_every=1))
    one = runs.pretrain(config, silent)
    names = ("data", "workdir", "model", "batch_size", "eval_examples", "loop", "optimizer")
    fields = json.dumps({name: dataclasses.asdict(config)[name] for name in names})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        killing.start([sys.executable, "-c", _ONE_OF_TWO, str(rank), port, fields])
        for rank in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "told: Trained 2 steps" in outputs[0] and "told:" not in outputs[1]
    export, metrics = json.loads(outputs[0].splitlines()[-1])
    assert json.loads(outputs[1].splitlines()[-1]) == [export, metrics]
    assert export == str(tmp_path / "run-2" / "export")
    # Float32 sums in another order.
    assert metrics == pytest.approx(one.metrics, rel=1e-5)
    kernels = [
        bj.from_pretrained(path).params["encoder"]["layer_0"]["intermediate"]["kernel"]
        for path in (export, one.export)
    ]
    np.testing.assert_allclose(*kernels, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model": ModelConfig("tiny", max_position_embeddings=16)},
            "32 tokens and the model has 16",
        ),
        (
            {
                "model": ModelConfig("tiny", hidden_size=33, num_attention_heads=1),
                "initialization": InitializationConfig(positions="sinusoidal"),
            },
            "hidden_size is 33",
        ),
        ({"mesh": MeshConfig(data=3)}, "does not cover the 1 devices"),
        ({"data": "absent"}, "absent"),
        ({"optimizer": OptimizerConfig(warmup_steps=12)}, "warmup_steps` is 12 and must be less"),
        ({"model": ModelConfig("giant")}, "'giant' is unknown"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(recipe, tmp_path, changes, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        runs.pretrain(recipe(**changes), silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 8, "accumulation": 3}, "`accumulation` 3 does not divide"),
        ({"seed": -1}, "`seed` is -1"),
    ],
)
def test_bad_numbers(recipe, fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        recipe(**fields)


def test_patience_without_held_out_examples_is_refused(recipe, data, tmp_path):
    text, tokenizer = (str(data / "text.txt"),), str(data / "tokenizer")
    shards = str(tmp_path / "shards")
    prepare(PrepareConfig(text, tokenizer, shards, max_seq_length=32, held_out=0), silent)
    patient = dataclasses.replace(LOOP, patience=1)
    with pytest.raises(bj.UserError, match=r"`loop\.patience` needs held-out examples"):
        runs.pretrain(recipe(data=shards, loop=patient), silent)
    assert not (tmp_path / "run").exists()


def test_pairs_need_two_token_types(recipe, tmp_path):
    shape = bj.BertConfig.named("tiny", type_vocab_size=1, max_position_embeddings=32)
    (tmp_path / "shape.json").write_text(json.dumps(shape.to_dict()))
    with pytest.raises(bj.UserError, match=r"type_vocab_size of .*shape\.json is 1, so the model"):
        runs.load(recipe(model=ModelConfig(str(tmp_path / "shape.json"))))


def test_another_tokenizer_than_the_shards_is_refused(recipe, data, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(data / "shards", shards)
    text = (str(data / "text.txt"),)
    shutil.rmtree(shards / "tokenizer")
    train_tokenizer(TokenizerConfig(text, str(shards / "tokenizer"), vocab_size=180), silent)
    with pytest.raises(bj.UserError, match="not the tokenizer that made these shards"):
        runs.pretrain(recipe(data=str(shards)), silent)


def test_a_shard_that_the_manifest_does_not_list_is_never_saved_as_its_data(recipe, data, tmp_path):
    directory = tmp_path / "shards"
    shutil.copytree(data / "shards", directory)
    (name, *_) = (file.name for file in read_manifest(directory).files["train"])
    reader = open_records(directory / name)
    write_records(epath.Path(directory / name), reversed(reader.read(0, reader.num_records())))
    config = recipe(data=str(directory), loop=LoopConfig(train_steps=2, eval_every=0))
    for _ in range(2):
        with pytest.raises(bj.UserError, match=f"{name}: is not the file that the manifest lists"):
            runs.pretrain(config, silent)
        assert not list((tmp_path / "run").glob("checkpoints/*"))
    shutil.rmtree(directory)
    shutil.copytree(data / "shards", directory)
    assert runs.pretrain(config, silent).export is not None


@pytest.mark.parametrize("name", ["vocab_size", "pad_id", "cls_id", "sep_id", "mask_id", "unk_id"])
def test_ids_of_another_tokenizer_in_the_manifest_are_refused(recipe, data, tmp_path, name):
    shards = tmp_path / "shards"
    shutil.copytree(data / "shards", shards)
    manifest = json.loads((shards / "manifest.json").read_text())
    right = manifest[name]
    for wrong in (right + 1, 2**64):
        (shards / "manifest.json").write_text(json.dumps({**manifest, name: wrong}))
        told = rf"manifest\.json: says {name} {wrong} where the tokenizer beside it has {right};"
        with pytest.raises(bj.UserError, match=told):
            runs.load(recipe(data=str(shards)))
