"""Searches the settings of a step that change its memory and time, but not its result."""

from collections.abc import Callable, Iterator
from typing import Any

from bertjax.commands import flag
from bertjax.errors import UserError
from bertjax.plan.config import FinetunePlan, PlanConfig, topology_of

Facts = dict[str, Any]


class CompilerCrash(UserError):
    """The TPU compiler ended its process by a fault of its own."""


def search(
    config: PlanConfig | FinetunePlan,
    compiled: Callable[[list[str]], Facts],
    note: Callable[[str], None],
) -> Iterator[tuple[str, Facts]]:
    """Yields the flags and the facts of each variant that is compiled.

    It takes the largest microbatch that fits with each way to recompute; less recomputation comes
    first, and more only if it allows fewer microbatches. From the fastest of these it tries scanned
    layers, and matrices that are split over four or all devices. A step that does not fit takes
    seconds to compile, any other takes minutes.

    Args:
        config: the recipe; its batch size and optimizer stay.
        compiled: compiles the step with further flags.
        note: receives a line for each variant.
    """
    tried: dict[tuple, Facts] = {}

    def attempt(
        accumulation: int, remat: str, scan: bool, fsdp: int
    ) -> Iterator[tuple[str, Facts]]:
        key = (accumulation, remat, scan, fsdp)
        if key in tried:
            return
        name = flags(config, *key)
        told = " ".join(name) or "as in the recipe"
        try:
            tried[key] = compiled(name)
        except CompilerCrash as error:
            tried[key] = {"fits": False}
            note(f"{told}: {error}")
            return
        note(f"{told}: {_result(tried[key])}")
        yield told, tried[key]

    scan, fsdp = config.execution.scan_layers, config.mesh.fsdp
    topology = topology_of(config)
    fewest = _microbatches(config, topology.chips * topology.chip.per_chip)
    for remat in ("none", "dots", "full"):
        for count in fewest:
            yield from attempt(count, remat, scan, fsdp)
            if tried[count, remat, scan, fsdp]["fits"]:
                fewest = [each for each in fewest if each < count]
                break
        if not fewest:
            break
    fitting = {key: facts for key, facts in tried.items() if facts["fits"]}
    if not fitting:
        return
    count, remat, _, _ = min(fitting, key=lambda key: fitting[key]["seconds"]["step"])
    devices = next(iter(fitting.values()))["devices"]
    yield from attempt(count, remat, not scan, fsdp)
    for ways in sorted({4, devices}):
        if ways <= devices and not devices % ways and devices > 1:
            yield from attempt(count, remat, scan, ways)


def _microbatches(config: PlanConfig | FinetunePlan, devices: int) -> list[int]:
    """Returns the numbers of microbatches to try, the fewest first."""
    rows = config.planned.batch_size // max(devices // config.mesh.tensor, 1)
    return [count for count in (1, 2, 4, 8, 16, 32, 64, 128, 256) if rows % count == 0 < rows]


def flags(
    config: PlanConfig | FinetunePlan, accumulation: int, remat: str, scan: bool, fsdp: int
) -> list[str]:
    """Returns the flags that make a variant of the recipe."""
    words = []
    if accumulation != config.planned.accumulation:
        section = "second." if config.phase == 2 else ""
        words += [flag(f"{section}accumulation"), str(accumulation)]
    if remat != config.execution.remat:
        words += [flag("execution.remat"), remat]
    if scan != config.execution.scan_layers:
        words.append(flag(f"execution.{'' if scan else 'no_'}scan_layers"))
    if fsdp != config.mesh.fsdp:
        words += [flag("mesh.fsdp"), str(fsdp), flag("mesh.data"), "-1"]
    return words


def _result(facts: Facts) -> str:
    memory = facts["memory"]
    if not facts["fits"]:
        return f"does not fit, {memory['needed_gib']:.1f} of {memory['available_gib']:.1f} GiB"
    step = facts["seconds"]["step"] * 1e3
    return f"{step:,.1f} ms, {memory['peak_gib']:.2f} of {memory['available_gib']:.2f} GiB"
