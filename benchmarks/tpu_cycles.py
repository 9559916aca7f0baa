"""Cycles, FLOPs and memory of programs on a TPU, as its compiler estimates them.

    pip install '.[tpu]'
    python benchmarks/tpu_cycles.py --length 128 --batch 256
    python benchmarks/tpu_cycles.py --length 512 --batch 64
    python benchmarks/tpu_cycles.py --program seq2seq --length 512 --batch 32
    python benchmarks/tpu_cycles.py --program generation --length 512 --batch 32

Compiles a program for the chips of a topology, on a machine without any (Linux on x86-64), in two
to four minutes: the pre-training step of BERT; the training step of an encoder-decoder of two
BERTs; or the program that writes texts with it by beam search. The compiler annotates every
operation with `estimated_cycles`; the sum is its estimate of the time on one chip. The estimate has
limits: a loop (scan, remat) counts once, overlapping operations are added, and Pallas kernels and
the choice of the best tokens (TopK) have no estimate. It orders programs. For a generation the
script adds the steps of its loops.

Prints one line of JSON and the costliest operations, and adds the JSON to the results.
`flops_ratio` compares the FLOPs of the compiled program with those of the matrix products that
`bertjax.model.flops` counts from the shape. More than a few percent above 1 means that something
is computed twice. `vocabulary_reductions` is the number of arrays of the size of the word
embeddings that the chips add up.
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
import types

import recorded

# libtpu reads these once, when it is loaded. The process computes nothing; it only compiles.
os.environ.update(JAX_PLATFORMS="cpu", TPU_WORKER_HOSTNAMES="localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import numpy as np
from jax.experimental import topologies

from bertjax.config import BertConfig, EncoderDecoderConfig, Execution
from bertjax.finetune.program import Hyperparameters, programs
from bertjax.model.flops import pretraining_flops, training_flops
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.search import stages
from bertjax.objectives.masking import Vocabulary
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.tasks.seq2seq.architectures import encoder_decoder_head
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.train import sharding
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OPTIMIZERS, OptimizerConfig

VOCAB_SIZE = 30522
BFLOAT16 = Execution(dtype="bfloat16")
FLOPS_PER_CYCLE = {"v5e": 4 * 128 * 128 * 2}  # bfloat16; at 1.5 GHz these are 197 TFLOP/s


def pretraining(options, mesh):
    """Returns the lowered step, and the FLOPs of its matrix products."""
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
        execution=BFLOAT16,
        batch_size=options.batch,
    )
    program = build(config, mesh, vocabulary, options.length)
    lowered = program.step.lower(program.abstract_state, program.abstract_batch)
    predictions = config.masking.predictions(options.length)
    row = training_flops(pretraining_flops(program.model, options.length, predictions))
    return lowered, options.batch * row


def encoder_decoder(options, mesh):
    """Returns head, shape, compiled functions and the abstract sources of an encoder-decoder."""
    tokenizer = types.SimpleNamespace(  # the head reads nothing else of it
        vocab_size=VOCAB_SIZE, pad_id=0, cls_id=101, sep_id=102, mask_id=103
    )
    generation = GenerationConfig(max_length=options.target_length, num_beams=options.beams)
    head = encoder_decoder_head(
        Seq2SeqConfig(generation=generation, label_smoothing=0.1), tokenizer
    )
    half = BertConfig.named(options.size, vocab_size=VOCAB_SIZE)
    config = EncoderDecoderConfig(half, half)
    recipe = OptimizerConfig()
    compiled = programs(
        config, BFLOAT16, recipe, 1, head, LoraConfig(), mesh, OPTIMIZERS[recipe.name]
    )
    source = {
        name: abstract(mesh, "int32", options.batch, options.length)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    return head, config, compiled, source


def abstract(mesh, dtype, *shape):
    """Returns an abstract array whose rows lie on all devices."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))


def training(options, mesh):
    """Returns the lowered step of `bertjax finetune --task seq2seq`, and FLOPs as above."""
    head, config, compiled, batch = encoder_decoder(options, mesh)
    for name in ("decoder_input_ids", "labels"):
        batch[name] = abstract(mesh, "int32", options.batch, options.target_length)
    batch["label_weights"] = abstract(mesh, "float32", options.batch, options.target_length)
    numbers = Hyperparameters(np.int32(0), *(np.float32(1),) * 3, base={})
    lowered = compiled.train_step.lower(compiled.abstract_state, batch, numbers)
    row = head.flops(config, head.name, 1, options.length, options.target_length)
    return lowered, options.batch * training_flops(row)


def generation(options, mesh):
    """Returns the lowered program that writes texts, and no FLOPs: it has loops."""
    head, config, compiled, source = encoder_decoder(options, mesh)
    source["draw_seed"] = abstract(mesh, "uint32", options.batch)

    def outputs(params, inputs):
        return head.forward(params, inputs, config, head.name, execution=BFLOAT16)

    jitted = jax.jit(outputs, out_shardings=sharding.replicated(mesh))
    return jitted.lower(compiled.abstract_state.params, source), None


PROGRAMS = {"pretrain": pretraining, "seq2seq": training, "generation": generation}


def computations(text):
    """Returns {name: lines} of a compiled program; the first one is named ENTRY."""
    found, lines = {}, []
    for line in text.splitlines():
        if begin := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line) if line.endswith("{") else None:
            lines = found.setdefault("ENTRY" if begin[1] else begin[2], [])
        lines.append(line)
    return found


