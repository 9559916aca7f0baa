"""Sequence to sequence from end to end: tiny models learn to reverse the order of words.

All runs have one shape of model, rows and search, so that few programs are compiled.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.inference import predict
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import loop
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.tree import named

pytest.importorskip("sacrebleu", reason="BLEU needs sacrebleu: pip install 'bertjax[seq2seq]'")

WORDS = ["one", "two", "three", "red", "blue", "green"]
OPTIONS = Seq2SeqConfig(
    scoring="bleu",
    max_target_length=8,
    generation=GenerationConfig(max_length=8, num_beams=2),
)


def quiet(line):
    del line


def make_pairs(count):
    generator = random.Random(0)
    for _ in range(count):
        words = generator.choices(WORDS, k=generator.randint(2, 4))
        yield " ".join(words), " ".join(words[::-1])


PAIRS = list(make_pairs(48))


def write_pairs(path, pairs):
    rows = ({"source": source, "target": target} for source, target in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_model(directory, words, **shape):
    """Writes a pre-training model with random weights, drawn wide."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    tokenizer = load_tokenizer(directory)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=20,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = dataclasses.replace(config, **shape)
    wide = dataclasses.replace(config, initializer_range=0.3)
    params = jax.jit(lambda key: init_params(wide, key))(jax.random.key(1))
    save_pretrained(directory, Pretrained(config, params, tokenizer, {"kind": "pretraining"}))
    return str(directory)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """One epoch of three steps."""
    directory = tmp_path_factory.mktemp("seq2seq")
    return FinetuneConfig(
        model=write_model(directory / "model", WORDS),
        train=write_pairs(directory / "train.jsonl", PAIRS),
        dev=write_pairs(directory / "dev.jsonl", PAIRS[:20]),
        workdir=str(directory / "run"),
        task=OPTIONS,
        epochs=1,
        batch_size=16,
        max_seq_length=16,
        optimizer=OptimizerConfig("adamw", learning_rate=6e-3),
    )


@pytest.fixture(scope="module", params=["encoder_decoder", "prefix"])
def architecture(request):
    return request.param


# What depends on the loop and the loss rather than on the architecture.
one_architecture = pytest.mark.parametrize(
    "architecture",
    ["encoder_decoder", pytest.param("prefix", marks=pytest.mark.slow)],
    indirect=True,
)


def with_task(config, workdir, **options):
    task = dataclasses.replace(config.task, **options)
    return dataclasses.replace(config, task=task, workdir=str(workdir))


@pytest.fixture(scope="module")
def learned(short, architecture, tmp_path_factory):
    """(configuration, result, lines) of a run that learns its training rows."""
    directory = tmp_path_factory.mktemp("learned")
    config = with_task(short, directory / "run", architecture=architecture, eval_rows=5)
    config = dataclasses.replace(config, epochs=90, eval_every=135)
    lines = []
    return config, finetune(config, lines.append, progress=False), lines


@pytest.fixture(scope="module")
def straight(short, architecture, tmp_path_factory):
    """The result of one epoch without an interruption."""
    directory = tmp_path_factory.mktemp("straight")
    config = with_task(short, directory / "run", architecture=architecture)
    return config, finetune(config, quiet, progress=False)


def read_evaluations(result):
    file = pathlib.Path(result.seeds[0].workdir) / "metrics.jsonl"
    records = map(json.loads, file.read_text().splitlines())
    return [record for record in records if record["kind"] == "eval"]


def weights(export):
    return (pathlib.Path(export) / "model.safetensors").read_bytes()


def test_learns_to_write(learned):
    config, result, lines = learned
    (seed,) = result.seeds
    assert result.metric == "bleu" and seed.metrics["bleu"] == pytest.approx(100)
    assert seed.metrics["chrf"] == pytest.approx(100) and seed.metrics["nll_loss"] < 0.05
    # A text has its words and the end token.
    words = np.mean([len(source.split()) for source, _ in PAIRS[:20]])
    assert seed.metrics["length"] == pytest.approx(words + 1)
    assert result.baseline.name == "copy" and result.baseline.scores[result.metric] < 50
    signature = "source to target, nrefs:1|case:lc|eff:no|tok:13a"
    assert result.notes["bleu"].startswith(signature)
    assert any(line.startswith(f"bleu: {signature}") for line in lines)
    saved = json.loads((pathlib.Path(config.workdir) / "result.json").read_text())
    task = from_pretrained(config.workdir).task
    assert saved["notes"] == task["notes"] == result.notes
    assert [record["step"] for record in read_evaluations(result)] == [135, 270]


