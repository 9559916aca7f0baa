"""Cycles, FLOPs and memory of programs on a TPU, as its compiler estimates them.

    pip install '.[tpu]'
    python benchmarks/tpu_cycles.py --length 128 --batch 256
    python benchmarks/tpu_cycles.py --length 512 --batch 64
    python benchmarks/tpu_cycles.py --length 512 --batch 64 --pack 8
    python benchmarks/tpu_cycles.py --program seq2seq --length 512 --batch 32
    python benchmarks/tpu_cycles.py --program generation --length 512 --batch 32
    python benchmarks/tpu_cycles.py --program layer --length 512 --batch 16 --topology v5e:1x1
    python benchmarks/tpu_cycles.py --program products --length 128 --batch 64 --topology v6e:1x1

Compiles a program for the chips of a topology, on a machine without any (Linux on x86-64), in two
to four minutes: the pre-training step of BERT; the training step of an encoder-decoder of two
BERTs; the program that writes texts with it by beam search; one layer of BERT, forward and
backward; or the matrix products of such a layer alone, which read and write HBM. The compiler
annotates every operation with `estimated_cycles`; the sum is its estimate of the time on one chip.
The estimate has limits: overlapping operations are added, what chips exchange counts nothing, and
Pallas kernels and the choice of the best tokens (TopK) have no estimate. It orders programs.
Operations in loops count as often as they run; for a generation the script adds the steps of its
loops itself.

Prints one line of JSON and the costliest operations, and adds the JSON to the results.
`flops_ratio` compares the FLOPs of the compiled program with those of the matrix products that
`bertjax.model.flops` counts from the shape. More than a few percent above 1 means that something
is computed twice; it is left out with `--accumulation`. `vocabulary_reductions` is the number of
arrays of the size of the word embeddings that the chips add up.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
import time
import types

import jax
import numpy as np
import recorded

from bertjax.config import BertConfig, EncoderDecoderConfig, Execution
from bertjax.finetune.program import Hyperparameters, programs
from bertjax.model.encoder import Encoder
from bertjax.model.flops import encoder_flops, pretraining_flops, training_flops
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.search import stages
from bertjax.objectives.masking import Vocabulary
from bertjax.plan import collectives, hlo, memory, operations
from bertjax.plan.chips import parse_topology
from bertjax.plan.compile import topology_devices
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.tasks.seq2seq.architectures import encoder_decoder_head
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.train import sharding
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OPTIMIZERS, OptimizerConfig
from bertjax.train.step import step_key

VOCAB_SIZE = 30522
BFLOAT16 = Execution(dtype="bfloat16")


def pretraining(options, mesh):
    """Returns the lowered step, and the FLOPs of its matrix products."""
    special = np.zeros(VOCAB_SIZE, bool)
    special[[0, 101, 102, 103]] = True
    vocabulary = Vocabulary(VOCAB_SIZE, 0, 103, special, ~special)
    model = dataclasses.replace(ModelConfig(options.size), **dropout_rates(options))
    config = PretrainConfig(
        data="not read",
        workdir="not written",
        model=model,
        execution=BFLOAT16,
        batch_size=options.batch,
        accumulation=options.accumulation,
        optimizer=OptimizerConfig(options.optimizer),
    )
    program = build(config, mesh, vocabulary, options.length, packed=options.pack)
    lowered = program.step.lower(program.abstract_state, program.abstract_batch)
    predictions = config.masking.predictions(options.length, options.pack or 1)
    row = training_flops(pretraining_flops(program.model, options.length, predictions))
    return lowered, options.batch * row


def dropout_rates(options):
    """Returns the fields of a model that `--no-dropout` sets."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return dict.fromkeys(names, 0.0) if options.no_dropout else {}


def layer(options, mesh):
    """Returns the lowered gradients of a layer's parameters and input, and FLOPs as above."""
    fields = {"vocab_size": VOCAB_SIZE, "num_hidden_layers": 1, "hidden_act": options.act}
    config = BertConfig.named(options.size, **fields, **dropout_rates(options))
    encoder, shape = Encoder(config, BFLOAT16), (options.batch, options.length, config.hidden_size)
    x, mask = abstract(mesh, "bfloat16", *shape), abstract(mesh, "int32", *shape[:2])
    params = jax.eval_shape(encoder.init, jax.random.key(0), x)
    params = sharding.placed(params, sharding.param_shardings(mesh, params))

    def loss(params, x, mask, gradient, step):
        keys = jax.random.split(step_key(0, step), options.batch)
        out = encoder.apply(params, x, mask=(mask > 0)[:, None, None], keys=keys)[0]
        return (out.astype(np.float32) * gradient).sum()

    lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x, mask, x, np.int32(0))
    return lowered, options.batch * training_flops(encoder_flops(config, options.length))


def products(options, mesh):
    """Returns the lowered matrix products of a layer and its gradients, alone; and their FLOPs."""
    config = BertConfig.named(options.size, vocab_size=VOCAB_SIZE, num_hidden_layers=1)
    rows, width, inner = (
        options.batch * options.length,
        config.hidden_size,
        config.intermediate_size,
    )
    sizes = [*[(width, width)] * 4, (width, inner), (inner, width)]
    shapes = [
        pair
        for k, n in sizes
        for pair in (((rows, k), (k, n)), ((rows, n), (n, k)), ((k, rows), (rows, n)))
    ]
    heads = (options.batch * config.num_attention_heads, options.length)
    square, long = (*heads, options.length), (*heads, config.head_size)
    wide = (heads[0], config.head_size, options.length)
    shapes += [(long, wide), *[(square, long)] * 4, (long, wide)]
    operands = [tuple(abstract(mesh, "bfloat16", *each) for each in pair) for pair in shapes]

    def multiplied(operands):
        return [a @ b for a, b in operands]

    lowered = jax.jit(multiplied).lower(operands)
    return lowered, options.batch * training_flops(encoder_flops(config, options.length))


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

    params = compiled.abstract_state.params
    params = sharding.placed(params, sharding.param_shardings(mesh, params))
    jitted = jax.jit(outputs, out_shardings=sharding.replicated(mesh))
    return jitted.lower(params, source), None


