"""Compares encoder-decoders with EncoderDecoderModel of transformers in one process."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax.config import EncoderDecoderConfig
from bertjax.interop.huggingface import Pretrained
from bertjax.model.encoder_decoder import EncoderDecoder, init_params
from bertjax.model.generation import generate_tokens
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.writing import output_vocabulary
from bertjax.train.tree import named, nested

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAIRS = {"one shape": ("tiny_erf", "tiny_erf"), "two shapes": ("tiny_erf", "odd")}
MODEL = EncoderDecoder()
GENERATION = GenerationConfig(
    max_length=10, min_length=3, num_beams=4, length_penalty=0.6, no_repeat_ngram_size=2
)


@pytest.fixture(scope="module")
def reference(load_helper, cases, golden):
    pytest.importorskip("torch", reason="torch and transformers come with the extra parity")
    pytest.importorskip("transformers", reason="transformers comes with the extra parity")
    return load_helper("parity/reference.py")


def vocabulary(directory, size):
    """Writes a vocabulary of this size."""
    directory.mkdir(parents=True, exist_ok=True)
    words = [f"word{number}" for number in range(size - len(SPECIALS))]
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *words]) + "\n")
    return directory


def inputs_of(cases, name):
    """Returns sources with padding, and targets of ids that both vocabularies have."""
    encoder, decoder = PAIRS[name]
    arrays = cases.inputs(encoder)
    size = cases.CONFIGS[decoder]["vocab_size"]
    draws = cases.stream(f"targets of {name}")
    targets = draws.randint(1, size, size=(len(arrays["input_ids"]), 7)).astype(np.int32)
    return {**arrays, "decoder_input_ids": targets}


@partial(jax.jit, static_argnames="config")
def our_logits(params, arrays, config):
    return MODEL.logits(params, arrays, config, execution=bj.Execution(precision="highest"))


def compare_logits(what, model, theirs, arrays, reference, hold):
    import torch

    with torch.no_grad():
        expected = theirs(**reference.torched(arrays)).logits.numpy()
    found = our_logits(model.params, arrays, model.config)
    assert np.ptp(expected, axis=(0, 1)).min() > 0.1
    hold(f"{what}, logits", np.abs(found - expected).max(), 1e-5, "max abs difference")


def compare_tensors(what, path, expected, hold):
    """Loads `path` in transformers, and compares with {name: tensor} if it is given."""
    import transformers

    model, info = transformers.EncoderDecoderModel.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    wrong = {key: list(found) for key, found in info.items() if found}
    hold(f"{what}: missing, unexpected and mismatched keys", len(wrong), 0, str(wrong or ""))
    if expected is not None:
        back = {name: value.numpy() for name, value in model.state_dict().items()}
        assert back.keys() == expected.keys()
        apart = [n for n, array in expected.items() if back[n].tobytes() != array.tobytes()]
        hold(f"{what}: tensors of other bytes", len(apart), 0, f"of {len(expected)}")
    return model.eval()


@pytest.mark.parametrize("name", PAIRS)
def test_what_transformers_saves_loads_here_and_goes_back(name, reference, cases, tmp_path, hold):
    import torch
    import transformers

    encoder, decoder = (transformers.BertConfig(**cases.CONFIGS[case]) for case in PAIRS[name])
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    theirs = transformers.EncoderDecoderModel(config).eval()
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(torch.from_numpy(cases.tensor(key, tuple(parameter.shape))))
        theirs.decoder.cls.predictions.bias[2] += 1.5  # it writes [CLS] now and then
    path = vocabulary(tmp_path / "theirs", encoder.vocab_size)
    theirs.save_pretrained(path)
    if encoder.vocab_size != decoder.vocab_size:
        vocabulary(path / "decoder_tokenizer", decoder.vocab_size)
    arrays, what = inputs_of(cases, name), f"live, EncoderDecoderModel of {name}"
    read = bj.from_pretrained(path)
    assert read.config.share == "none"
    compare_logits(what, read, theirs, arrays, reference, hold)

    # What it writes: it may write special tokens, which texts leave out.
    texts = [" ".join(f"word{n}" for n in ids[:6] % 40) for ids in arrays["input_ids"]]
    batch = {name: array[:, :8] for name, array in read.tokenizer.batch(texts).items()}
    tokenizer = read.decoder_tokenizer or read.tokenizer
    options = {"num_beams": 3, "length_penalty": 0.6}
    ids = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_new_tokens": 9}
    rows = theirs.generate(**reference.torched(batch), **ids, **options).numpy()
    assert np.isin(rows[:, 1:], [0, 2, 4]).any()
    written = [tokenizer.decode(row) for row in rows]
    found = bj.generate(read, texts, max_length=9, **options)
    apart = sum(a != b for a, b in zip(found, written, strict=True))
    hold(f"{what}: texts that generate writes otherwise", apart, 0, f"of {len(texts)}")

    expected = {name: value.numpy() for name, value in theirs.state_dict().items()}
    bj.save_pretrained(tmp_path / "ours", read)
    compare_tensors(f"{what} back", tmp_path / "ours", expected, hold)
    # The older file format, which has tied tensors under both names.
    (path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), path / "pytorch_model.bin")
    jax.tree.map(np.testing.assert_array_equal, bj.from_pretrained(path).params, read.params)


def test_two_berts_that_transformers_joins(reference, cases, tmp_path, hold):
    import transformers

    halves = []
    for kind in ("BertModel", "BertForMaskedLM"):
        halves.append(str(tmp_path / kind))
        reference.build(kind, "tiny_new").save_pretrained(halves[-1])
    theirs = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(*halves).eval()
    path = vocabulary(tmp_path / "theirs", 61)
    theirs.save_pretrained(path)
    read = bj.from_pretrained(path)
    assert read.config == EncoderDecoderConfig(read.config.encoder, read.config.encoder)
    arrays = inputs_of(cases, "one shape")
    compare_logits("live, two BERTs joined", read, theirs, arrays, reference, hold)


CONFIGS = {
    "share none": ("one shape", "none"),
    "share embeddings": ("one shape", "embeddings"),
    "share all": ("one shape", "all"),
    "two shapes": ("two shapes", "none"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_here_loads_in_transformers_and_writes(
    name, reference, cases, ours, tmp_path, hold
):
    import transformers

    pair, share = CONFIGS[name]
    encoder, decoder = (ours.config(case) for case in PAIRS[pair])
    config = EncoderDecoderConfig(encoder, decoder, share)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    params = nested({path: ours.leaf(path, leaf.shape) for path, leaf in named(shapes).items()})
    sizes = (encoder.vocab_size, decoder.vocab_size)
    tokenizers = [bj.load_tokenizer(vocabulary(tmp_path / str(size), size)) for size in sizes]
    task = {"kind": "encoder_decoder", "generation": dataclasses.asdict(GENERATION)}
    path = bj.save_pretrained(
        tmp_path / "ours", Pretrained(config, params, tokenizers[0], task, tokenizers[1])
    )
    what, arrays = f"live, encoder-decoder, {name}", inputs_of(cases, pair)
    theirs = compare_tensors(what, path, None, hold)
    read = bj.from_pretrained(path)
    assert read.config == config
    compare_logits(what, read, theirs, arrays, reference, hold)

    # generation_config.json gives the same search.
    source = {name: arrays[name] for name in ("input_ids", "attention_mask")}
    expected = theirs.generate(**reference.torched(source), num_return_sequences=1).numpy()
    written = generate_tokens(
        params, source, config, MODEL, GENERATION, output_vocabulary(tokenizers[1])
    )
    tokens = np.asarray(written.tokens[:, 0, : expected.shape[1] - 1])
    apart = (tokens != expected[:, 1:]).any(-1).sum()
    hold(f"{what}: sequences that generate writes otherwise", apart, 0, f"of {len(tokens)}")

    texts = ["word1 word2 word3", "word7"]
    places = [path, path / "decoder_tokenizer"] if len(set(sizes)) > 1 else [path]
    for place, tokenizer in zip(places, tokenizers, strict=False):
        ids = transformers.AutoTokenizer.from_pretrained(place)(texts)["input_ids"]
        assert ids == [tokenizer.encode(text).ids for text in texts]
