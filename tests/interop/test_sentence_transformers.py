"""Directories of sentence-transformers: how the vector of a text is made is followed and kept."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from bertjax.errors import UserError
from bertjax.inference.embed import embed
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.interop.sentence_transformers import POOLINGS

TEXTS = ["the film was good", "bad plot is awful", "very " * 20 + "poor", "a film , two"]
FIELDS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def make(tmp_path, tiny_model):
    """Writes a directory as sentence-transformers does: modules, and their fields by class."""

    def make(*modules, encoder="", limits=None, prompts=None):
        root = tmp_path / "model"
        model = dataclasses.replace(tiny_model, task={"kind": "encoder"})
        save_pretrained(root / encoder, model)
        (root / encoder / "bertjax_sha256.json").unlink()
        listed = [{"idx": 0, "name": "0", "path": encoder, "type": "st.models.Transformer"}]
        for number, (kind, fields) in enumerate(modules, 1):
            place = f"{number}_{kind}"
            listed.append({"idx": number, "path": place, "type": f"st.models.{kind}"})
            if fields is not None:
                write_json(root / place / "config.json", fields)
        write_json(root / "modules.json", listed)
        if limits is not None:
            write_json(root / encoder / "sentence_bert_config.json", limits)
        if prompts is not None:
            write_json(root / "config_sentence_transformers.json", prompts)
        return root

    return make


def pooled(states, name):
    """Pools the states [T, D] of one text, as sentence-transformers' Pooling.py."""
    positions = np.arange(1, len(states) + 1)[:, None]
    return {
        "cls": states[0],
        "max": states.max(0),
        "mean": states.mean(0),
        "mean_sqrt_len_tokens": states.sum(0) / np.sqrt(len(states)),
        "weightedmean": (states * positions).sum(0) / positions.sum(),
        "lasttoken": states[-1],
    }[name]


def states_of(model, text, length=40):
    import bertjax as bj

    batch = model.tokenizer.batch([text], max_length=length)
    return np.asarray(bj.encode(model.params, batch, model.config).last_hidden_state[0])


@pytest.mark.parametrize("names", [*((name,) for name in FIELDS), ("mean", "cls"), tuple(FIELDS)])
def test_poolings_are_followed_and_joined_in_their_order(make, names):
    fields = {field: name in names for name, field in FIELDS.items()}
    model = from_pretrained(make(("Pooling", fields)))
    assert tuple(FIELDS) == POOLINGS
    vectors = embed(model, TEXTS, batch_size=2)
    assert vectors.shape == (4, 16 * len(names)) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = states_of(model, text)
        expected = np.concatenate([pooled(states, name) for name in FIELDS if name in names])
        np.testing.assert_allclose(vector, expected, atol=1e-5)  # rows are padded
    if len(names) == 1:
        np.testing.assert_array_equal(embed(model, TEXTS, pooling=names[0], batch_size=2), vectors)


@pytest.mark.parametrize(
    ("fields", "same_as"),
    [
        ({}, "mean"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["lasttoken"]}, "lasttoken"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ],
)
def test_the_forms_of_a_poolings_config(make, fields, same_as):
    model = from_pretrained(make(("Pooling", fields)))
    np.testing.assert_array_equal(embed(model, TEXTS), embed(model, TEXTS, pooling=same_as))


def test_length_case_and_normalization_are_followed(make):
    root = make(
        ("Pooling", {"pooling_mode": "cls"}),
        ("Dropout", {"dropout": 0.1}),
        ("Normalize", None),
        limits={"max_seq_length": 6, "do_lower_case": True},
    )
    fields = json.loads((root / "tokenizer_config.json").read_text())
    write_json(root / "tokenizer_config.json", {**fields, "do_lower_case": False})
    model = from_pretrained(root)
    told = "pooling cls, at most 6 tokens, lower-cased text, vectors of length 1"
    assert str(model.sentence_modules) == told
    vectors = embed(model, TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        first = states_of(model, text, 6)[0]
        np.testing.assert_allclose(vector, first / np.linalg.norm(first), atol=1e-6)
    np.testing.assert_allclose(embed(model, TEXTS[0].upper()), vectors[0], atol=1e-6)
    # A pooling that is given replaces the modules; the maximum length stays.
    plain = embed(model, TEXTS, pooling="cls")
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    np.testing.assert_allclose(plain[2], states_of(model, TEXTS[2], 6)[0], atol=1e-6)
    np.testing.assert_allclose(
        embed(model, TEXTS, pooling="cls", normalize=True), vectors, atol=1e-6
    )


def test_without_a_length_the_tokenizers_own_is_followed(make):
    root = make(("Pooling", {}), limits={"max_seq_length": None})
    fields = json.loads((root / "tokenizer_config.json").read_text())
    write_json(root / "tokenizer_config.json", {**fields, "model_max_length": 7})
    assert from_pretrained(root).sentence_modules.max_seq_length == 7
    write_json(root / "tokenizer_config.json", {**fields, "model_max_length": 10**30})
    assert from_pretrained(root).sentence_modules.max_seq_length is None


def dense(root, place, out, activation, bias=True):
    rng = np.random.default_rng(0)
    tensors = {"linear.weight": rng.normal(size=(out, 16)).astype(np.float32)}
    if bias:
        tensors["linear.bias"] = rng.normal(size=out).astype(np.float32)
    safetensors.numpy.save_file(tensors, root / place / "model.safetensors")
    return tensors


@pytest.mark.parametrize(
    ("activation", "bias"), [("activation.Tanh", True), ("linear.Identity", False)]
)
def test_a_dense_layer_is_computed(make, activation, bias):
    fields = {"in_features": 16, "out_features": 5, "bias": bias}
    fields["activation_function"] = f"torch.nn.modules.{activation}"
    root = make(("Pooling", {}), ("Dense", fields), ("Normalize", None))
    tensors = dense(root, "2_Dense", 5, activation, bias)
    model = from_pretrained(root)
    expected = embed(model, TEXTS, pooling="mean") @ tensors["linear.weight"].T
    expected += tensors.get("linear.bias", 0)
    expected = np.tanh(expected) if "Tanh" in activation else expected
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(model, TEXTS), expected, atol=1e-5)
    assert "a dense layer from 16 to 5" in str(model.sentence_modules)