PROGRAMS = {
    "pretrain": pretraining,
    "seq2seq": training,
    "generation": generation,
    "layer": layer,
    "products": products,
}


def millions(program, times):
    """Returns the compiler's estimate for computations that run so often, in millions of cycles."""
    return round(operations.cycles_of(program, times).total / 1e6, 2)


def exchanged(program, computation):
    """Returns the kind and the shapes of each operation between chips."""
    found = []
    for operation, kind, _ in collectives.beginning_in(program, computation):
        shapes = [f"{each.dtype}[{','.join(map(str, each.shape))}]" for each in operation.arrays]
        found.append(" ".join([kind, *shapes]))
    return found


def of_loops(options, program, once):
    """Describes the loops of a generation, one for each stage of its search."""
    loops = [hlo.loop_of(each) for each in program[hlo.ENTRY] if each.opcode == "while"]
    bodies = [millions(program, {body: 1}) for _, body in loops]
    steps = np.diff([0, *stages(options.target_length)]).tolist()
    return {
        "steps_of_stages": steps,
        "million_cycles_of_a_step": bodies,
        "million_cycles_of_the_longest_texts": round(once + float(np.dot(steps, bodies)), 1),
        "collectives_in_loops": [
            each for pair in loops for name in pair for each in exchanged(program, name)
        ],
    }


def describe(options, topology):
    """Compiles a program; returns its facts and its operations, the costliest first."""
    devices = topology_devices(topology)
    mesh = sharding.make_mesh(sharding.MeshConfig(), devices)
    lowered, flops = PROGRAMS[options.program](options, mesh)
    begun = time.perf_counter()
    effort = {"optimization_level": 9} if options.fast else None  # EFFORT_O0
    compiled = lowered.compile(compiler_options=effort)
    seconds = time.perf_counter() - begun
    program = hlo.parse(compiled.as_text())
    times = {hlo.ENTRY: 1} if options.program == "generation" else hlo.executions(program).times
    named = operations.cycles_of(program, times).named
    facts = {
        "device": f"{mesh.size} x {devices[0].device_kind}, ahead of time",
        "million_cycles": millions(program, times),
        "peak_gib": round(compiled.memory_analysis().peak_memory_in_bytes / 2**30, 3),
        "arrays_at_peak_gib": round(sum(a.bytes for a in memory.at_peak(program)) / 2**30, 3),
        "compile_seconds": round(seconds),
    }
    if options.program == "generation":
        return {**facts, **of_loops(options, program, facts["million_cycles"])}, named
    flops /= mesh.size
    cost = compiled.cost_analysis()
    ideal = flops / topology.chip.flops_per_cycle / 1e6
    facts |= {
        "ideal_million_cycles": round(ideal, 2),
        "cycles_ratio": round(facts["million_cycles"] / ideal, 3),
    }
    if options.accumulation == 1:  # the analysis counts what a loop does once
        facts |= {
            "flops_ratio": round(cost["flops"] / flops, 4),
            "bytes_accessed": cost["bytes accessed"],
        }
    if options.program == "seq2seq":
        table = f"[{VOCAB_SIZE},{BertConfig.named(options.size).hidden_size}]"
        every = [each for name in times for each in exchanged(program, name)]
        added = [each for each in every if each.startswith(("all-reduce", "reduce-scatter"))]
        facts["vocabulary_reductions"] = sum(each.count(table) for each in added)
    return facts, named


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
    parser.add_argument("--pack", type=int, help="for pretrain: examples in a packed row at most")
    parser.add_argument("--accumulation", type=int, default=1, help="for pretrain")
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adamw_google", help="for pretrain"
    )
    parser.add_argument("--act", default="gelu", help="activation, for layer")
    parser.add_argument("--no-dropout", action="store_true", help="for pretrain and layer")
    parser.add_argument("--fast", action="store_true", help="compile with the lowest effort")
    parser.add_argument("--top", type=int, default=20, help="number of operations to print")
    results = pathlib.Path(__file__).parent / "results/tpu_cycles.json"
    parser.add_argument("--output", type=pathlib.Path, default=results)
    options = parser.parse_args()
    facts, named = describe(options, parse_topology(options.topology))
    command = shlex.join(["python", "benchmarks/tpu_cycles.py", *sys.argv[1:]])
    facts = {"command": command, **facts}
    print(json.dumps(facts))
    whole = sum(each.cycles for each in named)
    for each in named[: options.top]:
        share = each.cycles / whole
        print(f"{share:6.1%}  {each.cycles:>11,}  x{each.operations:<4} {each.name[-100:]}")
    more = f", packed {options.pack}" if options.pack else ""
    more += f", {options.optimizer}" if options.optimizer != "adamw_google" else ""
    more += f", accumulation {options.accumulation}" if options.accumulation > 1 else ""
    more += f", {options.act}" if options.act != "gelu" else ""
    more += ", no dropout" if options.no_dropout else ""
    name = f"{options.size}, {options.batch} x {options.length}, {options.topology}{more}"
    if options.program in ("seq2seq", "generation"):
        name = f"{options.target_length} target tokens, {name}"
    if options.program != "pretrain":
        name = f"{options.program}, {name}"
    machine = recorded.machine("jax", "jaxlib", "libtpu")
    recorded.keep(options.output, name, {**facts, **machine})


if __name__ == "__main__":
    main()
