"""Writes a plan as lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

_SHOWN = 12
"""Rows of the longest tables."""


def lines(facts: Facts, hourly_rate: float | None = None) -> Iterator[str]:
    """Yields the lines of a plan whose step fits into HBM."""
    yield heading(facts)
    yield from _memory(facts["memory"])
    yield from _time(facts)
    yield from _cycles(facts)
    yield from _roofline(facts)
    yield from _collectives(facts)
    yield from _run(facts, hourly_rate)
    yield (
        f"Compiled in {facts['compile_seconds']:,.0f} s by libtpu {facts['versions']['libtpu']} "
        f"(jax {facts['versions']['jax']}). Only the hardware shows: input, evaluation, saving, "
        "the real clock, and how much of the exchange between chips overlaps."
    )


def table(
    names: Sequence[str], plans: Sequence[Facts], hourly_rate: float | None = None
) -> Iterator[str]:
    """Yields the lines of a table of several plans."""
    rows = columns(names, plans, hourly_rate)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def columns(
    names: Sequence[str], plans: Sequence[Facts], hourly_rate: float | None = None
) -> list[list[str]]:
    """Returns the header and the rows of a table of several plans."""
    header = ["", "HBM GiB", "ms a step", "tokens/s", "times ideal", "waiting ms", "hours"]
    rows = [[*header, "chip-hours" if hourly_rate is None else "price"]]
    for name, facts in zip(names, plans, strict=True):
        if not facts["fits"]:
            needed = f"needs {facts['memory']['needed_gib']:.1f}"
            rows.append([name, needed, *["-"] * len(header[1:])])
            continue
        seconds, waiting = facts["seconds"], facts["seconds"]["waiting_for_chips"]
        hours = facts["steps"] * seconds["step"] / 3600
        rows.append(
            [
                name,
                f"{facts['memory']['peak_gib']:.2f}",
                f"{seconds['step'] * 1e3:,.1f}",
                f"{facts['rows'] * facts['length'] / seconds['step']:,.0f}",
                f"{seconds['step'] / seconds['ideal']:.2f}",
                "-" if waiting is None else f"{waiting * 1e3:,.1f}",
                f"{hours:,.1f}",
                f"{hours * facts['chips'] * (hourly_rate or 1):,.1f}",
            ]
        )
    return rows


def heading(facts: Facts) -> str:
    """Returns what is planned, in a sentence."""
    model, execution = facts["model"], facts["execution"]
    axes = " x ".join(f"{axis} {size}" for axis, size in facts["mesh"].items() if size > 1)
    devices = f"{facts['devices']} device{'s' * (facts['devices'] > 1)} of {facts['device_kind']}"
    slices = f"{facts['slices']} slices of " if facts["slices"] > 1 else ""
    how = [execution["dtype"]]
    how += [f"remat {execution['remat']}"] if execution["remat"] != "none" else []
    how += ["scanned layers"] if execution["scan_layers"] else []
    how += [f"{facts['accumulation']} microbatches"] if facts["accumulation"] > 1 else []
    how += [f"up to {facts['packed']} examples a row"] if facts["packed"] else []
    return (
        f"{model['layers']} layers of {model['hidden_size']}, {model['parameters']:,} parameters, "
        f"{facts['optimizer']}, {', '.join(how)}: {facts['rows']:,} rows of {facts['length']} "
        f"tokens a step on {slices}{facts['topology']} ({devices}{f', {axes}' if axes else ''})."
    )


def _memory(memory: Facts) -> Iterator[str]:
    peak, available = memory["peak_gib"], memory["available_gib"]
    yield (
        f"Fits: {peak:.2f} of {available:.2f} GiB HBM a device at the peak, "
        f"{available - peak:.2f} GiB left."
    )
    for name, size in memory["parts_gib"].items():
        if size >= 0.005:
            yield f"  {size:6.2f} GiB  {name}"
    yield (
        f"  These parts, from the schedule of the program, add up to "
        f"{memory['sum_of_parts_gib']:.2f} GiB; the peak is what the compiler reports."
    )


def _time(facts: Facts) -> Iterator[str]:
    seconds, tokens = facts["seconds"], facts["rows"] * facts["length"]
    waiting = seconds["waiting_for_chips"]
    rate = tokens / seconds["step"]
    real = (
        ""
        if facts["padding"] is None
        else f", {rate * (1 - facts['padding']):,.0f} without padding"
    )
    yield f"Predicted step: {_ms(seconds['step'])}, {rate:,.0f} tokens/s{real}."
    yield (
        f"  {_ms(seconds['operations'])} in operations: {facts['cycles']['total'] / 1e6:,.1f} "
        f"million cycles by the compiler's estimate, at {facts['clock_ghz']:.2f} GHz"
    )
    if waiting is None:
        yield "  The bandwidth between chips is not known here, so that exchange is left out."
    elif facts["devices"] > 1:
        beside = seconds["exchange_beside_operations"]
        yield f"  {_ms(waiting)} waiting for other chips, at least; {_ms(beside)} more overlap"
    yield (
        f"  {_ms(seconds['ideal'])} would be ideal, for the matrix products at the chip's peak. "
        f"The predicted step takes {seconds['step'] / seconds['ideal']:.2f} times that: a "
        f"predicted MFU of {facts['mfu']:.1%}."
    )


def _cycles(facts: Facts) -> Iterator[str]:
    cycles = facts["cycles"]
    total = cycles["total"]
    for field, name in (("by_part", "part of the step"), ("by_kind", "kind of operation")):
        values = cycles[field].items()
        shares = [f"{key} {value / total:.1%}" for key, value in values if value > 0.001 * total]
        yield f"Cycles by {name}: {', '.join(shares)}."
    for share in cycles["shares"][:_SHOWN]:
        part, kind = share["part"], share["kind"]
        place = part if part == kind else f"{part}: {kind}"
        yield f"  {share['cycles'] / total:6.1%}  {share['cycles']:>12,}  {place}"
    yield (
        f"  {cycles['memory_bound'] / total:.1%} of the cycles are in operations whose HBM traffic "
        "alone needs at least half of their time."
    )
    if cycles["without_estimate"]:
        yield (
            f"  {cycles['without_estimate']} operations have no estimate and count nothing (sorts, "
            "Pallas kernels)."
        )
    if cycles["loops_counted_once"]:
        yield f"  {cycles['loops_counted_once']} loops end by their data and count once."


def _roofline(facts: Facts) -> Iterator[str]:
    roofline, seconds = facts["roofline"], facts["seconds"]
    exchange = roofline["exchange"]
    told = "unknown" if exchange is None else _ms(exchange)
    yield (
        f"Roofline: {_ms(roofline['matrix'])} for matrix products, {_ms(roofline['memory'])} for "
        f"{facts['hbm_bytes'] / 1e9:,.1f} GB of HBM traffic, {told} between chips; "
        f"the step is bound by {roofline['bound']}."
    )
    yield f"  {difference(seconds['step'], roofline['step'])}"


def difference(predicted: float, roofline: float) -> str:
    """Returns what the ratio of the compiler's estimate and the roofline means."""
    ratio = predicted / roofline
    if ratio > 1.5:
        return (
            f"The compiler expects {ratio:.1f} times the roofline: much of the time is in "
            "operations that reach neither peak, such as reductions, changes of layout and small "
            "arrays, or in products and traffic that follow one another."
        )
    if ratio < 1 / 1.5:
        return (
            f"The compiler expects {ratio:.2f} of the roofline: it has no estimate for some "
            "operations, or keeps arrays on the chip that the roofline counts as HBM traffic."
        )
    return f"The compiler expects {ratio:.2f} times the roofline."


