"""Finds which arrays lie in a chip's HBM when a compiled step needs most of it."""

import collections
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bertjax.plan.hlo import (
    ENTRY,
    Array,
    Operation,
    Program,
    arrays_of,
    behind,
    elements,
    loop_of,
)
from bertjax.plan.operations import part_of

ACTIVATIONS = ("embeddings", "attention", "feed-forward", "layers, rest", "head and loss")
_ARGUMENTS = (  # the names of the arguments of a step
    ("state.params", "parameters"),
    ("state.opt_state", "optimizer moments"),
    ("state.ema", "moving average"),
    ("teacher", "teacher"),
)


class Buffer(NamedTuple):
    """An array in HBM at the peak."""

    operation: Operation
    """The operation that writes it; a `parameter` for an argument of the step."""
    array: Array
    name: str
    """The path of the traced operation; that of its operand for an operation that has none."""

    @property
    def bytes(self) -> int:
        """Its size with the padding of its layout."""
        return self.array.padded


class _Life(NamedTuple):
    """The buffers of a computation."""

    buffers: list[Buffer]
    born: list[int]
    dies: list[int]
    """Position of the last operation that reads it."""
    inner: dict[int, list[Buffer]]
    """Buffers of the body of a loop at its own peak, by the position of the loop."""


def at_peak(program: Program) -> list[Buffer]:
    """Returns the arguments of a step and the other arrays in HBM when those are largest.

    The text is a schedule: an array lives from the operation that writes it to the last one that
    reads it. A donated argument and the output that takes its place are one array, as are the input
    and the output of a loop and of an update in place. What the compiler adds beyond the operations
    of the schedule, such as fragmentation, is not in the list.
    """
    arguments = [
        Buffer(operation, array, operation.op_name)
        for operation in program[ENTRY]
        if operation.opcode == "parameter"
        for array in operation.arrays
        if array.in_hbm
    ]
    return arguments + _peak(program, ENTRY)


def _peak(program: Program, computation: str) -> list[Buffer]:
    """Returns the buffers of a computation, without its parameters and results, at their peak."""
    life = _life(program, computation)
    changes = collections.defaultdict(int)
    for buffer, born, dies in zip(life.buffers, life.born, life.dies, strict=True):
        changes[born] += buffer.bytes
        changes[dies + 1] -= buffer.bytes
    total, best, place = 0, -1, 0
    for position in range(len(program[computation])):
        total += changes[position]
        here = total + sum(each.bytes for each in life.inner.get(position, ()))
        if here > best:
            best, place = here, position
    alive = [
        buffer
        for buffer, born, dies in zip(life.buffers, life.born, life.dies, strict=True)
        if born <= place <= dies
    ]
    return alive + life.inner.get(place, [])


def _life(program: Program, computation: str) -> _Life:
    life = _Life([], [], [], {})
    values: dict[str, list[int | None]] = {}
    types = {each.name: each.type for each in program[computation]}
    names: dict[str, str] = {}
    for position, operation in enumerate(program[computation]):
        sources = [names[each] for each in operation.operands if names.get(each)]
        names[operation.name] = operation.op_name or (sources[0] if sources else "")
        read = {number for name in operation.operands for number in values.get(name, ())}
        for number in read:
            if number is not None:
                life.dies[number] = position
        shared = _shared(program, operation, values, types)
        # The compiler moves an argument that it read early back to where the argument was.
        is_moved = operation.opcode in ("copy", "copy-start")
        is_moved &= names[operation.name].startswith("state.")
        value: list[int | None] = []
        for place, array in enumerate(operation.arrays):
            if place in shared:
                value.append(shared[place])
            elif not array.in_hbm or operation.opcode == "parameter" or is_moved:
                value.append(None)
            else:
                value.append(len(life.buffers))
                life.buffers.append(Buffer(operation, array, names[operation.name]))
                life.born.append(position)
                life.dies.append(position)
        values[operation.name] = value
        if operation.opcode == "while":
            life.inner[position] = _peak(program, loop_of(operation)[1])
        if operation.is_root:  # results take the place of parameters
            for number in set(value):
                if number is not None:
                    life.dies[number] = life.born[number] - 1
    return life


def _shared(
    program: Program,
    operation: Operation,
    values: Mapping[str, list[int | None]],
    types: Mapping[str, str],
) -> dict[int, int | None]:
    """Returns the results that are no new buffers: {place among the results: buffer}."""
    opcode, operands = operation.opcode, operation.operands
    known = [values.get(name, []) for name in operands]
    if opcode in ("tuple", "bitcast", "while", "optimization-barrier", "call"):
        return dict(enumerate(number for each in known for number in each))
    if opcode == "get-tuple-element":
        index = int(re.match(r"\d+", operation.attribute("index"))[0])  # type: ignore[index]
        sizes = [len(arrays_of(each)) for each in elements(types[operands[0]])]
        start = sum(sizes[:index])
        return dict(enumerate(known[0][start : start + sizes[index]]))
    if opcode.endswith("-done"):
        start = 0 if opcode in ("copy-done", "all-reduce-done") else 1
        return dict(enumerate(known[0][start : start + len(operation.arrays)]))
    if opcode.endswith("-start"):
        sources = [1] if opcode == "copy-start" else [0]
        return {place: known[0][0] for place in sources if known and known[0]}
    if opcode == "dynamic-update-slice":
        return dict(enumerate(known[0]))
    found = {
        place: known[operand][inner] if known[operand] else None
        for place, operand, inner in operation.aliases
    }
    if opcode == "fusion" and not found and operation.called in program:
        return _updated(program[operation.called or ""], known)
    return found


def _updated(inner: Sequence[Operation], known: Sequence[list[int | None]]) -> dict:
    """Returns the results of a fusion that update an operand in place."""
    by_name = {each.name: each for each in inner}
    root = next(each for each in inner if each.is_root)
    results = [by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
    found = {}
    for place, result in enumerate(results):
        update = behind(by_name, result)
        if update.opcode == "dynamic-update-slice":
            target = behind(by_name, by_name[update.operands[0]])
            if target.opcode == "parameter":
                source = known[target.number]
                found[place] = source[0] if source else None
    return found


def parts(buffers: Sequence[Buffer], shapes: Collection[tuple[int, ...]]) -> dict[str, int]:
    """Adds the bytes of buffers by what they are, the largest sum first.

    Args:
        buffers: those of `at_peak`.
        shapes: shapes of the parameters, whole and as they lie on a chip. Other arrays of these
            shapes are gradients, or new or gathered parameters.
    """
    sums: dict[str, int] = dict.fromkeys(("parameters", "optimizer moments"), 0)
    for buffer in buffers:
        name = _part(buffer, shapes)
        sums[name] = sums.get(name, 0) + buffer.bytes
    return dict(sorted(sums.items(), key=lambda each: -each[1]))


def _part(buffer: Buffer, shapes: Collection[tuple[int, ...]]) -> str:
    if buffer.operation.opcode == "parameter":
        return next((part for start, part in _ARGUMENTS if buffer.name.startswith(start)), "batch")
    shape = tuple(size for size in buffer.array.shape if size > 1)
    if len(shape) > 1 and shape in shapes:
        return "gradients and new parameters"
    if "AllocateBuffer" in buffer.operation.text:  # filled a layer at a time
        return "activations: scanned layers"
    part = part_of(buffer.name)
    return f"activations: {part}" if part in ACTIVATIONS else "other temporaries"
