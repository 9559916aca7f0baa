"""Tests conversions into Hugging Face's layout, and into runs that continue the source."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

import bertjax as bj
from bertjax.convert import reference, verify
from bertjax.convert.run import CERTIFICATE, ConvertConfig, convert
from bertjax.convert.to_run import MODEL
from bertjax.data.mixture import TrainStream
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError
from bertjax.model.bert import init_params
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import InitializationConfig, ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.sharding import MeshConfig, make_mesh
from bertjax.train.step import init_state
from bertjax.train.tree import named, nested

STEP = 20


def silent(line):
    del line


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/bundle_writer.py")


@pytest.fixture(scope="module")
def tokens(tiny_tokenizer):
    return [tiny_tokenizer.token(number) for number in range(tiny_tokenizer.vocab_size)]


@pytest.fixture(scope="module")
def trees(tiny_config):
    """Weights and moments, none of them zero and the second moments positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(tiny_config, jax.random.key(0)))

    def draw(deviation):
        return jax.tree.map(
            lambda leaf: rng.normal(0, deviation, leaf.shape).astype(np.float32), shapes
        )

    return draw(0.2), draw(1e-2), jax.tree.map(np.square, draw(1e-2))


@pytest.fixture
def checkpoint(tmp_path, writer, tiny_config, tokens, trees):
    """A TF1 checkpoint at step 20 with Adam's moments."""
    params, mu, nu = trees
    return writer.write_google(
        tmp_path / "tf1", params, tiny_config, tokens, mu=mu, nu=nu, step=STEP
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tokens):
    """Two data sets with the tiny vocabulary and different seeds."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    words = [token for token in tokens if token.isalpha()]
    documents = ["\n".join(" ".join(rng.choice(words, 5)) for _ in range(6)) for _ in range(40)]
    (root / "text.txt").write_text("\n\n".join(documents))
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    for seed in (0, 5):
        prepare(
            PrepareConfig(
                (str(root / "text.txt"),),
                str(root / "tokenizer"),
                str(root / f"shards-{seed}"),
                max_seq_length=16,
                held_out=0.1,
                seed=seed,
            ),
            silent,
        )
    return root


@pytest.fixture
def recipe(shards, tmp_path):
    def make(steps, **changes):
        run = tmp_path / "run"
        fields = {
            "data": str(shards / "shards-0"),
            "workdir": str(run),
            "model": ModelConfig(str(run / MODEL)),
            "batch_size": 4,
            "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
            "loop": LoopConfig(train_steps=steps, log_every=1, eval_every=0, save_every=2),
        }
        return PretrainConfig(**{**fields, **changes})

    return make


@pytest.fixture
def run(checkpoint, tmp_path):
    convert(ConvertConfig(str(checkpoint), str(tmp_path / "run"), to="run"), silent)
    return tmp_path / "run"


def saved_state(run, step=None):
    """Returns the arrays of a run's checkpoint by name, and its meta."""
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = step or checkpoints.steps()[-1]
        meta = json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())
        target = {
            name: jax.ShapeDtypeStruct(shape, dtype)
            for name, (dtype, shape, _) in meta["arrays"].items()
        }
        return named(checkpoints.restore(nested(target), step=step).state), meta


def same(a, b):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for name in a:
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


def refusal(config, log=silent):
    with pytest.raises(UserError) as caught:
        convert(config, log)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# To Hugging Face's layout


def test_tf1_to_hugging_face(checkpoint, tmp_path, trees, tiny_config, tiny_tokenizer):
    lines = []
    result = convert(ConvertConfig(str(checkpoint), str(tmp_path / "hf")), lines.append)
    model = bj.from_pretrained(tmp_path / "hf")
    same(model.params, trees[0])
    assert model.config == result.model == tiny_config
    assert model.tokenizer.sha256 == tiny_tokenizer.sha256
    assert model.kind == "pretraining"
    assert (result.step, result.moments) == (0, False)
    text = "\n".join(lines)
    assert "1 layers of 16 and 2 heads, vocabulary 27" in text
    assert "step 20, Adam moments" in lines[0]
    assert "for them, set `hidden_act` gelu_new" in text
    assert "Hugging Face's layout has no place for Adam's moments: they are left out" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "tf1"]


def test_the_activation_may_be_said(checkpoint, tmp_path):
    lines = []
    config = ConvertConfig(str(checkpoint), str(tmp_path / "hf"), hidden_act="gelu_new")
    convert(config, lines.append)
    assert bj.from_pretrained(tmp_path / "hf").config.hidden_act == "gelu_new"
    assert not any("gelu" in line for line in lines)


