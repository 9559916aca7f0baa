"""FLOPs of the compiled pre-training step for a TPU, beside those of its matrix products.

    pip install '.[tpu]'
    python benchmarks/tpu_flops.py --output benchmarks/results/tpu_flops.json

Compiles BERT's step for the chips of a topology, on a machine that has none (Linux on x86-64), and
asks the compiler how many operations it counts. What exceeds the matrix products that
`bertjax.model.flops` counts from the shape is softmax, LayerNorm, GELU, dropout, masking and the
optimizer, or something that is computed twice. The layers are unrolled, as a scan counts once.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time

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


def measure(topology, size, length, batch_size, effort):
    """The compiler's count and ours, of a step over so many rows of T tokens."""
    special = np.zeros(VOCAB_SIZE, bool)
    special[[0, 101, 102, 103]] = True
    vocabulary = Vocabulary(VOCAB_SIZE, 0, 103, special, ~special)
    config = PretrainConfig(
        data="not read",
        workdir="not written",
        model=ModelConfig(size),
        execution=Execution(dtype="bfloat16"),
        batch_size=batch_size,
    )
    mesh = make_mesh(MeshConfig(), topology.devices)
    program = build(config, mesh, vocabulary, length)
    begun = time.perf_counter()
    lowered = program.step.lower(program.abstract_state, program.abstract_batch)
    compiled = lowered.compile(compiler_options={"exec_time_optimization_effort": effort})
    found = compiled.cost_analysis()  # of one device
    counted = found["flops"] * mesh.size
    predictions = config.masking.predictions(length)
    row = training_flops(pretraining_flops(program.model, length, predictions))
    return {
        "length": length,
        "batch_size": batch_size,
        "predictions": predictions,
        "compiled_flops": counted,
        "analytic_flops": batch_size * row,
        "ratio": counted / (batch_size * row),
        "compiled_flops_per_token": counted / (batch_size * length),
        "transcendentals_per_token": found["transcendentals"] * mesh.size / (batch_size * length),
        "peak_bytes_of_a_device": compiled.memory_analysis().peak_memory_in_bytes,
        "compile_seconds": round(time.perf_counter() - begun, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--size", default="base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, default=32768, help="of a step, over all chips")
    slow = "of the compiler; 0: its own, five times as slow"
    parser.add_argument("--effort", type=float, default=-1.0, help=slow)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    steps = [
        measure(topology, options.size, length, options.tokens // length, options.effort)
        for length in options.lengths
    ]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "device": f"{len(topology.devices)} x {topology.devices[0].device_kind}, ahead of time",
        "topology": options.topology,
        "size": options.size,
        "dtype": "bfloat16",
        "remat": "none",
        "compiler_effort": options.effort,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")},
        },
        "steps": steps,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
