"""ModernBERT in Hugging Face's layout; tests/parity/test_families.py compares with transformers."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import bertjax as bj
from bertjax.cli import run
from bertjax.interop.huggingface import Pretrained

KINDS = ("masked_lm", "sequence_classification", "token_classification", "question_answering")


def make(config, tokenizer):
    heads = ("mlm", "nsp", "classifier", "qa_outputs")
    params = jax.jit(lambda key: bj.init_params(config, key, heads=heads))(jax.random.key(0))
    return Pretrained(config, params, tokenizer)


@pytest.fixture(scope="module")
def modern(tiny_tokenizer):
    """A ModernBERT with all heads, and windows narrower than its rows."""
    shape = {"vocab_size": tiny_tokenizer.vocab_size, "hidden_size": 16, "num_attention_heads": 2}
    config = bj.BertConfig.named("modern-tiny", **shape, local_attention=6, intermediate_size=24)
    return make(config, tiny_tokenizer)


def saved(model, path, kind, **options):
    bj.save_pretrained(path, dataclasses.replace(model, task={"kind": kind}), **options)
    return path


def fields_of(path):
    return json.loads((path / "config.json").read_text())


def refusal(function, *arguments):
    with pytest.raises(bj.UserError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("kind", [*KINDS, "encoder"])
def test_it_is_written_and_read_as_a_modernbert(modern, tmp_path, kind):
    path = saved(modern, tmp_path / "model", kind)
    fields = fields_of(path)
    assert fields["architectures"][0].startswith("ModernBert")
    assert fields["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    start = "" if kind == "encoder" else "model."
    assert tensors[f"{start}layers.0.attn.Wqkv.weight"].shape == (48, 16)
    assert tensors[f"{start}layers.2.mlp.Wi.weight"].shape == (48, 16)
    assert f"{start}layers.0.attn_norm.weight" not in tensors
    assert not any(name.endswith("bias") for name in tensors if name.startswith(start or "layers"))
    read = bj.from_pretrained(path)
    assert (read.config, read.kind) == (modern.config, kind)
    for part, tree in read.params.items():
        jax.tree.map(np.testing.assert_array_equal, tree, modern.params[part])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_placement": "post", "final_norm": False}, "no ModernBERT has norm_placement"),
        ({"glu": False}, "no ModernBERT has glu False for True"),
        ({"position_embedding_type": "none", "local_attention": 0}, "position_embedding_type"),
        ({"type_vocab_size": 2}, "type_vocab_size 2 for 0"),
    ],
)
def test_what_no_class_has_is_refused_by_name_and_read_by_bertjax(modern, tmp_path, changes, said):
    bases = {"global_rope_theta": None, "local_rope_theta": None}
    config = dataclasses.replace(modern.config, **bases, **changes)
    model = make(config, modern.tokenizer)
    assert said in refusal(saved, model, tmp_path / "refused", "masked_lm")
    assert not (tmp_path / "refused").exists()
    path = saved(model, tmp_path / "own", "masked_lm", own_layout=True)
    assert fields_of(path)["model_type"] == "bertjax"
    read = bj.from_pretrained(path)
    assert read.config == config
    jax.tree.map(np.testing.assert_array_equal, read.params["encoder"], model.params["encoder"])
    assert run(["convert", str(path), str(tmp_path / "converted")]) == 2


def test_a_next_sentence_head_is_refused_by_name(modern, tmp_path):
    said = refusal(saved, modern, tmp_path / "model", "pretraining")
    assert "no ModernBERT has a next-sentence head" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder_bias": False}, "decoder_bias is False"),
        ({"classifier_activation": "relu"}, "classifier_activation is 'relu'"),
        ({"embedding_dropout": 0.1}, "embedding_dropout is 0.1"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types is"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type of full"),
        ({"rope_scaling": {"factor": 2}}, "has a rope_scaling"),
        ({"hidden_activation": "swiglu"}, "hidden_act"),
        ({"model_type": "deberta-v2"}, "model_type is 'deberta-v2'; only"),
        ({"model_type": "bert"}, "local_attention is 6 and position"),
    ],
)
def test_what_can_not_be_read_is_one_sentence(modern, tmp_path, change, said, capsys):
    path = saved(modern, tmp_path / "model", "masked_lm")
    (path / "bertjax_sha256.json").unlink()
    (path / "config.json").write_text(json.dumps({**fields_of(path), **change}))
    assert run(["predict", str(path), str(path / "config.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_versions_name_layers_and_bases_differently(modern, tmp_path):
    path = saved(modern, tmp_path / "model", "masked_lm")
    (path / "bertjax_sha256.json").unlink()
    fields = fields_of(path)
    for absent in (("layer_types", "rope_parameters"), ("global_rope_theta", "local_rope_theta")):
        old = {name: value for name, value in fields.items() if name not in absent}
        (path / "config.json").write_text(json.dumps(old))
        assert bj.from_pretrained(path).config == modern.config
    everywhere = {**fields, "layer_types": ["full_attention"] * 3}
    (path / "config.json").write_text(json.dumps(everywhere))
    assert bj.from_pretrained(path).config.local_attention == 0


def test_an_unknown_tensor_is_named(modern, tmp_path):
    path = saved(modern, tmp_path / "model", "masked_lm")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    tensors["model.layers.0.attn_norm.weight"] = np.ones(16, np.float32)
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    assert "attention.output.LayerNorm" in refusal(bj.from_pretrained, path)
    tensors["model.layers.0.extra.weight"] = tensors.pop("model.layers.0.attn_norm.weight")
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    assert "model.layers.0.extra.weight is not part of a ModernBERT" in refusal(
        bj.from_pretrained, path
    )


def test_a_classifier_starts_from_the_head_of_the_masked_lm(modern, tmp_path):
    source = saved(modern, tmp_path / "model", "masked_lm")
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "a film\tpos\na plot\tneg\n" * 8)
    files = [f"--{name}={tmp_path}/train.tsv" for name in ("train", "dev")]
    options = ["--max_seq_length=16", "--epochs=1", "--batch_size=8", f"--workdir={tmp_path}/run"]
    frozen = ["--optimizer.learning_rate=1e-9"]
    assert run(["finetune", f"--model={source}", *files, *options, *frozen]) == 0
    trained = bj.from_pretrained(tmp_path / "run")
    assert fields_of(tmp_path / "run/export")["architectures"] == [
        "ModernBertForSequenceClassification"
    ]
    head = modern.params["mlm"]["transform"]["kernel"]
    np.testing.assert_allclose(trained.params["pooler"]["transform"]["kernel"], head, atol=1e-5)
