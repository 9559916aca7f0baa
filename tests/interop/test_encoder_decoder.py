"""Tests that encoder-decoders are read and written as EncoderDecoderModel of transformers."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.convert.run import ConvertConfig, convert
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.inference.embed import embed
from bertjax.inference.fill_mask import fill_mask
from bertjax.inference.likelihood import pseudo_log_likelihood
from bertjax.interop import checksums
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.interop.tensors import tensor_name, weights_hash
from bertjax.model.encoder_decoder import EncoderDecoder, init_params
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.predictions import (
    Seq2SeqPredictor,
    WritingOptions,
    defaults,
    recorded_config,
)
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.lora import LoraConfig
from bertjax.train.tree import named

GOLDEN = Path(__file__).parent / "golden"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL = BertConfig(
    vocab_size=12,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
OTHER = dataclasses.replace(
    SMALL, vocab_size=14, hidden_size=12, num_attention_heads=3, num_hidden_layers=1
)
CONFIGS = {
    "none": EncoderDecoderConfig(SMALL, SMALL),
    "embeddings": EncoderDecoderConfig(
        SMALL, dataclasses.replace(SMALL, num_hidden_layers=1, intermediate_size=7), "embeddings"
    ),
    "all": EncoderDecoderConfig(SMALL, SMALL, "all"),
    "another width": EncoderDecoderConfig(SMALL, OTHER),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
GENERATION = {
    "max_length": 9,
    "min_length": 2,
    "num_beams": 3,
    "length_penalty": 0.6,
    "length_penalty_kind": "huggingface",
    "early_stopping": "never",
    "no_repeat_ngram_size": 3,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "n_best": 2,
    "sample_seed": 7,
}
SELF = "encoder.encoder.layer.1.attention.self.query.weight"
CROSS = "decoder.bert.encoder.layer.0.crossattention.self.key.weight"
WORDS = "decoder.bert.embeddings.word_embeddings.weight"


def vocabulary(directory, letters):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *letters]) + "\n")
    return directory


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The encoder's and another one."""
    root = tmp_path_factory.mktemp("tokenizers")
    return [
        load_tokenizer(vocabulary(root / letters, letters)) for letters in ("abcdefg", "stuvwxyz?")
    ]


@pytest.fixture(scope="module")
def params():
    """Random parameters of each configuration; all leaves differ."""
    rng = np.random.default_rng(0)

    def draw(config):
        shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
        return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    return {name: draw(config) for name, config in CONFIGS.items()}


@pytest.fixture
def model(params, tokenizers):
    def make(name, **task):
        config = CONFIGS[name]
        same = config.encoder.vocab_size == config.decoder.vocab_size
        task = {"kind": "encoder_decoder", **task}
        return Pretrained(
            config, params[name], tokenizers[0], task, None if same else tokenizers[1]
        )

    return make


@pytest.fixture
def exported(model, tmp_path):
    return save_pretrained(tmp_path / "out", model("another width"))


@pytest.fixture
def shared(model, tmp_path):
    return save_pretrained(tmp_path / "out", model("all"))


@pytest.fixture
def theirs(tmp_path):
    """Writes what transformers wrote, with the vocabularies at their places."""

    def directory(name):
        with np.load(GOLDEN / name) as file:
            golden = dict(file)
        golden["tensors"] = {
            key.removeprefix("tensor:"): array
            for key, array in golden.items()
            if key.startswith("tensor:")
        }
        path = vocabulary(tmp_path / "theirs", "abcdefg")
        (path / "config.json").write_text(golden["config"].item())
        write_tensors(path, golden["tensors"])
        config = json.loads(golden["config"].item())
        if config["decoder"]["vocab_size"] == 14:
            vocabulary(path / "decoder_tokenizer", "stuvwxyz?")
        return path, golden

    return directory


def tensors_of(path):
    return safetensors.numpy.load((path / "model.safetensors").read_bytes())


