"""The step of experiments/minilm_l6_h384.py, compiled for eight TPU chips."""

import pytest

GIB = 1 << 30

PROGRAM = """
import json, runpy, time

import jax
import numpy as np
from jax.experimental import topologies

from bertjax.config import BertConfig
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.table import choose_objective
from bertjax.pretrain.program import build
from bertjax.train.sharding import make_mesh

config = runpy.run_path("experiments/minilm_l6_h384.py")["config"]
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
mesh = make_mesh(config.mesh, topology.devices)
special = np.zeros(30522, bool)
special[[0, 101, 102, 103]] = True
vocabulary = Vocabulary(30522, 0, 103, special, ~special)
objective = choose_objective(None, "single", config.objective_options, has_teacher=True)
objective = objective.taught_by(BertConfig.named("base"), config.model.resolve(30522))
program = build(config, mesh, vocabulary, 512, objective=objective)
start = time.perf_counter()
inputs = (program.abstract_state, program.abstract_batch, program.abstract_teacher)
options = {"optimization_level": 9}  # EFFORT_O0
compiled = program.step.lower(*inputs).compile(compiler_options=options)


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak": compiled.memory_analysis().peak_memory_in_bytes,
    "objective": str(objective),
    "params": size(program.abstract_state.params),
    "teacher": size(program.abstract_teacher),
}))
"""


@pytest.mark.slow
def test_the_step_of_the_recipe_compiles_for_v5e_and_fits(compile_for):
    found = compile_for(PROGRAM, 8, "MiniLM-L6-H384 from BERT-base, batch 256 x 512")
    assert found["objective"] == "layer 12 of 12, 48 relation heads"
    # The relations [3, 32, 512, 512] of all 48 heads together would take 4.5 GiB of each model.
    assert found["params"] + found["teacher"] < found["peak"] < 4.5 * GIB
