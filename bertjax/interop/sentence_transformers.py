"""The files of sentence-transformers, which say how a model makes the vector of a text.

modules.json lists the modules: the encoder, a pooling, and dense layers or a normalization after
it. Each module but the encoder has a directory with a config.json. The encoder's
sentence_bert_config.json has the maximum length of a text. All these files are kept as they are.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax.config import read_json, read_json_object
from bertjax.errors import UserError
from bertjax.files import damaged, reading
from bertjax.interop.weights import find_weights, read_weights

MODULES = "modules.json"
ENCODER = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
FILES = (MODULES, ENCODER, PROMPTS)
_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"

# Fields of a pooling's config.json, in the order in which sentence-transformers joins the vectors.
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(_POOLINGS.values())
"""Names of the poolings."""
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
}
_DIRECTORY = re.compile(r"[\w-]+")


class _Unknown(Exception):
    """A module or an option that bertjax does not compute; the text is a clause of a sentence."""


class Dense(NamedTuple):
    """A dense layer after the pooling."""

    kernel: np.ndarray
    """float32 [in, out]."""
    bias: np.ndarray
    """float32 [out]."""
    activation: str
    """A key of the table of activations: the name of PyTorch's class."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Computes [N, out] of vectors [N, in]."""
        return _ACTIVATIONS[self.activation](vectors @ self.kernel + self.bias)

    def __str__(self) -> str:
        sizes = " to ".join(map(str, self.kernel.shape))
        return f"a dense layer from {sizes} with {self.activation}"


class Normalize(NamedTuple):
    """Scales vectors to length 1."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Divides each vector of [N, D] by its length."""
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)

    def __str__(self) -> str:
        return "vectors of length 1"


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceModules:
    """How sentence-transformers makes the vector of a text with a model."""

    files: Mapping[str, bytes]
    """The files that say so, by their paths in the model's directory."""
    pooling: tuple[str, ...] = ("mean",)
    """The poolings whose vectors are joined, of `POOLINGS`."""
    max_seq_length: int | None = None
    """Maximum tokens of a text with [CLS] and [SEP]; None: all positions of the model."""
    lowercase: bool = False
    """Whether texts are lower-cased before the tokenizer reads them."""
    after: tuple[Dense | Normalize, ...] = ()
    """Layers that the joined vectors pass through, in order."""
    unknown: str | None = None
    """A clause that names what bertjax does not compute; None: it computes everything."""

    @property
    def only_pooling(self) -> str | None:
        """The pooling, if it is the only one and nothing but a normalization comes after it."""
        others = [each for each in self.after if not isinstance(each, Normalize)]
        first, *more = self.pooling
        return None if self.unknown or others or more else first

    def __str__(self) -> str:
        parts = [f"pooling {' and '.join(self.pooling)}"]
        if self.max_seq_length is not None:
            parts.append(f"at most {self.max_seq_length} tokens")
        parts += ["lower-cased text"] if self.lowercase else []
        return ", ".join([*parts, *map(str, self.after)])


