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

from bertjax.errors import UserError
from bertjax.model import search
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.logits_processing import OutputVocabulary, TokenRules

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


@functools.partial(jax.jit, static_argnames=("config", "fields"))
def sampled(table, keys, config, fields=()):
    ids = vocabulary(table.shape[-1], **dict(fields))
    return search.sample(table_step, table, config, ids, keys=keys)


SAMPLING = GenerationConfig(max_length=12, num_beams=1, do_sample=True, n_best=3)


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
    # With one beam, a row is done at its end token, whatever early_stopping says.
    config = GenerationConfig(
        max_length=12, num_beams=1, early_stopping="never", length_penalty=3.0
    )
    found = searched(table, config)
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row in range(6):
        tokens, score = [], 0.0
        while len(tokens) < 12 and tokens[-1:] != [END]:
            steps = log_probs[row, len(tokens), tokens[-1] if tokens else START]
            tokens.append(int(steps.argmax()))
            score += steps.max()
        assert found.tokens[row, 0].tolist() == tokens + [PAD] * (12 - len(tokens))
        # Sums of at most 12 float32 numbers.
        np.testing.assert_allclose(found.scores[row, 0], score / len(tokens) ** 3, rtol=1e-5)
        assert found.lengths[row, 0] == len(tokens)


def test_a_row_does_not_depend_on_its_batch():
    table = random_table(4)
    config = GenerationConfig(max_length=12, n_best=4, early_stopping=True)
    found = searched(table, config)
    assert np.ptp(found.lengths[:, 0]) > 0  # rows that are done wait for the others
    for row in range(4):
        alone = searched(table[row : row + 1], config)
        np.testing.assert_array_equal(alone.tokens[0], found.tokens[row])
        # The same operations in another vectorization.
        np.testing.assert_allclose(alone.scores[0], found.scores[row], rtol=1e-6)


def test_the_search_stops_when_all_rows_are_done():
    steps = []

    def step(table, beams):
        jax.debug.callback(lambda index: steps.append(int(index)), beams.index)
        return table_step(table, beams)

    table = random_table(2, length=50).at[:, 3, :, END].add(100.0)
    config = GenerationConfig(max_length=50, early_stopping=True)
    found = search.beam_search(step, table, config, vocabulary(20), batch_size=2)
    jax.effects_barrier()
    assert max(steps) == 3 and found.lengths.tolist() == [[4], [4]]


def test_more_beams_than_tokens_and_the_wrong_function_are_refused():
    table, keys = random_table(1), jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UserError, match=r"`num_beams` 21 exceeds the 20 entries"):
        searched(table, GenerationConfig(num_beams=21))
    with pytest.raises(ValueError, match="beam search draws nothing"):
        searched(table, SAMPLING)
    with pytest.raises(ValueError, match="call `beam_search`"):
        sampled(table, keys, GenerationConfig())


def test_gnmt_divides_by_another_length():
    table = random_table(6)
    fields = {"max_length": 12, "length_penalty": 0.6, "n_best": 4}
    config = GenerationConfig(**fields, length_penalty_kind="gnmt")
    found = searched(table, config)
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row, place in itertools.product(range(6), range(4)):
        length = int(found.lengths[row, place])
        tokens = np.asarray(found.tokens[row, place])
        steps = log_probs[row, np.arange(length), [START, *tokens[: length - 1]], tokens[:length]]
        # Sums of at most 12 float32 numbers.
        expected = steps.sum() / ((5 + length) / 6) ** 0.6
        np.testing.assert_allclose(found.scores[row, place], expected, rtol=1e-5)


def test_a_row_without_any_allowed_sequence_has_length_0():
    # Each token may occur once, the start token has, and the end token may only come sixth.
    config = GenerationConfig(max_length=8, num_beams=2, min_length=6, no_repeat_ngram_size=1)
    found = searched(random_table(2, vocab=4), config)
    assert found.lengths.tolist() == [[0], [0]] and np.isneginf(found.scores).all()
    assert (np.asarray(found.tokens) == PAD).all()


