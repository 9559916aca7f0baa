"""Counts the bytes that operations of a compiled program read from and write to HBM."""

from collections.abc import Mapping

from bertjax.plan.hlo import Array, Operation, Program, behind

# Names for data that exists, ends of asynchronous operations, and loops, whose bodies count.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional"}
_FREE |= {"copy-done", "slice-done", "after-all", "partition-id", "replica-id", "async-done"}
_READS_A_PART = ("dynamic-slice", "slice", "gather")


def hbm_bytes(program: Program, operation: Operation, defined: Mapping[str, Operation]) -> int:
    """Returns the bytes of one execution, without padding.

    Every operand that lies in HBM is read once, except where only a slice or single rows of it are
    read, and a result is written once. An update in place counts the update; a result that is an
    operand counts nothing.

    Args:
        program: the whole program, for the insides of fusions.
        operation: an operation of a computation.
        defined: the operations of that computation by name.
    """
    if operation.opcode in _FREE or operation.opcode.endswith("-done"):
        return 0
    if operation.opcode == "slice-start":  # ((source), destination, context)
        source, destination = operation.arrays[:2]
        return destination.size * (source.in_hbm + destination.in_hbm)
    if operation.opcode.endswith("-start"):  # sources, destinations and contexts, as those say
        return _in_hbm(operation.arrays)
    if operation.opcode == "fusion" and operation.called in program:
        return _of_fusion(program, operation, defined)
    read = [array for name in operation.operands for array in _arrays(defined, name)]
    if operation.opcode in _READS_A_PART:
        return 2 * _in_hbm(operation.arrays)
    if operation.opcode == "dynamic-update-slice":
        return 2 * sum(each.size for each in _arrays(defined, operation.operands[1]))
    return _in_hbm(read) + _in_hbm(operation.arrays)


def _of_fusion(program: Program, fusion: Operation, defined: Mapping[str, Operation]) -> int:
    inner = program[fusion.called or ""]
    by_name = {each.name: each for each in inner}
    parameters = {each.number: each for each in inner if each.opcode == "parameter"}
    total = 0
    updated = set()
    kept = {place for place, _, _ in fusion.aliases}, {operand for _, operand, _ in fusion.aliases}
    root = next(each for each in inner if each.is_root)
    results = [root] * len(fusion.arrays)
    if root.opcode == "tuple":
        results = [by_name[name] for name in root.operands]
    for place, (result, array) in enumerate(zip(results, fusion.arrays, strict=False)):
        if place in kept[0]:
            continue
        update = behind(by_name, result)
        if update.opcode == "dynamic-update-slice":
            updated.add(behind(by_name, by_name[update.operands[0]]).name)
            total += array.in_hbm * sum(each.size for each in by_name[update.operands[1]].arrays)
        else:
            total += array.in_hbm * array.size
    for place, name in enumerate(fusion.operands):
        parameter = parameters.get(place)
        if parameter is None or parameter.name in updated or place in kept[1]:
            continue
        whole = _in_hbm(_arrays(defined, name))
        users = [each for each in inner if parameter.name in each.operands]
        if users and all(each.opcode in _READS_A_PART for each in users):
            whole = min(whole, sum(array.size for each in users for array in each.arrays))
        total += whole
    return total


def _arrays(defined: Mapping[str, Operation], name: str) -> list[Array]:
    return defined[name].arrays if name in defined else []


def _in_hbm(arrays: list[Array]) -> int:
    return sum(each.size for each in arrays if each.in_hbm)
