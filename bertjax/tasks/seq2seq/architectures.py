"""The two architectures of a sequence-to-sequence task, made from a BERT."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.files import location
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
_SHORTEST_SOURCE = 3  # [CLS], a token and [SEP]


class Start(NamedTuple):
    """What a run starts from."""

    head: Head
    config: BertConfig | EncoderDecoderConfig
    """Shape of the model that is trained."""
    tokenizer: "Tokenizer"
    """Tokenizer of targets."""
    decoder: TrainedModel | None
    """The model whose weights the decoder starts from, if it is another one."""
    max_source_length: int
    """Maximum tokens of a source."""
    options: Seq2SeqConfig

    def params(self, params: dict, model: TrainedModel) -> dict:
        """Replaces random parameters by those of trained models; see `Task.start_params`."""
        if self.head.name == PREFIX:
            return {name: model.params.get(name, part) for name, part in params.items()}
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
        config, decoder, tokenizer, make = model.config, None, model.tokenizer, prefix_head
    else:
        config, decoder, tokenizer = _encoder_decoder(options, files)
        make = encoder_decoder_head
    room = source_length(options, config, files.max_seq_length)
    return Start(make(options, tokenizer), config, tokenizer, decoder, room, options)


def _encoder_decoder(
    options: Seq2SeqConfig, files: TaskFiles
) -> tuple[EncoderDecoderConfig, TrainedModel | None, "Tokenizer"]:
    model = files.model
    if isinstance(model.config, EncoderDecoderConfig):
        for name in ("decoder", "share", "encoder_weights", "decoder_weights"):
            if getattr(options, name) not in (
                getattr(Seq2SeqConfig, name),
                getattr(model.config, name, None),
            ):
                raise UserError(
                    f"The model is an encoder-decoder already, and `{name}` is "
                    f"{getattr(options, name)!r}: leave it out, or give a BERT."
                )
        return model.config, None, model.decoder_tokenizer or model.tokenizer
    if options.decoder is None:
        config = EncoderDecoderConfig(model.config, model.config, options.share)
        return config, None, model.tokenizer
    if options.decoder.endswith(".json"):
        return _new_decoder(options.decoder, options, model), None, model.tokenizer
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


def _new_decoder(path: str, options: Seq2SeqConfig, model: TrainedModel) -> EncoderDecoderConfig:
    if options.decoder_weights == "pretrained":
        raise UserError(f"`decoder` {path} has no weights: let `decoder_weights` be random.")
    shape = BertConfig.from_json(location(path))
    shape = dataclasses.replace(shape, vocab_size=model.config.vocab_size)
    return EncoderDecoderConfig(model.config, shape, options.share)


def source_length(
    options: Seq2SeqConfig, config: BertConfig | EncoderDecoderConfig, max_seq_length: int
) -> int:
    """Returns the maximum tokens of a source.

    Raises:
        UserError: a decoder has too few positions for a target, a target leaves no room for the
            source in the row of a prefix model, or such a model has other options than a BERT.
    """
    if isinstance(config, BertConfig):
        config.check_classic("A prefix model", "position_offset")
    for name, length in (
        ("max_target_length", options.max_target_length),
        ("max_length", options.generation.max_length),
    ):
        if isinstance(config, EncoderDecoderConfig):
            if length > (positions := config.decoder.max_position_embeddings):
                raise UserError(
                    f"`{name}` is {length}, and the decoder has {positions} positions: lower it."
                )
        elif (room := max_seq_length - length) < _SHORTEST_SOURCE:
            raise UserError(
                f"`{name}` is {length}, which leaves {max(room, 0)} of the {max_seq_length} tokens "
                "of a row for the source: lower it."
            )
    pair = isinstance(config, EncoderDecoderConfig)
    return max_seq_length - (0 if pair else options.longest_target)


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
    # The seed reaches the program as data, so that another one compiles nothing.
    generation = dataclasses.replace(options.generation, sample_seed=0)
    return Head(
        name,
        1,
        Seq2SeqLoss(architecture, options.label_smoothing),
        seq2seq_normalizers,
        forward=Writer(architecture, generation, output_vocabulary(tokenizer)),
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
