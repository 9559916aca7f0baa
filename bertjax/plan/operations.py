"""Sorts the compiler's estimate of cycles by the part of a step and by the kind of operation."""

import collections
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.plan.hlo import Operation, Program, within
from bertjax.plan.traffic import hbm_bytes

# The first pattern found in the path of a traced operation names the part of the step.
_PARTS = (
    (
        r"/(mlm|nsp|sop|rtd|pooler|token_head|discriminator_head|embeddings\.attend)\b",
        "head and loss",
    ),
    (r"/(attention|attention\.project|attention_layer_norm)/", "attention"),
    (r"/(intermediate|gate|output|output_layer_norm)/", "feed-forward"),
    (r"/(embeddings|[\w.]+\.embed)/", "embeddings"),
    (r"/encoder/", "layers, rest"),
    (r"jvp\(", "head and loss"),
    (r"vmap\(|_mask_row|threefry", "masking"),
    (r"^jit\(", "optimizer"),
)
_MOVES = {"copy", "transpose", "reshape", "bitcast", "broadcast", "pad", "convert", "slice"}
_MOVES |= {"parameter", "constant", "concatenate", "tuple", "get-tuple-element", "fusion"}
_MOVES |= {"dynamic-slice", "dynamic-update-slice"}
_BOOKKEEPING = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"}
_BOOKKEEPING |= {"AsyncCollectiveStart", "AsyncCollectiveDone", "GatherScatterIndicesBitpacked"}


class Share(NamedTuple):
    """The cycles of operations of one part and kind."""

    part: str
    kind: str
    cycles: int
    """In one step on one chip, by the compiler's estimate."""
    operations: int
    """How many run in one step."""


class Named(NamedTuple):
    """The cycles of operations that come from one place in the traced program."""

    name: str
    cycles: int
    operations: int


class Cycles(NamedTuple):
    """The compiler's estimate of a step on one chip, which counts no communication."""

    total: int
    shares: list[Share]
    """By part and kind, the largest first."""
    named: list[Named]
    """By the place in the traced program, the largest first; numbers of layers are left out."""
    memory_bound: int
    """Cycles of operations whose HBM traffic alone needs at least half of their cycles."""
    hbm_bytes: int
    """Bytes that all operations read from and write to HBM in a step."""
    without_estimate: int
    """Operations that the compiler gives no cycles although they compute: sorts, custom calls."""


def cycles_of(
    program: Program, times: Mapping[str, int], bytes_per_cycle: float | None = None
) -> Cycles:
    """Sums `estimated_cycles` over all operations, as often as they run.

    Args:
        program: the parsed program.
        times: how often each computation runs (`hlo.executions`).
        bytes_per_cycle: what HBM moves in a cycle; without it no operation counts as memory-bound.
    """
    shares: collections.Counter[tuple[str, str]] = collections.Counter()
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    names: collections.Counter[str] = collections.Counter()
    name_counts: collections.Counter[str] = collections.Counter()
    memory_bound = traffic = missing = 0
    for computation, count in times.items():
        types = {each.name: each for each in program[computation]}
        for operation in program[computation]:
            moved = hbm_bytes(program, operation, types)
            traffic += count * moved
            cycles = operation.cycles
            if not cycles:
                missing += count * _computes(operation)
                continue
            key = sort(program, operation)
            shares[key] += count * cycles
            counts[key] += count
            name = re.sub(r"\d+", "N", operation.op_name or "made by the compiler")
            names[name] += count * cycles
            name_counts[name] += count
            if bytes_per_cycle and moved / bytes_per_cycle >= cycles / 2:
                memory_bound += count * cycles
    found = [
        Share(part, kind, cycles, counts[part, kind])
        for (part, kind), cycles in shares.most_common()
    ]
    named = [Named(name, cycles, name_counts[name]) for name, cycles in names.most_common()]
    return Cycles(sum(shares.values()), found, named, memory_bound, traffic, missing)


def _computes(operation: Operation) -> bool:
    """Returns whether an operation without cycles takes time, as Pallas kernels do."""
    target = operation.attribute("custom_call_target").partition(",")[0].strip('"')
    return operation.opcode == "sort" or (
        operation.opcode == "custom-call" and target not in _BOOKKEEPING
    )


def sort(program: Program, operation: Operation) -> tuple[str, str]:
    """Returns the part of the step and the kind of an operation.

    A fusion with a matrix product is a matrix product, whatever else it computes. Dropout that the
    compiler fused into another operation is therefore not seen as dropout.
    """
    inside = list(within(program, operation))
    names = [each.op_name for each in (operation, *reversed(inside)) if each.op_name]
    part = part_of(names[0]) if names else "unnamed"
    opcodes = {each.opcode for each in inside}
    if opcodes & {"convolution", "dot"}:
        kind = "matrix products"
    elif opcodes <= _MOVES:
        kind = "copies and layouts"
    elif part in ("optimizer", "masking"):
        kind = part
    elif "xor" in opcodes:
        kind = "dropout"
    elif any("layer_norm/" in name for name in names):
        kind = "normalization"
    else:
        kind = "softmax" if part == "attention" else "elementwise and reductions"
    return part, kind


@functools.cache
def part_of(name: str) -> str:
    """Returns the part of the step that a path such as jit(step)/jvp(..)/encoder/.. belongs to."""
    return next((part for pattern, part in _PARTS if re.search(pattern, name)), "unnamed")


def added(shares: Sequence[Share], field: str) -> dict[str, int]:
    """Adds cycles by `part` or by `kind`, the largest first."""
    sums = collections.Counter()
    for share in shares:
        sums[getattr(share, field)] += share.cycles
    return dict(sums.most_common())
