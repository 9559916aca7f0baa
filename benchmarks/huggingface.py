"""Compares training and inference with transformers on PyTorch, on this machine, in one process.

    make parity                                            # makes .venv-parity, which has both
    .venv-parity/bin/python benchmarks/huggingface.py --part step

The sides take turns for some rounds. A ratio is the median of the ratios of the rounds, their
seconds over ours: above 1, bertjax is faster. Compilation and the first calls are not timed.
Results go to benchmarks/results/huggingface.json with their commands.

Parts:
    step        a pre-training step with dropout, clipping and the optimizer, 15% masked, against
                transformers with eager attention, with SDPA (its default), and at its best: SDPA,
                the vocabulary head at the masked positions only, all of it by torch.compile. Our
                step masks as well; theirs does not.
    forward     the encoder and the pooler, against SDPA by torch.compile
    finetuning  the small SST-2 on all-MiniLM-L6-v2, from lists of ids to the updated weights, in
                real tokens a second. Their rows are padded to 128 (transformers' run_glue.py), to
                the longest of a batch (its Trainer), and grouped by length. Needs
                BERTJAX_TEST_DATA.
    tagging     the same for the named entities of WNUT17
    choice      the same for the questions of ARC challenge

Both sides use a GPU if both see one. The process keeps freed memory, as the command line's does;
both sides gain from that.
"""

import argparse
import functools
import json
import math
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from finetuning_speed import DEVICE, TASKS, finetuning, torch_step
from pretrain_step import make_step, matmul_rate, products_of
from recorded import keep, machine

import bertjax as bj
from bertjax.model.flops import training_flops
from bertjax.rundir.freed_memory import keep_freed

RESULTS = Path(__file__).with_name("results") / "huggingface.json"
VOCABULARY = 30522


# PyTorch's side ---------------------------------------------------------------------------------


def torch_config(size, attention):
    """Returns a named size as a configuration of transformers."""
    shape = bj.BertConfig.named(size, vocab_size=VOCABULARY).to_dict()
    return transformers.BertConfig(**shape, attn_implementation=attention)