def test_a_classifier_comes_over(writer, tmp_path, trees, tiny_config, tokens):
    params = {part: trees[0][part] for part in ("embeddings", "encoder", "pooler")}
    kernel = np.arange(48, dtype=np.float32).reshape(16, 3)
    params["classifier"] = {"kernel": kernel, "bias": np.float32([1, 2, 3])}
    writer.write_google(tmp_path / "tf1", params, tiny_config, tokens, step=9)
    convert(ConvertConfig(str(tmp_path / "tf1"), str(tmp_path / "hf")), silent)
    model = bj.from_pretrained(tmp_path / "hf")
    same(model.params, params)
    assert model.task["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_hugging_face_to_hugging_face(tiny_model, tmp_path):
    bj.save_pretrained(tmp_path / "a", tiny_model)
    convert(ConvertConfig(str(tmp_path / "a"), str(tmp_path / "b")), silent)
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# To a run


def test_a_run_holds_weights_moments_and_step(run, trees, tiny_config, tiny_tokenizer):
    state, meta = saved_state(run)
    for part, tree in zip(("params", "opt_state/1/0/mu", "opt_state/1/0/nu"), trees, strict=True):
        for name, array in named(tree).items():
            assert np.asarray(state.pop(f"{part}/{name}")).tobytes() == array.tobytes()
    assert {name: int(value) for name, value in state.items()} == {
        "step": STEP,
        "updates": STEP,
        "bad_steps": 0,
        "opt_state/1/0/count": STEP,
        "opt_state/3/count": STEP,
    }
    assert meta["immutable"] == {
        "heads": ["mlm", "nsp", "pooler"],
        "model": tiny_config.to_dict(),
        "tokenizer": tiny_tokenizer.sha256,
        "optimizer": "adamw_google",
    }
    assert bj.BertConfig.from_json(run / MODEL) == tiny_config
    assert load_tokenizer(run / "tokenizer").sha256 == tiny_tokenizer.sha256


def test_a_converted_run_goes_on_as_stepping_by_hand(run, recipe, trees, tiny_tokenizer):
    """Steps by hand from the loaded weights and moments give the same bits."""
    config = recipe(STEP + 3)
    lines = []
    result = runs.pretrain(config, lines.append)
    (resumed,) = (line for line in lines if line.startswith("Resumed"))
    assert resumed == (
        "Resumed at step 20 of 23; taken from this command and held from now on: data, order of "
        "the data, seed, initialization, objective, masking, evaluation_masking, batch_size."
    )
    program = build(config, make_mesh(MeshConfig()), Vocabulary.of(tiny_tokenizer), 16)
    state = program.init()
    params, mu, nu = (jax.tree.map(jnp.asarray, tree) for tree in trees)
    moments = optax.tree.set(state.opt_state, mu=mu, nu=nu, count=np.int32(STEP))
    state = state.replace(
        params=params,
        opt_state=moments,
        step=jnp.asarray(STEP, jnp.int32),
        updates=jnp.asarray(STEP, jnp.int32),
    )
    stream = TrainStream.of(ShardReader(config.data, "train"), seed=0, batch_size=4)
    rates = []
    for step in range(STEP, STEP + 3):
        batch = {name: jnp.asarray(x) for name, x in stream.rows(step, np.arange(4)).items()}
        state, metrics = program.step(state, batch)
        rates.append(float(metrics["learning_rate"]))
    # Google's schedule: linear from the peak at step 0 to 0 at step 23.
    assert rates == pytest.approx([1e-2 * (1 - step / 23) for step in (20, 21, 22)], rel=1e-5)
    records = [record for record in result.history if record["kind"] == "train"]
    assert [record["learning_rate"] for record in records] == rates
    same(bj.from_pretrained(result.export).params, state.params)
    done, _ = saved_state(run)
    same(done, named(state))
    assert not np.array_equal(
        state.params["pooler"]["kernel"], trees[0]["pooler"]["kernel"]
    )  # it moved


@pytest.fixture
def continued(run, recipe):
    runs.pretrain(recipe(STEP + 2), silent)
    return run


def test_what_the_first_command_brought_holds_from_then_on(continued, shards, recipe):
    for changes, name in (
        ({"data": str(shards / "shards-5")}, "data"),
        ({"seed": 7}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"masking": MaskingConfig(rate=0.2)}, "masking.rate"),
        (
            {"initialization": InitializationConfig(positions="sinusoidal")},
            "initialization.positions",
        ),
    ):
        with pytest.raises(UserError, match=rf"another {name} \("):
            runs.pretrain(recipe(STEP + 4, **changes), silent)
    lines = []
    done = runs.pretrain(recipe(STEP + 3), lines.append)
    assert done.export is not None
    assert any(line.startswith("Resumed at step 22 of 23; changed: train_st") for line in lines)


