"""Generation: sources -> the sequences that a model writes for them, as one program."""

from typing import Any

import jax

from bertjax.config import Execution
from bertjax.model import search
from bertjax.model.bert import Params
from bertjax.model.decoding import DecodeState, Seq2Seq
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.linen import Inputs
from bertjax.model.logits_processing import OutputVocabulary
from bertjax.model.search import Beams, Generated


def start_decoding(
    params: Params,
    inputs: Inputs,
    config: Any,
    architecture: Seq2Seq,
    *,
    beams: int,
    max_length: int,
    execution: Execution = Execution(),
) -> DecodeState:
    """Reads sources, and makes room for `max_length` tokens of `beams` beams of each.

    The arguments are those of `generate_tokens`.
    """
    return architecture.start(
        params, inputs, config, beams=beams, max_length=max_length, execution=execution
    )


def decode_step(
    params: Params,
    state: DecodeState,
    beams: Beams,
    config: Any,
    architecture: Seq2Seq,
    *,
    execution: Execution = Execution(),
) -> tuple[jax.Array, DecodeState]:
    """Decodes one token of each beam with the cache of the tokens before.

    Args:
        params: parameters of the model.
        state: from `start_decoding`, or from the step before.
        beams: the last tokens, and which beam of each earlier step they continue.
        config: the shape.
        architecture: `EncoderDecoder()` or `Prefix(mask_id)`.
        execution: how to compute.

    Returns:
        float32 logits [B, K, V] of the next token, and the state, whose shapes stay the same.
    """
    return architecture.step(params, state, beams, config, execution=execution)


def generate_tokens(
    params: Params,
    inputs: Inputs,
    config: Any,
    architecture: Seq2Seq,
    generation: GenerationConfig,
    vocabulary: OutputVocabulary,
    *,
    execution: Execution = Execution(),
    keys: jax.Array | None = None,
) -> Generated:
    """Writes sequences for sources; pure, and compiled as one program under jit.

    Args:
        params: parameters of the model.
        inputs: input_ids [B, S] and, optionally, attention_mask and token_type_ids.
        config: the shape.
        architecture: `EncoderDecoder()` or `Prefix(mask_id)`.
        generation: how to search or draw.
        vocabulary: the ids that may be written. Like all arguments from config on it is static.
        execution: how to compute.
        keys: random keys [B], which `generation.do_sample` needs.

    Returns:
        n sequences for each source; see `Generated`.
    """
    rows, drawn = inputs["input_ids"].shape[0], generation.do_sample
    beams = generation.n_best if drawn else generation.num_beams
    room = {"beams": beams, "max_length": search.stages(generation.max_length)[0]}
    state = start_decoding(params, inputs, config, architecture, **room, execution=execution)

    def step(state: DecodeState, beams: Beams) -> tuple[jax.Array, DecodeState]:
        return decode_step(params, state, beams, config, architecture, execution=execution)

    def grow(state: DecodeState, steps: int) -> DecodeState:
        return state.extended(steps * beams)

    if not drawn:
        return search.beam_search(step, state, generation, vocabulary, batch_size=rows, grow=grow)
    if keys is None:
        raise ValueError("generation.do_sample needs keys, one per row.")
    return search.sample(step, state, generation, vocabulary, keys=keys, grow=grow)
