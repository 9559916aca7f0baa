"""Searches over models that are tables or hashes, so that the search alone is under test."""

import dataclasses
import functools
import itertools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.model import search
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.logits_processing import OutputVocabulary

START, END, PAD = 1, 2, 0
VOCABULARY_FIELDS = {field.name for field in dataclasses.fields(OutputVocabulary)}


def table_step(state, beams):
    """Logits depend on the row, the step and the last token: the state is a table [B, T, V, V]."""
    return state[jnp.arange(len(state))[:, None], beams.index, beams.tokens], state


def vocabulary(size, **fields):
    return OutputVocabulary(size, start_id=START, end_id=END, pad_id=PAD, **fields)


@functools.partial(jax.jit, static_argnames=("config", "fields"))
def searched(table, config, fields=()):
    ids = vocabulary(**{"size": table.shape[-1], **dict(fields)})
    return search.beam_search(table_step, table, config, ids, batch_size=len(table))


def test_a_wide_beam_finds_the_best_of_all_sequences():
    # Three tokens follow each besides the end, so 27 beams hold all sequences before their end.
    rng = np.random.default_rng(0)
    vocab, length, rows = 27, 4, 3
    table = np.full((rows, length, vocab, vocab), -np.inf, np.float32)
    for place in itertools.product(range(rows), range(length), range(vocab)):
        successors = [END, *rng.choice(np.arange(3, vocab), 3, replace=False)]
        table[place][successors] = rng.normal(size=4)
    config = GenerationConfig(max_length=length, num_beams=27, early_stopping="never", n_best=27)
    found = searched(jnp.asarray(table), config)
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row in range(rows):
        every = []

        def extend(tokens, log_prob, row=row, every=every):
            if len(tokens) == length or (tokens and tokens[-1] == END):
                every.append((log_prob / len(tokens), tokens))
                return
            steps = log_probs[row, len(tokens), tokens[-1] if tokens else START]
            for token in np.flatnonzero(np.isfinite(steps)):
                extend([*tokens, int(token)], log_prob + steps[token])

        extend([], 0.0)
        every.sort(reverse=True)
        for place, (score, tokens) in enumerate(every[:27]):
            assert found.tokens[row, place].tolist() == tokens + [PAD] * (length - len(tokens))
            assert found.lengths[row, place] == len(tokens)
            # Sums of at most 4 float32 numbers.
            np.testing.assert_allclose(found.scores[row, place], score, rtol=1e-5)


def random_table(rows, length=12, vocab=20, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.normal(size=(rows, length, vocab, vocab)), jnp.float32)


def test_one_beam_is_greedy_and_scores_are_sums_of_log_probabilities():
    table = random_table(6)
    found = searched(table, GenerationConfig(max_length=12, num_beams=1))
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row in range(6):
        tokens, score = [], 0.0
        while len(tokens) < 12 and tokens[-1:] != [END]:
            steps = log_probs[row, len(tokens), tokens[-1] if tokens else START]
            tokens.append(int(steps.argmax()))
            score += steps.max()
        assert found.tokens[row, 0].tolist() == tokens + [PAD] * (12 - len(tokens))
        # Sums of at most 12 float32 numbers.
        np.testing.assert_allclose(found.scores[row, 0], score / len(tokens), rtol=1e-5)
        assert found.lengths[row, 0] == len(tokens)


GOLDEN = Path(__file__).parent / "golden"
HASH = runpy.run_path(str(GOLDEN / "make_search.py"))
SETTINGS = [json.dumps(setting) for setting in HASH["settings"]()]


def hash_step(previous, beams):
    """The model of the golden file; the state is the token before the last one of every beam."""
    previous = search.reorder(previous, beams.parents)
    rows = jnp.arange(len(previous))[:, None]
    return HASH["logits"](jnp, rows, beams.tokens, previous, beams.index), beams.tokens


@functools.partial(jax.jit, static_argnames=("config", "ids"))
def searched_by_hash(config, ids):
    state = jnp.zeros((HASH["ROWS"], config.num_beams), jnp.int32)
    return search.beam_search(hash_step, state, config, ids, batch_size=len(state))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "search.npz") as file:
        return dict(file)


def test_the_golden_file_is_of_transformers_and_has_every_setting(golden):
    assert "transformers" in golden.pop("made_by").item()
    names = itertools.product(SETTINGS, ("tokens", "scores"))
    assert golden.keys() == {f"{setting} {name}" for setting, name in names}


@pytest.mark.parametrize("setting", SETTINGS)
def test_sequences_and_scores_are_those_of_transformers(golden, setting):
    fields = json.loads(setting)
    words = {name: fields.pop(name) for name in list(fields) if name in VOCABULARY_FIELDS}
    if "suppressed_ids" in words:
        words["suppressed_ids"] = tuple(words["suppressed_ids"])
    ids = OutputVocabulary(HASH["REAL"], HASH["START"], HASH["END"], HASH["PAD"], **words)
    config = GenerationConfig(**{"max_length": HASH["LENGTH"], **fields})
    found = searched_by_hash(config, ids)
    np.testing.assert_array_equal(found.tokens, golden[f"{setting} tokens"])
    # Sums of at most 18 log probabilities in float32, in both; a negative penalty multiplies them.
    np.testing.assert_allclose(found.scores, golden[f"{setting} scores"], rtol=1e-5, atol=1e-5)
