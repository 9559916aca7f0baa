"""Encoder-decoders: a BERT that reads, and a BERT with cross-attention that writes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, EncoderDecoderConfig, Execution
from bertjax.model import bert, decoding
from bertjax.model.bert import Params
from bertjax.model.decoding import DecodeState, OutputLayer, Seq2Seq
from bertjax.model.dropout import fold_keys
from bertjax.model.input_checks import model_inputs
from bertjax.model.layers import Layer, dense
from bertjax.model.linen import BertForMaskedLM, Inputs
from bertjax.model.search import Beams

# Folded into the keys of rows, so that layers of encoder and decoder have different dropout.
_DECODER = 1 << 22


def init_params(config: EncoderDecoderConfig, key: jax.Array) -> dict:
    """Draws random parameters, as `bertjax.init_params` does.

    Returns:
        {"encoder": parameters of a BERT without pooler and heads, "decoder": those of a BERT with
        cross-attention and masked-LM head, "projection": a dense layer, if the widths differ}. A
        leaf that encoder and decoder share is in "encoder" only.
    """
    encoder_key, decoder_key, projection_key = (jax.random.fold_in(key, part) for part in range(3))
    params = {
        "encoder": bert.init_params(config.encoder, encoder_key, heads=(), add_pooler=False),
        "decoder": own_leaves(init_decoder(config.decoder, decoder_key), config),
    }
    if (width := config.encoder.hidden_size) != config.decoder.hidden_size:
        projection = _projection(config, Execution())
        params["projection"] = projection.init(projection_key, jnp.zeros((1, width)))["params"]
    return params


def init_decoder(config: BertConfig, key: jax.Array) -> dict:
    """Draws the parameters of a decoder: a BERT with cross-attention and the masked-LM head."""
    ids, memory = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.hidden_size))
    inputs = {"input_ids": ids, "encoder_hidden_states": memory}
    return dict(BertForMaskedLM(config, add_cross_attention=True).init(key, inputs)["params"])


def own_leaves(decoder: Params, config: EncoderDecoderConfig) -> dict:
    """Returns the parameters of a whole decoder without those that the encoder shares."""
    decoder = dict(decoder)
    if config.share == "none":
        return decoder
    embeddings = dict(decoder.pop("embeddings"))
    if config.share == "embeddings":
        del embeddings["word_embeddings"]
        return {"embeddings": embeddings, **decoder}
    cross = ("cross_attention", "cross_attention_layer_norm")
    layers = decoder["encoder"].items()
    own = {layer: {name: parts[name] for name in cross} for layer, parts in layers}
    return {**decoder, "encoder": own}


def whole_decoder(params: Params) -> dict:
    """Returns all parameters of the decoder, those that it shares with the encoder too."""

    def fill(own: Params, shared: Params) -> dict:
        both = own.keys() & shared.keys()
        nested = {name: fill(own[name], shared[name]) for name in both if _is_nested(own[name])}
        return {**shared, **own, **nested}

    return fill(params["decoder"], params["encoder"])


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping)


def _projection(config: EncoderDecoderConfig, execution: Execution) -> Any:
    return dense(config.decoder.hidden_size, config.decoder, execution)


def _encode(
    params: Params,
    inputs: Inputs,
    config: EncoderDecoderConfig,
    execution: Execution,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Returns the encoder's output [B, S, D] in the width of the decoder."""
    source = model_inputs(inputs)
    out = bert.encode(
        params["encoder"], source, config.encoder, execution=execution, dropout_key=keys
    )
    if "projection" not in params:
        return out.last_hidden_state
    variables = {"params": params["projection"]}
    return _projection(config, execution).apply(variables, out.last_hidden_state)


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(Seq2Seq):
    """The architecture of an `EncoderDecoderConfig`; see `Seq2Seq`.

    It computes the same as Hugging Face's `EncoderDecoderModel` of two BERTs.
    """

    def hidden(
        self,
        params: Params,
        inputs: Inputs,
        config: EncoderDecoderConfig,
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes with teacher forcing; see `Seq2Seq`."""
        ids = inputs["decoder_input_ids"]
        length = ids.shape[1]
        keys = bert.row_keys(dropout_key, ids.shape[0])
        decoder_inputs = {
            "input_ids": ids,
            "attention_mask": jnp.tri(length, dtype=bool)[None],
            "encoder_hidden_states": _encode(params, inputs, config, execution, keys),
        }
        if "attention_mask" in inputs:
            decoder_inputs["encoder_attention_mask"] = inputs["attention_mask"]
        return bert.mlm_logits(
            whole_decoder(params),
            decoder_inputs,
            config.decoder,
            decode=False,
            execution=execution,
            dropout_key=fold_keys(keys, _DECODER),
        )

    def output_layer(self, params: Params) -> OutputLayer:
        """Returns the layer over the vocabulary."""
        return OutputLayer.of(whole_decoder(params))

    def start(
        self,
        params: Params,
        inputs: Inputs,
        config: EncoderDecoderConfig,
        *,
        beams: int,
        max_length: int,
        execution: Execution = Execution(),
    ) -> DecodeState:
        """Encodes the sources; see `Seq2Seq`."""
        hidden = _encode(params, inputs, config, execution)
        shape, decoder = config.decoder, whole_decoder(params)
        layer = Layer(shape, execution, add_cross_attention=True)
        memory = tuple(
            layer.apply(
                {"params": decoder["encoder"][f"layer_{number}"]},
                hidden,
                method=layer.project_memory,
            )
            for number in range(shape.num_hidden_layers)
        )
        cache = decoding.empty_cache(shape, hidden.shape[0], max_length * beams, execution)
        return DecodeState(cache, memory, decoding.source_mask(inputs))  # type: ignore[arg-type]

    def step(
        self,
        params: Params,
        state: DecodeState,
        beams: Beams,
        config: EncoderDecoderConfig,
        *,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes one token of every beam; see `Seq2Seq`."""
        shape, decoder = config.decoder, whole_decoder(params)
        types = jnp.zeros_like(beams.tokens)
        position_ids = jnp.full_like(beams.tokens, beams.index)
        x = decoding.embed(decoder, beams.tokens, types, position_ids, shape, execution)
        count = beams.tokens.shape[1]
        slot = beams.index * count
        mask = decoding.visible_slots(beams, state.slots // count)
        x, state = decoding.apply_layers(decoder, x, state, slot, mask, shape, execution)
        x = decoding.head_vectors(decoder, x, shape, execution)
        return OutputLayer.of(decoder).logits(x, execution), state
