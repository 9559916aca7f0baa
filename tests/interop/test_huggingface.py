import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bertjax as bj
from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import checksums, tensors
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.tree import named

CONFIG = BertConfig(
    vocab_size=12,
    hidden_size=8,
    num_hidden_layers=11,  # layer_1 is a prefix of layer_10
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]

# transformers 4: names and shapes of BertForPreTraining's state dict for one layer of this shape.
EXPECTED = {
    "bert.embeddings.word_embeddings.weight": [12, 8],
    "bert.embeddings.position_embeddings.weight": [10, 8],
    "bert.embeddings.token_type_embeddings.weight": [2, 8],
    "bert.embeddings.LayerNorm.weight": [8],
    "bert.embeddings.LayerNorm.bias": [8],
    "bert.encoder.layer.10.attention.self.query.weight": [8, 8],
    "bert.encoder.layer.10.attention.self.query.bias": [8],
    "bert.encoder.layer.10.attention.self.key.weight": [8, 8],
    "bert.encoder.layer.10.attention.self.key.bias": [8],
    "bert.encoder.layer.10.attention.self.value.weight": [8, 8],
    "bert.encoder.layer.10.attention.self.value.bias": [8],
    "bert.encoder.layer.10.attention.output.dense.weight": [8, 8],
    "bert.encoder.layer.10.attention.output.dense.bias": [8],
    "bert.encoder.layer.10.attention.output.LayerNorm.weight": [8],
    "bert.encoder.layer.10.attention.output.LayerNorm.bias": [8],
    "bert.encoder.layer.10.intermediate.dense.weight": [12, 8],
    "bert.encoder.layer.10.intermediate.dense.bias": [12],
    "bert.encoder.layer.10.output.dense.weight": [8, 12],
    "bert.encoder.layer.10.output.dense.bias": [8],
    "bert.encoder.layer.10.output.LayerNorm.weight": [8],
    "bert.encoder.layer.10.output.LayerNorm.bias": [8],
    "bert.pooler.dense.weight": [8, 8],
    "bert.pooler.dense.bias": [8],
    "cls.predictions.bias": [12],
    "cls.predictions.transform.dense.weight": [8, 8],
    "cls.predictions.transform.dense.bias": [8],
    "cls.predictions.transform.LayerNorm.weight": [8],
    "cls.predictions.transform.LayerNorm.bias": [8],
    "cls.seq_relationship.weight": [2, 8],
    "cls.seq_relationship.bias": [2],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return load_tokenizer(directory)


def random_params(config):
    # Biases and scales differ from 0 and 1, so that the tests notice if they are exchanged.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


@pytest.fixture
def exported(tmp_path, params, tokenizer):
    save_pretrained(tmp_path / "out", Pretrained(CONFIG, params, tokenizer, None))
    return tmp_path / "out"


@pytest.fixture
def unchecked(exported):
    """An export without the digests of its files, like another program's."""
    (exported / checksums.FILE).unlink()
    return exported


def rewrite(directory, change):
    """Changes the tensors of an export in place, like another program."""
    file = directory / "model.safetensors"
    arrays = safetensors.numpy.load(file.read_bytes())
    arrays = change({name: np.array(array) for name, array in arrays.items()}) or arrays
    file.write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))


def refusal(directory):
    with pytest.raises(UserError) as caught:
        from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_tensor_names_and_shapes_are_hugging_faces(exported):
    arrays = safetensors.numpy.load((exported / "model.safetensors").read_bytes())
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    for layer in range(10):
        for name, shape in EXPECTED.items():
            assert shapes.pop(name.replace("layer.10.", f"layer.{layer}."), shape) == shape
    assert {n: s for n, s in shapes.items() if "layer." in n} == {
        n: s for n, s in EXPECTED.items() if "layer." in n
    }
    assert "cls.predictions.decoder.weight" not in arrays