def write_tensors(path, tensors):
    data = safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in tensors.items()})
    (path / "model.safetensors").write_bytes(data)


def change_tensors(path, **changes):
    """Changes tensors like another program; None removes one."""
    tensors = {**tensors_of(path), **changes}
    write_tensors(path, {name: array for name, array in tensors.items() if array is not None})


def change_config(path, part=None, **changes):
    """Changes config.json or one of its parts; None removes a field."""
    fields = json.loads((path / "config.json").read_text())
    own = fields[part] if part else fields
    own |= changes
    for name in [name for name, value in changes.items() if value is None]:
        del own[name]
    (path / "config.json").write_text(json.dumps(fields))
    (path / "bertjax_sha256.json").unlink(missing_ok=True)  # as in other programs' directories


def refusal(path):
    with pytest.raises(UserError) as caught:
        from_pretrained(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


logits_of = jax.jit(EncoderDecoder().logits, static_argnums=2)


def check_logits(model, golden):
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    inputs = {name: jnp.asarray(golden[name], jnp.int32) for name in names}
    logits = logits_of(model.params, inputs, model.config)
    # The order of float32 sums differs.
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-5)
    # Otherwise the model might ignore its target, or its source: all targets begin alike.
    assert np.ptp(golden["logits"], axis=1).min() > 0.1
    assert np.ptp(golden["logits"][:, 0], axis=0).max() > 0.03


# What transformers saves.


def test_logits_and_tensors_are_those_of_transformers(theirs, tmp_path):
    path, golden = theirs("encoder_decoder.npz")
    assert "transformers 5" in golden["made_by"].item()
    model = from_pretrained(path)
    assert model.task == {"kind": "encoder_decoder", "share": "none"}
    assert model.config.encoder.max_position_embeddings == 10
    assert model.config.decoder.hidden_act == "gelu_new"
    assert model.tokenizer.vocab_size == 12 and model.decoder_tokenizer.vocab_size == 14
    check_logits(model, golden)
    assert "pooler" in model.params["encoder"]
    back = tensors_of(save_pretrained(tmp_path / "back", model))
    assert back.keys() == golden["tensors"].keys()
    for name, array in golden["tensors"].items():
        np.testing.assert_array_equal(back[name], array)


def test_a_file_of_pytorch(theirs, load_helper):
    path, golden = theirs("encoder_decoder.npz")
    expected = from_pretrained(path)
    tensors = golden["tensors"] | {
        "decoder.cls.predictions.decoder.weight": golden["tensors"][WORDS]
    }
    bias = golden["tensors"]["decoder.cls.predictions.bias"]
    tensors["decoder.cls.predictions.decoder.bias"] = bias
    # Files of older versions hold buffers, and a pooler of the decoder, which nothing reads.
    tensors["encoder.embeddings.position_ids"] = np.arange(10)[None]
    tensors["decoder.bert.pooler.dense.bias"] = bias
    (path / "model.safetensors").unlink()
    writer = load_helper("interop/torch_writer.py")
    (path / "pytorch_model.bin").write_bytes(writer.save(tensors))
    same(from_pretrained(path).params, expected.params)


def test_tied_weights_which_the_file_holds_once(theirs, tmp_path):
    path, golden = theirs("encoder_decoder_tied.npz")
    assert "transformers 4" in golden["made_by"].item()
    model = from_pretrained(path)
    assert model.config.share == "all"
    assert set(model.params["decoder"]["encoder"]["layer_0"]) == {
        "cross_attention",
        "cross_attention_layer_norm",
    }
    check_logits(model, golden)
    # Every tensor is there in what is written, for versions that do not know tied weights.
    lacking = golden["tensors"].keys()
    back = save_pretrained(tmp_path / "back", model)
    assert {name for name in tensors_of(back) if name.startswith("encoder.enc")} - lacking
    change_config(back, bertjax_task=None, tie_encoder_decoder=None)
    again = from_pretrained(back)
    assert again.config.share == "none"
    check_logits(again, golden)
    # They are not shared if the shapes differ in a dropout rate.
    change_config(path, "decoder", hidden_dropout_prob=0.5)
    apart = from_pretrained(path)
    assert apart.config.share == "none"
    same(apart.params, again.params)


