"""Low-rank adapters (LoRA, Hu et al. 2021): W + alpha / rank * A B replaces a frozen matrix W.

Pure functions over the nested dict of parameters. The trained parameters hold the adapters in a
subtree `lora`, under the paths of the adapted layers. Merging adapters and frozen base gives an
ordinary model.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.config import make_tuples
from bertjax.errors import UserError
from bertjax.train.tree import named, nested

ADAPTERS = "lora"
"""Subtree of the adapters among the trained parameters."""
BASE = ("embeddings", "encoder")
"""Frozen subtrees. Adapters attach to layers of the encoder only."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters, trained in place of the encoder; the exported model contains their sum."""

    rank: int = 0
    """Rank of the adapters; 0: none, all parameters train."""
    alpha: float = 16.0
    """The adapters' product is multiplied by alpha / rank."""
    layers: Sequence[str] = ("query", "value")
    """Adapted matrices of every encoder layer, by the end of their path: query, key, value,
    attention/output, intermediate or output. The name output matches attention/output too."""

    def __post_init__(self) -> None:
        make_tuples(self)  # the cache of programs needs a hashable value
        if self.rank < 0:
            raise UserError(f"`lora.rank` is {self.rank}: give at least 1, or 0 for no adapters.")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"`lora.alpha` is {self.alpha}: give a number above 0.")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"`lora.layers` is {self.layers}: give each name once, at least one.")
        if not self.rank and (self.alpha, self.layers) != (16.0, ("query", "value")):
            raise UserError("`lora.alpha` and `lora.layers` need adapters: set `lora.rank` too.")

    @property
    def scale(self) -> float:
        """Factor of the product A B."""
        return self.alpha / self.rank


def adapted(params: Mapping[str, Any], config: LoraConfig) -> list[str]:
    """Returns the paths of the adapted layers, e.g. `encoder/layer_0/attention/query`.

    `params` are arrays or ShapeDtypeStructs, with an encoder. Raises UserError if the encoder has
    no such layer, or if the rank exceeds that of a matrix.
    """
    kernels = {
        name.removesuffix("/kernel"): leaf.shape
        for name, leaf in named({"encoder": params["encoder"]}).items()
        if name.endswith("/kernel")
    }
    found: set[str] = set()
    for name in config.layers:
        ending = {path for path in kernels if path.endswith(f"/{name}")}
        if not ending:
            known = dict.fromkeys(path.split("/", 2)[2] for path in kernels)
            raise UserError(
                f"`lora.layers` has {name!r}, which this model's encoder lacks: give some of "
                f"{', '.join(known)}."
            )
        found |= ending
    max_rank = min(min(kernels[path]) for path in found)
    if config.rank > max_rank:
        raise UserError(
            f"`lora.rank` is {config.rank}, and an adapted matrix has rank {max_rank}: "
            f"give at most {max_rank}."
        )
    return sorted(found)


def init_adapters(params: Mapping[str, Any], key: jax.Array, config: LoraConfig) -> dict[str, Any]:
    """Draws adapters: A is normal with variance 1 / d_in, B is zero, and so is their product.

    The result is a nested dict with "a" float32 [d_in, rank] and "b" float32 [rank, d_out] under
    the path of every adapted layer, whose kernel is [d_in, d_out].
    """
    shapes = named(params)
    adapters = {}
    for number, path in enumerate(adapted(params, config)):
        d_in, d_out = shapes[f"{path}/kernel"].shape
        draw = jax.random.normal(jax.random.fold_in(key, number), (d_in, config.rank))
        adapters[f"{path}/a"] = draw / math.sqrt(d_in)
        adapters[f"{path}/b"] = jnp.zeros((config.rank, d_out))
    return nested(adapters)


def merge(params: Mapping[str, Any], adapters: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Adds `scale` * A B to the kernels that have an adapter."""
    leaves, low = named(params), named(adapters)
    for path in (name.removesuffix("/a") for name in low if name.endswith("/a")):
        # Full precision, also on accelerators that default to less: the export adds the same
        # product, which costs little compared with the layer's own.
        product = jnp.matmul(low[f"{path}/a"], low[f"{path}/b"], precision="highest")
        leaves[f"{path}/kernel"] = leaves[f"{path}/kernel"] + scale * product
    return nested(leaves)


def partition(
    params: Mapping[str, Any], key: jax.Array, config: LoraConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the parameters of a model into (frozen base, trained parameters).

    The trained parameters are fresh adapters and the unchanged subtrees on top of the encoder.
    """
    base = {name: part for name, part in params.items() if name in BASE}
    on_top = {name: part for name, part in params.items() if name not in BASE}
    return base, {ADAPTERS: init_adapters(params, key, config), **on_top}


def combine(base: Mapping[str, Any], trained: Mapping[str, Any], config: LoraConfig) -> dict:
    """Merges the results of `partition` into the parameters of a model."""
    on_top = {name: part for name, part in trained.items() if name != ADAPTERS}
    return {**merge(base, trained[ADAPTERS], config.scale), **on_top}


jit_combine = functools.partial(jax.jit, static_argnames="config")(combine)
"""Compiled `combine`, for evaluation and export."""
