"""A DistilBERT gives the outputs of transformers as a BERT; heads that BERT lacks are refused."""

import json
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bertjax as bj
from bertjax.errors import UserError
from bertjax.interop.huggingface import from_pretrained, save_pretrained

GOLDEN = Path(__file__).parent / "golden" / "distilbert.npz"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture
def write(tmp_path, golden):
    """Writes a DistilBERT like transformers; `change` can change its tensors before."""

    def directory(change=lambda tensors: tensors, **fields):
        tensors = {
            name.removeprefix("tensor:"): array
            for name, array in golden.items()
            if name.startswith("tensor:")
        }
        config = json.loads(golden["config"].item()) | fields
        config = {name: value for name, value in config.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
        tensors = {name: np.ascontiguousarray(a) for name, a in change(tensors).items()}
        (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
        return tmp_path

    return directory


def refusal(directory):
    with pytest.raises(UserError) as caught:
        from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def encoder_only(tensors):
    """The tensor names of a saved DistilBertModel."""
    prefix = "distilbert."
    return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}


def inputs_of(golden):
    return {name: jnp.asarray(golden[name], jnp.int32) for name in ("input_ids", "attention_mask")}


def test_the_golden_file_is_of_transformers(golden):
    assert "transformers" in golden["made_by"].item()


def test_hidden_states_and_logits_are_those_of_transformers(write, golden):
    model = from_pretrained(write())
    assert model.kind == "masked_lm" and "pooler" not in model.params
    inputs = inputs_of(golden)
    real = golden["attention_mask"].astype(bool)
    hidden = jax.jit(bj.encode, static_argnums=2)(model.params, inputs, model.config)
    logits = jax.jit(bj.mlm_logits, static_argnums=2)(model.params, inputs, model.config)
    # The order of float32 sums differs.
    for ours, theirs in (
        (hidden.last_hidden_state, golden["last_hidden_state"]),
        (logits, golden["logits"]),
    ):
        np.testing.assert_allclose(np.asarray(ours)[real], theirs[real], rtol=0, atol=1e-5)
    # A test of shapes would not detect a model that ignores its input.
    assert np.ptp(golden["last_hidden_state"], axis=(0, 1)).min() > 0.1


def test_every_tensor_matters(write, golden):
    """The logits would not change if a tensor were ignored."""
    model = from_pretrained(write())
    mlm_logits = jax.jit(bj.mlm_logits, static_argnums=2)
    names = [name for name in golden if name.startswith("tensor:")]
    assert len(names) == 2 * 16 + 4 + 6
    for name in names:
        name = name.removeprefix("tensor:")
        if name == "vocab_projector.weight" or name.endswith("k_lin.bias"):
            continue  # tied to the word embeddings; softmax ignores a key's bias

        def change(tensors, name=name):
            noise = np.random.default_rng(0).normal(size=tensors[name].shape)
            changed = {**tensors, name: tensors[name] + noise.astype(np.float32)}
            if name == "distilbert.embeddings.word_embeddings.weight":
                changed["vocab_projector.weight"] = changed[name]
            return changed

        other = from_pretrained(write(change))
        logits = mlm_logits(other.params, inputs_of(golden), model.config)
        assert np.abs(np.asarray(logits) - golden["logits"]).max() > 1e-2, name


def test_an_encoder_without_prefix_and_what_is_exported_is_a_bert(write, tmp_path):
    model = from_pretrained(write(encoder_only, architectures=["DistilBertModel"]))
    assert model.kind == "encoder" and set(model.params) == {"embeddings", "encoder"}
    types = model.params["embeddings"]["token_type_embeddings"]["embedding"]
    assert types.shape == (2, 8) and not np.any(types)
    again = from_pretrained(save_pretrained(tmp_path / "again", model))
    assert again.config == model.config
    assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == "bert"
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_fields_of_the_configuration(write):
    config = from_pretrained(
        write(activation="relu", dropout=0.3, attention_dropout=0.2, initializer_range=0.5)
    ).config
    assert config == bj.BertConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=10,
        hidden_act="relu",
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.2,
        initializer_range=0.5,
    )
    assert "has no dim: is it the configuration of a DistilBERT?" in refusal(write(dim=...))


def test_the_width_of_a_configuration_takes_no_memory(write):
    """The token types would otherwise be 16 GiB of zeros."""
    tracemalloc.start()
    sentence = refusal(write(dim=(1 << 31) - 1, n_heads=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "but the configuration implies [2147483647]" in sentence
    assert peak < 1 << 28


def test_heads_that_bert_does_not_have(write):
    def classifier(tensors):
        eye = np.eye(8, dtype=np.float32)
        head = {"pre_classifier.weight": eye, "pre_classifier.bias": eye[0]}
        head |= {"classifier.weight": eye[:2], "classifier.bias": eye[0, :2]}
        return {n: a for n, a in tensors.items() if n.startswith("distilbert.")} | head

    sentence = refusal(write(classifier))
    assert "pre_classifier" in sentence and "save the DistilBertModel alone" in sentence


def test_tensors_that_are_missing_or_strange(write):
    name = "distilbert.transformer.layer.1.ffn.lin1.weight"
    without = refusal(write(lambda tensors: {n: a for n, a in tensors.items() if n != name}))
    assert "the tensor bert.encoder.layer.1.intermediate.dense.weight [12, 8] is missing" in without
    strange = np.zeros(3, np.float32)
    notes = []
    from_pretrained(write(lambda tensors: {**tensors, "crf.start": strange}), log=notes.append)
    assert "not part of a BERT, and left out: crf.start." in notes[0]
    assert "distilbert.start is not part of a DistilBERT" in refusal(
        write(lambda tensors: {**tensors, "distilbert.start": strange})
    )
    bare = name.removeprefix("distilbert.")
    assert f"the tensors {name} and {bare} stand for the same parameter and differ" in refusal(
        write(lambda tensors: {**tensors, bare: tensors[name] + 1})
    )
    more = name.replace("1", "2", 1)
    assert "is not part of the BERT that config.json describes" in refusal(
        write(lambda tensors: {**tensors, more: tensors[name]})
    )
