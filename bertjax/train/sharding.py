"""The mesh, and one table: parameter path -> PartitionSpec.

The model reads parameters by this table. The state keeps them, their averages and the moments of
the optimizer split over `data` too (ZeRO-1), and a step gathers the parameters once. Each slice of
TPUs has all of them, so that only the sums of gradients and metrics cross from slice to slice.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError
from bertjax.train.tree import named, path_name

AXES = ("data", "fsdp", "tensor")
SLICES = "slices"
"""The first axis of a mesh over several slices of TPUs; other meshes lack it."""

# The first pattern found in the path of a parameter applies. Vectors need no rule. Word embeddings
# split over D, never over V: 30522 does not divide by 4.
TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embeddings/embedding$", PartitionSpec(None, ("fsdp", "tensor"))),
    (r"attention/(query|key|value)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"attention/(query|key|value)/bias$", PartitionSpec("tensor")),
    (r"attention/output/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(intermediate|gate)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"(intermediate|gate)/bias$", PartitionSpec("tensor")),
    (r"output/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(pooler|transform|projection)/kernel$", PartitionSpec("fsdp", None)),
    (r"(nsp|classifier|qa_outputs)/kernel$", PartitionSpec()),
    (r"lora/.*/[ab]$", PartitionSpec()),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each axis of the mesh of a slice, and number of slices."""

    data: int = -1
    """Devices that share the batch; -1: all that are left."""
    fsdp: int = 1
    """Devices that share the batch and also split every matrix."""
    tensor: int = 1
    """Devices that split heads and feed-forward of every layer."""
    slices: int | None = None
    """Slices of TPUs that share the batch. Default: all that there are."""

    def __post_init__(self) -> None:
        if self.slices is not None and self.slices < 1:
            raise UserError(f"`mesh.slices` is {self.slices}: give at least 1.")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the axes data, fsdp, tensor over the devices (default: all).

    Over several slices it has the axis SLICES before these. Devices of a CPU, which have no slices,
    may stand for some. Raises UserError if the axes do not multiply to the number of devices, or if
    there are other slices.
    """
    devices = jax.devices() if devices is None else devices
    is_cpu = devices[0].platform == "cpu"
    found = 1 if is_cpu else len({getattr(device, "slice_index", 0) for device in devices})
    slices = config.slices or found
    if slices != found and not is_cpu:
        raise UserError(
            f"`mesh.slices` is {slices}, and the devices are in {found} slice{'s' * (found > 1)}: "
            "leave it out."
        )
    count, fixed = len(devices), slices * config.fsdp * config.tensor
    data = count // fixed if config.data == -1 and fixed > 0 else config.data
    if min(data, config.fsdp, config.tensor) < 1 or data * fixed != count:
        raise UserError(
            f"The mesh {f'slices {slices} x ' if slices > 1 else ''}data {data} x fsdp "
            f"{config.fsdp} x tensor {config.tensor} does not cover the {count} devices: choose "
            f"axes whose product is {count}, or set `mesh.data` to -1, which takes all that the "
            "other axes leave."
        )
    within = (data, config.fsdp, config.tensor)
    shape, axes = (within, AXES) if slices == 1 else ((slices, *within), (SLICES, *AXES))
    # Auto explicitly: jax.make_mesh defaults to Explicit axes, under which Linen modules fail.
    types = (AxisType.Auto,) * len(axes)
    if is_cpu:
        return Mesh(np.asarray(devices).reshape(shape), axes, axis_types=types)
    if slices == 1:
        return jax.make_mesh(shape, axes, axis_types=types, devices=devices)
    outer = (slices, *(1 for _ in within))
    arranged = mesh_utils.create_hybrid_device_mesh((1, *within), outer, devices)
    return Mesh(arranged, axes, axis_types=types)


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """Returns the axes that share the rows of a batch."""
    return tuple(axis for axis in (SLICES, "data", "fsdp") if axis in mesh.shape)


def batch_ways(mesh: Mesh) -> int:
    """Returns the number of parts of a batch on different devices."""
    return _ways(mesh, batch_axes(mesh))


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced with the mesh at hand, for kernels that XLA can't split."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over `batch_axes`."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(mesh: Mesh, params: Any) -> Any:
    """Returns the sharding in which a model reads its parameters, as a tree of NamedSharding.

    `params` are arrays or ShapeDtypeStructs (`jax.eval_shape`). An axis that does not divide its
    dimension is left out. Raises ValueError if no rule of `TABLE` matches a matrix.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec(_entries(mesh, path_name(path), leaf.shape)))

    return jax.tree_util.tree_map_with_path(sharding, params)


def kept_shardings(mesh: Mesh, params: Any) -> Any:
    """Returns the sharding in which a state keeps every parameter, its average and its moments.

    It is that of `param_shardings`, over data too.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec(_split(mesh, path_name(path), leaf.shape)))

    return jax.tree_util.tree_map_with_path(sharding, params)


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Returns the sharding of every leaf of a `TrainState`, of arrays or ShapeDtypeStructs.

    An array of the optimizer state is a moment if its path ends in the path of a parameter of the
    same shape; the rest of the state of the optimizer is replicated. Raises ValueError as
    `param_shardings` does.
    """
    moments = dict(_moments(mesh, state))

    def of_moment(path: tuple, _: object) -> NamedSharding:
        return NamedSharding(mesh, _spec(moments.get(path_name(path), [])))

    return jax.tree.map(lambda _: replicated(mesh), state).replace(
        params=kept_shardings(mesh, state.params),
        opt_state=jax.tree_util.tree_map_with_path(of_moment, state.opt_state),
        ema=kept_shardings(mesh, state.ema),
    )


