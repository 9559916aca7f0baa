"""Compares encoder-decoders with transformers' EncoderDecoderModel, on this machine's CPU.

    make parity                                            # makes .venv-parity, which has both
    .venv-parity/bin/python benchmarks/seq2seq.py --part step
    .venv-parity/bin/python benchmarks/seq2seq.py --part generation

The sides take turns for some rounds. A ratio is the median of the ratios of the rounds, their time
over ours: above 1, bertjax is faster. Each is given for wall time, and for the CPU time of the
process, which other work on the machine disturbs less. Compilation and the first round are not
timed. Results go to benchmarks/results/seq2seq.json with their commands.

Parts:
    step        training steps with dropout, label smoothing 0.1, clipping and AdamW, on batches of
                at most 4,096 tokens whose lengths are distributed as those of Multi30k, in real
                target tokens a second. Both sides get the same padded arrays. Theirs has eager
                attention or SDPA (its default), and PyTorch's cross-entropy and fused AdamW.
    generation  100 lines of text to texts, with the tokenizers: beam search of 4 beams, and greedy
                search. Theirs has eager attention or SDPA, batches of 32 or of all lines, and lines
                sorted by length, as ours are. Ours has batches of 25, of which four hold all lines,
                and of 32, its default, of which the last one is mostly padding. By default weights
                and lines are random, and every text has 32 tokens. --model and --lines give a
                trained encoder-decoder and its input; then texts end where the model ends them.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from huggingface import torch_step
from recorded import keep, machine

import bertjax as bj
from bertjax.config import EncoderDecoderConfig
from bertjax.interop.huggingface import Pretrained
from bertjax.model.encoder_decoder import EncoderDecoder, init_params
from bertjax.tasks.batches import token_batches
from bertjax.tasks.seq2seq.losses import Seq2SeqLoss, seq2seq_normalizers
from bertjax.train import sharding
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.schedules import make_schedule
from bertjax.train.step import Loss, init_state, jit_train_step, make_train_step

RESULTS = Path(__file__).with_name("results") / "seq2seq.json"
SMALL = {  # fairseq's model for Multi30k, with BERT's activation
    "vocab_size": 10_000,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "relu",
}
SHAPES = {
    "4x128": bj.BertConfig(**SMALL, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.0),
    "mini": bj.BertConfig.named("mini", vocab_size=30_522),  # 4 x 256
    "small": bj.BertConfig.named("small", vocab_size=30_522),  # 4 x 512
}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMOOTHING, LINES = 0.1, 100


# Training ---------------------------------------------------------------------------------------


def training_batches(asked, config):
    """Returns batches of random ids, one of each shape that an epoch has."""
    rng = np.random.default_rng(0)
    # Logarithms of the lengths of Multi30k's de and en, in pieces of a joint BPE of 10,000.
    means, spread = np.array([2.68, 2.66]), np.array([0.32, 0.29])
    both = rng.multivariate_normal(means, spread * spread[:, None] * [[1, 0.86], [0.86, 1]], 29_000)
    lengths = np.clip(np.exp(both).round().astype(int) + np.array([1, 0]), 4, 60)
    found = {}
    for rows, width in token_batches(0, 0, lengths, asked.tokens):
        real = np.maximum(rows, 0)
        mask, weights = (
            (np.arange(size) < lengths[real, at, None]) & (rows >= 0)[:, None]
            for at, size in enumerate(width)
        )
        labels = np.where(weights, rng.integers(5, config.vocab_size, weights.shape), 0)
        starts = np.full((len(rows), 1), 2)
        found[width] = {
            "input_ids": np.where(mask, rng.integers(5, config.vocab_size, mask.shape), 0),
            "attention_mask": mask,
            "decoder_input_ids": np.concatenate([starts, labels[:, :-1]], 1),
            "labels": labels,
            "label_weights": weights,
        }
    kinds = {"label_weights": np.float32}
    return [
        {name: array.astype(kinds.get(name, np.int32)) for name, array in batch.items()}
        for batch in found.values()
    ]


def our_training(config, batches):
    """Returns a function that trains on every batch, as `bertjax finetune` does."""
    whole = EncoderDecoderConfig(config, config)
    recipe = OptimizerConfig(learning_rate=1e-4, warmup_steps=100)
    schedule = make_schedule(recipe, 10_000)
    optimizer = make_optimizer(recipe, schedule)
    loss_fn = Seq2SeqLoss(EncoderDecoder(), SMOOTHING)

    def loss(params, batch, **options):
        return loss_fn(params, batch, whole, **options)

    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    step = make_train_step(Loss(loss, seq2seq_normalizers), optimizer, schedule=schedule)
    state = jax.jit(lambda: init_state(init_params(whole, jax.random.key(0)), optimizer))()
    program = jit_train_step(step, mesh, sharding.state_shardings(mesh, state))
    held = {"state": state}

    def run():
        for batch in batches:
            held["state"], metrics = program(held["state"], batch)
            assert math.isfinite(metrics["loss"])

    return run


def their_training(config, batches, attention):
    """Returns a function that trains an EncoderDecoderModel on every batch."""
    torch.manual_seed(0)
    model = their_model(config, attention).train()
    entropy = torch.nn.functional.cross_entropy

    def loss(labels, **inputs):
        logits = model(**inputs).logits.flatten(0, 1)
        return entropy(logits, labels.flatten(), label_smoothing=SMOOTHING)

    step, given = torch_step(model, loss, "float32"), []
    for batch in batches:
        tensors = {name: torch.tensor(array).long() for name, array in batch.items()}
        real = tensors.pop("label_weights") > 0
        given.append({**tensors, "labels": tensors["labels"].where(real, -100)})

    def run():
        for batch in given:
            assert math.isfinite(step(batch))

    return run


def their_model(config, attention):
    """Returns an EncoderDecoderModel of two BERTs of this shape."""
    parts = [transformers.BertConfig(**config.to_dict()) for _ in range(2)]
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    model = transformers.EncoderDecoderModel(both)
    model.set_attn_implementation(attention)
    return model


def step(asked):
    """Measures training."""
    config = SHAPES[asked.shape]
    batches = training_batches(asked, config)
    sides = {
        "bertjax": our_training(config, batches),
        "eager": their_training(config, batches, "eager"),
        "sdpa": their_training(config, batches, "sdpa"),
    }
    tokens = sum(int(batch["label_weights"].sum()) for batch in batches)
    padded = sum(batch["labels"].size for batch in batches)
    shapes = [(*batch["input_ids"].shape, batch["labels"].shape[1]) for batch in batches]
    facts = {"batches": shapes, "target_tokens": tokens, "real_share": round(tokens / padded, 3)}
    return {**facts, **compared(in_turn(asked.rounds, sides), tokens)}


# Generation -------------------------------------------------------------------------------------


def random_model(directory, config):
    """Writes an encoder-decoder with random weights; returns lines of its vocabulary."""
    words = [f"word{number}" for number in range(config.vocab_size - len(SPECIALS))]
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *words]) + "\n")
    whole = EncoderDecoderConfig(config, config)
    # Large weights, so that the next tokens depend on the source and on those before.
    larger = dataclasses.replace(config, initializer_range=0.08)
    params = init_params(EncoderDecoderConfig(larger, larger), jax.random.key(0))
    tokenizer = bj.load_tokenizer(directory)
    bj.save_pretrained(directory, Pretrained(whole, params, tokenizer, {"kind": "encoder_decoder"}))
    rng = np.random.default_rng(0)
    counts = np.exp(rng.normal(2.68, 0.32, LINES)).round().astype(int)
    return [" ".join(rng.choice(words, count)) for count in counts]


def their_generation(directory, lines, attention, rows, options):
    """Returns a function that writes a text for each line."""
    model = transformers.EncoderDecoderModel.from_pretrained(
        directory, attn_implementation=attention
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    unwritten = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id]
    given = transformers.GenerationConfig(
        **options,
        decoder_start_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=unwritten,
    )

    def run():
        ids = tokenizer(lines)["input_ids"]
        order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
        texts = [""] * len(ids)
        for begin in range(0, len(ids), rows):
            chosen = order[begin : begin + rows]
            batch = tokenizer.pad({"input_ids": [ids[at] for at in chosen]}, return_tensors="pt")
            written = model.generate(
                batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=given
            )
            for at, text in zip(
                chosen, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True
            ):
                texts[at] = text
        return texts

    return run


def generation(asked):
    """Measures beam search and greedy search."""
    with tempfile.TemporaryDirectory(prefix="bertjax-generation-") as room:
        directory, least, most = Path(asked.model or room), 0, asked.max_length
        if asked.model:
            lines = Path(asked.lines).read_text().splitlines()[:LINES]
        else:
            lines, least, most = random_model(directory, SHAPES[asked.shape]), 32, 32
        model, found = bj.from_pretrained(directory), {"lines": len(lines), "max_length": most}
        for beams in (4, 1):
            sides = {}
            for name, rows in (("bertjax", 25), ("bertjax_32", 32)):
                sides[name] = functools.partial(
                    bj.predict,
                    model,
                    lines,
                    batch_size=rows,
                    num_beams=beams,
                    min_length=least,
                    max_length=most,
                )
            options = {"num_beams": beams, "min_new_tokens": least, "max_new_tokens": most}
            for attention, rows in itertools.product(("eager", "sdpa"), (32, LINES)):
                sides[f"{attention}_{rows}"] = their_generation(
                    directory, lines, attention, rows, options
                )
            ours = [answer["text"] for answer in sides["bertjax"]()]
            theirs = sides[f"sdpa_{LINES}"]()
            equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
            found[f"beams_{beams}"] = {
                "equal_texts": equal,
                **compared(in_turn(asked.rounds, sides)),
            }
    return found


# Measuring --------------------------------------------------------------------------------------


def in_turn(rounds, sides):
    """Returns {name: (seconds, CPU seconds) of each round}; the first round is not timed."""
    times = {name: [] for name in sides}
    for number, (name, run) in itertools.product(range(rounds + 1), sides.items()):
        began = time.perf_counter(), time.process_time()
        run()
        if number:
            ended = time.perf_counter(), time.process_time()
            times[name].append(tuple(b - a for a, b in zip(began, ended, strict=True)))
    return times


def compared(times, tokens=None):
    """Returns medians, and the ratios of the others to bertjax."""
    found = {}
    for at, clock in enumerate(("seconds", "cpu_seconds")):
        each = {name: [pair[at] for pair in pairs] for name, pairs in times.items()}
        found[clock] = {name: round(statistics.median(given), 4) for name, given in each.items()}
        ours = each.pop("bertjax")
        found[f"ratio_of_{clock}"] = {
            f"{name} / bertjax": round(
                statistics.median(a / b for a, b in zip(given, ours, strict=True)), 3
            )
            for name, given in each.items()
        }
    if tokens:
        rates = {name: round(tokens / given) for name, given in found["seconds"].items()}
        found["tokens_per_second"] = rates
    return found


PARTS = {"step": step, "generation": generation}


def main():
    """Measures one part, prints it and adds it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="4x128", help="of encoder and decoder")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch, for step")
    parser.add_argument("--model", help="a trained encoder-decoder, for generation")
    parser.add_argument("--lines", help="a file of its input")
    parser.add_argument("--max-length", type=int, default=64, help="of texts of a trained model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if (asked.model is None) != (asked.lines is None):
        parser.error("give --model and --lines together")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    transformers.logging.set_verbosity_error()
    facts = {
        "command": shlex.join(["python", "benchmarks/seq2seq.py", *sys.argv[1:]]),
        "cores": cores,
        **machine("jax", "torch", "transformers"),
        **PARTS[asked.part](asked),
    }
    named = [asked.part, "trained" if asked.model else asked.shape, f"{cores} cores"]
    keep(asked.output, ", ".join(named), facts)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