def test_the_other_half_may_be_the_one_that_is_missing(theirs):
    path, golden = theirs("encoder_decoder_tied.npz")
    for name in golden["tensors"]:
        if name.startswith("decoder.bert.") and "crossattention" not in name:
            source = name.replace("decoder.bert.", "encoder.")
            change_tensors(path, **{source: golden["tensors"][name], name: None})
    assert WORDS not in tensors_of(path)
    check_logits(from_pretrained(path), golden)
    change_config(path, tie_encoder_decoder=None)
    assert "the tensor decoder.bert.embeddings.LayerNorm.bias [8] is missing" in refusal(path)


# What bertjax saves.


@every_config
def test_export_and_import_is_the_identity(model, params, tmp_path, name):
    written = model(name, source_column="de", generation=GENERATION)
    path = save_pretrained(tmp_path / "out", written)
    read = from_pretrained(path)
    assert read.config == written.config
    assert read.task == {**written.task, "share": written.config.share}
    same(read.params, params[name])
    assert weights_hash(read.params) == weights_hash(written.params)
    assert read.tokenizer.sha256 == written.tokenizer.sha256
    if name == "another width":
        assert read.decoder_tokenizer.sha256 == written.decoder_tokenizer.sha256
    else:
        assert read.decoder_tokenizer is None and not (path / "decoder_tokenizer").exists()


def test_a_tokenizer_of_the_same_size_is_kept_too(model, tokenizers, tmp_path):
    ours = dataclasses.replace(model("none"), decoder_tokenizer=tokenizers[0])
    assert from_pretrained(save_pretrained(tmp_path / "a", ours)).decoder_tokenizer is None
    other = load_tokenizer(vocabulary(tmp_path / "other", "tuvwxyz"))
    ours = dataclasses.replace(ours, decoder_tokenizer=other)
    read = from_pretrained(save_pretrained(tmp_path / "b", ours))
    assert read.decoder_tokenizer.sha256 == other.sha256


