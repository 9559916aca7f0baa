"""Decoding step by step with a cache equals teacher forcing, for both architectures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj
from bertjax.config import EncoderDecoderConfig
from bertjax.model import encoder_decoder, search
from bertjax.model.encoder_decoder import EncoderDecoder
from bertjax.model.generation import decode_step, generate_tokens, start_decoding
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.logits_processing import OutputVocabulary
from bertjax.model.prefix import Prefix
from bertjax.model.search import Beams

SMALL = bj.BertConfig(
    vocab_size=31,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,  # fewer than a row of a prefix model has tokens with its [MASK]s
    initializer_range=0.2,
)
WIDE = bj.BertConfig(**{**SMALL.to_dict(), "hidden_size": 20, "vocab_size": 37})
ROWS, SOURCE, TARGET, BEAMS = 3, 6, 5, 4
LENGTHS = [6, 3, 4]


def case(name, layers):
    """(architecture, config, params) of a name."""
    key = jax.random.key(1)
    if name == "prefix":
        small = dataclasses.replace(SMALL, num_hidden_layers=layers)
        init = functools.partial(bj.init_params, small, heads=("mlm",), add_pooler=False)
        return Prefix(mask_id=4), small, jax.jit(init)(key)
    decoder = WIDE if name == "other width" else SMALL
    share = name if name in ("all", "embeddings") else "none"
    encoder, decoder = (
        dataclasses.replace(each, num_hidden_layers=layers) for each in (SMALL, decoder)
    )
    config = EncoderDecoderConfig(encoder, decoder, share)
    init = functools.partial(encoder_decoder.init_params, config)
    return EncoderDecoder(), config, jax.jit(init)(key)


def sources():
    ids = np.random.default_rng(0).integers(5, 31, (ROWS, SOURCE), np.int32)
    mask = (np.arange(SOURCE) < np.array(LENGTHS)[:, None]).astype(np.int32)
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize(
    "name",
    ["none", "embeddings", pytest.param("all", marks=pytest.mark.slow), "other width", "prefix"],
)
def test_decoding_with_a_cache_gives_the_logits_of_teacher_forcing(name):
    # Layers keep apart what they know of earlier tokens, whatever they share and however wide.
    architecture, config, params = case(name, layers=2 if name in ("none", "prefix") else 1)
    inputs = sources()
    random = np.random.default_rng(1)
    tokens = random.integers(5, 31, (TARGET, ROWS, BEAMS), np.int32)
    parents = random.integers(0, BEAMS, (TARGET, ROWS, BEAMS), np.int32)
    how = {"config": config, "beams": BEAMS, "max_length": TARGET}
    state = jax.jit(functools.partial(architecture.start, **how))(params, inputs)
    step = jax.jit(functools.partial(architecture.step, config=config))
    teacher_forced = jax.jit(functools.partial(architecture.logits, config=config))
    rows = np.arange(ROWS)[:, None]
    ancestors = np.zeros((ROWS, BEAMS, TARGET), np.int32)
    histories = np.zeros((ROWS, BEAMS, 0), np.int32)
    logits = []
    for index in range(TARGET):
        if index:
            ancestors = ancestors[rows, parents[index]]
            ancestors[:, :, index - 1] = parents[index]
            histories = histories[rows, parents[index]]
        histories = np.concatenate([histories, tokens[index][..., None]], -1)
        beams = Beams(
            jnp.asarray(tokens[index]), jnp.int32(index), jnp.asarray(parents[index]), ancestors
        )
        got, state = step(params, state, beams)
        logits.append(got)
        # Every beam of every row as a row of its own.
        every = {key: np.repeat(value, BEAMS, 0) for key, value in inputs.items()}
        rest = ((0, 0), (0, TARGET - index - 1))  # later tokens do not matter
        every["decoder_input_ids"] = np.pad(histories.reshape(-1, index + 1), rest)
        want = teacher_forced(params, every)[:, index]
        np.testing.assert_allclose(
            got.reshape(want.shape), want, atol=1e-5, err_msg=f"step {index}"
        )


def test_a_prefix_model_predicts_as_a_masked_lm_of_one_mask_after_the_target_so_far():
    architecture, config, params = case("prefix", layers=2)
    inputs = sources()
    ids = np.random.default_rng(2).integers(5, 31, (ROWS, TARGET), np.int32)
    got = jax.jit(functools.partial(architecture.logits, config=config))(
        params, {**inputs, "decoder_input_ids": ids}
    )
    mlm_logits = jax.jit(functools.partial(bj.mlm_logits, config=config))
    width = SOURCE + TARGET
    for row, count in enumerate(LENGTHS):
        for step in range(TARGET):
            # [CLS] source [SEP] target so far [MASK], with the mask of UniLM (Dong et al. 2019).
            target = [*ids[row, 1 : step + 1], architecture.mask_id]
            tokens = [*inputs["input_ids"][row, :count], *target]
            sees = np.tri(width, dtype=np.int32)
            sees[:, :count] = 1
            sees[:count, count:] = 0
            alone = {
                "input_ids": np.pad(np.array(tokens, np.int32), (0, width - len(tokens)))[None],
                "token_type_ids": (np.arange(width) >= count).astype(np.int32)[None],
                "attention_mask": sees[None],
            }
            want = mlm_logits(params, alone)[0, len(tokens) - 1]
            np.testing.assert_allclose(got[row, step], want, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "prefix"])
def test_a_cache_that_grows_in_three_stages_writes_what_one_of_full_size_writes(name, monkeypatch):
    monkeypatch.setattr(search, "_SHORTEST", 3)
    assert search.stages(13) == [3, 6, 13]
    architecture, config, params = case(name, layers=2 if name == "prefix" else 1)
    if name == "prefix":  # whose rows have up to 19 positions here
        positions = jnp.tile(params["embeddings"]["position_embeddings"]["embedding"], (2, 1))
        params["embeddings"]["position_embeddings"] = {"embedding": positions}
        config = dataclasses.replace(config, max_position_embeddings=24)
    generation = GenerationConfig(max_length=13, min_length=12, num_beams=BEAMS)
    vocabulary = OutputVocabulary(31, start_id=2, end_id=3, pad_id=0)
    model = {"config": config, "architecture": architecture}

    @jax.jit
    def at_once(params, inputs):
        state = start_decoding(params, inputs, **model, beams=BEAMS, max_length=13)

        def step(state, beams):
            return decode_step(params, state, beams, **model)

        return search.beam_search(step, state, generation, vocabulary, batch_size=ROWS)

    @jax.jit
    def in_stages(params, inputs):
        return generate_tokens(
            params, inputs, **model, generation=generation, vocabulary=vocabulary
        )

    got, want = in_stages(params, sources()), at_once(params, sources())
    np.testing.assert_array_equal(got.tokens, want.tokens)
    assert len(np.unique(got.tokens[:, 0])) > 3
    # Softmax sums over other numbers of masked slots, in another order.
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)