def test_the_export_writes_and_scores_as_the_run_did(learned):
    config, result, _ = learned
    model = from_pretrained(config.workdir)
    answers = predict.predict(model, [source for source, _ in PAIRS[:20]])
    assert [answer["text"] for answer in answers] == [target for _, target in PAIRS[:20]]
    assert all(answer["text"] == answer["n_best"][0]["text"] for answer in answers)
    assert all(-0.2 < answer["score"] < 0 for answer in answers)
    tables = json.loads((pathlib.Path(result.seeds[0].workdir) / "tables.json").read_text())
    shown = [row[2] for row in tables["tables"][0]["rows"]]
    assert shown == [answer["text"] for answer in answers]
    scores = predict.evaluate(model, config.dev)
    assert scores.pop("notes") == result.notes
    # The sums of a mesh and of one device have other orders.
    wanted = {"examples": 20.0, **result.seeds[0].metrics}
    assert scores == pytest.approx(wanted, rel=1e-4)


def test_an_export_is_read_and_written_as_it_is(learned, tmp_path):
    config, result, _ = learned
    model = from_pretrained(config.workdir)
    expected = {"encoder_decoder": EncoderDecoderConfig, "prefix": BertConfig}
    assert type(model.config) is expected[config.task.architecture]
    save_pretrained(tmp_path / "again", model)
    assert weights(tmp_path / "again") == weights(result.export)


def test_the_command_line_writes_a_line_for_each_line(learned, capsys, give_stdin):
    config, _, _ = learned
    lines = [PAIRS[0][0], "   ", PAIRS[1][0]]
    give_stdin(lines)
    assert cli.run(["predict", config.workdir, "--n-best", "2"]) == 2
    out, err = capsys.readouterr()
    first, blank, third = map(json.loads, out.splitlines())
    assert (first["text"], third["text"]) == (PAIRS[0][1], PAIRS[1][1])
    assert [len(answer["n_best"]) for answer in (first, third)] == [2, 2]
    assert first["n_best"][0]["score"] > first["n_best"][1]["score"]
    assert blank == {"error": "Line 2 is blank: write an input, or remove the line."}
    assert "1 of 3 lines have an error instead of an answer" in err
    assert cli.run(["evaluate", config.workdir, config.dev, "--scoring", "rouge"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["rougeL"] == pytest.approx(100) and "rouge-score" in scores["notes"]["rougeL"]


def stop_at_question(number):
    """Returns a `stop_requests` whose signal comes before a certain question."""

    @contextlib.contextmanager
    def requests():
        asked = iter(range(1, 1000))
        yield lambda: next(asked) >= number

    return requests


@one_architecture
@pytest.mark.parametrize("question", [1, 3])
def test_stopped_and_resumed_is_bitwise_the_run_that_was_not(
    straight, tmp_path, monkeypatch, question
):
    config, result = straight
    broken = dataclasses.replace(config, workdir=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_question(question))
        assert finetune(broken, quiet, progress=False).stopped
    resumed = finetune(broken, quiet, progress=False)
    assert resumed.seeds[0].metrics == result.seeds[0].metrics
    assert weights(resumed.export) == weights(result.export)


PROGRAM = """
import json, sys
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig

fields = json.loads(sys.argv[1])
task = fields.pop("task")
task["generation"] = GenerationConfig(**task["generation"])
fields["mesh"] = MeshConfig(**fields["mesh"])
fields["optimizer"] = OptimizerConfig(**fields["optimizer"])
config = FinetuneConfig(task=Seq2SeqConfig(**task), **fields)
print(json.dumps(finetune(config, lambda line: None, progress=False).seeds[0].metrics))
"""
FIELDS = ("model", "train", "dev", "workdir", "epochs", "batch_size", "max_seq_length")


@one_architecture
def test_a_run_that_has_not_ended_is_what_its_export_will_be(straight, tmp_path):
    config, result = straight
    shutil.copytree(config.workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "export")
    model, exported = from_pretrained(tmp_path / "run"), from_pretrained(result.export)
    assert (model.config, model.task) == (exported.config, exported.task)
    answers = [predict.predict(each, ["the cat"]) for each in (model, exported)]
    assert answers[0] == answers[1] and answers[0][0]["n_best"]


@one_architecture
def test_eight_devices_give_what_one_gives(straight, run_python, tmp_path):
    config, result = straight
    mesh = MeshConfig(data=4, fsdp=2)
    config = dataclasses.replace(config, workdir=str(tmp_path / "run"), mesh=mesh)
    fields = {field: getattr(config, field) for field in FIELDS}
    nested = ("task", "mesh", "optimizer")
    fields |= {field: dataclasses.asdict(getattr(config, field)) for field in nested}
    printed = run_python("-c", PROGRAM, json.dumps(fields), devices=8)
    metrics, export = json.loads(printed.splitlines()[-1]), tmp_path / "run" / "export"
    assert metrics["bleu"] == pytest.approx(result.seeds[0].metrics["bleu"])
    # Sums of float32 in another order, which Adam divides by the size of small gradients.
    assert metrics["nll_loss"] == pytest.approx(result.seeds[0].metrics["nll_loss"], rel=1e-4)
    ours, theirs = (named(from_pretrained(each).params) for each in (result.export, export))
    for path, leaf in ours.items():
        if not path.endswith("key/bias"):  # no output depends on it: its gradient is rounding
            np.testing.assert_allclose(theirs[path], leaf, atol=1e-4, err_msg=path)


@one_architecture
def test_microbatches_give_what_the_whole_batch_gives(straight, tmp_path):
    config, result = straight
    halves = dataclasses.replace(config, accumulation=2, workdir=str(tmp_path / "run"))
    other = finetune(halves, quiet, progress=False)
    metrics, wanted = other.seeds[0].metrics, result.seeds[0].metrics
    assert metrics["nll_loss"] == pytest.approx(wanted["nll_loss"], rel=1e-4)  # as above


STARTS = {
    "BERT2RND": {"decoder_weights": "random"},
    "RND2BERT": {"encoder_weights": "random"},
    "BERTSHARE": {"share": "all"},
    "shared words": {"share": "embeddings"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "shared words"))  # between others
        for name in STARTS
    ],
)
def test_starts_from_a_bert(short, tmp_path, name):
    config = with_task(short, tmp_path / "run", **STARTS[name])
    result = finetune(config, quiet, progress=False)
    model = from_pretrained(config.workdir)
    assert model.config.share == config.task.share and model.decoder_tokenizer is None
    assert result.mean == pytest.approx(predict.evaluate(model, config.dev)["bleu"], abs=0.01)
    assert json.loads(json.dumps(model.task))["share"] == config.task.share


