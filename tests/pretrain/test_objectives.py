"""Runs with each objective, and everything that reads such a run."""

import dataclasses
import html
import json

import numpy as np
import pytest

import bertjax as bj
from bertjax.convert.run import ConvertConfig, convert
from bertjax.convert.to_run import MODEL
from bertjax.data.corpora import Corpora
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.data.shards import read_manifest
from bertjax.model.heads import TASK_PARTS
from bertjax.objectives.masking import MaskingConfig
from bertjax.objectives.options import ObjectiveOptions, RtdOptions
from bertjax.objectives.table import OBJECTIVES
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.metrics import verdict
from bertjax.report.run import report
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

WORDS = [f"w{number}" for number in range(40)]


def silent(line):
    del line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("objectives")
    rng = np.random.default_rng(0)
    documents = [[" ".join(rng.choice(WORDS, 6)) for _ in range(6)] for _ in range(40)]
    (root / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
    (root / "tokenizer").mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (root / "tokenizer" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    for objective in ("nsp", "sop", "mlm"):
        config = PrepareConfig(
            (str(root / "text.txt"),),
            str(root / "tokenizer"),
            str(root / objective),
            segments=OBJECTIVES[objective].segments,
            max_seq_length=32,
            held_out=0.1,
        )
        prepare(config, silent)
    return root


@pytest.fixture(scope="module")
def recipe(data, tiny_shape):
    def make(directory, workdir, steps=2, **changes):
        loop = LoopConfig(train_steps=steps, log_every=1, eval_every=1, save_every=1)
        # Unlike others it does not know the number of steps: all runs share a program.
        optimizer = OptimizerConfig(schedule="constant", warmup_steps=0)
        fields = {"model": tiny_shape, "loop": loop, "batch_size": 4, "eval_examples": 6}
        fields |= {"optimizer": optimizer, **changes}
        return PretrainConfig(str(data / directory), str(workdir), **fields)

    return make


@pytest.fixture(scope="module")
def done(data, recipe):
    """A finished run on single sequences with span masking: configuration, result, log."""
    lines = []
    config = recipe("mlm", data / "run-mlm", masking=MaskingConfig(span=True))
    return config, runs.pretrain(config, lines.append), lines


def names(result):
    """Returns the metrics in the records of a run, without accuracies by frequency."""
    found = {name for record in result.history for name in record if "_rank_" not in name}
    return {name for name in found if name.startswith(("mlm_", "nsp_", "sop_"))}


def test_single_sequences_know_no_next_sentence(done):
    _, result, lines = done
    assert names(result) == {"mlm_loss", "mlm_accuracy"} == set(result.metrics)
    assert "nsp" not in "\n".join(lines) and "next-sentence" not in lines[-1]
    assert lines[-1].startswith("Trained 2 steps: held-out masked-LM loss ")
    assert "unigram entropy" in lines[-1]
    model = bj.from_pretrained(result.workdir)
    assert model.kind == "masked_lm" and model.params.keys() == {"embeddings", "encoder", "mlm"}
    assert json.loads((result.export / "config.json").read_text())["architectures"] == [
        "BertForMaskedLM"
    ]
    assert len(bj.fill_mask(model, ["w1 w2 [MASK] w3"], top_k=3)[0]["masks"][0]) == 3
    assert bj.embed(model, ["w1 w2"]).shape == (1, 16)
    (page,) = report([result.workdir], silent)
    text = page.read_text()
    assert f"<h1>{html.escape(lines[-1])}</h1>" in text
    assert "masked-LM loss</figcaption>" in text and "nsp" not in text


def test_a_loss_that_is_not_finite_is_said(data):
    said = verdict(
        2,
        {"mlm_loss": None},
        Corpora.of([data / "mlm"]),
        OBJECTIVES["mlm"],
        data / "export",
    )
    assert said.startswith("Trained 2 steps: held-out masked-LM loss not finite (unigram entropy ")
    assert said.endswith(f"The model is in {data / 'export'}.")


def test_single_sequences_go_on_and_other_data_are_refused(done, recipe):
    config, result, _ = done
    lines = []
    longer = dataclasses.replace(config, loop=dataclasses.replace(config.loop, train_steps=3))
    assert runs.pretrain(longer, lines.append).stopped is False
    assert any(line.startswith("Resumed at step 2 of 3") for line in lines)
    with pytest.raises(bj.UserError, match=r"objective.name \(mlm there, nsp here\)"):
        runs.pretrain(recipe("nsp", result.workdir, masking=config.masking), silent)
    with pytest.raises(bj.UserError, match=r"masking.span \(true there, false here\)"):
        runs.pretrain(dataclasses.replace(config, masking=MaskingConfig()), silent)


def test_a_run_on_single_sequences_is_converted(done, recipe, tmp_path):
    _, result, _ = done
    convert(ConvertConfig(str(result.workdir), str(tmp_path / "hf")), silent)
    assert bj.from_pretrained(tmp_path / "hf").kind == "masked_lm"
    # The converted run keeps the heads, because its moments cover no others.
    two = tmp_path / "two"
    made = convert(ConvertConfig(str(result.workdir), str(two), to="run"), silent)
    assert (made.kind, made.moments) == ("masked_lm", True)
    shape = ModelConfig(str(two / MODEL))
    with pytest.raises(
        bj.UserError,
        match=r"another heads \(\[\"mlm\"\] there, \[\"mlm\", \"nsp\", \"pooler\"\] here\)",
    ):
        runs.pretrain(recipe("nsp", two, steps=9, model=shape), silent)
    more = runs.pretrain(recipe("mlm", two, steps=made.step + 1, model=shape), silent)
    assert more.export is not None and "nsp_loss" not in more.metrics


@pytest.mark.parametrize(
    ("objective", "kind"), [(None, "pretraining"), ("sop", "pretraining"), ("mlm", "masked_lm")]
)
def test_the_heads_of_a_converted_run_are_those_of_its_objective(done, tmp_path, objective, kind):
    _, result, _ = done
    config = ConvertConfig(str(result.export), str(tmp_path), to="run", objective=objective)
    lines = []
    made = convert(config, lines.append)
    assert made.kind == kind
    drawn = [line for line in lines if line.startswith("Not in the source")]
    assert bool(drawn) == (kind == "pretraining")
    meta = json.loads((tmp_path / "checkpoints" / "0" / "meta" / "metadata").read_text())
    parts = {name.split("/")[1] for name in meta["arrays"] if name.startswith("params/")}
    assert parts == {"embeddings", "encoder", *TASK_PARTS[kind]}


def test_the_order_of_sentences_has_names_of_its_own(data, recipe, tmp_path):
    lines = []
    result = runs.pretrain(recipe("sop", tmp_path / "run"), lines.append)
    wanted = {"mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy"}
    assert names(result) == wanted == set(result.metrics)
    assert "sop" in "\n".join(lines) and "nsp" not in "\n".join(lines)
    majority = read_manifest(data / "sop").majority
    assert f"sentence-order accuracy {result.metrics['sop_accuracy']:.1%}" in lines[-1]
    assert f"(majority {majority:.1%})" in lines[-1]
    assert bj.from_pretrained(result.export).kind == "pretraining"
    with pytest.raises(bj.UserError, match=r"objective.name \(sop there, nsp here\)"):
        runs.pretrain(recipe("nsp", tmp_path / "run"), silent)


def test_masked_lm_reads_pairs_without_their_label(recipe, tmp_path):
    inputs = runs.load(recipe("nsp", tmp_path / "run", objective="mlm"))
    batch = inputs.phases[0].rows(0, np.arange(2))
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["token_type_ids"].any() and inputs.objective.export_kind == "masked_lm"
    with pytest.raises(bj.UserError, match="sop trains on sentence_order segments, and the data "):
        runs.load(recipe("nsp", tmp_path / "run", objective="sop"))
    with pytest.raises(bj.UserError, match="objective 'electra' is unknown: give one of nsp, "):
        recipe("nsp", tmp_path / "run", objective="electra")


def test_replaced_tokens_are_detected_by_a_run_of_its_own_that_exports_an_encoder(
    data, recipe, tmp_path
):
    lines, masking = [], MaskingConfig(mask_prob=0.85, random_prob=0.0)
    options = ObjectiveOptions(RtdOptions(discriminator_weight=20.0))
    config = recipe(
        "mlm", tmp_path / "run", objective="rtd", objective_options=options, masking=masking
    )
    result = runs.pretrain(config, lines.append)
    assert set(result.metrics) == {metric.name for metric in OBJECTIVES["rtd"].metrics}
    assert ", detection accuracy " in lines[-1] and "masked-LM loss" not in lines[-1]
    evaluated = next(line for line in lines if line.startswith("eval at 2"))
    assert "gen " in evaluated and "(unigram entropy " in evaluated
    model = bj.from_pretrained(result.export)
    assert model.kind == "encoder" and model.params.keys() == {"embeddings", "encoder"}
    assert json.loads((result.export / "config.json").read_text())["architectures"] == ["BertModel"]
    assert bj.embed(model, ["w1 w2"]).shape == (1, 16)
    # The same run goes on, and not with other options.
    longer = dataclasses.replace(config, loop=dataclasses.replace(config.loop, train_steps=3))
    lines.clear()
    assert runs.pretrain(longer, lines.append).metrics != result.metrics
    assert any(line.startswith("Resumed at step 2 of 3") for line in lines)
    other = dataclasses.replace(longer, objective_options=ObjectiveOptions())
    with pytest.raises(bj.UserError, match=r"objective.discriminator_weight \(20.0 there, 50.0 "):
        runs.pretrain(other, silent)
    # Converted, it is the encoder; as another run, all of it.
    convert(ConvertConfig(str(result.workdir), str(tmp_path / "hf")), silent)
    assert bj.from_pretrained(tmp_path / "hf").kind == "encoder"
    made = convert(ConvertConfig(str(result.workdir), str(tmp_path / "two"), to="run"), silent)
    assert (made.kind, made.objective, made.moments) == ("encoder", "rtd", True)
    (tmp_path / "words").write_text("new\n")
    words = str(tmp_path / "words")
    convert(ConvertConfig(str(result.workdir), str(tmp_path / "3"), "run", add_words=words), silent)
    meta = json.loads((tmp_path / "3" / "checkpoints" / "3" / "meta" / "metadata").read_text())
    assert meta["arrays"]["params/generator_mlm/bias"][1] == [46]
