"""Lists what the chips exchange in a step: which arrays, over which mesh axes, and how often."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.plan.hlo import Array, Operation, Program, arrays_of, elements

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_MESH = re.compile(r"mesh\[([^\]]*)\] \{([^}]*)\}")
_GROUPS = re.compile(r"\{\{([\d,]+)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")

SLICES = "slices"
"""Stands for the axes of an exchange over the network between slices."""
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


class Collective(NamedTuple):
    """Collectives of one kind over the same axes, in one step on one chip."""

    kind: str
    axes: str
    """The mesh axes whose chips take part, e.g. "data", or SLICES."""
    overlaps: bool
    """Whether other operations run meanwhile. The others wait for it."""
    count: int
    bytes: int
    """This counts all arrays before they are split, or after they are gathered."""
    sent: int
    """Bytes that a chip sends at least: n chips in a ring send (n - 1) / n of a gathered array, and
    twice that of one that is added up."""
    dtypes: str


def collectives_of(
    program: Program, times: Mapping[str, int], mesh: Mapping[str, int]
) -> list[Collective]:
    """Returns the collectives of a step, those that send most first.

    Args:
        program: the parsed program.
        times: how often each computation runs (`hlo.executions`).
        mesh: the sizes of the mesh axes, in their order.
    """
    found: dict[tuple[str, str, bool], list] = {}
    for computation, count in times.items():
        for operation, kind, overlaps in beginning_in(program, computation):
            arrays, (axes, chips) = _arrays(operation), _axes(operation, mesh)
            size = sum(each.size for each in arrays)
            size *= chips if operation.opcode == "reduce-scatter" else 1
            entry = found.setdefault((kind, axes, overlaps), [0, 0, 0, set()])
            entry[0] += count
            entry[1] += count * size
            entry[2] += count * _sent(kind, size, chips)
            entry[3] |= {each.dtype for each in arrays}
    result = [
        Collective(*key, number, size, sent, ", ".join(sorted(dtypes)))
        for key, (number, size, sent, dtypes) in found.items()
    ]
    return sorted(result, key=lambda each: -each.sent)


def beginning_in(program: Program, computation: str) -> Iterator[tuple[Operation, str, bool]]:
    """Yields the collectives of a computation, with their kinds and whether they overlap."""
    for operation in program[computation]:
        kind = operation.opcode.removesuffix("-start")
        if kind in KINDS:
            yield operation, kind, operation.opcode.endswith("-start")
        elif sent := _MEGASCALE.search(operation.text) if operation.opcode == "send" else None:
            yield operation, sent[1].lower().replace("_", "-"), True
        elif operation.called in program:
            yield from _fused(program[operation.called or ""])


def _fused(operations: Sequence[Operation]) -> Iterator[tuple[Operation, str, bool]]:
    """Yields the collectives that begin in a fusion.

    An asynchronous one begins in one fusion, goes on in others and ends in another. A reduction
    whose result is sliced at once is a reduce-scatter.
    """
    targets = " ".join(each.text for each in operations if each.opcode == "custom-call")
    begins = "AsyncCollectiveStart" in targets
    is_sliced = any(each.opcode == "dynamic-slice" for each in operations)
    for each in operations:
        if each.opcode not in KINDS or "AsyncCollectiveDone" in targets:
            continue
        flag = re.search(r'"flag_start":"(-?\d+)"', each.text)
        if flag and int(flag[1]) >= 0 and not begins:
            continue
        is_scatter = each.opcode == "all-reduce" and is_sliced
        yield each, "reduce-scatter" if is_scatter else each.opcode, begins


def _arrays(operation: Operation) -> list[Array]:
    """Returns the arrays that are gathered, or the sources of a reduction."""
    if operation.opcode == "send":  # (source, context, token)
        return operation.arrays[:1]
    if operation.opcode.endswith("-start") and operation.opcode != "all-reduce-start":
        return arrays_of(elements(operation.type)[1])  # (sources, destinations, contexts)
    return operation.arrays


def _axes(operation: Operation, mesh: Mapping[str, int]) -> tuple[str, int]:
    """Returns the names of the axes over which an operation works, and the number of its chips."""
    if operation.opcode == "send":
        return SLICES, 2
    members = _members(operation, mesh)
    places = np.unravel_index(np.asarray(members), tuple(mesh.values()))
    varying = [name for name, at in zip(mesh, places, strict=True) if len(set(at.tolist())) > 1]
    return " x ".join(varying) or "one chip", len(members)


def _members(operation: Operation, mesh: Mapping[str, int]) -> list[int]:
    """Returns the places in the mesh of the chips of one group."""
    if pairs := operation.attribute("source_target_pairs"):
        chips = map(int, re.findall(r"\d+", pairs.partition("}}")[0])[:2])
        return sorted(set(chips))
    groups = operation.attribute("replica_groups")
    if groups.startswith("mesh") and (found := _MESH.match(groups)):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        chosen = re.findall(r"'(\w+)'", found[2])
        places = np.arange(math.prod(map(int, sizes.values()))).reshape(
            [int(size) for size in sizes.values()]
        )
        kept = tuple(slice(None) if name in chosen else 0 for name in sizes)
        return places[kept].flatten().tolist()
    if found := _GROUPS.match(groups):
        return [int(chip) for chip in found[1].split(",")]
    if found := _IOTA.match(groups):
        shape, dimensions, order = (
            [int(n) for n in (g or "").split(",") if n] for g in found.groups()
        )
        places = np.arange(math.prod(dimensions)).reshape(dimensions)
        ordered = places.transpose(order) if order else places
        return ordered.reshape(shape)[0].tolist()
    return list(range(math.prod(mesh.values())))


def _sent(kind: str, size: int, chips: int) -> int:
    if kind == "collective-permute":
        return size
    ring = size * (chips - 1) // chips
    return 2 * ring if kind == "all-reduce" else ring


def seconds(collectives: Sequence[Collective], bandwidth: float) -> tuple[float, float]:
    """Returns the least seconds of those that overlap and of those that do not.

    `bandwidth` are the bytes that a chip sends in a second over all of its links. The network
    between slices is left out.
    """
    within = [each for each in collectives if each.axes != SLICES]
    ordered = sorted(within, key=lambda each: each.overlaps)
    sums = {
        overlaps: sum(each.sent for each in group) / bandwidth
        for overlaps, group in itertools.groupby(ordered, key=lambda each: each.overlaps)
    }
    return sums.get(True, 0.0), sums.get(False, 0.0)