def test_kernels_are_transposed(exported, params):
    arrays = safetensors.numpy.load((exported / "model.safetensors").read_bytes())
    kernel = params["encoder"]["layer_10"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(
        arrays["bert.encoder.layer.10.attention.self.query.weight"], np.asarray(kernel).T
    )
    embedding = params["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(arrays["bert.embeddings.word_embeddings.weight"], embedding)


def test_export_and_import_is_the_identity_and_the_bytes_are_the_same(exported, params, tmp_path):
    model = from_pretrained(exported)
    same(model.params, params)
    assert model.config == CONFIG
    assert model.task == {"kind": "pretraining"}
    save_pretrained(tmp_path / "again", model)
    task = json.loads((tmp_path / "again/config.json").read_text()).pop("bertjax_task")
    assert task == {"kind": "pretraining"}
    for file in exported.iterdir():
        if file.name not in ("config.json", checksums.FILE):
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_config_json_is_one_that_hugging_face_reads(exported):
    fields = json.loads((exported / "config.json").read_text())
    assert fields["architectures"] == ["BertForPreTraining"]
    assert fields["model_type"] == "bert"
    assert fields["hidden_act"] == "gelu"
    assert fields["pad_token_id"] == 0
    assert BertConfig.from_json(exported / "config.json") == CONFIG


def test_a_classifier_keeps_its_labels(tmp_path, params, tokenizer):
    head = {"kernel": jnp.ones((8, 3)), "bias": jnp.arange(3.0)}
    parts = {name: params[name] for name in ("embeddings", "encoder", "pooler")}
    task = {
        "kind": "sequence_classification",
        "labels": ["x", "y", "z"],
        "text_column": "a",
        "pair_column": None,
        "label_column": "b",
        "max_seq_length": 9,
    }
    path = save_pretrained(
        tmp_path / "out", Pretrained(CONFIG, {**parts, "classifier": head}, tokenizer, task)
    )
    model = from_pretrained(path)
    (path / checksums.FILE).unlink()
    assert model.task == task
    assert set(model.params) == {"embeddings", "encoder", "pooler", "classifier"}
    fields = json.loads((path / "config.json").read_text())
    assert fields["id2label"] == {"0": "x", "1": "y", "2": "z"}
    assert fields["problem_type"] == "single_label_classification"
    # Hugging Face writes the same file without our entry.
    del fields["bertjax_task"]
    (path / "config.json").write_text(json.dumps(fields))
    assert from_pretrained(path).task == {
        "kind": "sequence_classification",
        "labels": ["x", "y", "z"],
    }
    fields["id2label"] = {"0": "x"}
    (path / "config.json").write_text(json.dumps(fields))
    assert "labels don't match the classifier's 3 outputs" in refusal(path)


@pytest.fixture
def classifier(tmp_path, params, tokenizer):
    """Writes a classifier with three outputs like another program, without our entry."""
    parts = {name: params[name] for name in ("embeddings", "encoder", "pooler")}
    head = {"kernel": jnp.ones((8, 3)), "bias": jnp.arange(3.0)}
    model = Pretrained(CONFIG, {**parts, "classifier": head}, tokenizer, None)
    path = save_pretrained(tmp_path / "out", model)
    (path / checksums.FILE).unlink()

    def write(**changes):
        fields = json.loads((path / "config.json").read_text()) | changes
        fields = {name: value for name, value in fields.items() if value is not None}
        (path / "config.json").write_text(json.dumps(fields))
        return path

    return write


def test_a_classifier_of_sequences_is_read(classifier):
    path = classifier(architectures=["BertForSequenceClassification"], problem_type=None)
    assert from_pretrained(path).kind == "sequence_classification"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["BertForParsing"]}, "architectures is ['BertForParsing']"),
        (
            {"architectures": ["BertForMultipleChoice"]},
            "the task is multiple_choice and the classifier has 3 outputs",
        ),
        ({"architectures": 5}, "architectures is 5"),
        ({"problem_type": "regression"}, "the task is regression and the classifier has 3 outputs"),
        ({"architectures": [], "problem_type": None}, "has no architectures, so that its"),
    ],
)
def test_a_classifier_of_something_else_is_refused(classifier, changes, sentence):
    assert sentence in refusal(classifier(**changes))


@pytest.mark.parametrize(("ours", "theirs"), [("gelu_tanh", "gelu_new"), ("relu", "relu")])
def test_activations_are_exported_by_names_that_hugging_face_knows(
    tmp_path, params, tokenizer, ours, theirs
):
    config = dataclasses.replace(CONFIG, hidden_act=ours)
    path = save_pretrained(tmp_path / "out", Pretrained(config, params, tokenizer, None))
    assert json.loads((path / "config.json").read_text())["hidden_act"] == theirs
    assert from_pretrained(path).config.hidden_act == theirs


def test_names_without_prefix_gamma_beta_position_ids_and_a_stored_decoder(exported, params):
    def older(arrays):
        names = {
            name.removeprefix("bert.")
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in arrays.items()
        }
        names["embeddings.position_ids"] = np.arange(10)[None]
        names["cls.predictions.decoder.weight"] = names["embeddings.word_embeddings.weight"]
        names["cls.predictions.decoder.bias"] = names.pop("cls.predictions.bias")
        return names

    rewrite(exported, older)
    same(from_pretrained(exported).params, params)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, "bfloat16"])
