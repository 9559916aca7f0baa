"""Beam search, greedy search and sampling over a step function, for any model.

`beam_search` finds the sequences and scores of `GenerationMixin._beam_search` and, with one beam,
of greedy search in Hugging Face's generation/utils.py (transformers 5):

- A score is the sum of a sequence's log probabilities divided by a penalty of its length
  (`GenerationConfig.length_penalty_kind`). The length counts the generated tokens: the end token,
  but not the start token. A forced token adds 0.
- Every step considers the 2 K best continuations of a row's K running beams. Those of the best K
  that end are finished sequences, of which the best K are kept. The best K that do not end run on.
  At T tokens all end.
- A row is done as `GenerationConfig.early_stopping` says. With one beam, it is done at its first
  end token.
- Equal scores: finished sequences precede new ones, then beams precede in the order of their
  scores, then tokens in the order of their ids. Hugging Face leaves the order to `torch.topk`.
- A beam to which no token is allowed ends with score -inf. In Hugging Face's search such scores and
  those of all beams but the first are -1e9 at the start, and can get into the result if nearly all
  tokens are forbidden.

K is the number of beams (or samples) of a row, and T the maximum number of generated tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.model.generation_config import GenerationConfig
from bertjax.model.logits_processing import OutputVocabulary, TokenRules


class Beams(NamedTuple):
    """What a step function learns of the beams, besides its own state."""

    tokens: jax.Array
    """int32 [B, K]: the last token of each beam; at first the start token."""
    index: jax.Array
    """int32 []: the number of the step, from 0."""
    parents: jax.Array
    """int32 [B, K]: the beam of the previous step that each beam continues; at first itself."""
    ancestors: jax.Array
    """int32 [B, K, T]: ancestors[b, k, t] is the beam whose step t computed position t of the
    history of beam k. Positions from `index` on are not valid."""


class Generated(NamedTuple):
    """Generated sequences: n for each row."""

    tokens: jax.Array
    """int32 [B, n, T]: without the start token, with the end token, then padded."""
    scores: jax.Array
    """float32 [B, n]: the log probability of a sequence divided by its length penalty."""
    lengths: jax.Array
    """int32 [B, n]: the number of tokens before the padding."""


StepFn = Callable[[Any, Beams], tuple[jax.Array, Any]]
"""(state, beams) -> (logits float32 [B, K, V], state)."""

Grow = Callable[[Any, int], Any]
"""(state, n) -> a state with room for n more steps."""

_STAGES, _SHORTEST = 3, 16


class _Search(NamedTuple):
    """What the loop of `beam_search` carries."""

    state: Any
    beams: Beams
    scores: jax.Array
    """float32 [B, K]: log probabilities of the running beams, in descending order."""
    history: jax.Array
    """int32 [B, K, T + 1]: the tokens of the running beams, from the start token on."""
    finished: Generated
    """The best K finished sequences of each row. An empty place has score -inf."""
    done: jax.Array
    """bool [B]: rows whose finished sequences are final."""


class _Samples(NamedTuple):
    """What the loop of `sample` carries; n is K."""

    state: Any
    beams: Beams
    log_probs: jax.Array  # float32 [B, K]
    history: jax.Array  # int32 [B, K, T + 1]
    lengths: jax.Array  # int32 [B, K]
    done: jax.Array  # bool [B, K]


def beam_search(
    step_fn: StepFn,
    state: Any,
    config: GenerationConfig,
    vocabulary: OutputVocabulary,
    *,
    batch_size: int,
    grow: Grow | None = None,
) -> Generated:
    """Searches for the sequences with the best scores; with one beam, greedily.

    The search does not reorder `state`. A step function with a cache for each beam reorders it:

        def step_fn(cache, beams):
            cache = reorder(cache, beams.parents)  # leaves [B, K, ...]
            return model_step(cache, beams.tokens, beams.index)

    If a cache keeps what all K beams wrote at every step, position t of beam k is where
    `beams.ancestors[:, k, t]` wrote, and the cache needs no reordering.

    Args:
        step_fn: computes the logits that follow `beams.tokens`, and the next state, of the same
            shapes and dtypes.
        state: the first state, a tree of arrays.
        config: without `do_sample`; `bertjax.generate_tokens` also samples.
        vocabulary: the ids that may be generated. V may be larger than its size.
        batch_size: B.
        grow: (state, n) -> a state with room for n more steps. It is called between the stages of
            the search, `stages(T)`, because a step with little room is fast. The first state has
            room for the first stage; without `grow`, it has room for T steps.

    Returns:
        The best `n_best` of each row, in descending order of their scores. If a row
        has fewer, the others have score -inf and length 0.

    Raises:
        UserError: there are more beams than ids.
    """
    if config.do_sample:
        raise ValueError("config.do_sample is set, and beam search draws nothing: leave it out.")
    rules = TokenRules(config, vocabulary)

    def body(search: _Search) -> _Search:
        logits, state = step_fn(search.state, search.beams)
        return _advance(search._replace(state=state), logits, rules)

    search = _first(state, config, vocabulary, batch_size)
    finished = _run(body, search, config, grow).finished
    return Generated(*(leaf[:, : config.n_best] for leaf in finished))


def sample(
    step_fn: StepFn,
    state: Any,
    config: GenerationConfig,
    vocabulary: OutputVocabulary,
    *,
    keys: jax.Array,
    grow: Grow | None = None,
) -> Generated:
    """Draws `n_best` independent sequences for each row, token by token.

    As in Hugging Face's `GenerationMixin._sample`, logits are divided by the temperature, the top_k
    most probable tokens are kept, and then the top_p most probable of these. The draw of sample k
    at a step depends only on the row's key, k, the step and the logits, so a row's text does not
    depend on the rest of its batch. For `step_fn`, sample k is beam k, and always its own parent.

    Args:
        step_fn: as in `beam_search`.
        state: as in `beam_search`.
        config: with `do_sample`.
        vocabulary: as in `beam_search`.
        keys: random keys [B], one for each row.
        grow: as in `beam_search`.

    Returns:
        The samples of each row in the order k. Their scores are those of `beam_search`, from the
        log probabilities that the model gives before temperature, top_k and top_p.
    """
    if not config.do_sample:
        raise ValueError("config.do_sample is not set: call `beam_search`.")
    rules = TokenRules(config, vocabulary)

    def body(search: _Samples) -> _Samples:
        beams = search.beams
        logits, state = step_fn(search.state, beams)
        log_probs, tokens = rules.draw(logits, search.history, beams.index, keys)
        tokens = jnp.where(search.done, vocabulary.pad_id, tokens)
        return _Samples(
            state=state,
            beams=beams._replace(tokens=tokens, index=beams.index + 1),
            log_probs=search.log_probs + jnp.where(search.done, 0.0, log_probs),
            history=search.history.at[..., beams.index + 1].set(tokens),
            lengths=search.lengths + ~search.done,
            done=search.done | (tokens == vocabulary.end_id),
        )

    shape = (keys.shape[0], config.n_best)
    beams, history = _first_beams(shape, config, vocabulary)
    search = _Samples(
        state=state,
        beams=beams,
        log_probs=jnp.zeros(shape),
        history=history,
        lengths=jnp.zeros(shape, jnp.int32),
        done=jnp.zeros(shape, bool),
    )
    search = _run(body, search, config, grow)
    scores = search.log_probs / _penalty(search.lengths, config)
    return Generated(search.history[..., 1:], scores, search.lengths)


def stages(max_length: int) -> list[int]:
    """Returns the steps after which each stage of a search of `max_length` steps ends."""
    ends = [max_length]
    while len(ends) < _STAGES and ends[0] >= 2 * _SHORTEST:
        ends.insert(0, ends[0] // 2)
    return ends


def _run(
    body: Callable[[Any], Any], search: Any, config: GenerationConfig, grow: Grow | None
) -> Any:
    """Runs the steps of a search, a loop for each stage, until all of `search.done` are set."""
    begin = 0
    for end in stages(config.max_length) if grow else [config.max_length]:
        if grow and begin:
            search = search._replace(state=grow(search.state, end - begin))
        search = jax.lax.while_loop(
            lambda search, end=end: (search.beams.index < end) & ~jnp.all(search.done),
            body,
            search,
        )
        begin = end
    return search


def reorder(state: Any, parents: jax.Array) -> Any:
    """Returns a state whose leaves [B, K, ...] follow the beams: row b takes parents[b, k] as k."""
    take = jax.vmap(lambda row, beams: row[beams])
    return jax.tree.map(lambda leaf: take(leaf, parents), state)


def _first_beams(
    shape: tuple[int, int], config: GenerationConfig, vocabulary: OutputVocabulary
) -> tuple[Beams, jax.Array]:
    """Returns the beams of step 0, of this shape [B, K], and their history [B, K, T + 1]."""
    own = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
    history = jnp.full((*shape, config.max_length + 1), vocabulary.pad_id, jnp.int32)
    beams = Beams(
        tokens=jnp.full(shape, vocabulary.start_id, jnp.int32),
        index=jnp.int32(0),
        parents=own,
        ancestors=jnp.broadcast_to(own[..., None], (*shape, config.max_length)),
    )
    return beams, history.at[..., 0].set(vocabulary.start_id)


def _first(
    state: Any, config: GenerationConfig, vocabulary: OutputVocabulary, batch_size: int
) -> _Search:
    shape = (batch_size, config.num_beams)
    beams, history = _first_beams(shape, config, vocabulary)
    return _Search(
        state=state,
        beams=beams,
        # All beams are equal at first, and only one of them is to be continued.
        scores=jnp.where(beams.parents == 0, 0.0, -jnp.inf),
        history=history,
        finished=Generated(
            tokens=jnp.full_like(history[..., 1:], vocabulary.pad_id),
            scores=jnp.full(shape, -jnp.inf),
            lengths=jnp.zeros(shape, jnp.int32),
        ),
        done=jnp.zeros(batch_size, bool),
    )


def _advance(search: _Search, logits: jax.Array, rules: TokenRules) -> _Search:
    config, index = rules.config, search.beams.index
    beams = config.num_beams
    # The 2 K best continuations of a row are among the 2 K best of each of its beams.
    count = min(2 * beams, logits.shape[-1])
    log_probs, ids = rules.candidates(logits, search.history, index, count)
    flat = (search.scores[..., None] + log_probs).reshape(len(logits), -1)  # [B, K * count]
    scores, places = jax.lax.top_k(flat, min(2 * beams, flat.shape[-1]))  # [B, 2 K]
    parents = places // count
    tokens = jnp.take_along_axis(ids.reshape(flat.shape), places, axis=1)
    ends = (tokens == rules.vocabulary.end_id) | (index == config.max_length - 1)

    running, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
    ending = jnp.where(ends & ~search.done[:, None], scores, -jnp.inf)[:, :beams]
    finished = _finish(search, parents[:, :beams], tokens[:, :beams], ending, config)

    parents = jnp.take_along_axis(parents, kept, axis=1)
    tokens = jnp.take_along_axis(tokens, kept, axis=1)
    history, ancestors = reorder((search.history, search.beams.ancestors), parents)
    return search._replace(
        beams=Beams(tokens, index + 1, parents, ancestors.at[..., index].set(parents)),
        scores=running,
        history=history.at[..., index + 1].set(tokens),
        finished=finished,
        done=search.done | _is_done(running[:, 0], finished.scores, index + 1, config),
    )


def _finish(
    search: _Search,
    parents: jax.Array,
    tokens: jax.Array,
    log_probs: jax.Array,
    config: GenerationConfig,
) -> Generated:
    """Merges sequences that end now, all [B, K], into the finished ones; -inf: it does not end."""
    old, index = search.finished, search.beams.index
    sequences = reorder(search.history[..., 1:], parents).at[..., index].set(tokens)
    scores = log_probs / _penalty(index + 1, config)
    scores, kept = jax.lax.top_k(jnp.concatenate([old.scores, scores], axis=1), config.num_beams)
    sequences = jnp.concatenate([old.tokens, sequences], axis=1)  # [B, 2 K, T]
    lengths = jnp.concatenate([old.lengths, jnp.full_like(tokens, index + 1)], axis=1)
    sequences, lengths = reorder((sequences, lengths), kept)
    return Generated(sequences, scores, lengths)


def _is_done(
    running: jax.Array, finished: jax.Array, length: jax.Array, config: GenerationConfig
) -> jax.Array:
    """Returns which rows, bool [B], need no further step, as `_check_early_stop_heuristic` does.

    `running`, float32 [B], is the log probability of the best running beam, which has `length`
    tokens, and `finished`, float32 [B, K], are the scores of the finished sequences.
    """
    longest = config.early_stopping == "never" and config.length_penalty > 0
    worst = finished[:, -1]
    done = running / _penalty(config.max_length if longest else length, config) <= worst
    if config.early_stopping is True or config.num_beams == 1:
        done |= worst > -jnp.inf
    return done


def _penalty(length: jax.Array | int, config: GenerationConfig) -> jax.Array:
    """Returns the divisor, float32, of the log probability of sequences of 1 to T tokens."""
    lengths = np.arange(1, config.max_length + 1, dtype=np.float64)
    if config.length_penalty_kind == "gnmt":
        lengths = (5 + lengths) / 6
    return jnp.asarray(lengths**config.length_penalty, jnp.float32)[length - 1]
