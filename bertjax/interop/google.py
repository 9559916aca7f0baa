"""Reads and writes TF1 checkpoints of google-research/bert: weights, moments, global_step."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.files import writing
from bertjax.interop.tensor_bundle import INDEX, TensorBundle, write_bundle
from bertjax.interop.tensors import make_parameter, module_name, parameter_shapes
from bertjax.interop.weights import find_weights, some
from bertjax.train.tree import named, nested

CONFIGS = ("bert_config.json", "config.json")

NAME = "bert_model.ckpt"
"""Name of the checkpoints that are written, as in Google's archives."""
_PARTS = ("embeddings", "encoder", "pooler", "mlm", "nsp", "classifier", "qa_outputs")
# Fields of modeling.BertConfig. LayerNorm adds a constant there.
_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("max_position_embeddings", "type_vocab_size", "initializer_range"),
)
_EPSILON = 1e-12
_STEP = "global_step"
_MOMENTS = ("adam_m", "adam_v")

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

    `path` is the parameter's, such as `encoder/layer_0/attention/query/kernel`. Sources:
    modeling.py, run_pretraining.py, run_classifier.py and run_squad.py of google-research/bert.
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
        data = {_prefix(file).name for file in path.glob("*.data-00000-of-*")}
        return not data.isdisjoint(_names(path))
    prefix = _prefix(path)
    return (prefix.parent / f"{prefix.name}{INDEX}").is_file()


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
    bundle = TensorBundle(prefix)
    config = _read_config(prefix.parent)
    stored = {name: bundle.shape(name) for name in bundle.names}
    shapes = parameter_shapes(config, stored, variable_name)
    params = _read_tree(bundle, shapes)
    mu = nu = None
    unmoved = [path for path in shapes if not _has_moments(bundle, path)]
    has_moments = len(unmoved) < len(shapes)
    if moments and has_moments:
        if unmoved:
            notes.append(f"Without Adam moments, so never updated by a gradient: {some(unmoved)}.")
        mu, nu = (_read_tree(bundle, shapes, slot) for slot in _MOMENTS)
    if left_out := _left_out(bundle, shapes):
        notes.append(f"Not part of a BERT, and left out: {some(left_out)}.")
    step = _read_step(bundle)
    return GoogleCheckpoint(prefix, config, params, mu, nu, has_moments, step, tuple(notes))


def write_checkpoint(
    directory: epath.Path,
    config: BertConfig,
    params: Mapping[str, Any],
    *,
    mu: Mapping[str, Any] | None = None,
    nu: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> list[str]:
    """Writes bert_model.ckpt and bert_config.json, for run_pretraining.py and the other scripts.

    Args:
        directory: a directory.
        config: the shape.
        params: parameters, as in `init_params`. Subtrees that no script of Google's has are left
            out.
        mu: Adam's first moments, a tree like the parameters.
        nu: Adam's second moments.
        step: number of updates done, which is written as global_step.

    Returns:
        Sentences about what was left out, and what Google's code computes differently.
    """
    variables: dict[str, np.ndarray] = {}
    for tree, slot in ((params, ""), (mu or {}, "/adam_m"), (nu or {}, "/adam_v")):
        known = {part: tree[part] for part in _PARTS if part in tree}
        for path, value in named(known).items():
            name, transposed = variable_name(path)
            array = np.asarray(value, np.float32)
            variables[f"{name}{slot}"] = array.T if transposed else array
    if step is not None:
        variables[_STEP] = np.asarray(step, np.int64)
    write_bundle(directory / NAME, variables)
    lines = (
        f'{key}: "{NAME}"\n' for key in ("model_checkpoint_path", "all_model_checkpoint_paths")
    )
    fields = {name: getattr(config, name) for name in _FIELDS}
    if config.hidden_act.startswith("gelu"):
        fields["hidden_act"] = "gelu"
    if config.layer_norm_eps != _EPSILON:
        fields["layer_norm_eps"] = config.layer_norm_eps
    with writing(directory):
        (directory / "checkpoint").write_text("".join(lines))
        (directory / CONFIGS[0]).write_text(json.dumps(fields, indent=2) + "\n")
    return _differences(config, params)


def _differences(config: BertConfig, params: Mapping[str, Any]) -> list[str]:
    notes = []
    if left_out := sorted(params.keys() - {*_PARTS}):
        notes.append(f"Not part of Google's code, and left out: {', '.join(left_out)}.")
    if config.hidden_act == "gelu":
        notes.append(
            "hidden_act is gelu (erf). Google's code from February 2019 on computes its gelu with "
            "tanh: outputs differ slightly."
        )
    elif config.hidden_act.startswith("gelu"):
        notes.append(
            f"hidden_act {config.hidden_act} is the gelu of Google's code from February 2019 on, "
            "and is written as gelu; read it back with `hidden_act` gelu_new."
        )
    if config.layer_norm_eps != _EPSILON:
        notes.append(
            f"layer_norm_eps is {config.layer_norm_eps}, and Google's code adds {_EPSILON}: "
            "outputs differ slightly."
        )
    return notes


def _prefix(path: epath.Path) -> epath.Path:
    """Returns the prefix of an index or a data file, or the prefix itself."""
    return path.parent / re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name)


