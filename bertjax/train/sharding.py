"""The mesh, and one table: parameter path -> PartitionSpec.

Optimizer state follows the same table, with its moments also split over `data` (ZeRO-1).
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError
from bertjax.train.tree import named, path_name

AXES = ("data", "fsdp", "tensor")

# The first pattern that is found in a parameter's path. Word embeddings split over D, never over V:
# 30522 does not divide by 4.
TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embeddings/embedding$", PartitionSpec(None, ("fsdp", "tensor"))),
    (r"attention/(query|key|value)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"attention/(query|key|value)/bias$", PartitionSpec("tensor")),
    (r"attention/output/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"intermediate/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"intermediate/bias$", PartitionSpec("tensor")),
    (r"output/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(pooler|transform)/kernel$", PartitionSpec("fsdp", None)),
    (r"", PartitionSpec()),
)
_MOMENTS = re.compile(r"(^|/)(mu|nu)/")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share the batch (data, fsdp) and each matrix (fsdp, tensor)."""

    data: int = -1
    """Devices that each take a part of the batch; -1: all that the other axes leave."""
    fsdp: int = 1
    """Devices that take a part of the batch and keep a part of every matrix."""
    tensor: int = 1
    """Devices that share the heads and the feed-forward of every layer."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp, tensor over all devices given (default: all there are).

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count, fixed = len(devices), config.fsdp * config.tensor
    data = count // fixed if config.data == -1 and fixed > 0 else config.data
    if min(data, config.fsdp, config.tensor) < 1 or data * fixed != count:
        raise UserError(
            f"The mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} does not "
            f"cover the {count} devices here: choose axes whose product is {count} (data -1 takes "
            "the rest)."
        )
    shape = (data, config.fsdp, config.tensor)
    # Auto explicitly: jax.make_mesh defaults to Explicit axes, under which Linen modules fail.
    types = (AxisType.Auto,) * len(AXES)
    if devices[0].platform == "cpu":
        return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, abstract: Any) -> Any:
    """The sharding of every leaf of a train state or parameter tree.

    Args:
        mesh: with the axes data, fsdp, tensor.
        abstract: any tree of arrays or ShapeDtypeStructs (`jax.eval_shape`) whose paths end in
            parameter paths.

    Returns:
        The same tree of NamedSharding. An axis that does not divide its dimension is left out.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _leaf_spec(mesh, path_name(path), leaf.shape))

    return jax.tree_util.tree_map_with_path(sharding, abstract)


def placed(abstract: Any, shardings: Any) -> Any:
    """The `jax.ShapeDtypeStruct`s of a tree, with these shardings."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        shardings,
    )


def replicated_moments(mesh: Mesh, abstract: Any) -> list[str]:
    """Paths of the moments that no dimension lets split over `data`."""
    return [
        name
        for name, leaf in named(abstract).items()
        if _MOMENTS.search(name) and "data" not in _axes(_leaf_spec(mesh, name, leaf.shape))
    ]


def _leaf_spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> PartitionSpec:
    spec = next(spec for pattern, spec in TABLE if re.search(pattern, name))
    entries = [_dividing(mesh, entry, size) for entry, size in zip(spec, shape, strict=False)]
    entries += [()] * (len(shape) - len(entries))
    if _MOMENTS.search(name):
        _add_data(mesh, entries, shape)
    return PartitionSpec(*(entry if len(entry) > 1 else (entry or (None,))[0] for entry in entries))


def _dividing(mesh: Mesh, entry: Any, size: int) -> tuple[str, ...]:
    """The axes of a spec's entry, as long as their product divides the dimension."""
    kept: tuple[str, ...] = ()
    for axis in (entry,) if isinstance(entry, str) else entry or ():
        if size % _ways(mesh, (*kept, axis)) == 0:
            kept += (axis,)
    return kept


def _add_data(mesh: Mesh, entries: list[tuple[str, ...]], shape: tuple[int, ...]) -> None:
    """ZeRO-1: splits the largest dimension that divides over `data` as well."""
    for dimension in sorted(range(len(shape)), key=lambda d: -shape[d]):
        if shape[dimension] % _ways(mesh, (*entries[dimension], "data")) == 0:
            entries[dimension] += ("data",)
            return


def _ways(mesh: Mesh, axes: tuple[str, ...]) -> int:
    return int(np.prod([mesh.shape[axis] for axis in axes], dtype=int))


def _axes(spec: PartitionSpec) -> set[str]:
    return {
        axis for entry in spec for axis in ((entry,) if isinstance(entry, str) else entry or ())
    }


def on_host(mesh: Mesh, tree: Any) -> Any:
    """The whole of every array as NumPy, on every process; all of them call this together."""
    whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(np.asarray, whole)


def place_everywhere(mesh: Mesh, value: np.ndarray | np.generic) -> jax.Array:
    """The value on every device, the same in all processes. Unlike `jax.device_put`, which compares
    it between processes by a program of its own, this may be called from any thread."""
    array = np.asarray(value)
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


def make_global_batch(
    mesh: Mesh, batch_size: int, read_rows: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, jax.Array]:
    """The global batch as sharded arrays, of which this process reads only its devices' rows.

    Args:
        mesh: with the axes data, fsdp, tensor.
        batch_size: rows of the global batch.
        read_rows: row numbers [n] of the global batch -> arrays [n, ...].

    Returns:
        dict of jax.Array [batch_size, ...], rows over data and fsdp.
    """
    sharding = batch_sharding(mesh)
    spans = {
        (index[0].start or 0, batch_size if index[0].stop is None else index[0].stop)
        for index in sharding.addressable_devices_indices_map((batch_size,)).values()
        if index is not None
    }
    rows = np.concatenate([np.arange(start, stop) for start, stop in sorted(spans)])
    place = {int(row): i for i, row in enumerate(rows)}
    local = read_rows(rows)

    def build(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start = place[index[0].start or 0]
            stop = batch_size if index[0].stop is None else index[0].stop
            return array[start : start + stop - (index[0].start or 0)]

        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: build(array) for name, array in local.items()}
