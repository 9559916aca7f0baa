"""Where the parameters of a run come from. Nothing is computed: leaves are told by identity."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from bertjax.config import EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.model import bert, encoder_decoder
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq import architectures
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.task import TaskFiles
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.tree import named, nested

SHORT = GenerationConfig(max_length=8)
EVERY_PART = ("mlm", "nsp", "classifier")


def arrays(shapes):
    """Arrays of their own for all leaves of a tree of shapes."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@functools.cache
def bert_arrays(config):
    init = functools.partial(bert.init_params, config, heads=EVERY_PART, num_labels=2)
    return jax.eval_shape(init, jax.random.key(0))


@pytest.fixture
def model(tiny_config, tiny_tokenizer):
    return Pretrained(tiny_config, arrays(bert_arrays(tiny_config)), tiny_tokenizer)


@pytest.fixture
def other(tiny_config, tmp_path):
    """A BERT of another vocabulary and width."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ein", "zwei"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    shape = dataclasses.replace(tiny_config, vocab_size=len(words), hidden_size=8)
    return Pretrained(shape, arrays(bert_arrays(shape)), load_tokenizer(tmp_path))


def start_of(model, load=None, max_seq_length=40, **options):
    options = Seq2SeqConfig(**{"max_target_length": 8, "generation": SHORT, **options})
    files = TaskFiles("", "", None, model, max_seq_length, print, load=load or {}.__getitem__)
    return architectures.start(options, files)


def start_params(start, model):
    """The first parameters of a run by path, and the random ones that it may take."""
    head = start.head
    shapes = jax.eval_shape(
        lambda key: head.init_params(start.config, key, head.name, head.outputs, whole=False),
        jax.random.key(0),
    )
    random = arrays(shapes)
    params = start.params(random, model)
    assert jax.tree.structure(params) == jax.tree.structure(random)
    return named(params), set(map(id, named(random).values()))


def decoder_leaves(params):
    """The leaves of the decoder without those of cross-attention."""
    return {
        path: leaf
        for path, leaf in params.items()
        if path.startswith("decoder/") and "cross_attention" not in path
    }


def test_bert2bert_starts_both_halves_from_the_model_and_crosses_anew(model):
    params, random = start_params(start_of(model), model)
    given = named(model.params)
    for path, leaf in params.items():
        _, _, rest = path.partition("/")
        assert leaf is given[rest] if "cross_attention" not in path else id(leaf) in random, path
    assert decoder_leaves(params).keys() == {
        f"decoder/{path}" for path in given if path.startswith(("embeddings/", "encoder/", "mlm/"))
    }
    assert not any("pooler" in path or "classifier" in path for path in params)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_either_half_may_be_new(model, half):
    start = start_of(model, **{f"{half}_weights": "random"})
    params, random = start_params(start, model)
    for path, leaf in params.items():
        expected = path.startswith(half) or "cross_attention" in path
        assert (id(leaf) in random) == expected, path


@pytest.mark.parametrize("share", ["embeddings", "all"])
def test_shared_leaves_are_those_of_the_encoder(model, share):
    start = start_of(model, share=share)
    params, random = start_params(start, model)
    own = decoder_leaves(params)
    words = "decoder/embeddings/word_embeddings/embedding"
    assert words not in own
    if share == "all":
        assert all(path.startswith("decoder/mlm/") for path in own)
    assert not random & set(map(id, own.values()))
    whole = named(encoder_decoder.whole_decoder(nested(params)))
    given = named(model.params)
    for path in ("embeddings/word_embeddings/embedding", "encoder/layer_0/output/kernel"):
        assert whole[path] is given[path]


def test_a_decoder_may_be_another_bert_with_its_own_vocabulary(model, other):
    start = start_of(model, load={"other": other}.__getitem__, decoder="other")
    assert start.config == EncoderDecoderConfig(model.config, other.config)
    assert start.tokenizer is other.tokenizer
    vocabulary = start.head.forward.vocabulary
    assert (vocabulary.size, vocabulary.end_id) == (7, other.tokenizer.sep_id)
    params, random = start_params(start, model)
    theirs = named(other.params)
    for path, leaf in decoder_leaves(params).items():
        assert leaf is theirs[path.removeprefix("decoder/")]
    assert id(params["projection/kernel"]) in random
    assert id(params["encoder/embeddings/word_embeddings/embedding"]) not in random


def test_a_new_decoder_may_have_a_shape_of_its_own(model, tiny_config, tmp_path):
    shape = dataclasses.replace(tiny_config, hidden_size=8, vocab_size=1000)
    (tmp_path / "small.json").write_text(json.dumps(shape.to_dict()))
    path = str(tmp_path / "small.json")
    start = start_of(model, decoder=path, decoder_weights="random")
    wanted = dataclasses.replace(shape, vocab_size=tiny_config.vocab_size)
    assert start.config == EncoderDecoderConfig(tiny_config, wanted)
    params, random = start_params(start, model)
    assert {id(leaf) for leaf in decoder_leaves(params).values()} <= random
    with pytest.raises(UserError, match=r"small.json has no weights: let `decoder_weights` be ran"):
        start_of(model, decoder=path)
    with pytest.raises(UserError, match=r"no.json: no such file"):
        start_of(model, decoder=str(tmp_path / "no.json"), decoder_weights="random")


def test_an_encoder_decoder_goes_on_as_it_is(model, tiny_config):
    config = EncoderDecoderConfig(tiny_config, tiny_config, "all")
    shapes = jax.eval_shape(lambda: encoder_decoder.init_params(config, jax.random.key(0)))
    params = arrays(shapes)
    # Hugging Face's class has a pooler, which nothing reads.
    params["encoder"]["pooler"] = arrays(bert_arrays(tiny_config)["pooler"])
    trained = dataclasses.replace(model, config=config, params=params)
    for share in ("none", "all"):
        start = start_of(trained, share=share)
        assert start.config is config and start.tokenizer is model.tokenizer
        leaves, random = start_params(start, trained)
        assert not random & set(map(id, leaves.values()))
    for name, value in (
        ("decoder", "x"),
        ("share", "embeddings"),
        ("decoder_weights", "random"),
        ("encoder_weights", "random"),
    ):
        with pytest.raises(
            UserError, match=f"an encoder-decoder already, and `{name}` is '{value}"
        ):
            start_of(trained, **{name: value})
    with pytest.raises(UserError, match="`architecture` is prefix, and the model is an encoder-d"):
        start_of(trained, architecture="prefix")
    with pytest.raises(UserError, match="`decoder` x is an encoder-decoder: give a BERT"):
        start_of(model, load={"x": trained}.__getitem__, decoder="x")


def test_a_prefix_model_is_the_model_and_its_masked_lm_head(model):
    start = start_of(model, architecture="prefix")
    assert start.config is model.config and start.max_source_length == 32
    params, random = start_params(start, model)
    assert not random & set(map(id, params.values()))
    assert {path.split("/")[0] for path in params} == {"embeddings", "encoder", "mlm"}
    del model.params["mlm"]  # as in a classifier
    params, random = start_params(start, model)
    assert {path.split("/")[0] for path, leaf in params.items() if id(leaf) in random} == {"mlm"}


def test_a_classifier_gives_its_encoder(model):
    for part in ("mlm", "nsp"):
        del model.params[part]
    params, random = start_params(start_of(model), model)
    new = {path.split("/")[1] for path, leaf in params.items() if id(leaf) in random}
    assert new == {"mlm", "encoder"}  # the latter: cross-attention
    assert not any("classifier" in path or "pooler" in path for path in params)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_target_length": 41}, "`max_target_length` is 41, and the decoder has 40 positions"),
        (
            {"generation": GenerationConfig(max_length=99)},
            "`max_length` is 99, and the decoder has 40",
        ),
        (
            {"architecture": "prefix", "max_target_length": 38},
            "is 38, which leaves 2 of the 40 tokens",
        ),
        (
            {"architecture": "prefix", "max_target_length": 99},
            "is 99, which leaves 0 of the 40 tokens",
        ),
        (
            {"generation": GenerationConfig(8, num_beams=28)},
            "`num_beams` 28 exceeds the 27 entries of",
        ),
        ({"decoder": "other", "share": "embeddings"}, "The encoder has the vocab_size 27 and the"),
    ],
)
def test_what_does_not_fit_the_models_is_refused(model, other, options, sentence):
    with pytest.raises(UserError, match=sentence):
        start_of(model, load={"other": other}.__getitem__, **options)


def test_words_of_another_vocabulary_are_not_shared(model, tiny_config, tmp_path):
    words = model.tokenizer.files(export=False)["vocab.txt"].decode().split()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]))
    same_size = dataclasses.replace(model, tokenizer=load_tokenizer(tmp_path))
    with pytest.raises(UserError, match="`share` is embeddings, and `decoder` x has another vocab"):
        start_of(model, load={"x": same_size}.__getitem__, decoder="x", share="embeddings")
    start = start_of(model, load={"x": model}.__getitem__, decoder="x", share="embeddings")
    assert start.config == EncoderDecoderConfig(tiny_config, tiny_config, "embeddings")


def test_equal_options_share_their_programs(model):
    heads = [start_of(model, scoring=scoring).head for scoring in ("rouge", "bleu")]
    assert heads[0] == heads[1] and hash(heads[0]) == hash(heads[1])
    assert start_of(model, label_smoothing=0.1).head != heads[0]
