"""Converts parameters to tensors with Hugging Face's names, and back."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.files import writing
from bertjax.interop.weights import (
    PAYLOAD_HASH,
    Weights,
    payload_hash,
    safetensors_header,
    some,
    stored_shapes,
)
from bertjax.model import extractive
from bertjax.model.bert import init_params
from bertjax.train.tree import named, nested

_LAYER = r"encoder/layer_(\d+)"
# (our module, Hugging Face's), tried in order; see `transformers/models/bert/modeling_bert.py`.
_MODULES = (
    (r"embeddings/(word|position|token_type)_embeddings", r"bert.embeddings.\1_embeddings"),
    (r"embeddings/layer_norm", r"bert.embeddings.LayerNorm"),
    (rf"{_LAYER}/attention/(query|key|value)", r"bert.encoder.layer.\1.attention.self.\2"),
    (rf"{_LAYER}/attention/output", r"bert.encoder.layer.\1.attention.output.dense"),
    (rf"{_LAYER}/attention_layer_norm", r"bert.encoder.layer.\1.attention.output.LayerNorm"),
    (
        rf"{_LAYER}/cross_attention/(query|key|value)",
        r"bert.encoder.layer.\1.crossattention.self.\2",
    ),
    (rf"{_LAYER}/cross_attention/output", r"bert.encoder.layer.\1.crossattention.output.dense"),
    (
        rf"{_LAYER}/cross_attention_layer_norm",
        r"bert.encoder.layer.\1.crossattention.output.LayerNorm",
    ),
    (rf"{_LAYER}/(intermediate|gate|output)", r"bert.encoder.layer.\1.\2.dense"),
    (rf"{_LAYER}/output_layer_norm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"encoder/final_norm", r"bert.encoder.final_norm"),
    (r"pooler", r"bert.pooler.dense"),
    (r"pooler/transform", r"bert.pooler.transform.dense"),
    (r"pooler/layer_norm", r"bert.pooler.transform.LayerNorm"),
    (r"token_head/transform", r"token_head.transform.dense"),
    (r"token_head/layer_norm", r"token_head.transform.LayerNorm"),
    (r"mlm/transform", r"cls.predictions.transform.dense"),
    (r"mlm/layer_norm", r"cls.predictions.transform.LayerNorm"),
    (r"mlm", r"cls.predictions"),
    (r"nsp", r"cls.seq_relationship"),
    (r"(classifier|qa_outputs)", r"\1"),
    (r"projection", r"enc_to_dec_proj"),
)
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}

_OWN = "sentence_scorer/"
_ENCODER = ("bert.embeddings.", "bert.encoder.", "bert.pooler.")
_DECODER = "cls.predictions.decoder.weight"  # the word embeddings
_WORDS = r"((?:[^.]+\.)*?)(?:(?:%s)\.)?embeddings\.(?:word|tok)_embeddings\.weight"
# Names before the embeddings of architectures that have other layers, ids or positions than BERT.
_FAMILIES = (
    *("albert", "camembert", "data2vec_text", "deberta", "electra", "ernie", "ibert", "layoutlm"),
    *("longformer", "luke", "mpnet", "nezha", "roberta", "squeezebert", "xlm", "xmod"),
)
_IGNORED = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")


def tensor_name(path: str) -> tuple[str, bool]:
    """Returns Hugging Face's name of a parameter, and whether its matrix is transposed there.

    `path` is the parameter's, such as `encoder/layer_0/attention/query/kernel`. Parameters of heads
    that only bertjax has keep their paths.
    """
    if path.startswith(_OWN):
        return path, False
    module, leaf = path.rsplit("/", 1)
    return f"{module_name(module)}.{_LEAVES[leaf]}", leaf == "kernel"


def module_name(module: str) -> str:
    """Returns Hugging Face's name of a module, such as `encoder/layer_0/attention/query`.

    The encoder and the decoder of an encoder-decoder are BERTs: `encoder/encoder/layer_0/...`.
    """
    part, _, rest = module.partition("/")
    if part == "decoder" and rest:
        return f"decoder.{module_name(rest)}"
    if part == "encoder" and not rest.startswith(("layer_", "final_norm")):
        return f"encoder.{module_name(rest).removeprefix('bert.')}"
    for ours, theirs in _MODULES:
        if re.fullmatch(ours, module):
            return re.sub(ours, theirs, module)
    raise ValueError(f"{module} has no name in Google's BERT, nor in Hugging Face's")


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the parameters under Hugging Face's names, float32, without the tied decoder."""
    tensors = {}
    for path, value in named(params).items():
        name, transposed = tensor_name(path)
        array = np.asarray(value, np.float32)
        tensors[name] = np.ascontiguousarray(array.T if transposed else array)
    return tensors


