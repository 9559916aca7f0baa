"""Measures a pre-training step against the bare matrix products of the same machine.

    make bench ARGS="--size tiny --batch-size 64 --length 128"

The step with attention="plain", the step with attention="auto", and the step's matrix products take
turns in one process. Trust the ratios, not the seconds. The output is one JSON object. CPU seconds
and page faults are those of a step with attention="auto". The process keeps freed memory, as the
command line's does, unless `--return-memory` is given.
"""

import argparse
import functools
import json
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import bertjax as bj
from bertjax.objectives.masking import Vocabulary
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.rundir.freed_memory import keep_freed
from bertjax.train.sharding import MeshConfig, make_mesh


def make_step(size, vocab_size, batch_size, length, execution, **shape):
    """Returns a program, its first state and a batch of random ids."""
    special = np.zeros(vocab_size, bool)
    special[:5] = True
    vocabulary = Vocabulary(vocab_size, 0, 4, special, np.ones(vocab_size, bool))
    config = PretrainConfig(
        data="",
        workdir="",
        model=ModelConfig(size, **shape),
        batch_size=batch_size,
        execution=execution,
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    program = build(config, mesh, vocabulary, length)
    rng = np.random.default_rng(0)
    batch = {
        "input_ids": rng.integers(5, vocab_size, (batch_size, length)).astype(np.int32),
        "attention_mask": np.ones((batch_size, length), np.int32),
        "token_type_ids": np.zeros((batch_size, length), np.int32),
        "next_sentence_label": rng.integers(0, 2, batch_size).astype(np.int32),
    }
    return program, program.init(), jax.device_put(batch)


def products_of(model, batch_size, length, predictions):
    """Returns (m, k, n, count) of the matrix products of a forward pass."""
    rows, wide, below = batch_size * length, model.hidden_size, model.num_hidden_layers - 1
    heads = batch_size * model.num_attention_heads
    read = predictions + 1  # all that the last layer computes, besides keys and values
    return [
        (rows, wide, wide, 4 * below + 2),
        (rows, wide, model.intermediate_size, 2 * below),
        (length, model.head_size, length, 2 * below * heads),
        (batch_size * read, wide, wide, 2),
        (batch_size * read, wide, model.intermediate_size, 2),
        (read, model.head_size, length, 2 * heads),
        (batch_size * predictions, wide, wide, 1),
        (batch_size * predictions, wide, model.vocab_size, 1),
    ]


def matmul_rate(dtype):
    """Returns a function that multiplies two matrices, and its number of operations."""
    a, b = jnp.ones((2048, 1024), dtype), jnp.ones((1024, 1024), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return functools.partial(product, a, b), 2 * 2048 * 1024 * 1024


def main():
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--layers", type=int, help="default: those of the size")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--return-memory", action="store_true", help="let glibc return freed memory"
    )
    asked = parser.parse_args()
    if not asked.return_memory:
        keep_freed()
    predictions = round(0.15 * asked.length)

    shape = {"num_hidden_layers": asked.layers} if asked.layers else {}
    ways = {}
    for attention in ("plain", "auto"):
        execution = bj.Execution(dtype=asked.dtype, attention=attention)
        program, state, batch = make_step(
            asked.size, asked.vocab_size, asked.batch_size, asked.length, execution, **shape
        )
        ways[attention] = [program, state, batch]
    model = ways["auto"][0].model
    product, operations = matmul_rate(asked.dtype)

    seconds = {"plain": [], "auto": [], "product": []}
    cpu_seconds, page_faults = [], []
    for number in range(asked.steps + 2):
        for name, held in ways.items():
            program, state, batch = held
            before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            held[1], metrics = program.step(state, batch)
            metrics["loss"].block_until_ready()
            seconds[name].append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_SELF)
            if name == "auto":
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                cpu_seconds.append(used)
                page_faults.append(after.ru_minflt - before.ru_minflt)
        started = time.perf_counter()
        for _ in range(4):
            last = product()
        last.block_until_ready()
        seconds["product"].append((time.perf_counter() - started) / 4)
        if number < 2:  # compilation and the first use of the memory
            for times in (*seconds.values(), cpu_seconds, page_faults):
                times.clear()

    median = {name: statistics.median(times) for name, times in seconds.items()}
    forward = sum(
        2 * m * k * n * count
        for m, k, n, count in products_of(model, asked.batch_size, asked.length, predictions)
    )
    ideal = 3 * forward / (operations / median["product"])
    tokens = asked.batch_size * asked.length
    print(
        json.dumps(
            {
                **vars(asked),
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
                "seconds_plain": round(median["plain"], 4),
                "seconds_auto": round(median["auto"], 4),
                "auto_over_plain": round(median["auto"] / median["plain"], 3),
                "cpu_seconds_auto": round(statistics.median(cpu_seconds), 4),
                "page_faults_auto": statistics.median(page_faults),
                "tokens_per_second": round(tokens / median["auto"]),
                "matmul_gflops": round(operations / median["product"] / 1e9, 1),
                "matmul_share": round(ideal / median["auto"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