def make_modules(
    pooling: str, normalize: bool, lowercase: bool, max_seq_length: int, size: int
) -> SentenceModules:
    """Makes the files for an encoder whose vectors [size] have one pooling and may have length 1.

    Args:
        pooling: one of `POOLINGS`.
        normalize: whether vectors are scaled to length 1.
        lowercase: whether texts are lower-cased first.
        max_seq_length: maximum tokens of a text.
        size: numbers of a vector.
    """
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    kinds |= {"Normalize": "2_Normalize"} if normalize else {}
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds.items())
    ]
    modes = {key: name == pooling for key, name in _POOLINGS.items()}
    contents = {
        MODULES: listed,
        ENCODER: {"max_seq_length": max_seq_length, "do_lower_case": lowercase},
        PROMPTS: {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        f"1_Pooling/{_CONFIG}": {"word_embedding_dimension": size, **modes},
    }
    files = {name: (json.dumps(each, indent=2) + "\n").encode() for name, each in contents.items()}
    after = (Normalize(),) if normalize else ()
    return SentenceModules(files, (pooling,), max_seq_length, lowercase, after)


def recorded_modules(task: Mapping[str, Any], config: Any) -> SentenceModules | None:
    """Makes the files for a model of fine-tuning, whose task says how it makes "vectors"; or None.

    `config` is its shape.
    """
    vectors = task.get("vectors")
    if not isinstance(vectors, Mapping):
        return None
    return make_modules(**vectors, max_seq_length=task["max_seq_length"], size=config.hidden_size)


def encoder_directory(directory: epath.Path) -> epath.Path:
    """Returns the directory of the encoder that modules.json names, such as 0_Transformer.

    It is `directory` itself if there is no modules.json, or if its first module is no encoder.
    """
    if not (directory / MODULES).is_file():
        return directory
    kind, path = _modules(directory / MODULES)[0]
    return directory / path if kind == "Transformer" and path else directory


def read_modules(directory: epath.Path, hidden_size: int) -> SentenceModules | None:
    """Reads how vectors are made; None if the directory has no modules.json.

    `hidden_size` is the width of the encoder, which the widths of dense layers must fit.

    Raises:
        UserError: a file is absent, damaged or contradicts another.
    """
    listing = directory / MODULES
    if not listing.is_file():
        return None
    modules = _modules(listing)
    encoder = directory / modules[0][1]
    files = _files(directory, encoder, [path for _, path in modules[1:]])
    fields = read_json_object(encoder / ENCODER) if ENCODER in files else {}
    try:
        kinds = [kind for kind, _ in modules if kind != "Dropout"]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise _Unknown(f"lists the modules {', '.join(kinds):.200}")
        pooling = _read_pooling(directory / modules[1][1] / _CONFIG)
        places = [(kind, directory / path) for kind, path in modules[2:] if kind != "Dropout"]
        after = tuple(_read_after(kind, place) for kind, place in places)
        _check_widths(listing, after, hidden_size * len(pooling))
        if (directory / PROMPTS).is_file():
            _refuse_prompt(read_json_object(directory / PROMPTS))
    except _Unknown as unknown:
        return SentenceModules(files, unknown=f"{listing}: {unknown}")
    length = fields.get("max_seq_length")
    if length is None and (encoder / _TOKENIZER).is_file():
        length = read_json_object(encoder / _TOKENIZER).get("model_max_length")
    length = length if isinstance(length, int) and 3 <= length < 1 << 31 else None
    return SentenceModules(files, pooling, length, bool(fields.get("do_lower_case")), after)


def _modules(listing: epath.Path) -> list[tuple[str, str]]:
    """Returns (the name of its class, its directory or "") of every module."""
    modules = []
    fields = read_json(listing)
    for module in fields if isinstance(fields, list) else ():
        module = module if isinstance(module, dict) else {}
        kind, path = module.get("type"), module.get("path")
        if not isinstance(kind, str) or not isinstance(path, str):
            damaged(listing, "a module has no type or no path")
        # Only a name is accepted, because a path could lead out of the directory.
        if path and not _DIRECTORY.fullmatch(path):
            damaged(listing, f"the path {path!r:.100} is not the name of a directory")
        modules.append((kind.rpartition(".")[2], path))
    if not modules:
        damaged(listing, "it lists no modules")
    return modules


def _files(directory: epath.Path, encoder: epath.Path, places: list[str]) -> dict[str, bytes]:
    """Reads the files to keep. Where they are written, the encoder lies in the directory itself."""
    listed = read_json(directory / MODULES)
    listed[0]["path"] = ""
    files = {MODULES: (json.dumps(listed, indent=2) + "\n").encode()}
    found = {ENCODER: encoder / ENCODER, PROMPTS: directory / PROMPTS}
    for place in filter(None, places):
        found[f"{place}/{_CONFIG}"] = directory / place / _CONFIG
        if weights := find_weights(directory / place):
            found[f"{place}/{weights.name}"] = weights
    for name, path in found.items():
        if path.is_file():
            with reading(path):
                files[name] = path.read_bytes()
    return files


def _read_pooling(path: epath.Path) -> tuple[str, ...]:
    fields = read_json_object(path)
    names = fields.get("pooling_mode")
    if names is None:
        default = "pooling_mode_mean_tokens"
        names = [name for key, name in _POOLINGS.items() if fields.get(key, key == default)]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not {*map(str, names)} <= {*POOLINGS}:
        raise _Unknown(f"has the pooling {names!r:.100}")
    return tuple(name for name in POOLINGS if name in names)


def _read_after(kind: str, directory: epath.Path) -> Dense | Normalize:
    if kind == "Normalize":
        return Normalize()
    if kind != "Dense":
        raise _Unknown(f"has the module {kind:.100}")
    fields = read_json_object(directory / _CONFIG)
    activation = str(fields.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise _Unknown(f"has a dense layer with {activation:.100}")
    for name in ("module_input_name", "module_output_name"):
        if fields.get(name) not in (None, "sentence_embedding"):
            raise _Unknown(f"has a dense layer whose {name} is {fields[name]!r:.100}")
    file = find_weights(directory)
    if file is None:
        raise UserError(f"{directory}: holds no weights of this dense layer; download them too.")
    tensors = read_weights(file).tensors
    kernel = tensors.get("linear.weight")
    if kernel is None or kernel.ndim != 2:
        damaged(file, "it has no matrix linear.weight")
    bias = tensors.get("linear.bias", np.zeros(kernel.shape[0]))
    if bias.shape != kernel.shape[:1]:
        damaged(file, "linear.bias does not fit linear.weight")
    return Dense(kernel.T.astype(np.float32), bias.astype(np.float32), activation)


def _check_widths(listing: epath.Path, after: tuple[Dense | Normalize, ...], width: int) -> None:
    for layer in after:
        if isinstance(layer, Dense):
            if layer.kernel.shape[0] != width:
                damaged(listing, f"{layer} follows vectors of {width} numbers")
            width = layer.kernel.shape[1]


def _refuse_prompt(fields: dict[str, Any]) -> None:
    name, prompts = fields.get("default_prompt_name"), fields.get("prompts")
    if name is not None and isinstance(prompts, dict) and prompts.get(name):
        raise _Unknown(f"needs the prompt {prompts[name]!r:.100} before each text")
