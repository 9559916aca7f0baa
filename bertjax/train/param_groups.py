"""Groups of parameters by name: which are frozen, and which have learning rates of their own."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.train.tree import named, nested

# The whole name with its number: `layer_1` is a prefix of `layer_10`. A head may have layers too.
_LAYER = re.compile(r"encoder/layer_(\d+)(?:/|$)")
_RANGE = re.compile(r"((?:.*/)?)layer_(\d+)-(?:layer_)?(\d+)")

_FORM = "NAME:learning_rate=1.4e-5,warmup_steps=20000, where warmup_steps may be left out"


@dataclasses.dataclass(frozen=True)
class ParamGroup:
    """Parameters with a learning rate of their own.

    A command has it in one word, such as encoder:learning_rate=1.4e-5,warmup_steps=20000.
    """

    name: str
    """Name of the group, as in `OptimizerConfig.freeze`."""
    learning_rate: float
    """Peak learning rate, of the optimizer's schedule."""
    warmup_steps: int | None = None
    """Number of updates to reach the peak. The default is that of the optimizer."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"`optimizer.groups`: the learning rate of {self.name} is {self.learning_rate}: "
                "give a number above 0; `optimizer.freeze` is for parameters that are not trained."
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(
                f"`optimizer.groups`: the warm-up of {self.name} has {self.warmup_steps} steps: "
                "give 0 or more."
            )

    @classmethod
    def parse(cls, word: str) -> "ParamGroup":
        """Reads a group from one word of a command.

        Raises:
            UserError: the word has another form, or names other fields.
        """
        name, colon, settings = word.partition(":")
        kinds = {"learning_rate": float, "warmup_steps": int}
        pairs = [pair.partition("=") for pair in settings.split(",")]
        names = [field for field, *_ in pairs]
        try:
            if not name or not colon or len(set(names)) < len(names):
                raise ValueError(word)
            return cls(name, **{field: kinds[field](value) for field, _, value in pairs})
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"`optimizer.groups` {word!r}: write a group as {_FORM}.") from error

    def __str__(self) -> str:
        """Returns the word that `parse` reads."""
        warmup = "" if self.warmup_steps is None else f",warmup_steps={self.warmup_steps}"
        return f"{self.name}:learning_rate={self.learning_rate}{warmup}"


def frozen_names(freeze: Iterable[str], params: Any, trained: Any | None = None) -> frozenset[str]:
    """Returns the paths of the parameters that are not trained.

    `freeze` names groups as `OptimizerConfig.freeze` does; `params` are all arrays or
    ShapeDtypeStructs of the model, and `trained` those that have a gradient, by default all. Raises
    UserError if a group does not exist, or if nothing remains to be trained.
    """
    names = list(named(params))
    found = frozenset() if trained is None else frozenset(names) - named(trained).keys()
    found = found.union(*(_members(each, names, "`optimizer.freeze`") for each in freeze))
    if len(found) == len(names):
        raise UserError(
            f"`optimizer.freeze` {' '.join(freeze)} leaves nothing to train: name fewer groups."
        )
    return found


def owners(groups: Sequence[ParamGroup], params: Any) -> dict[str, ParamGroup]:
    """Returns the group of every parameter that has one, by path.

    Args:
        groups: the groups of an optimizer.
        params: the trained parameters, a nested dict of arrays or ShapeDtypeStructs.

    Raises:
        UserError: a group has no trained parameter, or a parameter is in two groups.
    """
    names = list(named(params))
    found: dict[str, ParamGroup] = {}
    for group in groups:
        for name in sorted(_members(group.name, names, "`optimizer.groups`", " to train")):
            if name in found:
                raise UserError(
                    f"`optimizer.groups`: {name} is in two groups, {found[name].name} and "
                    f"{group.name}: give groups without common parameters."
                )
            found[name] = group
    return found


def _members(group: str, names: Sequence[str], field: str, use: str = "") -> frozenset[str]:
    """Returns those of the paths `names` that are in a group, or raises a UserError."""
    found: set[str] = set()
    parts: list[str] = []
    if layers := _RANGE.fullmatch(group):
        within, first, last = layers.groups()
        parts = [f"{within}layer_{n}" for n in range(int(first), int(last) + 1)]
    for each in parts or [group]:
        prefixes = (f"{each}/", f"encoder/{each}/")
        members = {name for name in names if f"{name}/".startswith(prefixes)}
        if not each.strip("/") or not members:
            raise UserError(
                f"{field}: this model has no group {each!r}{use}; it has "
                f"{', '.join(_groups(names))}."
            )
        found |= members
    return frozenset(found)


def partition(params: Any, frozen: Collection[str]) -> tuple[Any, Any]:
    """Splits parameters into (trained, frozen), two nested dicts."""
    if not frozen:
        return params, {}
    trained: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, leaf in named(params).items():
        (others if name in frozen else trained)[name] = leaf
    return nested(trained), nested(others)


def combine(trained: Any, others: Any) -> Any:
    """Merges two nested dicts; where both have a leaf, `trained` wins."""
    return nested({**named(others), **named(trained)}) if others else trained


def trained_share(params: Any, frozen: Collection[str]) -> str:
    """Returns a sentence with the number of trained parameters."""
    counts = {name: int(np.prod(leaf.shape)) for name, leaf in named(params).items()}
    trained = sum(count for name, count in counts.items() if name not in frozen)
    return f"{trained:,} of {sum(counts.values()):,} parameters are trained, the rest is frozen."


def scale_of(path: str, layer_decay: float, layers: int | Mapping[str, int]) -> float:
    """Returns the factor of a parameter's learning rate under layer-wise decay.

    Heads and pooler have 1, the last layer layer_decay, the layer below it layer_decay^2, the
    embeddings layer_decay^(layers + 1), as in BEiT. (ELECTRA's `_get_layer_lrs` has one power more
    everywhere below the heads.)
    """
    parts = path.split("/")
    if isinstance(layers, Mapping):
        layers = layers.get(parts[0], 0)
    if "embeddings" in parts:
        return layer_decay ** (layers + 1)
    layer = _LAYER.search(path)
    return 1.0 if layer is None else layer_decay ** (layers - int(layer[1]))


def in_layer(path: str) -> bool:
    """Whether a parameter belongs to a layer of an encoder or decoder."""
    return _LAYER.search(path) is not None


def _groups(names: Sequence[str]) -> list[str]:
    """Returns the groups of a model, as a user names them."""
    own = (name for name in names if name.startswith("encoder/layer_"))
    layers = sorted({int(found[1]) for name in own if (found := _LAYER.search(name))})
    tops = list(dict.fromkeys(name.split("/")[0] for name in names))
    return [*tops, f"layer_{layers[0]}-{layers[-1]}"] if layers else tops
