"""Reads TF1 checkpoints of google-research/bert: weights, Adam moments and global_step."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop.tensor_bundle import INDEX, TensorBundle
from bertjax.interop.tensors import expected_shapes, make_parameter, module_name
from bertjax.interop.weights import find_weights
from bertjax.model.heads import OPTIONAL_PARTS
from bertjax.train.tree import named, nested

CONFIGS = ("bert_config.json", "config.json")

_STEP = "global_step"
_FIRST_MOMENT, _SECOND_MOMENT = "adam_m", "adam_v"

# Google's names of the leaves of a LayerNorm.
_NORM = {"scale": "gamma", "bias": "beta"}
# Google's output layers have kernels [classes, D].
_OUTPUTS = {
    "nsp": "cls/seq_relationship/output_",
    "classifier": "output_",
    "qa_outputs": "cls/squad/output_",
}


@dataclasses.dataclass(frozen=True)
class GoogleCheckpoint:
    """Contents of a TF1 checkpoint under our names; trees are nested dicts of float32 arrays."""

    prefix: epath.Path
    """The path of its files without .index and .data."""
    config: BertConfig
    """The configuration in the JSON file beside it."""
    params: dict[str, Any]
    """Parameters as in `init_params`, with the heads that the checkpoint has."""
    mu: dict[str, Any] | None
    """Adam's first moments, a tree like `params`; None if they are absent or were not read."""
    nu: dict[str, Any] | None
    """Adam's second moments."""
    has_moments: bool
    """Whether the checkpoint has Adam's moments, even if they were not read."""
    step: int | None
    """global_step, the number of updates done; None if it is absent."""
    notes: tuple[str, ...] = ()
    """Sentences about what was chosen or left out."""


def variable_name(path: str) -> tuple[str, bool]:
    """Returns Google's name of a parameter, and whether its matrix is transposed there.

    Sources: modeling.py, run_pretraining.py, run_classifier.py and run_squad.py of
    google-research/bert.

    Args:
        path: a path such as `encoder/layer_0/attention/query/kernel`.
    """
    module, leaf = path.rsplit("/", 1)
    if module in _OUTPUTS:
        return _OUTPUTS[module] + {"kernel": "weights", "bias": "bias"}[leaf], leaf == "kernel"
    if path == "mlm/bias":
        return "cls/predictions/output_bias", False
    # Hugging Face's names are Google's with dots in place of slashes.
    name = re.sub(r"\blayer\.(\d+)", r"layer_\1", module_name(module)).replace(".", "/")
    if leaf == "embedding":
        return name, False
    return f"{name}/{_NORM[leaf] if name.endswith('LayerNorm') else leaf}", False


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether a path is for `read_checkpoint`; opens no file."""
    path = epath.Path(path)
    if path.is_dir():
        if (path / "config.json").is_file() and find_weights(path):
            return False
        # Other programs name files .index too.
        data = {file.name.rsplit(".", 1)[0] for file in path.glob("*.data-00000-of-*")}
        return any(prefix.name in data for prefix in _prefixes(path))
    return _stem(path).is_file()


def read_checkpoint(path: epath.PathLike, *, moments: bool = True) -> GoogleCheckpoint:
    """Reads the weights of a TF1 checkpoint without TensorFlow, one tensor at a time.

    Args:
        path: the directory, or the path of the files with or without .index.
        moments: whether to read Adam's moments too.

    Raises:
        UserError: the checkpoint or its configuration is absent; a file is damaged; a tensor is
            missing or has the wrong shape; a tensor in the scope bert/ is unknown.
    """
    prefix, notes = _find(epath.Path(path))
    reader = _Reader(TensorBundle(prefix))
    config = _read_config(prefix)
    shapes = _expected(reader, config)
    params = reader.tree(shapes)
    mu = nu = None
    unmoved = [name for name in named(shapes) if not reader.slots(name)]
    has_moments = len(unmoved) < len(named(shapes))
    if moments and has_moments:
        if unmoved:
            notes.append(f"Without Adam moments, so never updated by a gradient: {_some(unmoved)}.")
        mu, nu = reader.tree(shapes, _FIRST_MOMENT), reader.tree(shapes, _SECOND_MOMENT)
    left_out = reader.left_out(named(shapes))
    if left_out:
        notes.append(f"Not part of a BERT, and left out: {_some(left_out)}.")
    step = reader.step()
    return GoogleCheckpoint(prefix, config, params, mu, nu, has_moments, step, tuple(notes))


# Which checkpoint ------------------------------------------------------------------------------


def _stem(path: epath.Path) -> epath.Path:
    """Returns the index file of a prefix, an index or a data file."""
    name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name)
    return path.parent / f"{name}{INDEX}"


def _prefixes(directory: epath.Path) -> list[epath.Path]:
    return [path.parent / path.name.removesuffix(INDEX) for path in directory.glob(f"*{INDEX}")]


def _find(path: epath.Path) -> tuple[epath.Path, list[str]]:
    """Returns the prefix of the checkpoint to read, and notes about the choice."""
    if not path.is_dir():
        index = _stem(path)
        return index.parent / index.name.removesuffix(INDEX), []
    found = {prefix.name: prefix for prefix in _prefixes(path)}
    if not found:
        raise UserError(
            f"{path}: holds no TensorFlow checkpoint (a file that ends in {INDEX}); give a "
            "directory with one."
        )
    if len(found) == 1:
        return found.popitem()[1], []
    newest = _newest(path, found)
    if newest is None:
        raise UserError(
            f"{path}: holds several checkpoints ({_some(sorted(found))}) but no file named "
            "checkpoint that names the newest; give the path of one."
        )
    return found[newest], [f"{path} holds {len(found)} checkpoints; {newest} is read."]


def _newest(directory: epath.Path, names: Mapping[str, object]) -> str | None:
    """Returns the checkpoint that tf.train.Saver's file `checkpoint` names, or the latest step."""
    state = directory / "checkpoint"
    if state.is_file():
        text = state.read_bytes().decode(errors="replace")
        said = re.search(r'^model_checkpoint_path: "([^"]*)"', text, re.MULTILINE)
        # The file may contain a path of the machine that wrote it.
        name = re.split(r"[/\\]", said[1])[-1] if said else ""
        if name in names:
            return name
    steps = {int(match[1]): name for name in names if (match := re.search(r"-(\d+)$", name))}
    return steps[max(steps)] if steps else None


