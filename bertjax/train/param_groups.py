"""Groups of parameters by name: which are frozen, and the learning rate of each layer."""

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.train.tree import named, nested

# The whole name with its number: `layer_1` is a prefix of `layer_10`.
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")
_RANGE = re.compile(r"layer_(\d+)-(?:layer_)?(\d+)")


def frozen_names(freeze: Iterable[str], params: Any) -> frozenset[str]:
    """Returns the paths of the parameters that are not trained.

    `freeze` names groups as `OptimizerConfig.freeze` does; `params` are all arrays or
    ShapeDtypeStructs of the model. Raises UserError if a group does not exist, or if nothing
    remains to be trained.
    """
    names = list(named(params))
    found: set[str] = set()
    for group in freeze:
        layers = _RANGE.fullmatch(group)
        first, last = (int(layers[1]), int(layers[2])) if layers else (0, -1)
        for each in [f"layer_{n}" for n in range(first, last + 1)] or [group]:
            prefixes = (f"{each}/", f"encoder/{each}/")
            members = {name for name in names if f"{name}/".startswith(prefixes)}
            if not each.strip("/") or not members:
                raise UserError(
                    f"`optimizer.freeze`: this model has no group {each!r}; it has "
                    f"{', '.join(_groups(names))}."
                )
            found |= members
    if len(found) == len(names):
        raise UserError(
            f"`optimizer.freeze` {' '.join(freeze)} leaves nothing to train: name fewer groups."
        )
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


def scale_of(path: str, layer_decay: float, layers: int) -> float:
    """Returns the factor of a parameter's learning rate under layer-wise decay.

    Heads and pooler have 1, the last layer layer_decay, the layer below it layer_decay^2, the
    embeddings layer_decay^(layers + 1), as in BEiT. (ELECTRA's `_get_layer_lrs` has one power more
    everywhere below the heads.)
    """
    if path.split("/")[0] == "embeddings":
        return layer_decay ** (layers + 1)
    layer = _LAYER.search(path)
    return 1.0 if layer is None else layer_decay ** (layers - int(layer[1]))


def _groups(names: list[str]) -> list[str]:
    """Returns the groups that can be frozen, as a user names them."""
    own = (name for name in names if name.startswith("encoder/"))
    layers = sorted({int(found[1]) for name in own if (found := _LAYER.search(name))})
    tops = list(dict.fromkeys(name.split("/")[0] for name in names))
    return [*tops, f"layer_{layers[0]}-{layers[-1]}"] if layers else tops
