"""Hugging Face's layout of an encoder-decoder: its config.json and the names of its tensors.

Source: `transformers/models/encoder_decoder/modeling_encoder_decoder.py`, with a BertModel as the
encoder and a BertLMHeadModel as the decoder.

Only older versions of transformers know weights that encoder and decoder share, and only "all"
(`tie_encoder_decoder`). Their safetensors files hold a shared tensor once, under the decoder's
name. Files of bertjax hold it under both names, so that newer versions find every tensor. Those
train the two apart. So weights are shared if config.json says that they are (`share` in the entry
of bertjax, or `tie_encoder_decoder`) and the tensors of both names are equal. Equal tensors alone
mean nothing: two BERTs from one checkpoint have them at the start.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bertjax.config import BertConfig, EncoderDecoderConfig, read_json_object
from bertjax.errors import UserError
from bertjax.interop.tensors import (
    canonical_name,
    check_tied,
    expected_shapes,
    make_parameter,
    tensor_name,
)
from bertjax.interop.weights import Weights
from bertjax.model.encoder_decoder import init_decoder, own_leaves
from bertjax.tasks.seq2seq.writing import output_vocabulary
from bertjax.text.tokenizer import Tokenizer
from bertjax.train.tree import named, nested

KIND = "encoder_decoder"
"""The kind in `Pretrained.task`."""
MODEL_TYPE = "encoder-decoder"
"""The model_type in config.json."""
DECODER_TOKENIZER = "decoder_tokenizer"
"""Directory, in that of an encoder-decoder, of the decoder's tokenizer if it has one of its own."""
GENERATION = "generation_config.json"
SHARE = "share"
"""Key of `EncoderDecoderConfig.share` in bertjax's own entry of config.json."""

_POOLER = "encoder/pooler/"
# Nothing reads these. BertLMHeadModel had a pooler before transformers 3.3, and buffers were saved.
_IGNORED = ("decoder.bert.pooler.", "decoder.bert.embeddings.position_ids")
_IGNORED += ("encoder.embeddings.position_ids",)
# Fields of GenerationConfig, and of Hugging Face's class of this name.
_SAME = ("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size", "do_sample")
_GENERATION = {
    "max_length": "max_new_tokens",
    "min_length": "min_new_tokens",
    "n_best": "num_return_sequences",
    **{name: name for name in _SAME},
}
_SAMPLING = ("temperature", "top_k", "top_p")
# Fields of generation_config.json that tell nothing new, or that bertjax follows anyway.
_NEUTRAL = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "use_cache")
_NEUTRAL += ("_from_model_config", "transformers_version", "suppress_tokens")