@every_config
def test_tensors_are_those_of_transformers(model, theirs, tmp_path, name):
    """Names but for the number of layers; shared leaves have both."""
    arrays = tensors_of(save_pretrained(tmp_path / "out", model(name)))
    _, golden = theirs("encoder_decoder.npz")
    layers = CONFIGS[name].decoder.num_hidden_layers
    expected = {
        tensor
        for tensor in golden["tensors"]
        if not any(f"decoder.bert.encoder.layer.{n}." in tensor for n in range(layers, 3))
    }
    if name != "another width":
        expected -= {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"}
    assert arrays.keys() == expected
    for part in ("weight", "bias"):
        assert not np.any(arrays[f"encoder.pooler.dense.{part}"])
    pairs = [(n, n.replace("decoder.bert.", "encoder.")) for n in arrays if "decoder.bert." in n]
    equal = {
        n for n, other in pairs if other in arrays and np.array_equal(arrays[n], arrays[other])
    }
    words = {WORDS}
    both = {n for n, other in pairs if other in arrays}
    assert equal == {"all": both, "embeddings": words}.get(name, set())


def test_every_parameter_has_a_name_of_its_own(params):
    for tree in params.values():
        assert len({tensor_name(path)[0] for path in named(tree)}) == len(named(tree))


def test_config_json_is_one_that_transformers_reads(exported):
    fields = json.loads((exported / "config.json").read_text())
    assert fields["architectures"] == ["EncoderDecoderModel"]
    assert fields["model_type"] == "encoder-decoder" and fields["is_encoder_decoder"] is True
    assert fields["vocab_size"] == fields["decoder"]["vocab_size"] == 14
    ids = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    assert {name: fields[name] for name in ids} == ids
    decoder = {"is_decoder": True, "add_cross_attention": True, "tie_word_embeddings": True}
    assert decoder.items() <= fields["decoder"].items()
    assert "tie_encoder_decoder" not in fields
    assert json.loads((exported / "generation_config.json").read_text()) == ids


def test_what_was_recorded_of_generation_has_the_names_of_transformers(model, tmp_path):
    def written(**changes):
        task = {"generation": {**GENERATION, **changes}}
        path = save_pretrained(tmp_path / "out", model("none", **task))
        return json.loads((path / "generation_config.json").read_text())

    fields = written()
    expected = {
        "decoder_start_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "suppress_tokens": [0, 2, 4],
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "num_beams": 3,
        "length_penalty": 0.6,
        "early_stopping": "never",
        "no_repeat_ngram_size": 3,
        "do_sample": False,
        "num_return_sequences": 2,
    }
    assert fields == expected
    assert "length_penalty" not in written(length_penalty_kind="gnmt")
    sampled = written(do_sample=True, num_beams=1, temperature=0.5)
    drawing = {"temperature": 0.5, "top_k": 0, "top_p": 1.0}
    assert sampled == {**expected, "do_sample": True, "num_beams": 1, **drawing}


def test_generation_config_json_of_another_program_is_read(exported):
    file = exported / "generation_config.json"
    (exported / checksums.FILE).unlink()
    config = json.loads((exported / "config.json").read_text())
    del config["bertjax_task"]
    (exported / "config.json").write_text(json.dumps(config))

    def read(**fields):
        file.write_text(json.dumps(fields))
        told = []
        task = from_pretrained(exported, log=told.append).task
        return task.get("generation"), told

    assert read(eos_token_id=3, transformers_version="4.40.0") == (None, [])
    fields = {"max_length": 12, "num_beams": 3, "length_penalty": 0.6, "temperature": 0.5}
    found = {"max_length": 11, "num_beams": 3, "length_penalty": 0.6}
    assert read(**fields, early_stopping=None) == (found, [])
    sampled, told = read(**fields | {"do_sample": True, "num_beams": 1}, max_new_tokens=9)
    drawing = {"do_sample": True, "num_beams": 1, "temperature": 0.5}
    assert sampled == {**found, **drawing, "max_length": 9} and told == []
    _, told = read(repetition_penalty=1.2, num_beam_groups=2, num_beams=2)
    assert told == [
        f"{file}: num_beam_groups, repetition_penalty: not read, because bertjax generates "
        "without it."
    ]
    file.unlink()
    assert "generation" not in from_pretrained(exported).task


@pytest.mark.parametrize(
    ("file", "field", "wrong", "sentence"),
    [
        (
            "config.json",
            "decoder_start_token_id",
            0,
            r"is 0, but bertjax writes with 2 \(\[CLS\]\)",
        ),
        ("generation_config.json", "decoder_start_token_id", 99, "is 99, but"),
        ("generation_config.json", "eos_token_id", [3, 1], r"is \[3, 1\], but .*3 \(\[SEP\]\)"),
    ],
)
def test_other_tokens_that_begin_or_end_texts_are_refused(exported, file, field, wrong, sentence):
    (exported / checksums.FILE).unlink()
    fields = json.loads((exported / file).read_text())
    (exported / file).write_text(json.dumps({**fields, field: [fields[field]]}))
    from_pretrained(exported)
    (exported / file).write_text(json.dumps({**fields, field: wrong}))
    with pytest.raises(UserError, match=rf"{file}: {field} {sentence}"):
        from_pretrained(exported)


def test_a_pooler_that_is_there_is_kept(model, tmp_path):
    ours = model("all")
    pooler = {"kernel": np.eye(8, dtype=np.float32), "bias": np.zeros(8, np.float32)}
    ours.params = {**ours.params, "encoder": {**ours.params["encoder"], "pooler": pooler}}
    same(from_pretrained(save_pretrained(tmp_path / "out", ours)).params, ours.params)


def test_a_file_without_a_pooler(shared, params):
    names = {f"encoder.pooler.dense.{leaf}": None for leaf in ("weight", "bias")}
    change_tensors(shared, **names)
    same(from_pretrained(shared).params, params["all"])


def test_weights_that_were_trained_apart_are_not_shared(shared):
    """transformers 5 keeps our entry and trains the tensors of both names."""
    arrays = tensors_of(shared)
    name = "decoder.bert.encoder.layer.1.output.dense.bias"
    change_tensors(shared, **{name: arrays[name] + 1})
    read = from_pretrained(shared)
    assert read.config.share == read.task["share"] == "none"
    decoder = read.params["decoder"]["encoder"]["layer_1"]["output"]["bias"]
    np.testing.assert_array_equal(decoder, arrays[name] + 1)
    encoder = read.params["encoder"]["encoder"]["layer_1"]["output"]["bias"]
    np.testing.assert_array_equal(encoder, arrays[name])


def test_equal_tensors_alone_are_not_shared(shared):
    change_config(shared, bertjax_task=None, tie_encoder_decoder=None)
    assert from_pretrained(shared).config == CONFIGS["none"]


def test_exporting_again_replaces_the_model_and_nothing_else(model, tiny_model, exported):
    (exported / "notes.md").write_text("mine")
    save_pretrained(exported, model("another width"))
    assert from_pretrained(exported).config == CONFIGS["another width"]
    save_pretrained(exported, model("all"))
    assert from_pretrained(exported).config == CONFIGS["all"]
    save_pretrained(exported, tiny_model)
    assert from_pretrained(exported).kind == "pretraining"
    names = ["config.json", "model.safetensors", "notes.md", "tokenizer_config.json", "vocab.txt"]
    names = ["bertjax_sha256.json", *names]
    assert sorted(file.name for file in exported.iterdir()) == names


def test_a_remote_directory(model, remote):
    path = save_pretrained(remote[0] / "out", model("another width"))
    assert from_pretrained(path).config == CONFIGS["another width"]
    assert [file.name for file in remote[1].iterdir()] == ["out"]


# Refusals.


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        (None, {"encoder": None}, "has no object 'encoder'"),
        (None, {"decoder": [1]}, "has no object 'decoder'"),
        ("encoder", {"model_type": "roberta"}, "model_type of the encoder is 'roberta'; only"),
        ("decoder", {"model_type": "gpt2"}, "model_type of the decoder is 'gpt2'; only"),
        ("encoder", {"is_decoder": True}, "is_decoder of the encoder is True, but"),
        (
            "decoder",
            {"is_decoder": False},
            "is_decoder of the decoder is False, but it has to read",
        ),
        (
            "decoder",
            {"add_cross_attention": None},
            "add_cross_attention of the decoder is None, but",
        ),
        (
            "encoder",
            {"position_embedding_type": "relative_key"},
            "of the encoder is 'relative_key'",
        ),
        ("decoder", {"hidden_size": None}, "config.json, decoder has no hidden_size: is it the"),
        ("decoder", {"hidden_size": 13}, "config.json, decoder: hidden_size 13 is not a multiple"),
        (
            None,
            {"bertjax_task": {"kind": "encoder_decoder", "share": "some"}},
            "share 'some' is unknown: give one of none, em",
        ),
        (
            None,
            {"bertjax_task": {"kind": "encoder_decoder", "share": "all"}},
            "The encoder has the vocab_size 12 and the decoder 14: they can't share weights",
        ),
        ("encoder", {"vocab_size": 11}, "has the shape [12, 8], but the configuration implies [11"),
    ],
)
def test_configurations_of_something_else(exported, part, changes, sentence):
    change_config(exported, part, **changes)
    found = refusal(exported)
    assert str(exported) in found and sentence in found


