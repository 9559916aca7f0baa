"""Measures what length buckets save on prepared shards: padding, and seconds of a training step.

    bertjax prepare --input corpus/*.txt --tokenizer tokenizer --output shards --segments single
    python benchmarks/length_buckets.py --data shards --buckets 64 --size tiny

Steps without buckets and steps of each bucket take turns in one process, on batches that are read
ahead as in training. Trust the ratios, not the seconds. The time of a step with buckets is the mean
of the median times of its lengths, weighted by the lengths' shares. The output is one JSON object.
"""

import argparse
import functools
import itertools
import json
import statistics
import time

import jax

from bertjax.data.mixture import TrainStream, length_buckets
from bertjax.data.stream import ShardReader, read_ahead
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.table import choose_objective
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.program import build
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import sharding
from bertjax.train.sharding import MeshConfig, make_mesh


def steps_of(stream, bucket, count):
    """Returns the first steps that have rows of this bucket."""
    steps = (step for step in itertools.count() if stream.bucket(step) == bucket)
    return list(itertools.islice(steps, count))


def places_in_rows(stream, lengths):
    """Returns the positions of an epoch's rows, and how many of them hold a token."""
    parts = [(bucket.length, part) for bucket in stream.buckets for part in bucket.sources]
    places = sum(length * part.size for length, part in parts)
    return places, sum(int(lengths[part.examples].sum()) for _, part in parts)


def timed(program, batches, kinds, rounds):
    """Returns {kind: seconds of its steps}, and the seconds of waiting for batches.

    The first step of each kind, which compiles, is left out.
    """
    state, seconds, waited = program.init(), {kind: [] for kind in kinds}, 0.0
    for kind in kinds * (rounds + 1):
        started = time.perf_counter()
        _, batch = next(batches)
        got = time.perf_counter()
        state, metrics = program.step(state, batch)
        metrics["loss"].block_until_ready()
        seconds[kind].append(time.perf_counter() - got)
        waited += got - started if len(seconds[kind]) > 1 else 0.0
    return {kind: times[1:] for kind, times in seconds.items()}, waited


def main():
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--buckets", type=int, nargs="+", required=True)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    asked = parser.parse_args()

    reader = ShardReader(asked.data, "train")
    started = time.perf_counter()
    lengths = reader.lengths()
    reading = time.perf_counter() - started
    config = PretrainConfig(
        data=asked.data, workdir="", model=ModelConfig(asked.size), batch_size=asked.batch_size
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    vocabulary = Vocabulary.of(load_tokenizer(f"{asked.data}/tokenizer"))
    longest = reader.manifest.max_seq_length
    objective = choose_objective(None, reader.manifest.segments)
    program = build(config, mesh, vocabulary, longest, objective=objective)

    order = {"seed": 0, "batch_size": asked.batch_size}
    plain = TrainStream.of(reader, **order)
    mixed = TrainStream([reader], length_buckets([reader], [1], asked.buckets), **order)
    shares = dict(mixed.lengths)
    kinds = ["without", *shares]
    reads = [[functools.partial(plain.rows, step) for step in range(asked.rounds + 1)]]
    for bucket in range(len(shares)):
        steps = steps_of(mixed, bucket, asked.rounds + 1)
        reads.append([functools.partial(mixed.rows, step) for step in steps])
    in_turn = list(itertools.chain(*zip(*reads, strict=True)))
    batches = read_ahead(
        lambda number: sharding.make_global_batch(mesh, asked.batch_size, in_turn[number]),
        range(len(in_turn)),
    )
    seconds, waited = timed(program, batches, kinds, asked.rounds)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    bucketed = sum(share * medians[length] for length, share in shares.items())
    places, tokens = places_in_rows(mixed, lengths)
    print(
        json.dumps(
            {
                **vars(asked),
                "objective": objective.name,
                "max_seq_length": longest,
                "examples": len(reader),
                "device": jax.devices()[0].device_kind,
                "shares": {length: round(share, 3) for length, share in shares.items()},
                "padding_without": round(1 - tokens / (longest * len(reader)), 3),
                "padding_with": round(1 - tokens / places, 3),
                "seconds": {kind: round(median, 4) for kind, median in medians.items()},
                "seconds_with": round(bucketed, 4),
                "with_over_without": round(bucketed / medians["without"], 3),
                "waited_share": round(waited / sum(map(sum, seconds.values())), 4),
                "us_an_example_to_read_lengths": round(reading / len(reader) * 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
