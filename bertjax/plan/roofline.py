"""A roofline of a step: FLOPs, HBM bytes and exchanged bytes over the peaks of a chip."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr


class Roofline(NamedTuple):
    """The least seconds that a chip needs for each of three resources, all at their peaks."""

    matrix: float
    memory: float
    exchange: float | None
    """None if the bandwidth between chips is not in the table."""

    @property
    def seconds(self) -> float:
        """The largest: all three at the same time."""
        return max(self.matrix, self.memory, self.exchange or 0.0)

    @property
    def bound(self) -> str:
        """Names what needs the largest."""
        named = {
            "matrix products": self.matrix,
            "HBM traffic": self.memory,
            "exchange between chips": self.exchange or 0.0,
        }
        return max(named, key=lambda name: named[name])


def traced_flops(jaxpr: Any) -> int:
    """Counts the FLOPs of the matrix products of a traced function, over all devices.

    A product of [m, k] and [k, n] counts as 2 m k n. A scan counts as often as it runs, and what is
    recomputed counts again; of branches, the largest counts. What no result depends on counts
    nothing, as XLA leaves it out. A loop without a known length counts once, and a Pallas kernel
    counts what it states itself.
    """
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return sum(map(_flops_of, used.eqns))


def _flops_of(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = int(np.prod([left[axis] for axis in contracted], dtype=np.int64))
        return 2 * depth * int(np.prod(equation.outvars[0].aval.shape, dtype=np.int64))
    if equation.primitive.name == "pallas_call":
        return int(getattr(equation.params.get("cost_estimate"), "flops", 0) or 0)
    inner = [traced_flops(each) for each in _inner(equation.params.values())]
    if equation.primitive.name == "cond":
        return max(inner)
    return equation.params.get("length", 1) * sum(inner)


def _inner(values: Any) -> Iterator[Any]:
    """Yields the jaxprs among the parameters of an equation."""
    for value in values:
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
