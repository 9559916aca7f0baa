"""Low-rank adapters (LoRA, Hu et al. 2021): a matrix W learns as W + alpha / rank * A B, with W
itself as it was.

Pure functions over the nested dict of parameters. What is trained holds the adapters in a subtree
of its own, `lora`, under the paths of the layers that they belong to; the frozen base stays outside
of it, and merged they are an ordinary model.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.errors import UserError
from bertjax.train.tree import named, nested

ADAPTERS = "lora"
"""The subtree of the adapters among what is trained."""
BASE = ("embeddings", "encoder")
"""The parts that are frozen; the adapters are of the encoder."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Train low-rank adapters of some matrices, with the encoder itself as it was; the export is an
    ordinary model, with the adapters added to its matrices."""

    rank: int = 0
    """Rank of the adapters; 0: none, everything is trained."""
    alpha: float = 16.0
    """The adapters' product is multiplied by alpha / rank."""
    layers: tuple[str, ...] = ("query", "value")
    """Layers that get one, in every layer of the encoder: query, key, value, attention/output,
    intermediate, or others by the end of their path; `output` is both that of the attention and
    that of the feed-forward."""

    def __post_init__(self) -> None:
        # A recipe may say one name, or a list, which no cache of programs takes.
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)
        if self.rank < 0:
            raise UserError(f"lora.rank is {self.rank}: give at least 1, or 0 for no adapters.")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha is {self.alpha}: give a number above 0.")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"lora.layers is {self.layers}: give at least one, and each only once.")
        if not self.rank and (self.alpha, self.layers) != (16.0, ("query", "value")):
            raise UserError("lora.alpha and lora.layers need adapters: give --lora.rank too.")

    @property
    def scale(self) -> float:
        """What the product A B is multiplied by."""
        return self.alpha / self.rank


def adapted(params: Mapping[str, Any], config: LoraConfig) -> list[str]:
    """The paths of the layers that get an adapter, e.g. `encoder/layer_0/attention/query`.

    Args:
        params: with the encoder: arrays or ShapeDtypeStructs.
        config: names them.

    Raises:
        UserError: the encoder has no layer of such a name, or a matrix has not the rank.
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
                f"lora.layers has {name!r}, which this model's encoder has not: give some of "
                f"{', '.join(known)}."
            )
        found |= ending
    least = min(min(kernels[path]) for path in found)
    if config.rank > least:
        raise UserError(
            f"lora.rank {config.rank} is more than the {least} that a matrix has by itself: give "
            f"at most {least}."
        )
    return sorted(found)


def init_adapters(params: Mapping[str, Any], key: jax.Array, config: LoraConfig) -> dict[str, Any]:
    """Fresh adapters: A drawn from a normal of variance 1 / d_in, B zero, so that nothing changes
    before the first step.

    Args:
        params: with the encoder: arrays or ShapeDtypeStructs, kernels [d_in, d_out].
        key: a JAX random key.
        config: which layers, which rank.

    Returns:
        Nested dict with "a" float32 [d_in, rank] and "b" float32 [rank, d_out] under the path of
        every layer adapted.
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
    """The parameters with `scale` * A B added to the kernels that have an adapter."""
    leaves, low = dict(named(params)), named(adapters)
    for path in (name.removesuffix("/a") for name in low if name.endswith("/a")):
        # Exactly, whatever an accelerator's matrix products are by default: the export adds the
        # same, and the product is small beside a layer's own.
        product = jnp.matmul(low[f"{path}/a"], low[f"{path}/b"], precision="highest")
        leaves[f"{path}/kernel"] = leaves[f"{path}/kernel"] + scale * product
    return nested(leaves)


def partition(
    params: Mapping[str, Any], key: jax.Array, config: LoraConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the frozen base, what is trained) of a whole model's parameters: the latter are fresh
    adapters, and the parts on top of the encoder as they are."""
    base = {name: part for name, part in params.items() if name in BASE}
    on_top = {name: part for name, part in params.items() if name not in BASE}
    return base, {ADAPTERS: init_adapters(params, key, config), **on_top}


def combine(base: Mapping[str, Any], trained: Mapping[str, Any], config: LoraConfig) -> dict:
    """The model's parameters, from the frozen base and what is trained beside it.

    Args:
        base: embeddings and encoder.
        trained: `ADAPTERS`, and the parts on top of the encoder.
        config: of the adapters.
    """
    on_top = {name: part for name, part in trained.items() if name != ADAPTERS}
    return {**merge(base, trained[ADAPTERS], config.scale), **on_top}


jit_combine = functools.partial(jax.jit, static_argnames="config")(combine)
"""`combine`, compiled: for scoring and for the export."""
