"""`bertjax plan`: compiles a recipe's step for TPUs and says what it needs."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bertjax.commands import flag
from bertjax.errors import UserError
from bertjax.plan import text
from bertjax.plan.compile import compile_step, require_libtpu
from bertjax.plan.config import GluePlan, PlanConfig, Planned, topology_of
from bertjax.plan.page import write_page
from bertjax.plan.search import CompilerCrash, search
from bertjax.plan.steps import read_rows

Log = Callable[[str], None]
Facts = dict[str, Any]

# The last of equal flags counts.
_ALONE = (flag("json"), flag("no_search"), flag("compare"), "None", flag("html"), "None")


def plan(config: Planned, words: Sequence[str], log: Log, note: Log) -> None:
    """Plans a recipe, or several of its variants, and logs the result.

    Args:
        config: the recipe and what to plan.
        words: the words of the command after the verb, which make `config`. Each compilation runs
            them, with other values, in a process of its own: a crash of the compiler ends that
            process alone, and libtpu reads its environment once.
        log: receives the result, a line at a time.
        note: receives what happens meanwhile.

    Raises:
        UserError: a mistake in the recipe or the flags; libtpu is missing; the step does not fit.
    """
    topology_of(config)
    rows = read_rows(config) if isinstance(config, PlanConfig) else None
    require_libtpu()
    if config.json and not (config.compare or config.search or config.html):
        facts = compile_step(config, rows)
        log(json.dumps(facts))
        _require_fit(facts)
        return
    found = list(_variants(config, words, note))
    if not found:
        raise UserError("The TPU compiler crashed on all variants: try another release of jax.")
    names, told = [name for name, _ in found], [facts for _, facts in found]
    fitting = [facts for facts in told if facts["fits"]]
    if not fitting:
        _require_fit(told[0])
    best = min(fitting, key=lambda facts: facts["seconds"]["step"])
    detailed = told[0] if config.compare and told[0]["fits"] else best
    if config.html:
        write_page(config.html, names, told, detailed, config.hourly_rate)
    if config.json:
        log(json.dumps([{"variant": name, **facts} for name, facts in found]))
        return
    if len(told) > 1:
        for line in text.table(names, told, config.hourly_rate):
            log(line)
        if config.search:
            log(f"The fastest: {names[told.index(best)]}.")
    for line in text.lines(detailed, config.hourly_rate):
        log(line)
    if config.html:
        log(f"Wrote {config.html}.")


def _variants(config: Planned, words: Sequence[str], note: Log) -> Iterator[tuple[str, Facts]]:
    """Yields the name and the facts of each variant to compile."""
    if config.search and not isinstance(config, GluePlan):
        yield from search(config, lambda changes: _compiled([*words, *changes], note), note)
        return
    recipe = words[0] if words and not words[0].startswith("-") else "the flags"
    yield recipe, _compiled(words, note)
    if config.compare:
        rest = words if recipe == "the flags" else words[1:]
        yield config.compare, _compiled([config.compare, *rest], note)


def _compiled(words: Sequence[str], note: Log) -> Facts:
    """Compiles the step of a command in a process of its own."""
    note("Compiling for the TPU, which takes minutes on a CPU ...")
    child = subprocess.run(
        [sys.executable, "-P", "-m", "bertjax", "plan", *words, *_ALONE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    result = next((line for line in child.stdout.splitlines() if line.startswith("{")), None)
    if result is not None:
        return json.loads(result)
    told = [line for line in child.stderr.splitlines() if line.startswith("bertjax: ")]
    if told:
        raise UserError(told[-1].removeprefix("bertjax: "))
    if -child.returncode in (signal.SIGKILL, signal.SIGTERM):
        raise UserError(
            f"Something ended the compilation (signal {-child.returncode}), often for lack of "
            "memory: run it where more is free."
        )
    if child.returncode < 0:
        raise CompilerCrash(
            f"The TPU compiler crashed on this program (signal {-child.returncode}), which is a "
            "fault of libtpu: change `execution.scan_layers`, `execution.remat` or `accumulation`, "
            "or use another release of jax."
        )
    raise RuntimeError(child.stderr[-4000:])


def _require_fit(facts: Facts) -> None:
    if not facts["fits"]:
        raise UserError(text.too_large(facts))