def config_json(
    encoder: Mapping[str, Any], decoder: Mapping[str, Any], share: str, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Returns the fields of config.json.

    Args:
        encoder: fields of the encoder's own config.json.
        decoder: fields of the decoder's, without those that make it a decoder.
        share: `EncoderDecoderConfig.share`.
        tokenizer: the tokenizer of what the model writes.
    """
    crossing = {"is_decoder": True, "add_cross_attention": True}
    fields = {
        "model_type": MODEL_TYPE,
        "is_encoder_decoder": True,
        "encoder": {**encoder, "architectures": ["BertModel"]},
        "decoder": {**decoder, "architectures": ["BertLMHeadModel"], **crossing},
        **_special_ids(tokenizer),
        "vocab_size": decoder["vocab_size"],
    }
    return fields | ({"tie_encoder_decoder": True} if share == "all" else {})


def generation_json(options: Mapping[str, Any] | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the fields of generation_config.json.

    Args:
        options: fields of `GenerationConfig`, if the model has recorded some. The length penalty
            of GNMT is left out, because Hugging Face has none of this kind.
        tokenizer: the tokenizer of what the model writes.
    """
    ids = _special_ids(tokenizer)
    if not options:
        return ids
    names = dict(_GENERATION)
    if options.get("do_sample"):
        names |= {name: name for name in _SAMPLING}
    if options.get("length_penalty_kind") == "gnmt":
        del names["length_penalty"]
    given = {theirs: options[ours] for ours, theirs in names.items() if ours in options}
    suppressed = output_vocabulary(tokenizer).suppressed_ids
    return {**ids, "suppress_tokens": list(suppressed), **given}


def read_generation(path: epath.Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Returns the fields of `GenerationConfig` that a generation_config.json sets.

    `log` receives a sentence that names what it sets and bertjax does not have.
    """
    if not path.is_file():
        return {}
    given = {name: value for name, value in read_json_object(path).items() if value is not None}
    for old, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = given.pop(old, None)
        if isinstance(length, int):  # it counts the token that starts the text
            given.setdefault(new, max(0, length - 1))
    names = dict(_GENERATION)
    if given.get("do_sample"):
        names |= {name: name for name in _SAMPLING}
    found = {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
    if others := given.keys() - {*names.values(), *_SAMPLING, *_NEUTRAL}:
        shown = ", ".join(sorted(others))
        log(f"{path}: {shown}: not read, because bertjax generates without it.")
    return found


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    vocabulary = output_vocabulary(tokenizer)
    return {
        "decoder_start_token_id": vocabulary.start_id,
        "eos_token_id": vocabulary.end_id,
        "pad_token_id": vocabulary.pad_id,
    }


def check_special_ids(
    directory: epath.Path, fields: Mapping[str, Any], tokenizer: Tokenizer
) -> None:
    """Refuses a model whose texts begin or end with other tokens than [CLS] and [SEP].

    Args:
        directory: of the model, with or without a generation_config.json.
        fields: those of config.json.
        tokenizer: the tokenizer of what the model writes.

    Raises:
        UserError: names the file, the field and its id.
    """
    generation = directory / GENERATION
    given = read_json_object(generation) if generation.is_file() else {}
    for path, own in ((directory / "config.json", fields), (generation, given)):
        for name in ("decoder_start_token_id", "eos_token_id"):
            found, known = own.get(name), _special_ids(tokenizer)[name]
            if found not in (None, known, [known]):
                raise UserError(
                    f"{path}: {name} is {found!r}, but bertjax writes with {known} "
                    f"({tokenizer.token(known)}) only; use a model that was trained so."
                )


def read_config(fields: Mapping[str, Any], share: object, where: str) -> EncoderDecoderConfig:
    """Makes the configuration of Hugging Face's config.json.

    Args:
        fields: the JSON object.
        share: `EncoderDecoderConfig.share` as bertjax recorded it; None: as `tie_encoder_decoder`
            says, if encoder and decoder have the same shape.
        where: the name of the file.

    Raises:
        UserError: encoder and decoder are not BERTs, the decoder has no cross-attention, or a
            value is invalid.
    """
    encoder, decoder = (_read_part(fields, part, where) for part in ("encoder", "decoder"))
    if share is None:
        share = "all" if fields.get("tie_encoder_decoder") and encoder == decoder else "none"
    try:
        return EncoderDecoderConfig(encoder, decoder, share)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _read_part(fields: Mapping[str, Any], part: str, where: str) -> BertConfig:
    own = fields.get(part)
    if not isinstance(own, dict):
        raise UserError(f"{where}: has no object {part!r}; export or download the model again.")
    if (kind := own.get("model_type")) != "bert":
        raise UserError(
            f"{where}: the model_type of the {part} is {kind!r}; only encoder-decoders of two "
            "BERTs ('bert') can be read."
        )
    if own.get("position_embedding_type") not in ("absolute", None):
        raise UserError(
            f"{where}: the position_embedding_type of the {part} is "
            f"{own['position_embedding_type']!r}; only 'absolute' can be read."
        )
    for name in ("is_decoder", "add_cross_attention"):
        if bool(own.get(name)) != (part == "decoder"):
            wanted = "read the source by cross-attention" if part == "decoder" else "be an encoder"
            raise UserError(
                f"{where}: {name} of the {part} is {own.get(name)!r}, but it has to {wanted}; give "
                "an EncoderDecoderModel."
            )
    return BertConfig.from_dict(own, where=f"{where}, {part}")


def parameters_to_write(
    path: epath.Path, params: Mapping[str, Any], config: EncoderDecoderConfig
) -> dict:
    """Returns a leaf for every tensor of Hugging Face's model.

    Shared leaves are in "encoder" and "decoder". BertModel always has a pooler, which an
    encoder-decoder does not read. If the encoder has none, it is zeros.

    Raises:
        UserError: a parameter is missing; the error begins with `path`.
    """
    own, shared, leaves = named(params), _shared_leaves(config), {}
    for name, shape in _parameter_shapes(config).items():
        source = name if name in own else shared.get(name)
        if source in own:
            leaves[name] = own[source]
        elif name.startswith(_POOLER):
            leaves[name] = np.zeros(shape, np.float32)
        else:
            raise UserError(
                f"{path}: not written, because the encoder-decoder lacks the parameter {name}; add "
                "it, or give the configuration of these parameters."
            )
    return nested(leaves)


def read_params(
    weights: Weights, config: EncoderDecoderConfig, *, tied: bool
) -> tuple[dict, EncoderDecoderConfig]:
    """Returns the parameters in a file's tensors, and their configuration.

    A pooler of zeros is left out. The configuration shares nothing if the file has two different
    tensors for a leaf that `config` shares.

    Args:
        weights: tensors with Hugging Face's names.
        config: the configuration in config.json.
        tied: whether a tensor that only one of encoder and decoder has stands for both.

    Raises:
        UserError: a tensor is missing, is damaged, has the wrong shape, is unknown, or occurs in
            two different versions.
    """
    names = ((_canonical_name(name), name) for name in weights.tensors)
    weights = weights.renamed((ours, old) for ours, old in names if not ours.startswith(_IGNORED))
    tensors, shapes = weights.tensors, _parameter_shapes(config)
    check_tied(weights, "decoder.")
    known = {tensor_name(path)[0] for path in shapes} | {"decoder.cls.predictions.decoder.weight"}
    if unknown := sorted(tensors.keys() - known):
        raise UserError(
            f"{weights.where(unknown[0])}: the tensor {unknown[0]} is not part of the "
            "encoder-decoder that config.json describes; put the config.json of these weights "
            "beside them."
        )
    for path, shape in shapes.items():
        if path.startswith(_POOLER):  # nothing reads it, so it may be missing
            tensors.setdefault(tensor_name(path)[0], np.broadcast_to(np.float32(0), shape))
    if tied:
        _complete(tensors, config)
    leaves = {}
    for path, shape in shapes.items():
        name, transposed = tensor_name(path)
        array, where = tensors.pop(name, None), weights.where(name)
        leaves[path] = make_parameter(array, name, where, shape, transposed)
    if not any(np.any(leaf) for path, leaf in leaves.items() if path.startswith(_POOLER)):
        leaves = {path: leaf for path, leaf in leaves.items() if not path.startswith(_POOLER)}
    shared = _shared_leaves(config)
    if any(not np.array_equal(leaves[path], leaves[source]) for path, source in shared.items()):
        shared, config = {}, dataclasses.replace(config, share="none")
    return nested({path: leaf for path, leaf in leaves.items() if path not in shared}), config


def _canonical_name(name: str) -> str:
    part, _, rest = name.partition(".")
    if part not in ("encoder", "decoder"):
        return name
    rest = canonical_name(rest)
    return f"{part}.{rest.removeprefix('bert.') if part == 'encoder' else rest}"


def _complete(tensors: dict[str, np.ndarray], config: EncoderDecoderConfig) -> None:
    """Adds the tensors that only one of encoder and decoder has to the other."""
    paths = _parameter_shapes(config)
    for path in paths:
        part, _, rest = path.partition("/")
        other = f"{'decoder' if part == 'encoder' else 'encoder'}/{rest}"
        if other in paths:
            name, source = tensor_name(path)[0], tensor_name(other)[0]
            if name not in tensors and source in tensors:
                tensors[name] = tensors[source]


def _shared_leaves(config: EncoderDecoderConfig) -> dict[str, str]:
    """Returns the leaves of a whole decoder that are shared, each with the encoder's leaf."""
    whole = nested({path: path for path in _parameter_shapes(config)})["decoder"]
    shared = set(named(whole).values()) - set(named(own_leaves(whole, config)).values())
    return {path: path.replace("decoder/", "encoder/", 1) for path in sorted(shared)}


@functools.lru_cache(maxsize=8)
def _parameter_shapes(config: EncoderDecoderConfig) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of all leaves by path: a whole encoder with pooler and a whole decoder."""
    encoder = expected_shapes(config.encoder, 1)
    # Tracing one layer takes a tenth of the time of twelve, and all layers have equal shapes.
    one = dataclasses.replace(config.decoder, num_hidden_layers=1)
    decoder = jax.eval_shape(lambda: init_decoder(one, jax.random.key(0)))
    layer = decoder["encoder"]["layer_0"]
    layers = {f"layer_{i}": layer for i in range(config.decoder.num_hidden_layers)}
    shapes: dict[str, Any] = {
        "encoder": {part: encoder[part] for part in ("embeddings", "encoder", "pooler")},
        "decoder": {**decoder, "encoder": layers},
    }
    ours, theirs = config.encoder.hidden_size, config.decoder.hidden_size
    if ours != theirs:
        kernel, bias = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((ours, theirs), (theirs,)))
        shapes["projection"] = {"kernel": kernel, "bias": bias}
    return {path: leaf.shape for path, leaf in named(shapes).items()}