def _names(directory: epath.Path) -> list[str]:
    return sorted(_prefix(file).name for file in directory.glob(f"*{INDEX}"))


def _find(path: epath.Path) -> tuple[epath.Path, list[str]]:
    """Returns the prefix of the checkpoint to read, and notes about the choice."""
    if not path.is_dir():
        return _prefix(path), []
    names = _names(path)
    if not names:
        raise UserError(f"{path}: holds no TensorFlow checkpoint (*{INDEX}); give another path.")
    if len(names) == 1:
        return path / names[0], []
    newest = _newest(path, names)
    if newest is None:
        raise UserError(
            f"{path}: holds several checkpoints ({some(names)}) but no file named checkpoint that "
            "names the newest; give the path of one."
        )
    return path / newest, [f"{path} holds {len(names)} checkpoints; {newest} is read."]


def _newest(directory: epath.Path, names: list[str]) -> str | None:
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


def _read_config(directory: epath.Path) -> BertConfig:
    for name in CONFIGS:
        if (directory / name).is_file():
            return BertConfig.from_json(directory / name)
    reason = f"holds no {CONFIGS[0]}, which describes the model's shape"
    raise UserError(f"{directory}: {reason}; put the one of this model there.")


def _read_tree(bundle: TensorBundle, shapes: Mapping[str, tuple], slot: str = "") -> dict[str, Any]:
    """Reads the parameters of these shapes by path, or their moments in a slot of the optimizer."""
    leaves = {}
    for path, shape in shapes.items():
        name, transposed = variable_name(path)
        if slot and not _has_moments(bundle, path):  # the parameter never had a gradient
            leaves[path] = jnp.zeros(shape, jnp.float32)
            continue
        name = f"{name}/{slot}" if slot else name
        array = bundle.read(name) if name in bundle else None
        leaves[path] = make_parameter(array, name, bundle.prefix, shape, transposed)
    return nested(leaves)


def _has_moments(bundle: TensorBundle, path: str) -> bool:
    return any(f"{variable_name(path)[0]}/{slot}" in bundle for slot in _MOMENTS)


def _read_step(bundle: TensorBundle) -> int | None:
    if _STEP not in bundle:
        return None
    value = bundle.read(_STEP)
    if value.shape or value.dtype.kind != "i" or not 0 <= value < 1 << 31:
        raise UserError(
            f"{bundle.prefix}: {_STEP} is not a number of steps below {1 << 31:,}; give a "
            "checkpoint that google-research/bert saved."
        )
    return int(value)


def _left_out(bundle: TensorBundle, paths: Iterable[str]) -> list[str]:
    """Returns variables that are not read; raises `UserError` for one in the model's scope."""
    known = {variable_name(path)[0] for path in paths}
    read = {_STEP, *known, *(f"{name}/{slot}" for name in known for slot in _MOMENTS)}
    left_out = [name for name in bundle.names if name not in read]
    for name in left_out:
        # A variable in the scope of a parameter belongs to another optimizer.
        if name.startswith("bert/") and name.rpartition("/")[0] not in known:
            raise UserError(
                f"{bundle.prefix}: the variable {name} {list(bundle.shape(name))} is not part of "
                "the BERT that the configuration describes; put the one of these weights beside it."
            )
    return left_out