def _read_config(prefix: epath.Path) -> BertConfig:
    for name in CONFIGS:
        if (prefix.parent / name).is_file():
            return BertConfig.from_json(prefix.parent / name)
    raise UserError(
        f"{prefix.parent}: holds no {CONFIGS[0]}, which describes the model's shape; put the one "
        "of this model beside its weights."
    )


# Tensors ---------------------------------------------------------------------------------------


class _Reader:
    """Reads the tensors of a bundle by our parameter paths."""

    def __init__(self, bundle: TensorBundle) -> None:
        self._bundle = bundle

    def tree(self, shapes: Mapping[str, Any], slot: str | None = None) -> dict[str, Any]:
        """Reads the parameters, or their moments in a slot of the optimizer."""
        leaves = named(shapes).items()
        return nested({path: self._read(path, leaf.shape, slot) for path, leaf in leaves})

    def _read(self, path: str, shape: tuple[int, ...], slot: str | None) -> jax.Array:
        name, transposed = variable_name(path)
        if slot is not None:
            if not self.slots(path):  # the parameter never had a gradient
                return jnp.zeros(shape, jnp.float32)
            name = f"{name}/{slot}"
        array = self._bundle.read(name) if name in self._bundle else None
        return make_parameter(array, name, self._bundle.prefix, shape, transposed)

    def holds(self, path: str) -> bool:
        """Whether the checkpoint has a parameter."""
        return variable_name(path)[0] in self._bundle

    def classes(self) -> int:
        """Returns the size of the classifier's bias; 1 if it has none or more than one axis."""
        name = variable_name("classifier/bias")[0]
        shape = self._bundle.shape(name) if name in self._bundle else ()
        return shape[0] if len(shape) == 1 else 1

    def slots(self, path: str) -> list[str]:
        """Returns the names of the optimizer's variables that exist for a parameter."""
        name = variable_name(path)[0]
        slots = (f"{name}/{slot}" for slot in (_FIRST_MOMENT, _SECOND_MOMENT))
        return [slot for slot in slots if slot in self._bundle]

    def step(self) -> int | None:
        """Reads global_step."""
        if _STEP not in self._bundle:
            return None
        value = self._bundle.read(_STEP)
        if value.shape or value.dtype.kind != "i" or not 0 <= value < 1 << 31:
            raise UserError(
                f"{self._bundle.prefix}: {_STEP} is not a number of steps from 0 to "
                f"{(1 << 31) - 1:,}; give a checkpoint that google-research/bert saved."
            )
        return int(value)

    def left_out(self, paths: Mapping[str, Any]) -> list[str]:
        """Returns the variables that are neither parameters nor their moments nor the step.

        Raises:
            UserError: one of them is in the scope of the model.
        """
        known = {variable_name(path)[0] for path in paths}
        rest = []
        for name in self._bundle.names:
            scope, _, slot = name.rpartition("/")
            if name in known or name == _STEP:
                continue
            if scope in known:  # a variable of the optimizer
                if slot not in (_FIRST_MOMENT, _SECOND_MOMENT):
                    rest.append(name)
                continue
            if name.startswith("bert/"):
                raise UserError(
                    f"{self._bundle.prefix}: the variable {name} "
                    f"{list(self._bundle.shape(name))} is not part of the BERT that the "
                    "configuration describes; put the one that belongs to these weights beside it."
                )
            rest.append(name)
        return rest


def _expected(reader: _Reader, config: BertConfig) -> dict[str, Any]:
    """Returns the shapes of the parameters that a checkpoint should hold."""
    shapes = expected_shapes(config, reader.classes())
    return {
        part: subtree
        for part, subtree in shapes.items()
        if part not in OPTIONAL_PARTS
        or any(reader.holds(f"{part}/{leaf}") for leaf in named(subtree))
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