def test_a_cache_that_beams_share_and_one_that_is_reordered_agree():
    """Logits depend on the whole history, which both caches hold."""
    rows, beams, length, vocab = 3, 4, 10, 20
    weights = jax.random.normal(jax.random.key(0), (rows, length, vocab, vocab)) * 2

    def logits(histories, index):  # [B, K, T] -> [B, K, V]
        steps = weights[jnp.arange(rows)[:, None, None], jnp.arange(length), histories]
        steps = steps * (jnp.arange(length) <= index)[:, None]
        return steps.sum(axis=2)

    def reordered(cache, state):
        cache = search.reorder(cache, state.parents).at[:, :, state.index].set(state.tokens)
        return logits(cache, state.index), cache

    def shared(cache, state):
        own = jnp.arange(beams)[:, None]
        cache = cache.at[:, state.index].set(state.tokens)  # [B, T, K]
        writers = jnp.where(jnp.arange(length) < state.index, state.ancestors, own)
        histories = jax.vmap(lambda row, writers: row[jnp.arange(length), writers])(cache, writers)
        return logits(histories, state.index), cache

    config = GenerationConfig(max_length=length, num_beams=beams, n_best=beams)
    found = []
    for step, shape in ((reordered, (rows, beams, length)), (shared, (rows, length, beams))):
        cache = jnp.zeros(shape, jnp.int32)
        found.append(search.beam_search(step, cache, config, vocabulary(vocab), batch_size=rows))
    assert len({tuple(tokens) for tokens in found[0].tokens[0].tolist()}) == beams
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_samples_depend_on_their_own_key_alone():
    table, keys = random_table(4), jax.random.split(jax.random.key(1), 4)
    found = sampled(table, keys, SAMPLING)
    assert len({tuple(tokens) for tokens in found.tokens[0].tolist()}) == 3
    again = sampled(table[::-1], keys[::-1], SAMPLING)
    np.testing.assert_array_equal(again.tokens[::-1], found.tokens)
    same_text = sampled(jnp.stack([table[0]] * 4), keys, SAMPLING)
    assert (same_text.tokens[0] == found.tokens[0]).all()
    assert (same_text.tokens[1] != found.tokens[0]).any()


def test_samples_end_and_their_scores_are_those_of_the_model():
    table, keys = random_table(4), jax.random.split(jax.random.key(1), 4)
    config = dataclasses.replace(SAMPLING, temperature=0.7, top_k=8, top_p=0.9, min_length=2)
    found = sampled(table, keys, config, (("forced_start_id", 9), ("force_end", True)))
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row, place in itertools.product(range(4), range(3)):
        tokens = np.asarray(found.tokens[row, place])
        length = int(found.lengths[row, place])
        assert tokens[0] == 9 and length > 2 and tokens[:length].tolist().index(END) == length - 1
        assert (tokens[length:] == PAD).all()
        steps = log_probs[row, np.arange(length), [START, *tokens[: length - 1]], tokens[:length]]
        forced = [0, 11] if length == 12 else [0]
        steps[forced] = 0
        # Sums of at most 12 float32 numbers.
        np.testing.assert_allclose(found.scores[row, place], steps.sum() / length, rtol=1e-5)


def test_draws_have_the_distribution_of_the_logits_at_every_step():
    draws, vocab = 20_000, 6
    table = random_table(1, length=2, vocab=vocab, scale=1.0)
    config = dataclasses.replace(SAMPLING, max_length=2, n_best=draws)
    found = np.asarray(sampled(table, jax.random.split(jax.random.key(2), 1), config).tokens[0])
    counts = np.zeros((vocab, vocab), int)
    np.add.at(counts, tuple(found.T), 1)
    first, second = np.asarray(jax.nn.softmax(table[0, 0, START])), jax.nn.softmax(table[0, 1])
    expected = first[:, None] * np.asarray(second)
    expected[END] = np.where(np.arange(vocab) == PAD, first[END], 0.0)
    # Five standard deviations of a binomial count.
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected) <= 5 * deviation).all()


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


@pytest.mark.parametrize("suppressed", [(), (0, 5), tuple(range(5, 28))])
def test_candidates_are_the_best_of_the_allowed_tokens(suppressed):
    # With few suppressed tokens they are dropped from the best ones, with many from all.
    config = GenerationConfig(max_length=9, min_length=4)
    rules = TokenRules(config, vocabulary(30, suppressed_ids=suppressed))
    logits = np.random.default_rng(3).integers(-3, 3, (2, 4, 32)).astype(np.float32)  # many ties
    history = jnp.zeros((2, 4, 10), jnp.int32)
    for index in (3, 4):
        got = rules.candidates(jnp.asarray(logits), history, jnp.int32(index), 8)
        allowed = logits.copy()
        allowed[..., [*suppressed, 30, 31, *([END] if index < 4 else [])]] = -np.inf
        order = np.argsort(-allowed, axis=-1, kind="stable")[..., :8]
        np.testing.assert_array_equal(got[1], order)
        normalizer = np.log(np.exp(logits).sum(-1, keepdims=True))
        want = np.take_along_axis(allowed, order, -1) - normalizer
        np.testing.assert_allclose(got[0], want, rtol=1e-6)  # of float32
