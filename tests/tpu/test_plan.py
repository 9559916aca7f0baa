"""`bertjax plan` of a small model, and the table of chips against the compiler."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bertjax.plan.chips import CHIPS

ROOT = Path(__file__).resolve().parents[2]

PRODUCTS = """
import json
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from bertjax.plan import hlo, operations
from bertjax.plan.chips import CHIPS, parse_topology
from bertjax.plan.compile import topology_devices

rates = {}
for name in CHIPS:
    flat = name in ("v5e", "v6e")
    devices = topology_devices(parse_topology(f"{name}:2x2" if flat else f"{name}:2x2x1"))
    where = SingleDeviceSharding(devices[0])
    matrix = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=where)
    program = hlo.parse(jax.jit(jnp.matmul).lower(matrix, matrix).compile().as_text())
    cycles = operations.cycles_of(program, hlo.executions(program).times)
    rates[name] = 2 * 4096**3 / cycles.total
    assert cycles.shares[0].kind == "matrix products"
print(json.dumps(rates))
"""


def output_of(*words):
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=840
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_with_microbatches_and_scanned_layers():
    size = ["--model.size", "tiny", "--batch-size", "64", "--accumulation", "2"]
    how = ["--execution.dtype", "bfloat16", "--execution.scan-layers", "--json"]
    rows = ["--topology", "v5e:2x2", "--max-seq-length", "128", "--vocab-size", "30522"]
    found = output_of("-m", "bertjax", "plan", *size, *how, *rows)
    assert found["fits"]
    assert found["devices"] == found["mesh"]["data"] == 4
    # Each product runs in both microbatches and all layers, and none twice.
    assert found["computed_flops"] == found["model_flops"]
    # A loop over microbatches around one over layers, forward and backward.
    assert found["cycles"]["loops_counted_once"] == 0
    products = [each for each in found["cycles"]["shares"] if each["kind"] == "matrix products"]
    attention = next(each for each in products if each["part"] == "attention")
    assert attention["operations"] % 4 == 0
    # Two layers, two microbatches: query, key, value, output, and two with the probabilities.
    assert attention["operations"] >= 3 * 6 * 4
    assert found["seconds"]["step"] > 3 * found["seconds"]["ideal"]  # far too small for a TPU
    assert {"all-reduce", "all-gather"} <= {each["kind"] for each in found["collectives"]}
    assert {each["axes"] for each in found["collectives"]} == {"data"}
    # Float32 parameters and two moments of them, over four chips.
    size = 4 * found["model"]["parameters"] / 2**30
    assert found["memory"]["parts_gib"]["parameters"] == pytest.approx(size / 4, rel=0.1)
    assert found["memory"]["parts_gib"]["optimizer moments"] == pytest.approx(size / 2, rel=0.1)


@pytest.mark.slow
def test_gradients_cross_the_network_between_slices_once():
    size = ["--model.size", "tiny", "--batch-size", "64", "--execution.dtype", "bfloat16", "--json"]
    rows = ["--topology", "v5e:2x2", "--max-seq-length", "128", "--vocab-size", "30522"]
    found = output_of("-m", "bertjax", "plan", *size, *rows, "--mesh.slices", "2")
    assert found["mesh"] == {"slices": 2, "data": 4, "fsdp": 1, "tensor": 1}
    crossing = [each for each in found["collectives"] if each["axes"] == "slices"]
    sent = {each["kind"]: each["sent"] for each in crossing}
    # Gradients in float32, and less than an eighth besides; position embeddings are gathered from
    # both slices and added. New parameters would be gathered on top of that.
    gradients = 4 * found["model"]["parameters"]
    assert sent["all-reduce"] < 1.125 * gradients
    assert sum(sent.values()) - sent["all-reduce"] < gradients / 32


def test_the_compiler_gives_products_the_matrix_units_of_the_table():
    rates = output_of("-c", PRODUCTS)
    for name, rate in rates.items():
        # Filling the units and moving the arrays costs up to a fifth.
        assert 0.78 <= rate / CHIPS[name].flops_per_cycle <= 1.0, name
