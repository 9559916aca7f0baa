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
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.errors import UserError
from bertjax.interop.huggingface import open_pretrained
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.objective import Objective
from bertjax.objectives.table import choose_objective
from bertjax.plan import collectives, hlo, memory, operations
from bertjax.plan.chips import GIB, Topology
from bertjax.plan.config import PlanConfig
from bertjax.plan.roofline import Roofline, traced_flops
from bertjax.pretrain.phases import open_phases
from bertjax.pretrain.program import Program, build
from bertjax.train import sharding

_NEEDED = re.compile(r"([\d.]+)G\)?(?: exceeds available HBM \(| of )([\d.]+)G")


class Rows(NamedTuple):
    """A plan needs these facts about the data."""

    length: int
    vocab_size: int
    segments: str
    padding: float | None = None
    """Mean share of padding in a row; None if the shards are not read."""
    packed: int | None = None
    """Maximum number of examples in a packed row; None: rows hold one example each."""


def read_rows(config: PlanConfig) -> Rows:
    """Returns the rows of a plan, from its flags or else from the shards.

    Raises `UserError` if neither says how long rows are and how large the vocabulary is.
    """
    planned = config.planned
    if config.max_seq_length and config.vocab_size:
        if planned.pack and not config.packed_examples:
            raise UserError("`pack` needs `packed_examples` where the shards are not read.")
        packed = config.packed_examples if planned.pack else None
        return Rows(config.max_seq_length, config.vocab_size, config.segments, packed=packed)
    if not planned.directories[0]:
        raise UserError("No `data`: name shards, or give `max_seq_length` and `vocab_size`.")
    try:
        phase = open_phases(config)[config.phase - 1]
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}, or give `max_seq_length` and `vocab_size`, with which a "
            "plan needs no data."
        ) from None
    manifest = phase.corpora.manifest
    size = manifest.vocab_size
    if config.max_seq_length or config.vocab_size:
        length = config.max_seq_length or manifest.max_seq_length
        return Rows(length, config.vocab_size or size, manifest.segments, packed=phase.packed)
    filled = phase.real_tokens / (planned.batch_size * manifest.max_seq_length)
    return Rows(manifest.max_seq_length, size, manifest.segments, 1 - filled, phase.packed)


def compile_step(config: PlanConfig, rows: Rows) -> dict[str, Any]:
    """Compiles the step and returns the facts of the plan, which JSON can hold.

    A step that does not fit into HBM has `fits` False, and neither cycles nor collectives. The
    process must not have used jax before: it computes nothing, and only compiles.

    Raises:
        UserError: the topology is unknown, or parts of the recipe contradict each other, the mesh
            or the rows.
    """
    topology = config.chips()
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology))
    step = _Step.of(config, rows, mesh)
    begun = time.perf_counter()
    traced = step.program.step.trace(*step.arguments)
    facts = _setting(config, topology, rows, step, traced_flops(traced.jaxpr.jaxpr))
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return facts | _too_large(str(error), config, step, rows)
    facts["compile_seconds"] = round(time.perf_counter() - begun, 1)
    return facts | _compiled(compiled, facts, topology, step)


class _Step(NamedTuple):
    """A step that is not compiled yet."""

    program: Program
    objective: Objective
    mesh: Mesh

    @classmethod
    def of(cls, config: PlanConfig, rows: Rows, mesh: Mesh) -> "_Step":
        planned = config.planned
        special = np.zeros(rows.vocab_size, bool)
        special[:5] = True  # which ids are special changes neither shapes nor time
        vocabulary = Vocabulary(rows.vocab_size, 0, 4, special, ~special)
        objective = choose_objective(
            planned.objective,
            rows.segments,
            planned.objective_options,
            has_teacher=planned.teacher is not None,
        )
        if planned.teacher is not None:
            teacher = open_pretrained(planned.teacher).bert_config("`teacher`")
            objective = objective.taught_by(teacher, planned.model.resolve(rows.vocab_size))
        counts = np.ones(rows.vocab_size, np.int64)
        how = {"objective": objective, "packed": rows.packed}
        program = build(planned, mesh, vocabulary, rows.length, counts, **how)
        return cls(program, objective, mesh)

    @property
    def arguments(self) -> tuple[Any, ...]:
        program = self.program
        return (program.abstract_state, program.abstract_batch, program.abstract_teacher)

    def parameter_shapes(self) -> set[tuple[int, ...]]:
        """Returns the shapes of the parameters, whole and on a chip, without axes of one."""
        state, found = self.program.abstract_state, set()
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 1]
        for leaf in [*jax.tree.leaves(state.params), *moments]:
            for shape in (leaf.shape, leaf.sharding.shard_shape(leaf.shape)):
                kept = tuple(size for size in shape if size > 1)
                found |= {kept, kept[::-1]}
        return found


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


def _setting(
    config: PlanConfig, topology: Topology, rows: Rows, step: _Step, computed: int
) -> dict[str, Any]:
    """Returns what is compiled, and its FLOPs on a device."""
    planned, model, mesh = config.planned, step.program.model, step.mesh
    predictions = planned.masking.predictions(rows.length, rows.packed or 1)
    row = step.objective.training_flops(model, rows.length, predictions)
    params = jax.tree.leaves(step.program.abstract_state.params)
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": mesh.size,
        "device_kind": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "model": {
            "layers": model.num_hidden_layers,
            "hidden_size": model.hidden_size,
            "vocab_size": model.vocab_size,
            "parameters": sum(leaf.size for leaf in params),
        },
        "optimizer": planned.optimizer.name,
        "execution": {
            "dtype": planned.execution.dtype,
            "remat": planned.execution.remat,
            "scan_layers": planned.execution.scan_layers,
        },
        "rows": planned.batch_size,
        "length": rows.length,
        "padding": rows.padding,
        "packed": rows.packed,
        "accumulation": planned.accumulation,
        "steps": _steps(config),
        "model_flops": planned.batch_size * row / mesh.size,
        "computed_flops": computed / mesh.size,
        "versions": {name: _version(name) for name in ("jax", "libtpu")},
    }


def _steps(config: PlanConfig) -> int:
    """Returns the number of steps in the planned phase."""
    steps, after = config.loop.train_steps, config.second.after_steps
    if after is None:
        return steps
    return after if config.phase == 1 else steps - after


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _too_large(error: str, config: PlanConfig, step: _Step, rows: Rows) -> dict[str, Any]:
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
    remat = _Step.of(dataclasses.replace(config, execution=execution), rows, step.mesh)
    traced = remat.program.step.trace(*remat.arguments).jaxpr.jaxpr
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
    compiled: Any, facts: dict[str, Any], topology: Topology, step: _Step
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