def _collectives(facts: Facts) -> Iterator[str]:
    if not facts["collectives"]:
        return
    sent = sum(each["sent"] for each in facts["collectives"])
    yield f"Exchange between chips: each sends at least {sent / 1e6:,.1f} MB a step."
    if facts["slices"] > 1:
        yield "  How fast the network between slices is depends on the machines: it counts no time."
    for each in facts["collectives"]:
        yield (
            f"  {each['sent'] / 1e6:9,.1f} MB  {each['count']:>4} {each['kind']} over "
            f"{each['axes']}, {each['dtypes']}, "
            f"{'beside operations' if each['overlaps'] else 'operations wait'}"
        )


def _run(facts: Facts, hourly_rate: float | None) -> Iterator[str]:
    hours = facts["steps"] * facts["seconds"]["step"] / 3600
    chip_hours = hours * facts["chips"]
    price = (
        "" if hourly_rate is None else f", {chip_hours * hourly_rate:,.2f} at {hourly_rate:g} each"
    )
    most = "at most " if facts["is_longest"] else ""
    yield (
        f"{facts['steps']:,} steps: {most}{hours:,.1f} hours, {chip_hours:,.1f} chip-hours{price}"
        f"{'' if price else ' (`hourly_rate` gives the price)'}."
    )


def too_large(facts: Facts) -> str:
    """Returns the sentence about a step that does not fit, with three ways out."""
    memory = facts["memory"]
    needed, available = memory["needed_gib"], memory["available_gib"]
    room, temporaries = available - memory["arguments_gib"], needed - memory["arguments_gib"]
    axes = facts["devices"] // facts["mesh"]["tensor"]
    rows = facts["rows"] // axes // facts["accumulation"]
    less = next(
        (n for n in (2, 4, 8, 16, 32, 64, 128) if temporaries / n < room and rows % n == 0), 0
    )
    ways = []
    if less:
        ways.append(
            f"`accumulation` {less * facts['accumulation']} (about "
            f"{memory['arguments_gib'] + temporaries / less:.1f} GiB and gradients once more; the "
            "same result and products, in smaller pieces)"
        )
        ways.append(
            f"`batch_size` {facts['rows'] // less} (as much memory; {less} times the steps for the "
            "same rows)"
        )
    more = facts["full_remat_flops"] / facts["computed_flops"]
    ways.append(f"`execution.remat` full (the products take {more:.2f} times as long)")
    if not less:
        ways.append("`mesh.fsdp` or `mesh.tensor` above 1 (parameters are split too)")
    return (
        f"The step does not fit: it needs about {needed:.1f} GiB HBM a device and the compiler has "
        f"{available:.1f}, {needed - available:.1f} GiB too little. Ways out: {'; '.join(ways)}."
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.0f} us"