@pytest.mark.parametrize("name", [SELF, CROSS, "enc_to_dec_proj.bias"])
def test_tensors_that_are_missing_or_damaged(exported, name):
    array = tensors_of(exported)[name]
    for value, problem in (
        (None, "is missing"),
        (np.zeros(3, np.float32), "has the shape [3]"),
        (array.astype(np.int64), "has the type int64"),
        (np.full_like(array, np.nan), "has values that are not finite"),
    ):
        change_tensors(exported, **{name: value})
        assert f"the tensor {name} {list(array.shape)} {problem}" in refusal(exported)


def test_tensors_that_do_not_belong(exported):
    words = tensors_of(exported)[WORDS]
    deeper = CROSS.replace("layer.0", "layer.1")
    for name, sentence in (
        (deeper, f"the tensor {deeper} is not part of the encoder-decoder"),
        ("lm_head.weight", "the tensor lm_head.weight is not part of the encoder-decoder"),
        ("decoder.cls.predictions.decoder.weight", "differs from the word embeddings"),
    ):
        change_tensors(exported, **{name: words + 1})
        assert sentence in refusal(exported)
        change_tensors(exported, **{name: None})
    gamma = "decoder.bert.embeddings.LayerNorm.gamma"
    change_tensors(exported, **{gamma: np.zeros(12, np.float32)})
    assert "stand for the same parameter and differ" in refusal(exported)