@pytest.mark.parametrize("encoder", ["", "0_Transformer"])
def test_saving_keeps_every_file(make, tmp_path, encoder):
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": None}
    fields = {"activation_function": "torch.nn.modules.activation.Tanh"}
    modules = (("Pooling", {"pooling_mode": "max"}), ("Dense", fields), ("Normalize", None))
    root = make(*modules, encoder=encoder, limits={"max_seq_length": 6}, prompts=prompts)
    dense(root, "2_Dense", 5, "Tanh")
    model = from_pretrained(root)
    saved = save_pretrained(tmp_path / "saved", model)
    again = from_pretrained(saved)
    np.testing.assert_array_equal(embed(again, TEXTS), embed(model, TEXTS))
    assert json.loads((saved / "modules.json").read_text())[0]["path"] == ""
    same = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    for name in (*same, "config_sentence_transformers.json"):
        assert (saved / name).read_bytes() == (root / name).read_bytes()
    assert json.loads((saved / "sentence_bert_config.json").read_text()) == {"max_seq_length": 6}
    # A model without modules leaves none of them in a directory that had some.
    save_pretrained(saved, dataclasses.replace(model, sentence_modules=None))
    assert from_pretrained(saved).sentence_modules is None


@pytest.mark.parametrize(
    ("modules", "options", "sentence"),
    [
        ([("WordWeights", {})], {}, "lists the modules Transformer, WordWeights"),
        ([], {}, "lists the modules Transformer, which"),
        ([("Pooling", {}), ("LayerNorm", {})], {}, "has the module LayerNorm"),
        ([("Pooling", {"pooling_mode": "sum"})], {}, "has the pooling .'sum'."),
        ([("Pooling", {"pooling_mode_mean_tokens": False})], {}, r"has the pooling \[\]"),
        ([("Pooling", {}), ("Dense", {"activation_function": "a.GELU"})], {}, "layer with GELU"),
        ([("Pooling", {}), ("Dense", {"module_input_name": "x"})], {}, "module_input_name is 'x'"),
        (
            [("Pooling", {})],
            {"prompts": {"prompts": {"q": "Find: "}, "default_prompt_name": "q"}},
            "needs the prompt 'Find: ' before each text",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(make, tmp_path, modules, options, sentence):
    model = from_pretrained(make(*modules, **options))
    with pytest.raises(UserError, match=f"modules.json: .*{sentence}.*give `pooling`"):
        embed(model, TEXTS)
    assert embed(model, TEXTS, pooling="mean").shape == (4, 16)
    saved = from_pretrained(save_pretrained(tmp_path / "saved", model))
    assert saved.sentence_modules.unknown


@pytest.mark.parametrize(
    "listing", [{}, [], [3], [{"type": "x"}], [{"type": "a.Transformer", "path": "../other"}]]
)
def test_a_damaged_listing_is_refused(make, listing):
    root = make(("Pooling", {}))
    write_json(root / "modules.json", listing)
    with pytest.raises(UserError, match=r"modules.json: damaged"):
        from_pretrained(root)


def test_a_module_whose_files_are_missing_is_refused(make):
    root = make(("Pooling", {}))
    (root / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UserError, match=r"1_Pooling/config.json: no such file"):
        from_pretrained(root)
    root = make(("Pooling", {}), ("Dense", {}))
    with pytest.raises(UserError, match="2_Dense: holds no weights"):
        from_pretrained(root)