def weights_hash(params: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the parameters, which does not depend on their file format."""
    return payload_hash(to_tensors(params))


def write_params(
    path: epath.Path,
    params: Mapping[str, Any],
    layout: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors,
) -> None:
    """Writes a safetensors file, with a hash of the weights in its metadata.

    `layout` gives the tensors, which have the names of a BERT, those of the file.

    Raises:
        UserError: a weight is not finite, or the file can't be written.
    """
    tensors = layout(to_tensors(params))
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: not written, because the weights {name} are not finite.")
    data = safetensors.numpy.save(tensors)
    header, begin = safetensors_header(data)
    # The library's order of metadata varies between runs, but equal weights should give equal
    # bytes. Offsets count from the end of the header, so the header can be replaced.
    header["__metadata__"] = {"format": "pt", PAYLOAD_HASH: payload_hash(tensors)}
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    parts = (len(head).to_bytes(8, "little"), head, memoryview(data)[begin:])
    with writing(path):
        path.write_bytes(b"".join(parts))


def without_prefix(
    weights: Weights, log: Callable[[str], None], bases: tuple[str, ...] = ("bert", "distilbert")
) -> Weights:
    """Removes what a program put before all names of a BERT, such as module. by DataParallel.

    `bases` are the names that an encoder may have, and `log` receives a sentence. Raises
    `UserError` if there are several BERTs, or if the prefix is that of another architecture.
    """
    found = (re.fullmatch(_WORDS % "|".join(bases), name) for name in weights.tensors)
    prefixes = sorted({match[1] for match in found if match})
    if not prefixes or "" in prefixes:
        return weights
    prefix, where = prefixes[0], weights.path
    if len(prefixes) > 1:
        raise UserError(f"{where}: holds several encoders ({some(prefixes)}); save the one to use.")
    if (family := prefix.split(".")[-2]) in _FAMILIES:
        raise UserError(
            f"{where}: holds the tensors of another architecture ({prefix}embeddings...); its "
            f"config.json has to name {family}, if bertjax reads that."
        )
    log(f"{where}: the names of its tensors are read without {prefix!r:.200} before them.")
    return weights.renamed((name.removeprefix(prefix), name) for name in weights.tensors)


def read_params(weights: Weights, config: BertConfig, log: Callable[[str], None]) -> dict:
    """Returns the parameters in a file's tensors, without the heads that the file lacks.

    `log` receives a sentence about tensors that are no part of a BERT. If the caller keeps no
    reference to `weights`, each array is freed as soon as its parameter is made.

    Raises:
        UserError: a tensor is missing, is damaged, has the wrong shape, is unknown, or occurs in
            two different versions.
    """
    names = ((canonical_name(name), name) for name in weights.tensors)
    weights = weights.renamed((ours, theirs) for ours, theirs in names if ours not in _IGNORED)
    tensors = weights.tensors
    stored = {name: array.shape for name, array in tensors.items()}
    shapes = parameter_shapes(config, stored, tensor_name)
    _check(weights, {tensor_name(path)[0] for path in shapes})
    leaves = {}
    for path, shape in shapes.items():
        name, transposed = tensor_name(path)
        array, where = tensors.pop(name, None), weights.where(name)
        leaves[path] = make_parameter(array, name, where, shape, transposed)
    if left_out := sorted(tensors.keys() - {_DECODER}):
        log(f"{weights.path}: not part of a BERT, and left out: {some(left_out)}.")
    return nested(leaves)


def read_shapes(path: epath.Path, config: BertConfig) -> dict | None:
    """Returns what `read_params` will, as ShapeDtypeStructs, if a file tells without being read.

    None if it does not, or if `read_params` would refuse it.
    """
    if (found := stored_shapes(path)) is None:
        return None
    stored = {canonical_name(name): shape for name, shape in found.items()}
    leaves = {}
    for name, shape in parameter_shapes(config, stored, tensor_name).items():
        theirs, transposed = tensor_name(name)
        if stored.get(theirs) != (shape[::-1] if transposed else shape):
            return None
        leaves[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nested(leaves)


def read_sentence_scorer(weights: Weights, config: BertConfig) -> dict:
    """Returns the subtree sentence_scorer in a file's tensors, in a dict.

    Raises:
        UserError: a tensor is missing, is damaged or has the wrong shape.
    """
    found = (re.match(rf"{_OWN}inter_sentence/(layer_\d+)/", name) for name in weights.tensors)
    layers = len({match[1] for match in found if match})
    shapes = jax.eval_shape(
        lambda: extractive.init_params(
            config, jax.random.key(0), whole=False, inter_sentence_layers=layers
        )
    )
    leaves = {
        path: make_parameter(weights.tensors.get(path), path, weights.path, leaf.shape, False)
        for path, leaf in named(shapes).items()
    }
    return nested(leaves)


def parameter_shapes(
    config: BertConfig,
    stored: Mapping[str, tuple[int, ...]],
    name_of: Callable[[str], tuple[str, bool]],
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the parameters that a file must hold, by path.

    `stored` has the shapes of the file's tensors by name, and `name_of` is `tensor_name` or alike.
    Heads of which the file holds nothing are left out.
    """
    labels = stored.get(name_of("classifier/bias")[0]) or (1,)
    leaves = named(expected_shapes(config, labels[0]))
    held = {path.split("/")[0] for path in leaves if name_of(path)[0] in stored}
    parts = {"embeddings", "encoder", *held}
    return {path: leaf.shape for path, leaf in leaves.items() if path.split("/")[0] in parts}


@functools.lru_cache(maxsize=4)
def expected_shapes(config: BertConfig, num_labels: int) -> dict[str, Any]:
    """Returns the shapes of all parameters that a file may hold, without allocating any."""
    # Tracing two layers takes a fraction of the time of twelve, and all but the first, which may
    # have one LayerNorm less, have equal shapes.
    some = min(2, config.num_hidden_layers)
    few = dataclasses.replace(config, num_hidden_layers=some)
    heads = ("mlm", "nsp", "classifier", "qa_outputs")
    shapes = jax.eval_shape(
        lambda: init_params(few, jax.random.key(0), heads=heads, num_labels=num_labels)
    )
    last = shapes["encoder"][f"layer_{some - 1}"]
    shapes["encoder"] |= {f"layer_{i}": last for i in range(some, config.num_hidden_layers)}
    return shapes


def make_parameter(
    array: np.ndarray | None, name: str, where: object, shape: tuple[int, ...], transposed: bool
) -> jax.Array:
    """Checks a tensor and returns it as a float32 parameter of a shape.

    `array` is None if the file `where` lacks the tensor `name`. Raises `UserError` if the tensor is
    missing, has the wrong shape or type, or is not finite.
    """
    expected = list(shape[::-1] if transposed else shape)
    if array is None:
        problem = "is missing; give the files of a complete BERT"
    elif list(array.shape) != expected:
        shapes = f"has the shape {list(array.shape)}, but the configuration implies {expected}"
        problem = f"{shapes}; put the one of these weights beside them"
    elif not jnp.issubdtype(array.dtype, jnp.floating):
        problem = f"has the type {array.dtype}; only floating-point weights can be read"
    elif not np.isfinite(array := array.astype(np.float32)).all():
        problem = "has values that are not finite; give other weights"
    else:
        return jax.device_put(array.T if transposed else array)  # asarray compiles for each shape
    raise UserError(f"{where}: the tensor {name} {expected} {problem}.")


def _check(weights: Weights, known: set[str]) -> None:
    """Refuses unknown tensors of the encoder, and a decoder that is not the word embeddings."""
    for name in weights.tensors:
        if name.startswith(_ENCODER) and name not in known:
            reason = f"the tensor {name} is not part of the BERT that config.json describes"
            remedy = "put the config.json of these weights beside them"
            raise UserError(f"{weights.where(name)}: {reason}; {remedy}.")
    check_tied(weights)


def check_tied(weights: Weights, prefix: str = "") -> None:
    """Refuses output weights that are not the word embeddings; names begin with `prefix`."""
    name = f"{prefix}{_DECODER}"
    words = weights.tensors.get(f"{prefix}bert.embeddings.word_embeddings.weight")
    decoder = weights.tensors.get(name)
    if words is not None and decoder is not None and not np.array_equal(decoder, words):
        raise UserError(
            f"{weights.where(name)}: the tensor {name} differs from the word embeddings; only a "
            "BERT whose decoder is tied to them can be read."
        )


def canonical_name(name: str) -> str:
    """Returns a tensor's name with the prefix `bert.`, LayerNorm.weight and LayerNorm.bias."""
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    if name == "cls.predictions.decoder.bias":
        return "cls.predictions.bias"
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