def test_a_flipped_bit_is_noticed(exported):
    file = exported / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    assert "the weights are not those that were written" in refusal(exported)


def test_tokenizers_that_do_not_fit(exported):
    (exported / "bertjax_sha256.json").unlink()
    vocabulary(exported / "decoder_tokenizer", "stuvwxyz?!")
    assert "the tokenizer has 15 tokens and the model only 14" in refusal(exported)
    shutil.rmtree(exported / "decoder_tokenizer")
    sentence = refusal(exported)
    assert "the encoder has 12 tokens and the decoder 14, and there is no decoder_token" in sentence


def test_a_decoder_alone_is_still_refused(exported):
    fields = json.loads((exported / "config.json").read_text())["decoder"]
    (exported / "config.json").write_text(json.dumps(fields))
    (exported / "bertjax_sha256.json").unlink()
    assert "is_decoder is True; only encoders" in refusal(exported)


def test_what_is_not_written(model, tiny_model, tmp_path):
    def refused(ours):
        with pytest.raises(UserError) as caught:
            save_pretrained(tmp_path / "out", ours)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    ours = model("none")
    bert = dataclasses.replace(tiny_model, task={"kind": "encoder_decoder"})
    assert "'encoder_decoder' and the configuration a BertConfig" in refused(bert)
    pair = dataclasses.replace(ours, task={"kind": "masked_lm"})
    assert "'masked_lm' and the configuration a EncoderDecoderConfig" in refused(pair)
    half = dataclasses.replace(ours, params={"decoder": ours.params["decoder"]})
    assert "needs the part encoder, which the model lacks" in refused(half)
    # These are the parameters of weights that are shared.
    fewer = dataclasses.replace(model("all"), config=CONFIGS["none"])
    assert "lacks the parameter decoder/embeddings/layer_norm/bias; add it" in refused(fewer)


def test_verbs_that_need_a_bert_say_so(model, shared, tmp_path):
    ours = model("all")

    def refused(use, *arguments):
        with pytest.raises(UserError) as caught:
            use(*arguments)
        return str(caught.value)

    sentence = "The model is an encoder-decoder, and {} needs a BERT: give one."
    assert refused(embed, ours, ["a"]) == sentence.format("an embedding")
    headless = "The model does encoder_decoder and has no masked-LM head"
    assert refused(fill_mask, ours, ["a [MASK]"]).startswith(headless)
    assert refused(pseudo_log_likelihood, ours, ["a"]).startswith(headless)
    (tmp_path / "words").write_text("zebra\n")
    for options, use in (
        ({"to": "run"}, "a pre-training run"),
        ({"verify": True}, "`verify`"),
        ({"hidden_act": "relu"}, "`hidden_act`"),
        ({"add_words": str(tmp_path / "words")}, "another vocabulary"),
        ({"vocabulary": str(shared)}, "another vocabulary"),
    ):
        config = ConvertConfig(str(shared), str(tmp_path / "dest"), **options)
        assert refused(convert, config, print) == sentence.format(use)
        assert not (tmp_path / "dest").exists()


