"""The two architectures of a sequence-to-sequence task, made from a BERT."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.model import bert, encoder_decoder
from bertjax.model.decoding import Seq2Seq
from bertjax.model.encoder_decoder import EncoderDecoder
from bertjax.model.flops import seq2seq_flops
from bertjax.model.prefix import Prefix
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.losses import Seq2SeqLoss, seq2seq_normalizers
from bertjax.tasks.seq2seq.writing import Writer, output_vocabulary
from bertjax.tasks.task import Head, TaskFiles, TrainedModel

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

ENCODER_DECODER, PREFIX = "encoder_decoder", "masked_lm"
"""Names of their heads."""


class Start(NamedTuple):
    """What a run starts from."""

    head: Head
    config: BertConfig | EncoderDecoderConfig
    """Shape of the model that is trained."""
    tokenizer: "Tokenizer"
    """Tokenizer of targets."""
    decoder: TrainedModel | None
    """The model of the decoder, if it is another one."""
    options: Seq2SeqConfig

    def params(self, params: dict, model: TrainedModel) -> dict:
        """Replaces random parameters by those of trained models; see `Task.start_params`."""
        if self.head.name == PREFIX:
            names = ("embeddings", "encoder", *({"mlm"} & model.params.keys()))
            return {**params, **{name: model.params[name] for name in names}}
        if isinstance(model.config, EncoderDecoderConfig):
            trained = dict(model.params)
            trained["encoder"] = _without_pooler(trained["encoder"])
            return trained
        params = dict(params)
        if self.options.encoder_weights == "pretrained":
            params["encoder"] = {name: model.params[name] for name in params["encoder"]}
        if self.options.decoder_weights == "pretrained":
            params["decoder"] = _overlaid(params["decoder"], (self.decoder or model).params)
        return params


def start(options: Seq2SeqConfig, files: TaskFiles) -> Start:
    """Chooses architecture, shape and weights.

    Raises:
        UserError: the models do not fit the options or each other.
    """
    model = files.model
    if options.architecture == "prefix":
        if not isinstance(model.config, BertConfig):
            raise UserError(
                "`architecture` is prefix, and the model is an encoder-decoder: give a BERT, or "
                "the architecture encoder_decoder."
            )
        _check_positions("model", model.config, files.max_seq_length)
        head = prefix_head(options, model.tokenizer)
        return Start(head, model.config, model.tokenizer, None, options)
    config, decoder, tokenizer = _encoder_decoder(options, files)
    _check_positions("decoder", config.decoder, options.longest_target)
    return Start(encoder_decoder_head(options, tokenizer), config, tokenizer, decoder, options)


def _encoder_decoder(
    options: Seq2SeqConfig, files: TaskFiles
) -> tuple[EncoderDecoderConfig, TrainedModel | None, "Tokenizer"]:
    model = files.model
    if isinstance(model.config, EncoderDecoderConfig):
        if options.decoder or options.share not in ("none", model.config.share):
            raise UserError(
                "The model is an encoder-decoder already: leave out `decoder` and `share`."
            )
        return model.config, None, model.decoder_tokenizer or model.tokenizer
    if options.decoder is None:
        return (
            EncoderDecoderConfig(model.config, model.config, options.share),
            None,
            model.tokenizer,
        )
    decoder = files.load(options.decoder)
    if not isinstance(decoder.config, BertConfig):
        raise UserError(f"`decoder` {options.decoder} is an encoder-decoder: give a BERT.")
    config = EncoderDecoderConfig(model.config, decoder.config, options.share)
    if options.share != "none" and decoder.tokenizer.sha256 != model.tokenizer.sha256:
        raise UserError(
            f"`share` is {options.share}, and `decoder` {options.decoder} has another vocabulary "
            "than the model: share nothing, or give models of one vocabulary."
        )
    return config, decoder, decoder.tokenizer


def _check_positions(name: str, config: BertConfig, length: int) -> None:
    if length > config.max_position_embeddings:
        raise UserError(
            f"Targets have up to {length} tokens, and the {name} has "
            f"{config.max_position_embeddings} positions: lower `max_target_length` and "
            "`max_length`."
        )


def encoder_decoder_head(options: Seq2SeqConfig, tokenizer: "Tokenizer") -> Head:
    """Returns the head of an encoder-decoder."""
    return _head(ENCODER_DECODER, EncoderDecoder(), options, tokenizer, _init_encoder_decoder)


def prefix_head(options: Seq2SeqConfig, tokenizer: "Tokenizer") -> Head:
    """Returns the head of a prefix model."""
    architecture = Prefix(tokenizer.mask_id)
    return _head(PREFIX, architecture, options, tokenizer, bert.init_task_params)


def _head(
    name: str, architecture: Seq2Seq, options: Seq2SeqConfig, tokenizer: "Tokenizer", init: Any
) -> Head:
    return Head(
        name,
        1,
        Seq2SeqLoss(architecture, options.label_smoothing),
        seq2seq_normalizers,
        forward=Writer(architecture, options.generation, output_vocabulary(tokenizer)),
        init_params=init,
        flops=seq2seq_flops,
    )


def _init_encoder_decoder(
    config: EncoderDecoderConfig, key: jax.Array, name: str, outputs: int, *, whole: bool
) -> dict:
    del name, outputs, whole
    return encoder_decoder.init_params(config, key)


def _without_pooler(params: Mapping[str, Any]) -> dict:
    return {name: part for name, part in params.items() if name != "pooler"}


def _overlaid(params: Mapping[str, Any], trained: Mapping[str, Any]) -> dict:
    """Returns params with the leaves of `trained` where it has them."""
    return {
        name: _overlaid(part, trained.get(name, {}))
        if isinstance(part, Mapping)
        else trained.get(name, part)
        for name, part in params.items()
    }