def test_starts_from_a_shape_and_a_vocabulary(short, tmp_path):
    shape = from_pretrained(short.model).config.to_dict()
    (tmp_path / "shape.json").write_text(json.dumps({**shape, "vocab_size": 99}))
    config = dataclasses.replace(
        with_task(short, tmp_path / "run"),
        model=str(tmp_path / "shape.json"),
        tokenizer=short.model,
        from_scratch=True,
    )
    assert not finetune(config, quiet, progress=False).stopped
    model = from_pretrained(config.workdir)
    assert model.config.encoder == from_pretrained(short.model).config
    trained = from_pretrained(short.model).params["embeddings"]["word_embeddings"]["embedding"]
    assert np.std(model.params["encoder"]["embeddings"]["word_embeddings"]["embedding"]) < 0.5 * (
        np.std(trained)
    )


def test_a_decoder_of_another_width_writes_its_own_vocabulary(short, tmp_path):
    words = [word.upper() for word in WORDS]
    shape = {"hidden_size": 16, "max_position_embeddings": 8}
    other = write_model(tmp_path / "other", ["x", *map(str.lower, words[::-1])], **shape)
    config = with_task(short, tmp_path / "run", decoder=other)
    finetune(config, quiet, progress=False)
    model = from_pretrained(config.workdir)
    assert model.config.decoder.hidden_size == 16 and "projection" in model.params
    assert model.decoder_tokenizer.vocab_size == 12 != model.tokenizer.vocab_size
    (answer,) = predict.predict(model, ["one two"])
    assert set(answer["text"].split()) <= {"x", *WORDS}


def test_a_run_goes_on_from_an_encoder_decoder(short, learned, tmp_path):
    config, _, _ = learned
    further = with_task(short, tmp_path / "run", architecture=config.task.architecture)
    further = dataclasses.replace(
        further,
        model=config.workdir,
        optimizer=dataclasses.replace(short.optimizer, learning_rate=1e-9),
    )
    assert finetune(further, quiet, progress=False).mean == pytest.approx(100)


def test_the_best_evaluation_of_the_sample_is_scored_on_all_rows(short, tmp_path):
    config = with_task(short, tmp_path / "run", eval_rows=3)
    config = dataclasses.replace(
        config, select="best", best_metric="nll_loss", eval_every=1, epochs=2
    )
    result = finetune(config, quiet, progress=False)
    evaluations = read_evaluations(result)
    assert len(evaluations) == 6
    scores = predict.evaluate(from_pretrained(config.workdir), config.dev)
    assert result.mean == pytest.approx(scores["nll_loss"], rel=1e-4)
    assert result.mean not in [record["nll_loss"] for record in evaluations]


def test_lora_adapts_a_prefix_model_and_no_encoder_decoder(short, tmp_path):
    config = with_task(short, tmp_path / "run", architecture="prefix")
    config = dataclasses.replace(config, lora=LoraConfig(rank=2))
    finetune(config, quiet, progress=False)
    before, after = (named(from_pretrained(each).params) for each in (short.model, config.workdir))
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    assert "encoder/layer_0/attention/query/kernel" in changed and "mlm/bias" in changed
    assert not any("embeddings" in path or "intermediate" in path for path in changed)
    other = with_task(config, tmp_path / "other", architecture="encoder_decoder")
    with pytest.raises(UserError, match=r"`lora.rank` adapts a BERT and not an encoder-decoder"):
        finetune(other, quiet, progress=False)