def gathered(mesh: Mesh, params: Any) -> Any:
    """Returns the parameters of a state as a model reads them. All processes must call this
    together."""
    return jax.device_put(params, param_shardings(mesh, params))


@dataclasses.dataclass(frozen=True)
class Placement:
    """The shardings of parameters and gradients inside a step under jit.

    Without it the partitioner chooses them from those of the state.
    """

    mesh: Mesh
    dtype: str = "float32"
    """The compute type of the model."""

    def gather(self, params: Any) -> Any:
        """Gives parameters of the state the shardings of `param_shardings`.

        Kernels get the compute type too, the only one in which a model reads them, so that no
        result changes. The rest, which lookups and LayerNorm read in float32, stays float32.
        """

        def gather(path: tuple, param: jax.Array, where: NamedSharding) -> jax.Array:
            read = param.astype(self.dtype) if _is_kernel(path) else param
            return jax.lax.with_sharding_constraint(read, where)

        shardings = param_shardings(self.mesh, params)
        return jax.tree_util.tree_map_with_path(gather, params, shardings)

    def scatter(self, gradients: Any) -> Any:
        """Gives gradients the shardings of `kept_shardings`.

        Those of kernels pass through `param_shardings`. Otherwise the partitioner computes each
        product in pieces, one for each device that keeps a part. On a TPU that costs more than it
        hides of the exchange.
        """

        def scatter(path: tuple, gradient: jax.Array, *where: NamedSharding) -> jax.Array:
            for each in where if _is_kernel(path) else where[1:]:
                gradient = jax.lax.with_sharding_constraint(gradient, each)
            return gradient

        whole, kept = (make(self.mesh, gradients) for make in (param_shardings, kept_shardings))
        return jax.tree_util.tree_map_with_path(scatter, gradients, whole, kept)


def _is_kernel(path: tuple) -> bool:
    return path_name(path).endswith("/kernel")


def placed(abstract: Any, shardings: Any) -> Any:
    """Returns `jax.ShapeDtypeStruct`s of a tree with these shardings."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        shardings,
    )


def replicated_moments(mesh: Mesh, state: Any) -> list[str]:
    """Returns the paths of the moments that have no dimension to split over `data`."""
    return [path for path, entries in _moments(mesh, state) if "data" not in sum(entries, ())]


def _moments(mesh: Mesh, state: Any) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yields the path of every moment within the optimizer state, and its mesh axes."""
    shapes = {name: leaf.shape for name, leaf in named(state.params).items()}
    for path, leaf in named(state.opt_state).items():
        parts = path.split("/")
        suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((suffix for suffix in suffixes if suffix in shapes), None)
        if name is not None and shapes[name] == leaf.shape:
            yield path, _split(mesh, name, leaf.shape)


def _entries(mesh: Mesh, name: str, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Returns the mesh axes of every dimension of a parameter."""
    found = next((spec for pattern, spec in TABLE if re.search(pattern, name)), None)
    if found is None and len(shape) > 1:
        raise ValueError(
            f"No rule of bertjax.train.sharding.TABLE matches the parameter {name} {list(shape)}: "
            "add one; PartitionSpec() replicates it."
        )
    spec = found or PartitionSpec()
    entries = [_dividing(mesh, entry, size) for entry, size in zip(spec, shape, strict=False)]
    return entries + [()] * (len(shape) - len(entries))


def _spec(entries: list[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(entry if len(entry) > 1 else (entry or (None,))[0] for entry in entries))


def _dividing(mesh: Mesh, entry: Any, size: int) -> tuple[str, ...]:
    """Returns the first axes of a spec's entry whose product divides the dimension."""
    kept: tuple[str, ...] = ()
    for axis in (entry,) if isinstance(entry, str) else entry or ():
        if size % _ways(mesh, (*kept, axis)) == 0:
            kept += (axis,)
    return kept


def _split(mesh: Mesh, name: str, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Returns `_entries`, with `data` on the largest dimension that divides (ZeRO-1)."""
    entries = _entries(mesh, name, shape)
    for dimension in sorted(range(len(shape)), key=lambda d: -shape[d]):
        if shape[dimension] % _ways(mesh, (*entries[dimension], "data")) == 0:
            entries[dimension] += ("data",)
            break
    return entries


def _ways(mesh: Mesh, axes: tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def on_host(mesh: Mesh, tree: Any) -> Any:
    """Copies whole arrays to the host of every process. All processes must call this together."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(np.asarray, whole)


def make_global_batch(
    mesh: Mesh, batch_size: int, read_rows: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, jax.Array]:
    """Makes the global batch as sharded arrays. A process reads only the rows of its own devices.

    `read_rows` maps row numbers [n] of the global batch to arrays [n, ...]. The result has arrays
    [batch_size, ...] with rows over data and fsdp.
    """
    sharding = batch_sharding(mesh)
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    spans = {index[0].indices(batch_size)[:2] for index in indices if index is not None}
    rows = np.concatenate([np.arange(*span) for span in sorted(spans)])
    local = read_rows(rows)

    def build(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            first = int(np.searchsorted(rows, start))
            return array[first : first + stop - start]

        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: build(array) for name, array in local.items()}
