"""A run that has not ended is a model, and its losses on shards are those of its evaluations."""

import contextlib
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.convert.run import ConvertConfig, convert
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.run import prepare
from bertjax.errors import UserError
from bertjax.interop import huggingface
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.held_out import evaluate_shards, is_shards
from bertjax.pretrain.run import pretrain
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

SHAPE = ModelConfig(
    "tiny",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def silent(line):
    pass


def config_of(root, workdir, loop):
    return PretrainConfig(
        str(root / "pairs"),
        str(workdir),
        model=SHAPE,
        batch_size=8,
        eval_examples=1000,
        loop=loop,
        # Unlike others it does not know the number of steps: all runs share a program.
        optimizer=OptimizerConfig(schedule="constant", warmup_steps=0),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards of pairs, shards of single segments, and a run of four steps."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdf" for b in "aeiou" for c in "lmn"]
    documents = ["\n".join(" ".join(rng.choice(words, 5)) for _ in range(8)) for _ in range(80)]
    (root / "text.txt").write_text("\n\n".join(documents))
    text, tokenizer = (str(root / "text.txt"),), str(root / "tokenizer")
    train_tokenizer(TokenizerConfig(text, tokenizer, vocab_size=60), silent)
    options = {"max_seq_length": 32, "held_out": 0.1}
    prepare(PrepareConfig(text, tokenizer, str(root / "pairs"), **options), silent)
    single = PrepareConfig(
        text, tokenizer, str(root / "single"), segments="single", max_seq_length=32, held_out=0
    )
    prepare(single, silent)
    loop = LoopConfig(train_steps=4, save_every=2, eval_every=2, log_every=2)
    result = pretrain(config_of(root, root / "run", loop), silent)
    return root, result


@pytest.fixture
def stopped(made, tmp_path):
    """The run as it is before its end."""
    root, _ = made
    shutil.copytree(root / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "export")
    return tmp_path / "stopped"


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_a_run_that_has_not_ended_is_a_model(made, stopped, tmp_path, capsys):
    root, _ = made
    notes = []
    model = from_pretrained(stopped, log=notes.append)
    assert notes == [f"{stopped}: the run has not ended; the model of step 4 is read."]
    ended = from_pretrained(root / "run")
    assert model.kind == ended.kind and same(model.params, ended.params)
    convert(ConvertConfig(str(stopped), str(tmp_path / "out")), silent)
    assert same(from_pretrained(tmp_path / "out").params, model.params)
    (tmp_path / "lines.txt").write_text("bal [MASK]\n")
    for verb in ("predict", "embed"):
        assert cli.run([verb, str(stopped), str(tmp_path / "lines.txt")]) == 0
    assert "mask" in capsys.readouterr().out


def test_a_finished_run_that_goes_on_is_read_where_it_is(made, tmp_path):
    root, _ = made
    run = shutil.copytree(root / "run", tmp_path / "run")
    ended = from_pretrained(run, log=pytest.fail)

    def log(line):
        if line.startswith("step  6/12"):
            os.kill(os.getpid(), signal.SIGTERM)

    more = LoopConfig(train_steps=12, save_every=2, eval_every=12, log_every=2)
    assert pretrain(config_of(root, run, more), log).stopped
    notes = []
    model = from_pretrained(run, log=notes.append)
    newest = max(int(step.name) for step in (run / "checkpoints").iterdir())
    said = f"the model of step {newest}, which is newer than export/, is read."
    assert newest >= 6 and notes == [f"{run}: the run has not ended; {said}"]
    assert not same(model.params, ended.params)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_read(stopped):
    for file in (stopped / "checkpoints" / "4").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    notes = []
    from_pretrained(stopped, log=notes.append)
    assert "step 4" in notes[0] and "is damaged" in notes[0]
    assert notes[1].endswith("the model of step 2 is read.")
    shutil.rmtree(stopped / "checkpoints" / "2")
    with pytest.raises(UserError, match="is damaged"):
        from_pretrained(stopped)


def test_losses_on_shards_are_those_of_the_runs_own_evaluation(made, capsys):
    root, result = made
    model = from_pretrained(root / "run")
    found = evaluate_shards(model, root / "pairs", batch_size=8)
    assert (found["split"], found["objective"]) == ("held_out", "nsp")
    for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
        assert found[name] == pytest.approx(result.metrics[name], rel=1e-5)
    manifest = json.loads((root / "pairs" / "manifest.json").read_text())
    assert found["unigram_entropy"] == manifest["unigram_entropy"]
    assert evaluate_shards(model, root / "pairs", max_examples=5)["examples"] == 5
    assert cli.run(["evaluate", str(root / "run"), str(root / "pairs"), "--batch-size", "8"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert told["mlm_loss"] == pytest.approx(found["mlm_loss"])


def test_hosts_join_before_a_checkpoint_is_read(made, stopped, monkeypatch):
    """JAX can't join hosts once it has found devices, which restoring needs."""
    order, open_pretrained = [], huggingface.open_pretrained

    @contextlib.contextmanager
    def joined(*_, **__):
        order.append("joined")
        yield

    def opened(path):
        order.append("read")
        return open_pretrained(path)

    monkeypatch.setattr("bertjax.train.hosts.joined", joined)
    monkeypatch.setattr(huggingface, "open_pretrained", opened)
    assert cli.run(["evaluate", str(stopped), str(made[0] / "pairs")]) == 0
    assert order == ["joined", "read"]


def test_shards_of_other_segments_give_the_loss_of_masked_words(made):
    root, _ = made
    found = evaluate_shards(from_pretrained(root / "run"), root / "single")
    assert (found["split"], found["objective"]) == ("train", "mlm")
    assert found["mlm_loss"] > 0 and "nsp_loss" not in found


def test_what_has_no_loss_on_shards(made, tmp_path, tiny_model):
    root, _ = made
    with pytest.raises(UserError, match="made with another tokenizer than the model's"):
        evaluate_shards(tiny_model, root / "pairs")
    shutil.copytree(root / "pairs", tmp_path / "more")
    manifest = json.loads((tmp_path / "more" / "manifest.json").read_text())
    more = {**manifest, "vocab_size": manifest["vocab_size"] + 9}  # lets ids beyond the model in
    (tmp_path / "more" / "manifest.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match=r"manifest\.json: says vocab_size \d+ where the tokenizer"):
        evaluate_shards(from_pretrained(root / "run"), tmp_path / "more")
    model = from_pretrained(root / "run")
    model.task = {"kind": "encoder"}
    encoder = from_pretrained(save_pretrained(tmp_path / "encoder", model))
    with pytest.raises(UserError, match="has no masked-LM head"):
        evaluate_shards(encoder, root / "pairs")
    assert is_shards(root / "pairs") and not is_shards(root)
