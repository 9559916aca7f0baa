"""The forward pass that writes texts: one program for each architecture and way of searching."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bertjax.config import EncoderDecoderConfig, Execution
from bertjax.model import bert, encoder_decoder
from bertjax.model.encoder_decoder import EncoderDecoder
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.prefix import Prefix
from bertjax.tasks.seq2seq.features import add_targets, read_sources
from bertjax.tasks.seq2seq.writing import Writer, output_vocabulary, texts_of

SOURCES = ["the film was good", "a film", "the plot was not bad", "one two , the film"]
TARGETS = ["good", "a very fine film", "not bad", "two"]
GREEDY = GenerationConfig(max_length=6, num_beams=1)


@pytest.fixture(scope="module")
def features(tiny_tokenizer):
    return add_targets(read_sources(SOURCES, tiny_tokenizer, 8), TARGETS, tiny_tokenizer, 8)


@pytest.fixture(scope="module", params=["encoder_decoder", "prefix"])
def case(request, tiny_config, tiny_tokenizer):
    """(writer, configuration, params) of an architecture with random weights that differ much."""
    key, wide = jax.random.key(3), dataclasses.replace(tiny_config, initializer_range=0.5)
    if request.param == "prefix":
        architecture, config = Prefix(tiny_tokenizer.mask_id), wide
        init = functools.partial(bert.init_params, wide, heads=("mlm",), add_pooler=False)
    else:
        architecture, config = EncoderDecoder(), EncoderDecoderConfig(wide, wide)
        init = functools.partial(encoder_decoder.init_params, config)
    writer = Writer(architecture, GREEDY, output_vocabulary(tiny_tokenizer))
    return writer, config, jax.jit(init)(key)


def logits_of(case, batch):
    writer, config, params = case
    return jax.jit(functools.partial(writer.architecture.logits, config=config))(params, batch)


def write(case, batch):
    writer, config, params = case

    def run(params, batch):
        return writer(params, batch, config, "", execution=Execution())

    return jax.device_get(jax.jit(run)(params, batch))


def test_greedy_search_takes_the_best_next_token_of_teacher_forcing(case, features, tiny_tokenizer):
    writer, _, _ = case
    batch = features.batch(np.arange(4), (8, 5))
    outputs = write(case, batch)
    tokens, lengths = outputs["tokens"][:, 0], outputs["lengths"][:, 0]
    assert tokens.shape == (4, 6) and len({tuple(row) for row in tokens.tolist()}) > 1
    starts = np.full((4, 1), tiny_tokenizer.cls_id)
    read = {**batch, "decoder_input_ids": np.concatenate([starts, tokens[:, :-1]], 1)}
    logits = np.array(logits_of(case, read))
    log_probs = np.asarray(jax.nn.log_softmax(logits))  # before the logits change
    logits[..., list(writer.vocabulary.suppressed_ids)] = -np.inf
    for row, length in enumerate(lengths):
        assert tokens[row, :length].tolist() == logits[row, :length].argmax(-1).tolist()
        assert (tokens[row, length:] == tiny_tokenizer.pad_id).all()
        assert length == 6 or tokens[row, length - 1] == tiny_tokenizer.sep_id
        chosen = log_probs[row, np.arange(length), tokens[row, :length]]
        # A sum of float32, divided by the length.
        assert outputs["scores"][row, 0] == pytest.approx(float(chosen.mean()), rel=1e-5)
    assert not np.isin(tokens[tokens != tiny_tokenizer.pad_id], (2, 4)).any()  # [CLS], [MASK]


def test_targets_are_scored_beside(case, features):
    batch = features.batch(np.arange(4), (8, 5))
    outputs = write(case, batch)
    logits = logits_of(case, batch)
    nll = -np.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], -1)[..., 0]
    wanted = (nll * batch["label_weights"]).sum(1)
    np.testing.assert_allclose(outputs["nll"], wanted, rtol=1e-5)
    assert outputs["count"].tolist() == [2, 5, 3, 2]


def test_a_source_is_written_the_same_in_any_batch(case, features, tiny_tokenizer):
    """Draws, too: its tokens determine them."""
    writer, config, params = case
    generation = GenerationConfig(max_length=6, num_beams=1, do_sample=True, n_best=3)
    drawing = (dataclasses.replace(writer, generation=generation), config, params)
    sources = read_sources(SOURCES, tiny_tokenizer, 8)
    one = write(drawing, sources.batch(np.arange(4), 8))
    assert "nll" not in one and one["tokens"].shape == (4, 3, 6)
    other = write(drawing, sources.batch(np.array([3, -1, 0, 2, 1]), 11))
    np.testing.assert_array_equal(one["tokens"], other["tokens"][[2, 4, 3, 0]])
    assert len({tuple(row) for row in one["tokens"].reshape(-1, 6).tolist()}) > 4
    another = read_sources(SOURCES, tiny_tokenizer, 8, sample_seed=1)
    assert (one["tokens"] != write(drawing, another.batch(np.arange(4), 8))["tokens"]).any()


def test_special_tokens_end_a_text_and_are_no_part_of_it(tiny_tokenizer):
    ids = [tiny_tokenizer.encode(text).ids[1:] for text in ("a good film", "bad")]
    rows = np.full((2, 7), tiny_tokenizer.pad_id)
    for row, each in zip(rows, ids, strict=True):
        row[: len(each)] = each
    assert texts_of(rows, tiny_tokenizer) == ["a good film", "bad"]
