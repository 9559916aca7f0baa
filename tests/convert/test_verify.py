import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from bertjax.config import BertConfig
from bertjax.convert import reference, variants, verify
from bertjax.convert.reference import Reference, Statistics
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.train.tree import named, nested

WORDS = "the quick Brown brown THE fox Elan elan Élan élan , . ' ! ##s ##l"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
CONFIG = BertConfig(
    vocab_size=len(TOKENS),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
)
# In these tests, a changed bertjax model stands for the other implementation.
OTHER = "another implementation"


def random_params(config, **heads):
    """Weights of a trained model's size: no bias 0, no scale 1, embeddings small."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0), **heads))
    size = {"embedding": 0.03, "kernel": 0.3, "bias": 0.2, "scale": 0.2}

    def draw(path, leaf):
        kind = path.rsplit("/", 1)[1]
        values = rng.normal(size=leaf.shape) * size[kind] + (kind == "scale")
        return values.astype(np.float32)

    return nested({path: draw(path, leaf) for path, leaf in named(shapes).items()})


@pytest.fixture(scope="module")
def model():
    tokenizer = WordPieceTokenizer(TOKENS, True)
    return Pretrained(CONFIG, random_params(CONFIG), tokenizer, {"kind": "pretraining"})


@pytest.fixture(scope="module")
def classifier():
    params = random_params(CONFIG, heads=("classifier",), num_labels=5)
    task = {"kind": "sequence_classification", "labels": list("abcde")}
    return Pretrained(CONFIG, params, WordPieceTokenizer(TOKENS, True), task)


def reference_of(model, generator=OTHER, tokenizer=None):
    """The reference outputs of an implementation that has this model."""
    probe = reference.make_probe(model)
    outputs = verify.model_outputs(model, probe)
    return Reference(
        generator=generator,
        versions={"other": "1.0"},
        architecture="BertForPreTraining",
        probe=probe,
        outputs={name: Statistics.of(output) for name, output in outputs.items()},
        texts=reference.TEXTS,
        ids=[(tokenizer or model.tokenizer).encode(text).ids for text in reference.TEXTS],
    )


def certificate(model, theirs, directory):
    """The certificate of a model, with golden statistics beside its source."""
    reference.write_golden(epath.Path(directory) / "parity.json", theirs)
    lines = []
    found = verify.verify(model, directory, lines.append)
    assert found.stored and lines[0].startswith("Comparing with BertForPreTraining of other 1.0")
    assert "\n" not in found.verdict()
    assert found.verdict() == json.loads(found.to_json())["verdict"]
    return found


def changed(model, **leaves):
    """The model with other weights; keyword names are paths with __ for /."""
    leaves = {path.replace("__", "/"): value for path, value in leaves.items()}
    assert leaves.keys() <= named(model.params).keys()
    return dataclasses.replace(model, params=nested({**named(model.params), **leaves}))


def configured(model, **fields):
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **fields))


# Agreement


def test_the_same_model_agrees_with_its_golden_statistics(model, tmp_path):
    found = certificate(model, reference_of(model), tmp_path)
    assert found.agrees and not found.causes
    assert found.differences.keys() == {"last_hidden_state", "pooled", "mlm_logits", "nsp_logits"}
    # The mean is not exactly 0, because float32 sums are rounded.
    assert max(found.differences.values()) < 1e-6
    assert found.verdict().startswith("Agrees with BertForPreTraining of other 1.0")


def test_the_probe_has_padding_both_token_types_and_odd_lengths(model):
    probe = reference.make_probe(model)
    lengths = probe["attention_mask"].sum(1)
    assert probe["input_ids"].shape == (4, 20) and len(set(lengths)) == 4
    assert any(lengths % 2)
    for ids, mask, types in zip(*probe.values(), strict=True):
        assert (ids[mask == 0] == 0).all() and (types[mask == 0] == 0).all()
        assert ids[0] == 2 and ids[mask.sum() - 1] == 3
    assert set(probe["token_type_ids"].ravel()) == {0, 1}
    again = reference.make_probe(model)
    assert all((again[name] == rows).all() for name, rows in probe.items())
    short = reference.make_probe(configured(model, max_position_embeddings=2, type_vocab_size=1))
    assert short["input_ids"].shape == (4, 2) and not short["token_type_ids"].any()


def test_what_a_padded_position_says_is_nobodys_concern(model, tmp_path):
    probe = reference.make_probe(model)
    mask = probe["attention_mask"]
    for output in verify.model_outputs(model, probe).values():
        if output.ndim == 3:
            assert not output[mask == 0].any() and output[mask == 1].any()


@pytest.mark.parametrize("path", sorted(named(random_params(CONFIG))))
def test_a_change_of_any_tensor_is_noticed(model, tmp_path, path):
    """A change of one value by a thousandth is detected in every tensor except key biases, which
    softmax cancels."""
    value = named(model.params)[path].copy()
    if path == "embeddings/word_embeddings/embedding":
        place = (3, 5)  # [SEP], which is in every row
    else:
        place = tuple(0 for _ in value.shape)
    value[place] += 0.01
    theirs = reference_of(changed(model, **{path: value}))
    found = {
        name: verify._difference(output, theirs.outputs[name])
        for name, output in verify.model_outputs(model, theirs.probe).items()
    }
    noticed = max(found.values()) > verify.TOLERANCE
    assert noticed != path.endswith("attention/key/bias")


def test_an_output_that_the_model_here_lacks_is_not_passed_over_in_silence(model, tmp_path):
    params = {part: tree for part, tree in model.params.items() if part not in ("mlm", "nsp")}
    encoder = dataclasses.replace(model, params=params, task={"kind": "encoder"})
    found = certificate(encoder, reference_of(model), tmp_path)
    assert found.agrees and set(found.not_compared) == {"mlm_logits", "nsp_logits"}
    assert "not compared, because this model lacks it: " in found.verdict()


# Causes


def all_variants():
    tokenizer = WordPieceTokenizer(TOKENS, True)
    shape = Pretrained(CONFIG, random_params(CONFIG), tokenizer, {"kind": "pretraining"})
    return [cause for cause, _ in variants.variants(shape)]


@pytest.mark.parametrize("cause", all_variants())
def test_every_known_cause_is_told_from_all_others(model, tmp_path, cause):
    wrong = dict(variants.variants(model))[cause]
    found = certificate(model, reference_of(wrong), tmp_path)
    assert not found.agrees
    assert found.causes == (cause,)
    assert cause in found.verdict()


def wrong_models(model):
    """Mistakes made without `variants`, and words that name them."""
    layers = [f"encoder/layer_{number}" for number in (0, 1)]
    leaves = named(model.params)
    norms = [path for path in leaves if "layer_norm" in path]
    types = leaves["embeddings/token_type_embeddings/embedding"]

    def transposed(*parts):
        return changed(model, **{path: leaves[path].T for path in parts})

    yield configured(model, hidden_act="gelu_tanh"), "hidden_act is gelu_new (tanh) there"
    yield configured(model, layer_norm_eps=1e-6), "layer_norm_eps is 1e-06 there"
    yield configured(model, layer_norm_eps=1e-5), "layer_norm_eps is 1e-05 there"
    for part in ("query", "key", "value", "output"):
        wrong = transposed(*(f"{layer}/attention/{part}/kernel" for layer in layers))
        yield wrong, f"every attention {part} kernel is transposed"
    yield transposed("pooler/kernel"), "every pooler kernel is transposed"
    yield transposed("mlm/transform/kernel"), "every mlm transform kernel is transposed"
    no_types = {"embeddings/token_type_embeddings/embedding": np.zeros_like(types)}
    yield changed(model, **no_types), "token types are ignored"
    plain = {path: np.full_like(leaves[path], path.endswith("/scale")) for path in norms}
    yield changed(model, **plain), "gamma and beta are not read"


@pytest.mark.parametrize("number", range(11))
def test_mistakes_made_by_hand_are_named(model, tmp_path, number):
    wrong, words = list(wrong_models(model))[number]
    found = certificate(model, reference_of(wrong), tmp_path)
    assert not found.agrees and len(found.causes) == 1
    assert words in found.causes[0]


def test_there_are_so_many_mistakes(model):
    assert len(list(wrong_models(model))) == 11


def test_an_untied_decoder_is_named(model, tmp_path):
    theirs = reference_of(model)
    rng = np.random.default_rng(1)
    probe = theirs.probe
    untied = rng.normal(size=(4, 20, len(TOKENS))).astype(np.float32)
    logits = reference.without_padding(untied, probe["attention_mask"])
    theirs.outputs["mlm_logits"] = Statistics.of(logits)
    found = certificate(model, theirs, tmp_path)
    assert found.causes == ("the masked-LM decoder is not tied to the word embeddings there",)


def test_weights_here_without_gamma_and_beta_are_named(model, tmp_path):
    """The source has gamma and beta, but the reader returned ones and zeros."""
    ((plain, _),) = [w for w in wrong_models(model) if "gamma" in w[1]]
    found = certificate(plain, reference_of(model), tmp_path)
    assert not found.agrees and "as if they had not been read" in found.verdict()


def test_another_order_of_the_labels_is_named(classifier, tmp_path):
    order = [2, 0, 1, 4, 3]
    head = classifier.params["classifier"]
    wrong = changed(
        classifier,
        classifier__kernel=head["kernel"][:, order],
        classifier__bias=head["bias"][order],
    )
    found = certificate(classifier, reference_of(wrong), tmp_path)
    assert set(found.differences) == {"last_hidden_state", "pooled", "logits"}
    assert found.causes == (
        "the labels of logits are in another order (theirs, in order, are [2, 0, 1, 4, 3] here)",
    )


def test_swapped_next_sentence_labels_are_named(model, tmp_path):
    head = model.params["nsp"]
    swapped = {"nsp__kernel": head["kernel"][:, ::-1], "nsp__bias": head["bias"][::-1]}
    found = certificate(model, reference_of(changed(model, **swapped)), tmp_path)
    assert "nsp_logits are in another order (theirs, in order, are [1, 0] here)" in found.causes[0]


def test_an_unknown_cause_is_said_to_be_unknown(model, tmp_path):
    value = named(model.params)["encoder/layer_0/intermediate/kernel"][::-1]
    wrong = changed(model, encoder__layer_0__intermediate__kernel=value)
    found = certificate(model, reference_of(wrong), tmp_path)
    assert not found.agrees and found.causes == ()
    assert "none of the known mistakes explains it" in found.verdict()


@pytest.mark.parametrize(
    ("lower", "strip", "words"),
    [
        (False, None, "keeps case there"),
        (True, False, "keeps accents there"),
        (False, True, "keeps case there and the tokenizer strips accents there"),
    ],
)
def test_another_case_of_the_tokenizer_is_named(model, tmp_path, lower, strip, words):
    other = WordPieceTokenizer(TOKENS, lower, strip)
    found = certificate(model, reference_of(model, tokenizer=other), tmp_path)
    assert not found.agrees and found.texts_that_differ
    assert max(found.differences.values()) < verify.TOLERANCE
    assert len(found.causes) == 1 and found.causes[0].endswith(words)


def test_two_causes_of_outputs_and_tokenizer_are_both_named(model, tmp_path):
    other = WordPieceTokenizer(TOKENS, False)
    theirs = reference_of(configured(model, hidden_act="gelu_new"), tokenizer=other)
    found = certificate(model, theirs, tmp_path)
    assert len(found.causes) == 2 and "hidden_act" in found.causes[0]


def test_outputs_of_another_shape_or_that_are_not_finite_never_agree(model, classifier, tmp_path):
    theirs = reference_of(model)
    wide = Statistics.of(np.zeros((4, 20, 17), np.float32))
    theirs.outputs["last_hidden_state"] = wide
    found = certificate(model, theirs, tmp_path)
    assert (
        not found.agrees and json.loads(found.to_json())["differences"]["last_hidden_state"] is None
    )
    broken = changed(classifier, pooler__bias=np.full(16, np.nan, np.float32))
    assert not certificate(broken, reference_of(classifier), tmp_path).agrees


# Where the reference comes from


def test_statistics_of_a_sample_tell_as_much(model):
    """Mean and deviation alone notice a change outside of the sampled positions."""
    output = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    sampled = Statistics.of(output).sample()
    assert len(sampled.positions) == len(set(sampled.positions.tolist())) == 512
    assert verify._difference(output, sampled) < 1e-6
    other = output.copy()
    place = np.setdiff1d(np.arange(2000), sampled.positions)[0]
    other.reshape(-1)[place] += 5.0
    assert verify._difference(other, sampled) > verify.TOLERANCE
    other.reshape(-1)[place] = np.nan
    assert np.isinf(verify._difference(other, sampled))


def test_golden_statistics_read_back_as_they_were(model, tmp_path):
    theirs = reference_of(model)
    path = epath.Path(tmp_path) / "parity.json"
    reference.write_golden(path, theirs)
    read = reference.read_golden(path)
    assert (read.texts, read.ids, read.versions) == (theirs.texts, theirs.ids, theirs.versions)
    for name, output in theirs.outputs.items():
        found = read.outputs[name]
        assert (found.shape, found.mean, found.std) == (output.shape, output.mean, output.std)
        assert len(found.positions) == min(512, np.prod(output.shape))
        np.testing.assert_array_equal(found.values, output.values[found.positions])
    reference.write_golden(path, read)  # a sample of a sample
    again = reference.read_golden(path).outputs["mlm_logits"]
    np.testing.assert_array_equal(again.positions, read.outputs["mlm_logits"].positions)


def test_golden_statistics_made_by_bertjax_are_refused(model, tmp_path):
    with pytest.raises(UserError, match="would prove nothing"):
        certificate(model, reference_of(model, generator="BERTJax 0.1"), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.clear(),
        lambda fields: fields.update(format=2),
        lambda fields: fields.update(probe=[]),
        lambda fields: fields["probe"].update(input_ids=[[1, 2], [3]]),
        lambda fields: fields["outputs"].pop("last_hidden_state"),
        lambda fields: fields["outputs"]["pooled"].update(positions=[10**6]),
        lambda fields: fields["outputs"]["pooled"].update(values=["a"]),
        lambda fields: fields["outputs"]["pooled"].update(mean=None),
        lambda fields: fields["outputs"]["pooled"].update(shape=[-1, 3]),
        lambda fields: fields.update(ids="abc"),
        lambda fields: fields.update(generator=None),
    ],
)
def test_damaged_golden_statistics_are_refused_in_one_sentence(model, tmp_path, change):
    path = tmp_path / "parity.json"
    reference.write_golden(epath.Path(path), reference_of(model))
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="not golden statistics") as caught:
        verify.verify(model, tmp_path, lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_golden_of_a_larger_vocabulary_is_refused(model, tmp_path):
    theirs = reference_of(model)
    theirs.probe["input_ids"][0, 1] = 999
    with pytest.raises(UserError, match="larger vocabulary"):
        certificate(model, theirs, tmp_path)


def test_nothing_to_compare_with_is_said(model, tmp_path):
    with pytest.raises(UserError, match="nothing to compare the model with"):
        verify.verify(model, tmp_path, lambda line: None)


def test_a_file_of_the_source_does_too(model, tmp_path):
    reference.write_golden(epath.Path(tmp_path) / "parity.json", reference_of(model))
    checkpoint = tmp_path / "bert_model.ckpt"
    assert verify.verify(model, checkpoint, lambda line: None).agrees


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Makes the program end with an exit code, by a stand-in for the Python interpreter."""

    def make(exit_code, words=""):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit {exit_code}\n")
        path.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(path))

    return make


def test_without_transformers_the_golden_statistics_are_taken(model, tmp_path, interpreter):
    save_pretrained(tmp_path / "source", model)
    interpreter(3)
    with pytest.raises(UserError, match="transformers and torch are not installed"):
        verify.verify(model, tmp_path / "source", print)
    reference.write_golden(epath.Path(tmp_path) / "source/parity.json", reference_of(model))
    found = verify.verify(model, tmp_path / "source", print)
    assert found.agrees and found.stored


def test_what_transformers_cannot_read_is_said(model, tmp_path, interpreter):
    save_pretrained(tmp_path / "source", model)
    interpreter(4, "warning\nno such tensor")
    with pytest.raises(UserError, match=r"transformers can't read it \(no such tensor\)"):
        verify.verify(model, tmp_path / "source", print)
    reference.write_golden(epath.Path(tmp_path) / "source/parity.json", reference_of(model))
    lines = []
    interpreter(4, "x")
    found = verify.verify(model, tmp_path / "source", lines.append)
    assert found.stored and lines[0].endswith("(x): looking for golden statistics.")
