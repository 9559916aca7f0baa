"""The pre-training step of BERT-base, compiled for four TPU chips on a machine that has none."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
V5E_HBM = 16 * GIB

# In a process of its own: libtpu reads its environment once, and stays.
PROGRAM = """
import json, sys, time
import numpy as np
from jax.experimental import topologies
from bertjax.config import Execution
from bertjax.runs.pretrain import Vocabulary, build
from bertjax.runs.recipes import ModelConfig, PretrainConfig
from bertjax.train.sharding import MeshConfig, make_mesh

batch_size, accumulation = map(int, sys.argv[1:])
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
mesh = make_mesh(MeshConfig(), topology.devices)
config = PretrainConfig(
    data="not read", workdir="not written", model=ModelConfig(size="base"),
    execution=Execution(dtype="bfloat16"), batch_size=batch_size, accumulation=accumulation,
)
special = np.zeros(30522, bool)
special[[0, 101, 102, 103]] = True
vocabulary = Vocabulary(30522, pad_id=0, mask_id=103, special=special, word_starts=~special)
program = build(config, mesh, vocabulary, max_seq_length=128)

start = time.perf_counter()
lowered = program.step.lower(program.abstract_state, program.abstract_batch)
lower_s = time.perf_counter() - start
compiled = lowered.compile()
memory = compiled.memory_analysis()
moments = [
    {"bytes": leaf.size * 4, "on_device": int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * 4}
    for leaf in __import__("jax").tree.leaves(program.abstract_state.opt_state) if leaf.ndim
]
print(json.dumps({
    "kind": topology.devices[0].device_kind,
    "devices": len(topology.devices),
    "lower_s": lower_s,
    "compile_s": time.perf_counter() - start - lower_s,
    "peak": memory.peak_memory_in_bytes,
    "arguments": memory.argument_size_in_bytes,
    "aliased": memory.alias_size_in_bytes,
    "moments": sum(one["bytes"] for one in moments),
    "moments_on_device": sum(one["on_device"] for one in moments),
    "parameters": sum(leaf.size for leaf in __import__("jax").tree.leaves(program.abstract_state.params)),
    "collectives": sorted({
        name for name in ("all-reduce", "reduce-scatter", "all-gather")
        if name in compiled.as_text()
    }),
}))
"""
