"""Cycles, FLOPs and memory of the pre-training step on a TPU, as its compiler estimates them.

    pip install '.[tpu]'
    python benchmarks/tpu_cycles.py --length 128 --batch 256
    python benchmarks/tpu_cycles.py --length 512 --batch 64

Compiles the step of BERT for the chips of a topology, on a machine without any (Linux on x86-64),
in two to four minutes. The compiler annotates every operation with `estimated_cycles`; the sum is
its estimate of the time of a step on one chip. The estimate has limits: a loop (scan, remat) counts
once, overlapping operations are added, and Pallas kernels have no estimate. It orders programs.

Prints one line of JSON and the costliest operations, and adds the JSON to the results.
`flops_ratio` compares the FLOPs of the compiled program with those of the matrix products that
`bertjax.model.flops` counts from the shape. More than a few percent above 1 means that something
is computed twice.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import shlex
import sys
import time

import recorded

# libtpu reads these once, when it is loaded. The process computes nothing; it only compiles.
os.environ.update(JAX_PLATFORMS="cpu", TPU_WORKER_HOSTNAMES="localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import numpy as np
from jax.experimental import topologies

from bertjax.config import Execution
from bertjax.model.flops import pretraining_flops, training_flops
from bertjax.objectives.masking import Vocabulary
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.train.sharding import MeshConfig, make_mesh

VOCAB_SIZE = 30522
FLOPS_PER_CYCLE = {"v5e": 4 * 128 * 128 * 2}  # bfloat16; at 1.5 GHz these are 197 TFLOP/s


def compile_step(options, topology):
    """Returns the compiled step, and the FLOPs per chip of its matrix products."""
    special = np.zeros(VOCAB_SIZE, bool)
    special[[0, 101, 102, 103]] = True
    vocabulary = Vocabulary(VOCAB_SIZE, 0, 103, special, ~special)
    model = ModelConfig(options.size)
    if options.no_dropout:
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = dataclasses.replace(model, **rates)
    config = PretrainConfig(
        data="not read",
        workdir="not written",
        model=model,
        execution=Execution(dtype="bfloat16"),
        batch_size=options.batch,
    )
    mesh = make_mesh(MeshConfig(), topology.devices)
    program = build(config, mesh, vocabulary, options.length)
    lowered = program.step.lower(program.abstract_state, program.abstract_batch)
    predictions = config.masking.predictions(options.length)
    row = training_flops(pretraining_flops(program.model, options.length, predictions))
    return lowered.compile(), options.batch * row / mesh.size


def cycles_by_operation(text):
    """Sums `estimated_cycles` of the entry computation: {name: (cycles, operations)}."""
    cycles, count, is_entry = collections.Counter(), collections.Counter(), False
    for line in text.splitlines():
        if line.endswith("{") and re.match(r"(ENTRY )?%?[\w.\-]+ \(", line):
            is_entry = line.startswith("ENTRY")
        estimate = re.search(r'"estimated_cycles":"?(\d+)', line)
        if is_entry and estimate:
            name = re.search(r'op_name="([^"]*)"', line)
            # Layers differ by their numbers only.
            name = re.sub(r"\d+", "N", name[1] if name else "?")[-100:]
            cycles[name] += int(estimate[1])
            count[name] += 1
    return {name: (value, count[name]) for name, value in cycles.most_common()}


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--size", default="base")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--batch", type=int, default=256, help="rows per step, over all chips")
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--top", type=int, default=20, help="number of operations to print")
    results = pathlib.Path(__file__).parent / "results/tpu_cycles.json"
    parser.add_argument("--output", type=pathlib.Path, default=results)
    options = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    begun = time.perf_counter()
    compiled, flops = compile_step(options, topology)
    seconds = time.perf_counter() - begun
    operations = cycles_by_operation(compiled.as_text())
    total = sum(cycles for cycles, _ in operations.values())
    ideal = flops / FLOPS_PER_CYCLE.get(options.topology.split(":")[0], float("nan"))
    cost = compiled.cost_analysis()
    result = {
        "command": shlex.join(["python", "benchmarks/tpu_cycles.py", *sys.argv[1:]]),
        "device": f"{len(topology.devices)} x {topology.devices[0].device_kind}, ahead of time",
        "million_cycles": round(total / 1e6, 2),
        "ideal_million_cycles": round(ideal / 1e6, 2),
        "cycles_ratio": round(total / ideal, 3),
        "flops_ratio": round(cost["flops"] / flops, 4),
        "peak_gib": round(compiled.memory_analysis().peak_memory_in_bytes / 2**30, 3),
        "bytes_accessed": cost["bytes accessed"],
        "compile_seconds": round(seconds),
    }
    print(json.dumps(result))
    for name, (cycles, count) in list(operations.items())[: options.top]:
        print(f"{cycles / total:6.1%}  {cycles:>11,}  x{count:<4} {name}")
    dropout = ", no dropout" if options.no_dropout else ""
    name = f"{options.size}, {options.batch} x {options.length}, {options.topology}{dropout}"
    machine = recorded.machine("jax", "jaxlib", "libtpu")
    recorded.keep(options.output, name, {**result, **machine})


if __name__ == "__main__":
    main()