def test_other_floating_point_types_become_float32(exported, params, dtype):
    dtype = jnp.dtype(dtype)
    rewrite(exported, lambda arrays: {n: a.astype(dtype) for n, a in arrays.items()})
    loaded = from_pretrained(exported).params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"float32"}
    same(loaded, jax.tree.map(lambda leaf: np.asarray(leaf, dtype).astype(np.float32), params))


def test_heads_that_are_absent_are_left_out(exported):
    rewrite(exported, lambda a: {n: v for n, v in a.items() if not n.startswith("cls.")})
    model = from_pretrained(exported)
    assert set(model.params) == {"embeddings", "encoder", "pooler"}
    assert model.task == {"kind": "encoder"}


def test_a_masked_lm_without_a_pooler_encodes_and_fills(tmp_path, tokenizer):
    """Hugging Face saves every BertForMaskedLM so."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=1)
    whole = random_params(config)
    params = {name: whole[name] for name in ("embeddings", "encoder", "mlm")}
    model = from_pretrained(
        save_pretrained(tmp_path / "out", Pretrained(config, params, tokenizer, None))
    )
    assert model.kind == "masked_lm" and "pooler" not in model.params
    inputs = {"input_ids": jnp.asarray([[2, 5, 4, 7, 3]])}
    encode = jax.jit(bj.encode, static_argnums=2)
    mlm_logits = jax.jit(bj.mlm_logits, static_argnums=2)
    out, with_pooler = (encode(each, inputs, config) for each in (model.params, whole))
    assert out.pooler_output is None and with_pooler.pooler_output is not None
    np.testing.assert_array_equal(out.last_hidden_state, with_pooler.last_hidden_state)
    logits = mlm_logits(model.params, inputs, config)
    np.testing.assert_array_equal(logits, mlm_logits(whole, inputs, config))
    some = mlm_logits(model.params, inputs, config, positions=jnp.asarray([[2, 0]]))
    # The products have other shapes, so the order of float32 sums differs.
    np.testing.assert_allclose(some[0], logits[0, jnp.asarray([2, 0])], rtol=1e-5, atol=1e-5)


QUERY = "bert.encoder.layer.3.attention.self.query.weight"


def test_a_missing_tensor_is_named_with_its_shape(exported):
    rewrite(exported, lambda arrays: {n: a for n, a in arrays.items() if n != QUERY})
    assert f"the tensor {QUERY} [8, 8] is missing" in refusal(exported)
    rewrite(exported, lambda arrays: {**arrays, QUERY: np.zeros((8, 8), np.float32)})
    rewrite(exported, lambda a: {n: v for n, v in a.items() if n != "cls.predictions.bias"})
    assert "the tensor cls.predictions.bias [12] is missing" in refusal(exported)


def test_a_wrong_shape_is_named_with_the_expected_one(exported):
    rewrite(exported, lambda arrays: {**arrays, QUERY: np.zeros((8, 9), np.float32)})
    sentence = refusal(exported)
    assert f"the tensor {QUERY} [8, 8] has the shape [8, 9]" in sentence


def test_tensors_of_another_model_are_refused(exported):
    rewrite(exported, lambda arrays: {**arrays, QUERY.replace("3", "11"): arrays[QUERY]})
    assert QUERY.replace("3", "11") in refusal(exported)


def test_an_untied_decoder_is_refused(exported):
    words = np.ones((12, 8), np.float32)
    rewrite(exported, lambda arrays: {**arrays, "cls.predictions.decoder.weight": words})
    assert "cls.predictions.decoder.weight differs from the word embeddings" in refusal(exported)


def test_weights_that_are_no_numbers(exported):
    rewrite(exported, lambda arrays: {**arrays, QUERY: np.zeros((8, 8), np.int64)})
    assert f"the tensor {QUERY} [8, 8] has the type int64" in refusal(exported)
    rewrite(exported, lambda arrays: {**arrays, QUERY: np.full((8, 8), np.nan, np.float32)})
    assert f"the tensor {QUERY} [8, 8] has values that are not finite" in refusal(exported)


def test_every_truncation_is_noticed_and_names_a_tensor(exported):
    file = exported / "model.safetensors"
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    payload = 8 + int.from_bytes(data[:8], "little")
    for cut in (len(data) - 1, payload + 1, *rng.integers(payload, len(data), 5)):
        file.write_bytes(data[:cut])
        sentence = refusal(exported)
        assert "cut off at byte" in sentence and "the tensor " in sentence
    for cut in (0, 7, 8, payload // 2, payload - 1):
        file.write_bytes(data[:cut])
        assert "damaged" in refusal(exported)


def test_a_flipped_bit_is_noticed(exported):
    file = exported / "model.safetensors"
    data = file.read_bytes()
    payload = 8 + int.from_bytes(data[:8], "little")
    for at in np.random.default_rng(1).integers(payload, len(data), 20):
        flipped = bytearray(data)
        flipped[at] ^= 1  # a low bit of a mantissa, or of an exponent
        file.write_bytes(flipped)
        assert "the weights are not those that were written" in refusal(exported)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"model_type": "electra"}', "model_type is 'electra'"),
        (b'{"model_type": "bert"}', "has no hidden_size"),
        (b'{"position_embedding_type": "relative_key"}', "position_embedding_type"),
    ],
)
def test_a_config_that_is_none_of_ours(unchecked, content, reason):
    (unchecked / "config.json").write_bytes(content)
    sentence = refusal(unchecked)
    assert sentence.startswith(str(unchecked / "config.json")) and reason in sentence


def test_a_flipped_letter_of_any_small_file_is_noticed(exported):
    small = ["config.json", "tokenizer_config.json", "vocab.txt"]
    assert json.loads((exported / checksums.FILE).read_text()).keys() == {*small}
    for name in small:
        file = exported / name
        data = file.read_bytes()
        for at in (0, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert f"{file}: differs from what was exported" in refusal(exported)
        file.unlink()
        if name != "config.json":
            assert f"{file}: is missing" in refusal(exported)
        file.write_bytes(data)
    from_pretrained(exported)


def test_digests_of_files_elsewhere_are_not_compared(exported):
    (exported / checksums.FILE).write_text('{"../secret": "0"}')
    assert "names '../secret' outside of the directory" in refusal(exported)
    (exported / checksums.FILE).write_text("[]")
    assert "bertjax_sha256.json: holds no JSON object" in refusal(exported)


def test_a_tokenizer_larger_than_the_model(unchecked):
    (unchecked / "vocab.txt").write_text("\n".join([*TOKENS, "h"]) + "\n")
    assert "the tokenizer has 13 tokens and the model only 12" in refusal(unchecked)


def test_a_model_is_not_made_with_a_larger_tokenizer(unchecked):
    model = from_pretrained(unchecked)
    small = dataclasses.replace(model.bert_config("a test"), vocab_size=9)
    with pytest.raises(UserError, match="Pretrained: the tokenizer has 12 tokens and the model on"):
        dataclasses.replace(model, config=small)


def test_what_holds_no_model(tmp_path):
    assert "no such directory" in refusal(tmp_path / "none")
    assert "holds no config.json with model.safetensors" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "holds pytorch_model.bin without config.json" in refusal(tmp_path)
    seed = tmp_path / "learning-rate-1" / "seed-0"
    for run in (tmp_path, seed, seed.parent):  # pre-training, and fine-tuning with a grid
        (run / "checkpoints").mkdir(parents=True)
        assert "a run that has saved neither a checkpoint nor export/" in refusal(tmp_path)
        (run / "checkpoints").rmdir()


def test_a_misspelt_name_of_the_hub_is_corrected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean bert-base-uncased?" in refusal("bert-base-uncase")
    assert "did you mean" not in refusal("mine")


def test_a_run_directory_is_read_by_its_export(exported, tmp_path, params):
    exported.rename(tmp_path / "export")
    same(from_pretrained(tmp_path).params, params)


def test_exporting_again_replaces_the_model_and_nothing_else(exported, params, tokenizer):
    (exported / "notes.md").write_text("mine")
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    for name in ("tokenizer.json", "added_tokens.json"):  # files of the former model
        (exported / name).write_text('{"zebra": 99}')
    save_pretrained(exported, Pretrained(CONFIG, other, tokenizer, None))
    same(from_pretrained(exported).params, other)
    assert (exported / "notes.md").read_text() == "mine"
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


def test_nothing_is_left_of_an_export_that_failed(tmp_path, params, tokenizer):
    broken = {**params, "nsp": {**params["nsp"], "bias": np.array([0, np.inf], np.float32)}}
    with pytest.raises(UserError, match=r"not written, because the weights .* are not finite"):
        save_pretrained(tmp_path / "out", Pretrained(CONFIG, broken, tokenizer, None))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        save_pretrained(tmp_path / "file", Pretrained(CONFIG, params, tokenizer, None))


def test_every_parameter_has_a_name_of_its_own(params):
    paths = named(params)
    assert len({tensors.tensor_name(path)[0] for path in paths}) == len(paths)
    with pytest.raises(ValueError, match="has no name"):
        tensors.tensor_name("decoder/kernel")