def test_another_model_or_tokenizer_or_optimizer_is_refused_at_once(run, recipe):
    with pytest.raises(UserError, match=r"another model.hidden_size \(16 there, 128 here\)"):
        runs.pretrain(recipe(STEP + 2, model=ModelConfig("tiny")), silent)
    with pytest.raises(UserError, match=r"another optimizer \(adamw_google there, adamw here\)"):
        runs.pretrain(recipe(STEP + 2, optimizer=OptimizerConfig("adamw")), silent)
    assert json.loads((run / "config.json").read_text())["to"] == "run"


def test_a_model_without_moments_or_heads_begins_anew(tiny_model, tmp_path, recipe):
    params = {part: tiny_model.params[part] for part in ("embeddings", "encoder", "pooler")}
    params["classifier"] = {"kernel": np.ones((16, 2), np.float32), "bias": np.zeros(2, "f")}
    model = dataclasses.replace(tiny_model, params=params, task=None)
    bj.save_pretrained(tmp_path / "hf", model)
    lines = []
    config = ConvertConfig(str(tmp_path / "hf"), str(tmp_path / "run"), "run", optimizer="adamw")
    result = convert(config, lines.append)
    assert (result.step, result.moments) == (0, False)
    assert "Not trained by pre-training, and left out: classifier." in lines
    assert "Not in the source, and drawn with seed 0: mlm, nsp." in lines
    state, _ = saved_state(tmp_path / "run", step=0)
    fresh = init_params(tiny_model.config, jax.random.key(0, impl="threefry2x32"))
    wanted = {**params, "mlm": fresh["mlm"], "nsp": fresh["nsp"]}
    del wanted["classifier"]
    assert {name for name in state if name.startswith("params/")} == {
        f"params/{name}" for name in named(wanted)
    }
    for name, array in named(wanted).items():
        # Several programs draw some last bits differently than one.
        rtol = 1e-6 if name.startswith(("mlm", "nsp")) else 0
        np.testing.assert_allclose(state[f"params/{name}"], array, rtol=rtol)
    assert not any(np.any(x) for name, x in state.items() if name.startswith("opt_state"))
    done = runs.pretrain(recipe(1, optimizer=OptimizerConfig("adamw")), silent)
    assert done.export is not None


def test_a_release_with_a_step_and_no_moments_starts_at_0(
    writer, tmp_path, trees, tiny_config, tokens
):
    writer.write_google(tmp_path / "tf1", trees[0], tiny_config, tokens, step=1_000_000)
    lines = []
    config = ConvertConfig(str(tmp_path / "tf1"), str(tmp_path / "run"), to="run")
    assert convert(config, lines.append).step == 0
    assert "Without its moments, Adam starts anew, and the steps from 0 (not 1,000,000)." in (lines)


# From a run


def test_a_run_becomes_another_run_with_its_moments(continued, tmp_path, recipe, shards):
    """The new run may have other data; it has the same weights, moments and step."""
    result = convert(ConvertConfig(str(continued), str(tmp_path / "two"), to="run"), silent)
    assert (result.step, result.moments) == (STEP + 2, True)
    old, _ = saved_state(continued)
    new, _ = saved_state(tmp_path / "two")
    same(new, old)
    other = recipe(STEP + 3, workdir=str(tmp_path / "two"), data=str(shards / "shards-5"))
    assert runs.pretrain(other, silent).export is not None


def test_a_run_to_hugging_face(run, continued, tmp_path):
    convert(ConvertConfig(str(continued), str(tmp_path / "hf")), silent)
    exported = bj.from_pretrained(continued)
    same(bj.from_pretrained(tmp_path / "hf").params, exported.params)
    epath.Path(continued / "export").rmtree()
    convert(ConvertConfig(str(continued), str(tmp_path / "unfinished")), silent)
    same(bj.from_pretrained(tmp_path / "unfinished").params, exported.params)


