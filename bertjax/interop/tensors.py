"""A BERT's parameters by Hugging Face's tensor names, and safetensors files of them."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from bertjax import places
from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.model.bert import init_params
from bertjax.train.paths import named

# Our modules and theirs, tried in this order; `transformers/models/bert/modeling_bert.py`.
_MODULES = (
    (r"embeddings/(word|position|token_type)_embeddings", r"bert.embeddings.\1_embeddings"),
    (r"embeddings/layer_norm", r"bert.embeddings.LayerNorm"),
    (
        r"encoder/layer_(\d+)/attention/(query|key|value)",
        r"bert.encoder.layer.\1.attention.self.\2",
    ),
    (r"encoder/layer_(\d+)/attention/output", r"bert.encoder.layer.\1.attention.output.dense"),
    (
        r"encoder/layer_(\d+)/attention/layer_norm",
        r"bert.encoder.layer.\1.attention.output.LayerNorm",
    ),
    (r"encoder/layer_(\d+)/(intermediate|output)", r"bert.encoder.layer.\1.\2.dense"),
    (r"encoder/layer_(\d+)/layer_norm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"pooler", r"bert.pooler.dense"),
    (r"mlm/transform", r"cls.predictions.transform.dense"),
    (r"mlm/layer_norm", r"cls.predictions.transform.LayerNorm"),
    (r"mlm", r"cls.predictions"),
    (r"nsp", r"cls.seq_relationship"),
    (r"classifier", r"classifier"),
    (r"qa_outputs", r"qa_outputs"),
)
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_OPTIONAL = ("pooler", "mlm", "nsp", "classifier", "qa_outputs")  # parts that a file may lack

_PREFIX = "bert."
_ENCODER = ("bert.embeddings.", "bert.encoder.", "bert.pooler.")
_IGNORED = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")
_DECODER = "cls.predictions.decoder.weight"
_PAYLOAD_HASH = "bertjax_sha256"

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.dtype(jnp.bfloat16),
}


def tensor_name(path: str) -> tuple[str, bool]:
    """Hugging Face's name of a parameter, and whether its matrix is transposed there.

    Args:
        path: as in `encoder/layer_0/attention/query/kernel`.
    """
    module, leaf = path.rsplit("/", 1)
    for ours, theirs in _MODULES:
        if re.fullmatch(ours, module):
            return f"{re.sub(ours, theirs, module)}.{_LEAVES[leaf]}", leaf == "kernel"
    raise ValueError(f"parameter {path} has no name in Hugging Face's BERT")


def to_tensors(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters by Hugging Face's names, float32; the tied decoder is not repeated."""
    tensors = {}
    for path, value in named(params).items():
        name, transposed = tensor_name(path)
        array = np.asarray(value, np.float32)
        tensors[name] = np.ascontiguousarray(array.T if transposed else array)
    return tensors