def test_fine_tuning_that_needs_a_bert_says_so(shared, tmp_path):
    rows = [{"text": "a b", "label": "x"}, {"text": "b", "label": "y"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Seq2SeqConfig(
        source_column="text",
        target_column="label",
        max_target_length=5,
        generation=GenerationConfig(max_length=5),
    )
    for changes, sentence in (
        ({}, "The model is an encoder-decoder, and the task classification needs a BERT: give"),
        ({"task": options, "lora": LoraConfig(rank=2)}, "`lora.rank` adapts a BERT and not an en"),
    ):
        config = FinetuneConfig(str(shared), str(file), str(file), batch_size=2, **changes)
        config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
        with pytest.raises(UserError, match=sentence):
            finetune(config, print)
        assert not (tmp_path / "run").exists()


def test_a_model_from_elsewhere_may_write_special_tokens(model):
    """[CLS] begins its targets if it was trained as transformers' examples are."""
    for task, suppressed in (({}, ()), ({"task": "seq2seq"}, (0, 2, 4))):
        writer = Seq2SeqPredictor(model("none", **task), WritingOptions(max_length=5)).forward
        assert writer.vocabulary.suppressed_ids == suppressed


def test_texts_longer_than_the_positions_of_the_decoder(model):
    """JAX would read positions that do not exist as NaN."""
    ours = model("none")
    assert defaults(WritingOptions, ours) == WritingOptions(max_length=10)
    assert recorded_config(ours).max_target_length == 10
    with pytest.raises(UserError, match="`max_length` is 11, and the decoder has 10 positions"):
        Seq2SeqPredictor(ours, WritingOptions(max_length=11))


def test_texts_longer_than_the_row_of_a_prefix_model(tiny_model):
    task = {"kind": "masked_lm", "task": "seq2seq", "max_seq_length": 20, "max_target_length": 5}
    prefix = dataclasses.replace(tiny_model, task=task)
    assert Seq2SeqPredictor(prefix, WritingOptions(max_length=17)).max_source_length == 3
    with pytest.raises(UserError, match="`max_length` is 18, which leaves 2 of the 20 tokens"):
        Seq2SeqPredictor(prefix, WritingOptions(max_length=18))


def test_convert_copies_the_export_of_a_run(exported, tmp_path):
    (tmp_path / "run").mkdir()
    exported.rename(tmp_path / "run" / "export")
    lines = []
    convert(ConvertConfig(str(tmp_path / "run"), str(tmp_path / "dest")), lines.append)
    assert "encoder-decoder: to read a BERT with 2 layers of 8 and 2 heads" in lines[0]
    for file in (tmp_path / "run" / "export").rglob("*"):
        if file.is_file():
            copy = tmp_path / "dest" / file.relative_to(tmp_path / "run" / "export")
            assert copy.read_bytes() == file.read_bytes()


def test_a_prefix_model_is_an_ordinary_bert(tiny_model, tmp_path):
    task = {"kind": "masked_lm", "task": "seq2seq", "architecture": "prefix"}
    task["generation"] = GENERATION
    path = save_pretrained(tmp_path / "out", dataclasses.replace(tiny_model, task=task))
    fields = json.loads((path / "config.json").read_text())
    assert fields["architectures"] == ["BertForMaskedLM"] and fields["model_type"] == "bert"
    assert from_pretrained(path).task == task