def test_a_run_to_tf1_and_back_with_its_moments(run, tmp_path, tiny_tokenizer):
    notes = []
    result = convert(ConvertConfig(str(run), str(tmp_path / "back"), to="tf1"), notes.append)
    assert (result.step, result.moments) == (STEP, True)
    assert f"a TF1 checkpoint at step {STEP}, with Adam moments." in notes[-1]
    names = {file.name for file in (tmp_path / "back").iterdir()}
    assert names >= {"bert_model.ckpt.index", "bert_config.json", "vocab.txt", "checkpoint"}
    convert(ConvertConfig(str(tmp_path / "back"), str(tmp_path / "again"), to="run"), silent)
    same(saved_state(tmp_path / "again")[0], saved_state(run)[0])


def test_a_run_with_another_vocabulary_than_its_checkpoint_is_refused(run, tmp_path, tokens):
    path = run / "tokenizer" / "vocab.txt"
    path.write_text("\n".join([*tokens[:-2], tokens[-1], tokens[-2]]) + "\n")
    said = refusal(ConvertConfig(str(run), str(tmp_path / "hf")))
    assert f"{run}/tokenizer: not the vocabulary that the run was trained with" in said
    assert not (tmp_path / "hf").exists()


# Failures leave nothing behind


@pytest.mark.parametrize("to", ["huggingface", "run"])
def test_a_place_that_holds_something_is_never_overwritten(checkpoint, tmp_path, to):
    dest = tmp_path / "dest"
    dest.mkdir()
    convert(ConvertConfig(str(checkpoint), str(dest), to=to), silent)  # empty: taken
    before = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    assert before
    for kind in ("huggingface", "run"):
        said = refusal(ConvertConfig(str(checkpoint), str(dest), to=kind))
        assert "is not empty" in said
    assert "is not empty" in refusal(ConvertConfig(str(checkpoint), str(checkpoint)))
    assert {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("to", ["huggingface", "run"])
def test_a_failure_leaves_nothing(checkpoint, tmp_path, to):
    data = checkpoint / "bert_model.ckpt.data-00000-of-00001"
    damaged = bytearray(data.read_bytes())
    damaged[10] ^= 4
    data.write_bytes(damaged)
    said = refusal(ConvertConfig(str(checkpoint), str(tmp_path / "dest"), to=to))
    assert "does not have the CRC32C it was saved with" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tf1"]


def test_a_failure_while_writing_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(self, *arguments, **named):
        raise UserError("no space")

    monkeypatch.setattr(Checkpoints, "save", full)
    config = ConvertConfig(str(checkpoint), str(tmp_path / "dest"), to="run")
    assert refusal(config) == "no space"
    assert [path.name for path in tmp_path.iterdir()] == ["tf1"]


def test_a_source_that_is_none(tmp_path):
    assert "no such directory" in refusal(
        ConvertConfig(str(tmp_path / "none"), str(tmp_path / "dest"))
    )


@pytest.mark.parametrize("to", ["huggingface", "run"])
def test_remote_places(remote, checkpoint, trees, load_helper, monkeypatch, to):
    storage = load_helper("pretrain/test_remote.py").NumpyStorage
    monkeypatch.setattr("bertjax.train.checkpoint.manager.Storage", storage)
    there, folder = remote
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    convert(ConvertConfig(str(there), str(there / "made" / "dest"), to=to), silent)
    assert [path.name for path in (folder / "made").iterdir()] == ["dest"]
    if to == "huggingface":
        same(bj.from_pretrained(folder / "made" / "dest").params, trees[0])
    else:
        assert (folder / "made" / "dest" / "checkpoints" / "20" / "arrays.npz").is_file()


# Other vocabularies, and certificates ---------------------------------------------------------


def read_state(directory):
    with Checkpoints(directory / "checkpoints", read_only=True, log=silent) as checkpoints:
        params, _ = checkpoints.restore_params()
    return params


def test_words_added_to_a_run_take_their_moments_along(checkpoint, tmp_path, trees):
    (tmp_path / "words.txt").write_text("zebra\n\n  quagga \n")
    lines = []
    fields = {"to": "run", "add_words": str(tmp_path / "words.txt")}
    result = convert(ConvertConfig(str(checkpoint), str(tmp_path / "run"), **fields), lines.append)
    assert "2 words added" in "\n".join(lines) and result.moments
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    params, mu, _ = trees
    size = tokenizer.vocab_size
    assert [tokenizer.encode(word).ids[1] for word in ("zebra", "quagga")] == [size - 2, size - 1]
    assert result.model.vocab_size == size
    words = read_state(tmp_path / "run")["embeddings"]["word_embeddings"]["embedding"]
    old = params["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(words[: len(old)], old)
    assert words.shape[0] == size and np.isfinite(words).all()
    optimizer = make_optimizer(OptimizerConfig("adamw_google"), optax.constant_schedule(1e-4))
    with Checkpoints(tmp_path / "run/checkpoints", read_only=True, log=silent) as checkpoints:
        target = jax.eval_shape(
            lambda: init_state(init_params(result.model, jax.random.key(0)), optimizer)
        )
        moments = optax.tree.get(checkpoints.restore(target).state.opt_state, "mu")
    rows = moments["embeddings"]["word_embeddings"]["embedding"]
    old = mu["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(rows, np.concatenate([old, np.zeros_like(old[:2])]))


def test_another_vocabulary_replaces_the_models(checkpoint, tmp_path, tokens):
    (tmp_path / "vocab.txt").write_text("\n".join([*reversed(tokens), "zebra"]) + "\n")
    lines = []
    fields = {"vocabulary": str(tmp_path / "vocab.txt")}
    convert(ConvertConfig(str(checkpoint), str(tmp_path / "out"), **fields), lines.append)
    old, new = bj.from_pretrained(checkpoint), bj.from_pretrained(tmp_path / "out")
    texts = [tokens[-1], tokens[-2]]
    for text in texts:
        (before, after) = (model.tokenizer.encode(text).ids[1] for model in (old, new))
        assert before != after
        np.testing.assert_array_equal(
            old.params["embeddings"]["word_embeddings"]["embedding"][before],
            new.params["embeddings"]["word_embeddings"]["embedding"][after],
        )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"add_words": "absent.txt"}, "absent.txt: no such file"),
        ({"add_words": "latin.txt"}, "latin.txt: not UTF-8"),
        ({"add_words": "empty.txt"}, "empty.txt: holds no words"),
        ({"add_words": "two.txt"}, "two words"),
    ],
)
def test_words_that_can_not_be_added(checkpoint, tmp_path, monkeypatch, fields, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "two.txt").write_text("two words\n")
    with pytest.raises(UserError, match=sentence):
        convert(ConvertConfig(str(checkpoint), str(tmp_path / "out"), **fields), silent)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_is_changed_or_replaced():
    with pytest.raises(UserError, match="give one of the two"):
        ConvertConfig("a", "b", add_words="words.txt", vocabulary="vocab.txt")


