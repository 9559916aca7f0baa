"""Splits the time of a pre-training step on a CPU by kind of operation, from XLA's own trace.

    taskset -c 0 python benchmarks/cpu_operations.py --size base --batch-size 16 --length 128

XLA:CPU traces every operation that it runs. The time of an operation is its least of some steps.
Give one core: with several, operations overlap. The output is one JSON object: milliseconds of a
step by kind, and their shares. Trust it on a quiet machine only.
"""

import argparse
import collections
import json
import re
import tempfile
from pathlib import Path

import jax
from jax.profiler import ProfileData, ProfileOptions
from pretrain_step import make_step

import bertjax as bj
from bertjax.rundir.freed_memory import keep_freed

# The first kind whose pattern is found in "shape opcode op_name" of an operation. WIDTH stands for
# that of the feed-forward.
KINDS = {
    "attention: products": r"/attention/bnt[hs],.*dot_general$",
    "layers: products": r"/Layer/.*(dot_general$|\bdot .*transpose$)| dot .*/Layer/",
    "head: products": r"/mlm/.*(dot_general$)| dot .*/mlm/",
    "attention: softmax, dropout, copies": r"/attention/|_heads/",
    "LayerNorm": r"/Layer/.*layer_norm/",
    "GELU": r"/Layer/.*erf$|\[\d+,(\d+,)?WIDTH\].*/Layer/",
    "layers: dropout, residuals, biases": r"/Layer/",
    "head: rest": r"/mlm/|,30522\]",
    "optimizer": r"jit\(step\)/(jit\(_where\)/select_n|div|reduce_sum|mul|add|sqrt|sub)$",
    "rest": "",
}


def durations(run):
    """Returns {name of an event of XLA: milliseconds} of one call."""
    options = ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as room:
        with jax.profiler.trace(room, profiler_options=options):
            run()
        (path,) = Path(room).rglob("*.xplane.pb")
        for plane in ProfileData.from_file(str(path)).planes:
            for event in (event for line in plane.lines for event in line.events):
                found[event.name] += event.duration_ns / 1e6
    return found


def main():
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base")
    parser.add_argument("--layers", type=int, help="default: those of the size")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args()
    keep_freed()
    shape = {"num_hidden_layers": asked.layers} if asked.layers else {}
    program, state, batch = make_step(
        asked.size, 30522, asked.batch_size, asked.length, bj.Execution(), **shape
    )
    compiled = program.step.lower(state, batch).compile()
    held = {"state": state}

    def run():
        held["state"], metrics = compiled(held["state"], batch)
        metrics["loss"].block_until_ready()

    run()
    width = str(program.model.intermediate_size)
    patterns = {kind: how.replace("WIDTH", width) for kind, how in KINDS.items()}
    steps = [durations(run) for _ in range(asked.steps)]
    total = collections.Counter()
    for line in compiled.as_text().splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\S+ [\w-]+)\(", line)
        if found and found[1] in steps[0]:
            name = re.search(r'op_name="([^"]*)"', line)
            described = f"{found[2]} {name[1] if name else ''}"
            kind = next(kind for kind, how in patterns.items() if re.search(how, described))
            total[kind] += min(step[found[1]] for step in steps)
    whole = sum(total.values())
    kinds = {kind: [round(ms, 1), round(ms / whole, 3)] for kind, ms in total.most_common()}
    print(json.dumps({**vars(asked), "jax": jax.__version__, "ms, share": kinds}))


if __name__ == "__main__":
    main()
