"""Measures what length buckets and packing save on prepared shards: padding, and time.

    jq -c '.data[].paragraphs[] | {text: .context}' train-v1.1.json > squad.jsonl
    bertjax prepare --input squad.jsonl --tokenizer bert-base-uncased-vocab.txt --output squad \\
        --max-seq-length 512
    python benchmarks/padding.py --data squad --size small --batch-size 8 --buckets 128 256

Steps of plain rows, of each bucket and of packed rows take turns in one process, on batches that
are read ahead as in training. Trust the ratios, not the seconds, and those of CPU time where other
work shares the machine. `seconds` are medians; those of buckets are the mean of their lengths,
weighted by the lengths' shares. Real tokens are those of the examples, without padding. The output
is one JSON object, which is added to benchmarks/results/padding.json.
"""

import argparse
import functools
import itertools
import json
import pathlib
import shlex
import sys
import time

import jax
import numpy as np
import recorded

from bertjax.data.mixture import TrainStream, length_buckets, packed_bucket
from bertjax.data.packing import pack
from bertjax.data.stream import ShardReader, read_ahead
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.table import choose_objective
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import sharding
from bertjax.train.sharding import MeshConfig, make_mesh

RESULTS = pathlib.Path(__file__).with_name("results") / "padding.json"


def steps_of(stream, bucket, count):
    """Returns the first steps that have rows of this bucket."""
    steps = (step for step in itertools.count() if stream.bucket(step) == bucket)
    return list(itertools.islice(steps, count))


def places_in_rows(stream, lengths):
    """Returns the positions of an epoch's rows, and how many of them hold a token."""
    parts = [(bucket.length, part) for bucket in stream.buckets for part in bucket.sources]
    return sum(length * part.size for length, part in parts), int(lengths.sum())


def timed(program, batches, kinds, rounds):
    """Returns {kind: [[seconds, CPU seconds] of each step]}, and seconds of waiting for batches.

    The first step of each kind, which compiles, is left out.
    """
    state, seconds, waited = program.init(), {kind: [] for kind in kinds}, 0.0
    for kind in kinds * (rounds + 1):
        started = time.perf_counter()
        _, batch = next(batches)
        got, worked = time.perf_counter(), time.process_time()
        state, metrics = program.step(state, batch)
        metrics["loss"].block_until_ready()
        seconds[kind].append([time.perf_counter() - got, time.process_time() - worked])
        waited += got - started if len(seconds[kind]) > 1 else 0.0
    return {kind: times[1:] for kind, times in seconds.items()}, waited


def streams_of(reader, asked):
    """Returns {way: stream}, and the largest number of examples in a packed row."""
    order = {"seed": 0, "batch_size": asked.batch_size}
    packed = pack([reader], 0)
    streams = {
        "plain": TrainStream.of(reader, **order),
        "packed": TrainStream(packed, packed_bucket(packed, [1]), **order),
    }
    if asked.buckets:
        buckets = length_buckets([reader], [1], asked.buckets)
        streams["buckets"] = TrainStream([reader], buckets, **order)
    return streams, packed[0].most


def main():
    """Measures, prints and keeps one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--buckets", type=int, nargs="*", default=[])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    asked = parser.parse_args()

    reader = ShardReader(asked.data, "train")
    started = time.perf_counter()
    lengths = reader.lengths()
    reading = time.perf_counter() - started
    config = PretrainConfig(
        data=str(asked.data), workdir="", model=ModelConfig(asked.size), batch_size=asked.batch_size
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    vocabulary = Vocabulary.of(load_tokenizer(asked.data / "tokenizer"))
    longest = reader.manifest.max_seq_length
    objective = choose_objective(None, reader.manifest.segments)
    # The same function computes rows of all kinds; each kind is compiled once.
    program = build(config, mesh, vocabulary, longest, objective=objective)

    streams, most = streams_of(reader, asked)
    kinds = [(way, number) for way, each in streams.items() for number in range(len(each.buckets))]
    reads = [
        [
            functools.partial(streams[way].rows, step)
            for step in steps_of(streams[way], number, asked.rounds + 1)
        ]
        for way, number in kinds
    ]
    in_turn = list(itertools.chain(*zip(*reads, strict=True)))
    batches = read_ahead(
        lambda number: sharding.make_global_batch(mesh, asked.batch_size, in_turn[number]),
        range(len(in_turn)),
    )
    seconds, waited = timed(program, batches, kinds, asked.rounds)
    facts = {
        "command": shlex.join(["python", "benchmarks/padding.py", *sys.argv[1:]]),
        "objective": objective.name,
        "examples": len(reader),
        "mean_length": round(float(lengths.mean()), 1),
        "examples_in_a_packed_row_at_most": most,
    }
    for way, stream in streams.items():
        medians = [np.median(seconds[way, n], axis=0) for n in range(len(stream.buckets))]
        wall, cpu = np.average(medians, axis=0, weights=[share for _, share in stream.lengths])
        places, tokens = places_in_rows(stream, lengths)
        rows = sum(part.size for bucket in stream.buckets for part in bucket.sources)
        facts[way] = {
            "padding": round(1 - tokens / places, 3),
            "seconds": round(wall, 4),
            "real_tokens_per_second": round(asked.batch_size * tokens / rows / wall, 1),
            "real_tokens_per_cpu_second": round(asked.batch_size * tokens / rows / cpu, 1),
        }
    for way, unit in itertools.product(streams.keys() - {"plain"}, ("second", "cpu_second")):
        own, plain = (facts[each][f"real_tokens_per_{unit}"] for each in (way, "plain"))
        facts[f"{way}_over_plain_a_{unit}"] = round(own / plain, 2)
    total = sum(wall for steps in seconds.values() for wall, _ in steps)
    facts["waited_share"] = round(waited / total, 4)
    facts["us_an_example_to_read_lengths"] = round(reading / len(reader) * 1e6, 2)
    facts |= recorded.machine("jax", "jaxlib", "numpy")
    print(json.dumps(facts))
    name = f"{asked.data.name}, {asked.size}, {asked.batch_size} x {longest}"
    recorded.keep(RESULTS, name, facts)


if __name__ == "__main__":
    main()
