"""An ordinary BERT that writes: source and target in one row, kept apart by the mask alone."""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model import bert, decoding
from bertjax.model.bert import Params
from bertjax.model.decoding import DecodeState, OutputLayer, Seq2Seq
from bertjax.model.input_checks import check, model_inputs
from bertjax.model.linen import Inputs
from bertjax.model.search import Beams


@dataclasses.dataclass(frozen=True)
class Prefix(Seq2Seq):
    """BERT with its masked-LM head as a sequence-to-sequence model; see `Seq2Seq`.

    As in UniLM (Dong et al. 2019), source tokens attend to the whole source, and target tokens to
    the source and the target before them. As in UniLMv2 and s2s-ft (Bao et al. 2020, 2021), a
    [MASK] for every target token stands at its position, attends to the tokens before it and to
    itself, and predicts it. The target has token type 1.
    """

    mask_id: int
    """Id of [MASK]."""

    def hidden(
        self,
        params: Params,
        inputs: Inputs,
        config: BertConfig,
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Computes vectors at the [MASK]s; the start token of decoder_input_ids is not read."""
        source, target = inputs["input_ids"], inputs["decoder_input_ids"][:, 1:]
        real = decoding.source_mask(inputs)[:, 0]  # [B, 1, S]
        rows, before, length = *source.shape, target.shape[1] + 1
        masks = jnp.full((rows, length), self.mask_id, source.dtype)
        ends = real.sum(-1)  # [B, 1]: position after the source
        steps = jnp.arange(length)
        # A target token sees itself and those before; the [MASK] of a step does not see its token.
        causal = jnp.tri(length - 1, dtype=bool)
        sees_target = jnp.concatenate([causal, jnp.tri(length, length - 1, -1, dtype=bool)])
        sees_mask = jnp.eye(2 * length - 1, length, 1 - length, dtype=bool)
        below = jnp.concatenate([sees_target, sees_mask], 1)  # [2T - 1, 2T - 1]
        nothing = jnp.zeros((before, 2 * length - 1), bool)
        right = jnp.concatenate([nothing, below])[None].repeat(rows, 0)
        left = jnp.broadcast_to(real, (rows, before + 2 * length - 1, before))
        types = inputs.get("token_type_ids", jnp.zeros_like(source))
        target_types = self._types(jnp.concatenate([target, masks], 1), config)
        positions = jnp.broadcast_to(jnp.arange(before), source.shape)
        row = {
            "input_ids": jnp.concatenate([source, target, masks], 1),
            "token_type_ids": jnp.concatenate([types, target_types], 1),
            "position_ids": jnp.concatenate([positions, ends + steps[:-1], ends + steps], 1),
            "attention_mask": jnp.concatenate([left, right], 2),
        }
        predicted = jnp.broadcast_to(before + length - 1 + steps, masks.shape)
        return bert.mlm_logits(
            params,
            row,
            config,
            positions=predicted,
            decode=False,
            execution=execution,
            dropout_key=dropout_key,
        )

    def output_layer(self, params: Params) -> OutputLayer:
        """Returns the layer over the vocabulary."""
        return OutputLayer.of(params)

    def start(
        self,
        params: Params,
        inputs: Inputs,
        config: BertConfig,
        *,
        beams: int,
        max_length: int,
        execution: Execution = Execution(),
    ) -> DecodeState:
        """Reads the sources into the first slots of the cache; see `Seq2Seq`."""
        check(params, model_inputs(inputs), config)
        source, mask = inputs["input_ids"], decoding.source_mask(inputs)
        rows, before = source.shape
        slots = before + (max_length + 1) * beams
        state = DecodeState(decoding.empty_cache(config, rows, slots, execution), (), mask)
        types = inputs.get("token_type_ids", jnp.zeros_like(source))
        x = decoding.embed(params, source, types, jnp.arange(before)[None], config, execution)
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, slots - before)))
        return decoding.apply_layers(params, x, state, 0, mask, config, execution)[1]

    def step(
        self,
        params: Params,
        state: DecodeState,
        beams: Beams,
        config: BertConfig,
        *,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes the last token and a [MASK] after it, for every beam; see `Seq2Seq`.

        The next step writes its tokens over the [MASK]s. The start token, which is the token of
        step 0, is written too and never attended to.
        """
        rows, count = beams.tokens.shape
        before = state.source_mask.shape[-1]
        length = (state.slots - before) // count - 1
        ids = jnp.concatenate([beams.tokens, jnp.full_like(beams.tokens, self.mask_id)], 1)
        after = state.source_mask.sum(-1)[:, 0] + beams.index  # [B, 1]
        position_ids = jnp.concatenate([after - 1, after], 1).repeat(count, 1)
        x = decoding.embed(params, ids, self._types(ids, config), position_ids, config, execution)
        # [B, 1, 2K, (T + 1) K]: the history, and for each [MASK] itself, one step further.
        history = jnp.tile(decoding.visible_slots(beams, length, first=1), (1, 1, 2, 1))
        history = jnp.pad(history, ((0, 0), (0, 0), (0, 0), (0, count)))
        own = (beams.index + jnp.arange(2))[:, None] * count + jnp.arange(count)
        itself = own.reshape(-1, 1) == jnp.arange((length + 1) * count)
        source = jnp.broadcast_to(state.source_mask, (rows, 1, 2 * count, before))
        mask = jnp.concatenate([source, history | itself], -1)
        slot = before + beams.index * count
        x, state = decoding.apply_layers(params, x, state, slot, mask, config, execution)
        x = decoding.head_vectors(params, x[:, count:], config, execution)
        return OutputLayer.of(params).logits(x, execution), state

    def _types(self, ids: jax.Array, config: BertConfig) -> jax.Array:
        return jnp.full_like(ids, min(1, max(0, config.type_vocab_size - 1)))
