"""Compiles the training step of a recipe for a TPU topology, and describes it as JSON."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax.errors import UserError
from bertjax.plan import collectives, hlo, memory, operations
from bertjax.plan.chips import GIB, Topology
from bertjax.plan.config import GluePlan, PlanConfig, Planned, topology_of
from bertjax.plan.finetuning import finetuning_step, glue_step
from bertjax.plan.roofline import Roofline, traced_flops
from bertjax.plan.steps import Rows, Step, pretraining_step
from bertjax.train import sharding

_NEEDED = re.compile(r"([\d.]+)G\)?(?: exceeds available HBM \(| of )([\d.]+)G")


def compile_step(config: Planned, rows: Rows | None) -> dict[str, Any]:
    """Compiles the step and returns the facts of the plan, which JSON can hold.

    A step that does not fit into HBM has `fits` False, and neither cycles nor collectives. The
    process must not have used jax before: it computes nothing, and only compiles. `rows` are those
    of a pre-training.

    Raises:
        UserError: the topology is unknown, or parts of the recipe contradict each other, the mesh
            or the rows.
    """
    topology = topology_of(config)
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology))
    step = _step_of(config, rows, mesh)
    begun = time.perf_counter()
    traced = step.function.trace(*step.arguments)
    facts = _setting(config, topology, step, traced_flops(traced.jaxpr.jaxpr))
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return facts | _too_large(str(error), config, step, rows)
    facts["compile_seconds"] = round(time.perf_counter() - begun, 1)
    return facts | _compiled(compiled, facts, topology, step)


def _step_of(config: Planned, rows: Rows | None, mesh: Mesh) -> Step:
    if isinstance(config, PlanConfig):
        assert rows is not None
        return pretraining_step(config, rows, mesh)
    return (
        glue_step(config, mesh) if isinstance(config, GluePlan) else finetuning_step(config, mesh)
    )


def require_libtpu() -> None:
    """Raises `UserError` if libtpu is not installed, with the command that installs it."""
    if importlib.util.find_spec("libtpu"):
        return
    system, machine = sys.platform, platform.machine()
    if (system, machine) != ("linux", "x86_64"):
        here = {"darwin": "macOS", "linux": "Linux", "win32": "Windows"}.get(system, system)
        raise UserError(
            f"`bertjax plan` needs libtpu, which exists for Linux on x86-64 alone, and this is "
            f"{here} on {machine}: run the same command on a Linux machine (no TPU is needed), in "
            "Colab, or in a container for linux/amd64."
        )
    raise UserError(
        "`bertjax plan` needs libtpu, which is not installed: pip install 'bertjax[tpu]'."
    )


def topology_devices(topology: Topology) -> list[Any]:
    """Returns the devices of a topology, without any of them."""
    from jax.experimental import topologies

    os.environ.update(TPU_WORKER_HOSTNAMES="localhost")  # libtpu warns without these
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **topology.options()
        ).devices
    except jax.errors.JaxRuntimeError as error:
        told = str(error).splitlines()[0]
        raise UserError(f"`topology` {topology.name}: libtpu has no such slice ({told}).") from None


def _setting(config: Planned, topology: Topology, step: Step, computed: int) -> dict[str, Any]:
    """Returns what is compiled, and its FLOPs on a device."""
    mesh, rows = step.mesh, step.facts["rows"]
    shape = getattr(step.shape, "encoder", step.shape)
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": mesh.size,
        "device_kind": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "model": {
            "layers": shape.num_hidden_layers,
            "hidden_size": shape.hidden_size,
            "vocab_size": shape.vocab_size,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(step.arguments[0].params)),
        },
        "optimizer": config.optimizer.name,
        "execution": {
            "dtype": config.execution.dtype,
            "remat": config.execution.remat,
            "scan_layers": config.execution.scan_layers,
        },
        **step.facts,
        "model_flops": rows * step.row_flops / mesh.size,
        "computed_flops": computed / mesh.size,
        "versions": {name: _version(name) for name in ("jax", "libtpu")},
    }


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _too_large(error: str, config: Planned, step: Step, rows: Rows | None) -> dict[str, Any]:
    """Returns the facts of a step that does not fit, from the error of the compiler."""
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(step.arguments)
    )
    found = _NEEDED.search(error)
    if not found:
        raise UserError(f"The step does not fit: {error.splitlines()[0]}")
    needed, available = float(found[1]), float(found[2])
    if "temporaries" in error:
        needed += held / GIB
    execution = dataclasses.replace(config.execution, remat="full")
    remat = _step_of(dataclasses.replace(config, execution=execution), rows, step.mesh)
    traced = remat.function.trace(*remat.arguments).jaxpr.jaxpr
    return {
        "fits": False,
        "memory": {
            "needed_gib": needed,
            "available_gib": available,
            "arguments_gib": held / GIB,
        },
        "full_remat_flops": traced_flops(traced) / step.mesh.size,
    }


def _compiled(
    compiled: Any, facts: dict[str, Any], topology: Topology, step: Step
) -> dict[str, Any]:
    """Returns the facts of a compiled step."""
    chip, program = topology.chip, hlo.parse(compiled.as_text())
    times, unknown = hlo.executions(program)
    bandwidth = chip.hbm_gb_per_second * 1e9
    cycles = operations.cycles_of(program, times, bandwidth / chip.clock)
    exchanged = collectives.collectives_of(program, times, dict(step.mesh.shape))
    at_peak = memory.at_peak(program)
    peak = compiled.memory_analysis().peak_memory_in_bytes
    links = chip.ici_gb_per_second and chip.ici_gb_per_second * 1e9
    hidden, waiting = collectives.seconds(exchanged, links) if links else (None, None)
    roofline = Roofline(
        facts["computed_flops"] / (chip.tflops * 1e12),
        cycles.hbm_bytes / bandwidth,
        None if hidden is None or waiting is None else hidden + waiting,
    )
    seconds = cycles.total / chip.clock + (waiting or 0.0)
    ideal = facts["model_flops"] / (chip.tflops * 1e12)
    return {
        "fits": True,
        "memory": {
            "peak_gib": peak / GIB,
            "available_gib": chip.hbm_gib,
            "parts_gib": {
                name: size / GIB
                for name, size in memory.parts(at_peak, step.parameter_shapes()).items()
            },
            "sum_of_parts_gib": sum(each.bytes for each in at_peak) / GIB,
        },
        "clock_ghz": chip.clock / 1e9,
        "seconds": {
            "step": seconds,
            "operations": cycles.total / chip.clock,
            "waiting_for_chips": waiting,
            "exchange_beside_operations": hidden,
            "ideal": ideal,
        },
        "mfu": ideal / seconds,
        "cycles": {
            "total": cycles.total,
            "by_part": operations.added(cycles.shares, "part"),
            "by_kind": operations.added(cycles.shares, "kind"),
            "shares": [share._asdict() for share in cycles.shares],
            "operations": [each._asdict() for each in cycles.named[:30]],
            "memory_bound": cycles.memory_bound,
            "without_estimate": cycles.without_estimate,
            "loops_counted_once": len(unknown),
        },
        "hbm_bytes": cycles.hbm_bytes,
        "roofline": {**roofline._asdict(), "step": roofline.seconds, "bound": roofline.bound},
        "collectives": [each._asdict() for each in exchanged],
    }