def cycles_by_operation(lines):
    """Sums `estimated_cycles` of a computation: {name: (cycles, operations)}."""
    cycles, count = collections.Counter(), collections.Counter()
    for line in lines:
        if estimate := re.search(r'"estimated_cycles":"?(\d+)', line):
            name = re.search(r'op_name="([^"]*)"', line)
            # Layers differ by their numbers only.
            name = re.sub(r"\d+", "N", name[1] if name else "?")[-100:]
            cycles[name] += int(estimate[1])
            count[name] += 1
    return {name: (value, count[name]) for name, value in cycles.most_common()}


def total(operations):
    """Returns the sum of cycles, in millions."""
    return round(sum(cycles for cycles, _ in operations.values()) / 1e6, 2)


def loops(found):
    """Returns the names of (condition, body) of the loops of a program, in their order."""
    pattern = r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)"
    return [match.groups() for line in found["ENTRY"] if (match := re.search(pattern, line))]


def collectives(lines):
    """Returns the kind and the shapes of each operation between chips."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = []
    for line in lines:
        if match := re.search(rf" = (.*?) ({kinds})(-start)?\(", line):
            shapes = re.findall(r"\w+\[[\d,]*\]", match[1])
            found.append(" ".join([match[2], *shapes]))
    return found


def of_loops(options, found, once):
    """Describes the loops of a generation, one for each stage of its search."""
    ends = stages(options.target_length)
    bodies = [total(cycles_by_operation(found[body])) for _, body in loops(found)]
    steps = np.diff([0, *ends]).tolist()
    between = [each for pair in loops(found) for name in pair for each in collectives(found[name])]
    return {
        "steps_of_stages": steps,
        "million_cycles_of_a_step": bodies,
        "million_cycles_of_the_longest_texts": round(once + float(np.dot(steps, bodies)), 1),
        "collectives_in_loops": between,
    }


def describe(options, topology):
    """Compiles a program; returns its facts and the operations outside of loops."""
    mesh = sharding.make_mesh(sharding.MeshConfig(), topology.devices)
    lowered, flops = PROGRAMS[options.program](options, mesh)
    begun = time.perf_counter()
    effort = {"exec_time_optimization_effort": -1.0} if options.fast else None
    compiled = lowered.compile(compiler_options=effort)
    seconds = time.perf_counter() - begun
    found = computations(compiled.as_text())
    operations = cycles_by_operation(found["ENTRY"])
    facts = {
        "device": f"{mesh.size} x {topology.devices[0].device_kind}, ahead of time",
        "million_cycles": total(operations),
        "peak_gib": round(compiled.memory_analysis().peak_memory_in_bytes / 2**30, 3),
        "compile_seconds": round(seconds),
    }
    if options.program == "generation":
        return {**facts, **of_loops(options, found, facts["million_cycles"])}, operations
    flops /= mesh.size
    cost, name = compiled.cost_analysis(), options.topology.split(":")[0]
    ideal = flops / FLOPS_PER_CYCLE.get(name, float("nan")) / 1e6
    facts |= {
        "ideal_million_cycles": round(ideal, 2),
        "cycles_ratio": round(facts["million_cycles"] / ideal, 3),
        "flops_ratio": round(cost["flops"] / flops, 4),
        "bytes_accessed": cost["bytes accessed"],
    }
    if options.program == "seq2seq":
        table = f"[{VOCAB_SIZE},{BertConfig.named(options.size).hidden_size}]"
        every = [each for lines in found.values() for each in collectives(lines)]
        added = [each for each in every if each.startswith(("all-reduce", "reduce-scatter"))]
        facts["vocabulary_reductions"] = sum(each.count(table) for each in added)
    return facts, operations


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", choices=PROGRAMS, default="pretrain")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--size", default="base", help="of the BERT, or of encoder and decoder")
    parser.add_argument("--length", type=int, default=128, help="tokens per row, or per source")
    parser.add_argument("--batch", type=int, default=256, help="rows per step, over all chips")
    parser.add_argument("--target-length", type=int, default=128, help="tokens of a target")
    parser.add_argument("--beams", type=int, default=4, help="beams of a generation")
    parser.add_argument("--no-dropout", action="store_true", help="for pretrain")
    parser.add_argument("--fast", action="store_true", help="compile with the lowest effort")
    parser.add_argument("--top", type=int, default=20, help="number of operations to print")
    results = pathlib.Path(__file__).parent / "results/tpu_cycles.json"
    parser.add_argument("--output", type=pathlib.Path, default=results)
    options = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    facts, operations = describe(options, topology)
    command = shlex.join(["python", "benchmarks/tpu_cycles.py", *sys.argv[1:]])
    facts = {"command": command, **facts}
    print(json.dumps(facts))
    whole = sum(cycles for cycles, _ in operations.values())
    for name, (cycles, count) in list(operations.items())[: options.top]:
        print(f"{cycles / whole:6.1%}  {cycles:>11,}  x{count:<4} {name}")
    dropout = ", no dropout" if options.no_dropout else ""
    name = f"{options.size}, {options.batch} x {options.length}, {options.topology}{dropout}"
    if options.program != "pretrain":
        name = f"{options.program}, {options.target_length} target tokens, {name}"
    machine = recorded.machine("jax", "jaxlib", "libtpu")
    recorded.keep(options.output, name, {**facts, **machine})


if __name__ == "__main__":
    main()