def weights_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of the parameters, whatever file or checkpoint they came from."""
    return _payload_hash(to_tensors(params))


def write_params(path: epath.Path, params: Mapping[str, Any], *, prefix: bool = True) -> None:
    """Writes a safetensors file, with a hash of the weights in its metadata.

    Args:
        path: of the file.
        params: what to write.
        prefix: False for names of the encoder without their `bert.`, as a BertModel has them.

    Raises:
        UserError: a weight is not finite, or the file can't be written.
    """
    tensors = to_tensors(params)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: not written, because the weights {name} are not finite.")
    names = {name: name if prefix else name.removeprefix(_PREFIX) for name in tensors}
    data = safetensors.numpy.save({names[name]: array for name, array in tensors.items()})
    header = _header(data)
    # The library writes metadata in another order from run to run; the same weights should give
    # the same bytes. Offsets count from the header's end, so it may be replaced.
    header["__metadata__"] = {"format": "pt", _PAYLOAD_HASH: _payload_hash(tensors)}
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    payload = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    with places.writing(path):
        path.write_bytes(b"".join([len(head).to_bytes(8, "little"), head, payload]))


def read_params(path: epath.Path, config: BertConfig) -> dict:
    """The parameters of a safetensors file; heads that it doesn't hold are left out.

    Raises:
        UserError: a tensor is missing, damaged, of another shape than the configuration says, or
            unknown to it; the sentence names it.
    """
    tensors = _read_tensors(path)
    labels = tensors.get("classifier.bias", np.zeros(2)).shape
    shapes = _expected(config, labels[0] if labels else 1)
    _check_names(path, tensors, shapes)
    params: dict[str, Any] = {}
    for part, subtree in shapes.items():
        leaves = named(subtree)
        wanted = {name: tensor_name(f"{part}/{name}") for name in leaves}
        if part in _OPTIONAL and not any(name in tensors for name, _ in wanted.values()):
            continue
        arrays = [
            _tensor(path, tensors, *wanted[name], leaf.shape) for name, leaf in leaves.items()
        ]
        params[part] = jax.tree.unflatten(jax.tree.structure(subtree), arrays)
    _check_decoder(path, tensors)
    return params


def _expected(config: BertConfig, num_labels: int) -> dict[str, Any]:
    """Shapes of all parameters that a file may hold; nothing is computed or allocated."""
    # One layer is traced, which takes a tenth of the time of twelve; all have the same shapes.
    one = dataclasses.replace(config, num_hidden_layers=1)
    heads = ("mlm", "nsp", "classifier", "qa_outputs")
    shapes = jax.eval_shape(
        lambda: init_params(one, jax.random.key(0), heads=heads, num_labels=num_labels)
    )
    layer = shapes["encoder"]["layer_0"]
    shapes["encoder"] = {f"layer_{i}": layer for i in range(config.num_hidden_layers)}
    return shapes


def _tensor(
    path: epath.Path,
    tensors: Mapping[str, np.ndarray],
    name: str,
    transposed: bool,
    shape: tuple[int, ...],
) -> jax.Array:
    expected = list(shape[::-1] if transposed else shape)
    if name not in tensors:
        raise UserError(
            f"{path}: the tensor {name} {expected} is missing; export or download the model again."
        )
    array = tensors[name]
    if list(array.shape) != expected:
        raise UserError(
            f"{path}: the tensor {name} has the shape {list(array.shape)}, but by config.json it "
            f"should be {expected}; put the config.json that belongs to these weights beside them."
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(
            f"{path}: the tensor {name} {expected} holds values that are not finite; export or "
            "download the model again."
        )
    return jnp.asarray(array.T if transposed else array)


def _check_names(path: epath.Path, tensors: Mapping[str, np.ndarray], shapes: dict) -> None:
    """Refuses tensors of the encoder that its configuration doesn't know: it is another model."""
    known = {tensor_name(name)[0] for name in named(shapes)}
    for name in tensors:
        if name.startswith(_ENCODER) and name not in known and name not in _IGNORED:
            raise UserError(
                f"{path}: the tensor {name} is no part of the BERT that config.json describes; put "
                f"the config.json that belongs to these weights beside them."
            )


def _check_decoder(path: epath.Path, tensors: Mapping[str, np.ndarray]) -> None:
    words = tensors["bert.embeddings.word_embeddings.weight"]
    if _DECODER in tensors and not np.array_equal(tensors[_DECODER], words):
        raise UserError(
            f"{path}: the tensor {_DECODER} differs from the word embeddings; only a BERT whose "
            "decoder is tied to them can be read."
        )


def _read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Tensors by canonical name: with the `bert.` prefix, LayerNorm.weight and .bias."""
    data = path.read_bytes()
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path}: damaged ({_cut_off(data) or error}); export or download the model again."
        ) from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] in _DTYPES:
            array = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
            tensors[_canonical(name)] = array.reshape(entry["shape"])
        elif _canonical(name) not in _IGNORED:
            raise UserError(
                f"{path}: the tensor {name} is of type {entry['dtype']}; only floating-point "
                "weights can be read."
            )
    if "cls.predictions.decoder.bias" in tensors:
        tensors.setdefault("cls.predictions.bias", tensors["cls.predictions.decoder.bias"])
    written = _header(data).get("__metadata__", {}).get(_PAYLOAD_HASH)
    if written is not None and written != _payload_hash(tensors):
        raise UserError(
            f"{path}: damaged (the weights are not those that were written); export or copy the "
            "model again."
        )
    return tensors


def _canonical(name: str) -> str:
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return re.sub(
        r"LayerNorm\.(gamma|beta)$",
        lambda match: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match[1]],
        name,
    )


def _header(data: bytes) -> dict[str, Any]:
    """The JSON at the head of a safetensors file: 8 bytes of length, then an object."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _cut_off(data: bytes) -> str | None:
    """Names the first tensor that a truncated file lacks; None if that isn't what is wrong."""
    try:
        header = _header(data)
        begin = 8 + int.from_bytes(data[:8], "little")
        spans = sorted(
            (begin + entry["data_offsets"][1], name, entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        )
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return None  # the header itself is damaged: the library's own words will do
    for end, name, shape in spans:
        if end > len(data):
            return f"cut off at byte {len(data):,}: the tensor {name} {shape} ends at {end:,}"
    return None


def _payload_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all the weights by name; safetensors itself notices no flipped bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
