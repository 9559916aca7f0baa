"""Parses the text of a program that XLA has compiled for a TPU: operations, arrays and loops."""

import collections
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

ENTRY = "ENTRY"
"""The name by which `parse` gives the first computation."""

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}  # others: bits in names
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(")
_OPERATION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:true_computation|false_computation)=%?([\w.\-]+)")
_BRANCH_LIST = re.compile(r"branch_computations=\{([^}]*)\}")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{(\d*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


class Array(NamedTuple):
    """The type of an array, with its layout in the memory of a chip."""

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in HBM; other arrays lie in the memories within the chip."""
        return "S(" not in self.layout

    @property
    def size(self) -> int:
        """Its bytes without padding."""
        return math.ceil(_itemsize(self.dtype) * math.prod(self.shape))

    @property
    def padded(self) -> int:
        """Its bytes in memory, where the layout's tile pads the last dimensions."""
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if not (order and tile):
            return self.size
        dimensions = [self.shape[int(at)] for at in reversed(order.split(","))]
        sizes = [int(size) for size in tile[1].split(",")]
        dimensions = [1] * (len(sizes) - len(dimensions)) + dimensions
        for back, size in enumerate(reversed(sizes), 1):
            dimensions[-back] = -(-dimensions[-back] // size) * size
        return math.ceil(_itemsize(self.dtype) * math.prod(dimensions))


class Operation(NamedTuple):
    """One operation of a computation."""

    name: str
    type: str
    """The type of its result as text; see `arrays_of`."""
    opcode: str
    operands: tuple[str, ...]
    text: str
    """Everything after the opcode: operands and attributes."""
    is_root: bool

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its result."""
        return arrays_of(self.type)

    @property
    def op_name(self) -> str:
        """The path of the traced operation that it comes from; empty if the compiler made it."""
        found = _OP_NAME.search(self.text)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The compiler's estimate, 0 where it gives none."""
        found = _CYCLES.search(self.text)
        return int(found[1]) if found else 0

    @property
    def called(self) -> str | None:
        """The computation that a fusion consists of."""
        found = _CALLS.search(self.text)
        return found[1] if found else None

    @property
    def number(self) -> int:
        """The place of a parameter among those of its computation."""
        return int(self.text.partition(")")[0])

    @property
    def aliases(self) -> list[tuple[int, int, int]]:
        """Results of a fusion that are operands: place, operand, and place within the operand."""
        text = self.attribute("output_to_operand_aliasing").partition("}}")[0]
        return [(int(a or 0), int(b), int(c or 0)) for a, b, c in _ALIAS.findall(text)]

    def attribute(self, name: str) -> str:
        """Returns the text after `name=`, which may go on after the end of the value, or ""."""
        return self.text.partition(f"{name}=")[2]


Program = Mapping[str, Sequence[Operation]]
"""The computations of a program by their names."""


def _itemsize(dtype: str) -> float:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.match(r"[a-z]+(\d+)", dtype)
    return int(bits[1]) / 8 if bits else 0  # tokens have no size


def arrays_of(text: str) -> list[Array]:
    """Returns the arrays in the text of a type, in their order."""
    found = _ARRAY.findall(text)
    return [Array(a, tuple(map(int, filter(None, b.split(",")))), c) for a, b, c in found]


def elements(text: str) -> list[str]:
    """Returns the types of the elements of a tuple's type, or the type itself."""
    if not text.startswith("("):
        return [text]
    found, depth, begin = [], 0, 1
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            found.append(text[begin:at])
            begin = at + 1
    return found


def parse(text: str) -> dict[str, list[Operation]]:
    """Parses `compiled.as_text()`; the first computation that runs is named ENTRY."""
    found: dict[str, list[Operation]] = {}
    operations: list[Operation] = []
    for line in text.splitlines():
        if line.endswith("{") and (begin := _HEADER.match(line)):
            operations = found.setdefault(ENTRY if begin[1] else begin[2], [])
        elif begin := _OPERATION.match(line):
            operations.append(_operation(line, begin))
    return found


def _operation(line: str, begin: re.Match) -> Operation:
    at = begin.end()
    end = _closing(line, at) if line[at] == "(" else line.index(" ", at)
    opcode, _, text = line[end:].lstrip().partition("(")
    inside = text[: _closing(f"({text}", 0) - 1]
    operands = tuple(_NAME.findall(inside)) if opcode not in ("constant", "parameter") else ()
    return Operation(begin[2], line[at:end], opcode, operands, text, bool(begin[1]))


def _closing(text: str, at: int) -> int:
    """Returns the place after the parenthesis that closes the one at `at`."""
    depth = 0
    for place in re.finditer(r"[()]", text[at:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return at + place.end()
    return len(text)


class Executions(NamedTuple):
    """How often the computations of a program run."""

    times: dict[str, int]
    """The computations that run one operation after another: the first one, bodies of loops and
    branches. Those within fusions are not here."""
    unknown: list[str]
    """Bodies of loops whose end depends on data. They count once."""


def executions(program: Program) -> Executions:
    """Counts how often each computation runs, from the trip counts of nested loops.

    Every branch of a conditional counts as if it were taken.
    """
    times: collections.Counter[str] = collections.Counter()
    unknown = []

    def run(name: str, count: int) -> None:
        times[name] += count
        for operation in program[name]:
            if operation.opcode == "while":
                condition, body = loop_of(operation)
                trips = trip_count(program, condition)
                if trips is None:
                    unknown.append(body)
                run(body, count * (trips or 1))
            elif operation.opcode == "conditional":
                for branch in _branches(operation):
                    run(branch, count)
            elif operation.opcode == "call" and operation.attribute("to_apply"):
                run(_NAME.findall(operation.attribute("to_apply"))[0], count)

    run(ENTRY, 1)
    return Executions(dict(times), unknown)


def loop_of(operation: Operation) -> tuple[str, str]:
    """Returns the condition and the body of a `while`."""
    found = _LOOP.search(operation.text)
    assert found, operation.name
    return found[1], found[2]


def _branches(operation: Operation) -> list[str]:
    listed = _BRANCH_LIST.search(operation.text)
    return _NAME.findall(listed[1]) if listed else _BRANCHES.findall(operation.text)


def trip_count(program: Program, condition: str) -> int | None:
    """Returns how often a loop runs whose counter begins at 0, or None if that is not known.

    `jax.lax.scan` makes such loops: the condition compares the counter with a constant.
    """
    operations = {each.name: each for each in program[condition]}
    root = next((each for each in program[condition] if each.is_root), None)
    if root is not None and root.opcode == "fusion":
        inner = {each.name: each for each in program[root.called or condition]}
        compare = next((each for each in inner.values() if each.is_root), None)
    else:
        inner, compare = {}, root
    if compare is None or compare.opcode != "compare" or "direction=LT" not in compare.text:
        return None
    limit = compare.operands[-1]
    if limit in inner and inner[limit].opcode == "parameter" and root is not None:
        limit = root.operands[inner[limit].number]
    operation = operations.get(limit) or inner.get(limit)
    if operation is None or operation.opcode != "constant":
        return None
    value = operation.text.partition(")")[0]
    return int(value) if value.isdigit() else None


def within(program: Program, operation: Operation) -> Iterator[Operation]:
    """Yields an operation and, if it is a fusion, all operations within it."""
    yield operation
    for each in program.get(operation.called or "", ()):
        yield from within(program, each)


def behind(by_name: Mapping[str, Operation], operation: Operation) -> Operation:
    """Returns the operation that a bitcast stands for."""
    while operation.opcode == "bitcast" and operation.operands[0] in by_name:
        operation = by_name[operation.operands[0]]
    return operation
