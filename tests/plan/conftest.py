"""A small compiled program, and the facts of a plan."""

from pathlib import Path

import pytest

from bertjax.plan import hlo


@pytest.fixture(scope="session")
def program():
    """Two nested loops of 6 and 2 steps, fusions and all kinds of collectives, on four chips."""
    return hlo.parse((Path(__file__).parent / "program.txt").read_text())


@pytest.fixture(scope="session")
def times(program):
    return hlo.executions(program).times


@pytest.fixture
def facts():
    """What `compile_step` returns for a step that fits, with round numbers."""
    share = {"part": "attention", "kind": "dropout", "cycles": 25_000_000, "operations": 24}
    product = {"part": "feed-forward", "kind": "matrix products", "cycles": 75_000_000}
    gathered = {"kind": "all-gather", "axes": "data", "overlaps": False, "count": 50}
    return {
        "topology": "v5e:2x2",
        "slices": 1,
        "chips": 4,
        "devices": 4,
        "device_kind": "TPU v5 lite",
        "mesh": {"data": 4, "fsdp": 1, "tensor": 1},
        "model": {"layers": 12, "hidden_size": 768, "vocab_size": 30522, "parameters": 110_106_428},
        "optimizer": "lamb",
        "execution": {"dtype": "bfloat16", "remat": "none", "scan_layers": True},
        "rows": 256,
        "length": 128,
        "is_longest": False,
        "padding": 0.25,
        "packed": None,
        "accumulation": 2,
        "steps": 36_000,
        "model_flops": 197e12 / 50,
        "computed_flops": 197e12 / 40,
        "versions": {"jax": "0.10.2", "libtpu": "0.0.42"},
        "compile_seconds": 61.5,
        "fits": True,
        "memory": {
            "peak_gib": 4.0,
            "available_gib": 15.75,
            "parts_gib": {"activations: attention": 3.1, "parameters": 1.0},
            "sum_of_parts_gib": 4.1,
        },
        "clock_ghz": 1.5,
        "seconds": {
            "step": 0.1,
            "operations": 0.09,
            "waiting_for_chips": 0.01,
            "exchange_beside_operations": 0.002,
            "ideal": 0.02,
        },
        "mfu": 0.2,
        "cycles": {
            "total": 100_000_000,
            "by_part": {"feed-forward": 75_000_000, "attention": 25_000_000},
            "by_kind": {"matrix products": 75_000_000, "dropout": 25_000_000},
            "shares": [{**product, "operations": 96}, share],
            "operations": [{"name": "jit(step)/dot", "cycles": 75_000_000, "operations": 96}],
            "memory_bound": 10_000_000,
            "without_estimate": 3,
            "loops_counted_once": 0,
        },
        "hbm_bytes": 8_190_000_000,
        "roofline": {
            "matrix": 0.025,
            "memory": 0.01,
            "exchange": 0.012,
            "step": 0.025,
            "bound": "matrix products",
        },
        "collectives": [{**gathered, "bytes": 400_000_000, "sent": 300_000_000, "dtypes": "f32"}],
    }


@pytest.fixture
def too_large(facts):
    """The facts of the same step where it does not fit."""
    kept = {name: facts[name] for name in list(facts)[: list(facts).index("compile_seconds")]}
    memory = {"needed_gib": 41.0, "available_gib": 16.0, "arguments_gib": 1.0}
    return {**kept, "fits": False, "memory": memory, "full_remat_flops": 1.25 * 197e12 / 40}
