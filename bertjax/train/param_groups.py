"""Parts of a model by name: which are frozen, and how deep they lie."""

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.train.tree import named, nested

# The whole name and its number: `layer_1` is a prefix of `layer_10`.
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")
_RANGE = re.compile(r"layer_(\d+)-(?:layer_)?(\d+)")


def frozen_names(freeze: Iterable[str], params: Any) -> frozenset[str]:
    """The paths of the parameters that are not trained.

    Args:
        freeze: parts: embeddings, encoder, pooler or a head; layer_3; layer_0-5, which are six
            layers; or a longer path, such as embeddings/word_embeddings.
        params: nested dict of arrays or ShapeDtypeStructs: all of the model.

    Raises:
        UserError: a part is not there, or nothing is left to train.
    """
    names = list(named(params))
    found: set[str] = set()
    for part in freeze:
        layers = _RANGE.fullmatch(part)
        wanted = [part]
        if layers:
            wanted = [f"layer_{n}" for n in range(int(layers[1]), int(layers[2]) + 1)]
        for each in wanted or [part]:
            heads = (f"{each}/", f"encoder/{each}/")
            under = {name for name in names if f"{name}/".startswith(heads)}
            if not each.strip("/") or not under:
                raise UserError(
                    f"freeze: there is no part {each!r} in this model; it has "
                    f"{', '.join(_parts(names))}."
                )
            found |= under
    if len(found) == len(names):
        raise UserError(f"freeze {' '.join(freeze)} leaves nothing to train: name fewer parts.")
    return frozenset(found)


def partition(params: Any, frozen: Collection[str]) -> tuple[Any, Any]:
    """Splits parameters into (trained, frozen), two nested dicts."""
    if not frozen:
        return params, {}
    leaves = named(params)
    return (
        nested({name: leaf for name, leaf in leaves.items() if name not in frozen}),
        nested({name: leaf for name, leaf in leaves.items() if name in frozen}),
    )


def combine(trained: Any, others: Any) -> Any:
    """Merges two nested dicts; where both have a leaf, `trained` wins."""
    return nested({**named(others), **named(trained)}) if others else trained


def trained_share(params: Any, frozen: Collection[str]) -> str:
    """How many parameters are trained, in words."""
    counts = {name: int(np.prod(leaf.shape)) for name, leaf in named(params).items()}
    trained = sum(count for name, count in counts.items() if name not in frozen)
    return f"{trained:,} of {sum(counts.values()):,} parameters are trained, the rest is frozen."


def scale_of(path: str, layer_decay: float, layers: int) -> float:
    """The share of the learning rate that a parameter has under layer-wise decay.

    What is above the encoder (heads, pooler) has 1, the last layer layer_decay, the layer below it
    layer_decay^2, the embeddings layer_decay^(layers + 1): as BEiT does. (ELECTRA's
    `_get_layer_lrs` has one power more everywhere below the heads.)
    """
    if path.split("/")[0] == "embeddings":
        return layer_decay ** (layers + 1)
    layer = _LAYER.search(path)
    return 1.0 if layer is None else layer_decay ** (layers - int(layer[1]))


def _parts(names: Iterable[str]) -> list[str]:
    """What can be frozen, by the names that a person would type."""
    names = list(names)
    own = (name for name in names if name.startswith("encoder/"))
    layers = sorted({int(found[1]) for name in own if (found := _LAYER.search(name))})
    tops = list(dict.fromkeys(name.split("/")[0] for name in names))
    return [*tops, f"layer_{layers[0]}-{layers[-1]}"] if layers else tops