def pretraining_side(asked, batch, *, attention, best=False):
    """Returns a step of BertForPreTraining on one batch."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(torch_config(asked.size, attention)).to(DEVICE).train()
    entropy = torch.nn.functional.cross_entropy

    def gathered(input_ids, positions, labels, next_sentence_label):
        found = model.bert(input_ids)
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        words, pair = model.cls(found.last_hidden_state[rows, positions], found.pooler_output)
        masked = entropy(words.flatten(0, 1).float(), labels.flatten())
        return masked + entropy(pair.float(), next_sentence_label)

    def whole(input_ids, labels, next_sentence_label):
        return model(input_ids, labels=labels, next_sentence_label=next_sentence_label).loss

    positions = torch.tensor(batch["positions"])
    labels = torch.gather(torch.tensor(batch["input_ids"]), 1, positions)
    inputs = {name: torch.tensor(batch[name]) for name in ("input_ids", "next_sentence_label")}
    if best:
        inputs |= {"positions": positions, "labels": labels}
    else:
        everywhere = torch.full(inputs["input_ids"].shape, -100)
        inputs["labels"] = everywhere.scatter(1, positions, labels)
    inputs = {name: array.long().to(DEVICE) for name, array in inputs.items()}
    step = torch_step(model, torch.compile(gathered) if best else whole, asked.dtype)
    return lambda: step(inputs)


def forward_side(asked, input_ids):
    """Returns a call of the encoder and the pooler by torch.compile."""
    torch.manual_seed(0)
    model = transformers.BertModel(torch_config(asked.size, "sdpa")).to(DEVICE).eval()
    model = model.to(getattr(torch, asked.dtype))
    compiled, inputs = torch.compile(model), torch.tensor(input_ids).long().to(DEVICE)

    def run():
        with torch.inference_mode():
            found = compiled(inputs)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return found

    return run


# The parts --------------------------------------------------------------------------------------


def step(asked):
    """Measures pre-training."""
    rng = np.random.default_rng(0)
    predictions = round(0.15 * asked.length)
    shape = (asked.batch_size, asked.length)
    places = rng.permuted(np.tile(np.arange(asked.length), (asked.batch_size, 1)), axis=1)
    batch = {
        "input_ids": rng.integers(1000, VOCABULARY, shape),
        "positions": places[:, :predictions],
        "next_sentence_label": rng.integers(0, 2, asked.batch_size),
    }
    execution = bj.Execution(dtype=asked.dtype)
    program, state, ours = make_step(
        asked.size, VOCABULARY, asked.batch_size, asked.length, execution
    )
    held = {"state": state}

    def run():
        held["state"], metrics = program.step(held["state"], ours)
        return float(metrics["loss"])

    product, operations = matmul_rate(asked.dtype)
    a, b = (
        torch.ones(*shape, dtype=getattr(torch, asked.dtype), device=DEVICE)
        for shape in ((2048, 1024), (1024, 1024))
    )
    sides = {
        "bertjax": run,
        "eager": pretraining_side(asked, batch, attention="eager"),
        "sdpa": pretraining_side(asked, batch, attention="sdpa"),
        "best": pretraining_side(asked, batch, attention="sdpa", best=True),
        "jax_product": lambda: [product() for _ in range(8)][-1].block_until_ready(),
        "torch_product": lambda: [a @ b for _ in range(8)][-1][0, 0].item(),
    }
    seconds = in_turn(asked.rounds, sides)
    products = products_of(program.model, asked.batch_size, asked.length, predictions)
    flops = training_flops(sum(2 * m * k * n * count for m, k, n, count in products))
    shares = {}
    for name in ("jax_product", "torch_product"):
        rate = 8 * operations / statistics.median(seconds[name])
        shares[f"{name}_gflops"] = round(rate / 1e9, 1)
        shares[f"share_of_{name}"] = round(flops / statistics.median(seconds["bertjax"]) / rate, 3)
    return {"size": asked.size, "length": asked.length, **compared(seconds), **shares}


def forward(asked):
    """Measures inference for a batch and for a single row."""
    config = bj.BertConfig.named(asked.size, vocab_size=VOCABULARY)
    execution = bj.Execution(dtype=asked.dtype)
    params = jax.jit(lambda: bj.init_params(config, jax.random.key(0)))()
    if asked.dtype == "bfloat16":  # theirs are too
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    encode = jax.jit(lambda inputs: bj.encode(params, inputs, config, execution=execution)[:2])
    found = {"size": asked.size, "length": asked.length}
    for rows in (asked.batch_size, 1):
        shape = (rows, asked.length)
        ids = np.random.default_rng(0).integers(1000, VOCABULARY, shape).astype(np.int32)
        inputs = {"input_ids": jnp.asarray(ids)}
        sides = {
            "bertjax": lambda inputs=inputs: jax.block_until_ready(encode(inputs)),
            "best": forward_side(asked, ids),
        }
        found[f"{rows}x{asked.length}"] = compared(in_turn(asked.rounds, sides))
    return found


# Measuring --------------------------------------------------------------------------------------


def in_turn(rounds, sides):
    """Returns {name: seconds of each round}; the first two rounds are not timed."""
    seconds = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, run in sides.items():
            started = time.perf_counter()
            last = run()
            if number >= 2:
                seconds[name].append(time.perf_counter() - started)
            elif isinstance(last, float):
                assert math.isfinite(last), name
    return seconds


def compared(seconds):
    """Returns medians, and the ratios of the others to bertjax."""
    others = [name for name in seconds if name != "bertjax" and "product" not in name]
    ratio = {}
    for name in others:
        pairs = zip(seconds[name], seconds["bertjax"], strict=True)
        ratio[f"{name} / bertjax"] = round(statistics.median(a / b for a, b in pairs), 3)
    medians = {name: round(statistics.median(times), 5) for name, times in seconds.items()}
    return {"seconds": medians, "ratio": ratio}


PARTS = {
    "step": step,
    "forward": forward,
    **{name: functools.partial(finetuning, name) for name in TASKS},
}


def main():
    """Measures one part, prints it and adds it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--size", default="base", help="model of step and forward")
    parser.add_argument("--batch-size", type=int, help="default: 16, for finetuning 32")
    parser.add_argument("--length", type=int, default=128, help="row length of step and forward")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="steps of a round of fine-tuning")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    keep_freed()
    asked.batch_size = asked.batch_size or (32 if asked.part == "finetuning" else 16)
    if asked.part in TASKS and "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with sst2, ner and multiple_choice")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    command = shlex.join(["python", "benchmarks/huggingface.py", *sys.argv[1:]])
    facts = {
        "command": command,
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        **machine("jax", "torch", "transformers"),
        "dtype": asked.dtype,
        "batch_size": asked.batch_size,
        **PARTS[asked.part](asked),
    }
    named = [asked.part, asked.dtype, f"jax {jax.__version__}", facts["device"]]
    if asked.part not in TASKS:
        named.insert(1, f"{asked.size} {asked.batch_size} x {asked.length}")
    keep(asked.output, ", ".join(named), facts)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