def write_statistics(directory, model):
    """Writes statistics that stand for those of another implementation."""
    probe = reference.make_probe(model)
    outputs = verify.model_outputs(model, probe)
    theirs = reference.Reference(
        generator="another implementation",
        versions={"other": "1.0"},
        architecture="BertForPreTraining",
        probe=probe,
        outputs={name: reference.Statistics.of(output) for name, output in outputs.items()},
    )
    reference.write_golden(epath.Path(directory) / reference.GOLDEN, theirs)


def test_a_verified_conversion_keeps_its_certificate(checkpoint, tmp_path):
    config = ConvertConfig(str(checkpoint), str(tmp_path / "out"), verify=True)
    with pytest.raises(UserError, match="there is nothing to compare the model with"):
        convert(config, silent)
    write_statistics(checkpoint, bj.from_pretrained(checkpoint))
    lines = []
    convert(config, lines.append)
    assert any(line.startswith("Agrees with BertForPreTraining of other 1.0") for line in lines)
    found = json.loads((tmp_path / "out" / CERTIFICATE).read_text())
    assert found["agrees"] and set(found["differences"]) >= {"last_hidden_state", "mlm_logits"}
    # The statistics beside the converted model serve to verify it again.
    again = ConvertConfig(str(tmp_path / "out"), str(tmp_path / "again"), verify=True)
    convert(again, silent)
    assert json.loads((tmp_path / "again" / CERTIFICATE).read_text())["agrees"]


def test_nothing_is_written_of_a_model_that_differs(checkpoint, tmp_path):
    write_statistics(checkpoint, bj.from_pretrained(checkpoint))
    fields = {"verify": True, "hidden_act": "relu"}
    with pytest.raises(UserError, match=r"not converted\. Differs from BertForPreTraining"):
        convert(ConvertConfig(str(checkpoint), str(tmp_path / "out"), **fields), silent)
    assert not (tmp_path / "out").exists()
