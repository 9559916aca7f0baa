"""What length buckets save: padding, and seconds of a training step, on prepared shards.

    bertjax prepare --input corpus/*.txt --tokenizer tokenizer --output shards --objective mlm
    python benchmarks/length_buckets.py --data shards --buckets 64 --size mini

Steps with and without buckets are taken in turn, in one process, each with its batches read ahead
as training does it: trust the ratios, not the seconds. Prints one JSON object.
"""

import argparse
import functools
import json
import statistics
import time

import jax

from bertjax.data.mixture import MixedStream, length_buckets, one_bucket
from bertjax.data.stream import ShardReader, read_ahead
from bertjax.runs.pretrain_program import Vocabulary, build
from bertjax.runs.recipes import ModelConfig, PretrainConfig
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import sharding
from bertjax.train.sharding import MeshConfig, make_mesh


class Run:
    """Training on one stream: its program, its state, and the seconds of its steps."""

    def __init__(self, program, stream, mesh):
        self.program, self.stream, self.state = program, stream, program.init()
        batch_at = lambda step: sharding.make_global_batch(  # noqa: E731
            mesh, stream.batch_size, functools.partial(stream.rows, step)
        )
        self.batches = read_ahead(batch_at, iter(range(10**9)))
        self.seconds = {length: [] for length, _ in stream.lengths}
        self.waited = []

    def step(self):
        """One step, and whether it was the first of its length, which compiles."""
        started = time.perf_counter()
        _, batch = next(self.batches)
        waited = time.perf_counter() - started
        length = batch["input_ids"].shape[1]
        started = time.perf_counter()
        self.state, metrics = self.program.step(self.state, batch)
        metrics["loss"].block_until_ready()
        self.seconds[length].append(time.perf_counter() - started)
        self.waited.append(waited)

    def mean_seconds(self):
        """Of a step: the median of each length, by the lengths' shares. The first compiles."""
        return sum(
            share * statistics.median(self.seconds[length][1:])
            for length, share in self.stream.lengths
        )


def padding(stream, lengths):
    """The share of the places in rows that hold no token."""
    real, places = 0, 0
    for bucket in stream.buckets:
        for part in bucket.parts:
            own = lengths if part.examples is None else lengths[part.examples]
            real, places = real + int(own.sum()), places + part.size * bucket.length
    return 1 - real / places


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--buckets", type=int, nargs="+", required=True)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24, help="at least; until each length had 6")
    asked = parser.parse_args()

    reader = ShardReader(asked.data, "train")
    manifest, weights = reader.manifest, (len(reader),)
    started = time.perf_counter()
    lengths = reader.lengths()
    reading = time.perf_counter() - started
    config = PretrainConfig(
        data=asked.data, workdir="", model=ModelConfig(asked.size), batch_size=asked.batch_size
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    vocabulary = Vocabulary.of(load_tokenizer(f"{asked.data}/tokenizer"))
    length = manifest.max_seq_length
    program = build(config, mesh, vocabulary, length, objective=manifest.objective)
    kinds = {
        "without": one_bucket([reader], weights),
        "with": length_buckets([reader], weights, asked.buckets),
    }
    runs = {
        name: Run(program, MixedStream([reader], kind, seed=0, batch_size=asked.batch_size), mesh)
        for name, kind in kinds.items()
    }
    number = 0
    while number < asked.steps or min(map(len, runs["with"].seconds.values())) < 7:
        for run in runs.values():
            run.step()
        number += 1
    seconds = {name: run.mean_seconds() for name, run in runs.items()}
    tokens = float(lengths.mean()) * asked.batch_size
    print(
        json.dumps(
            {
                **vars(asked),
                "max_seq_length": length,
                "objective": manifest.objective,
                "examples": len(reader),
                "device": jax.devices()[0].device_kind,
                "lengths": [(each, round(share, 3)) for each, share in runs["with"].stream.lengths],
                "padding": {
                    name: round(padding(run.stream, lengths), 3) for name, run in runs.items()
                },
                "seconds": {name: round(value, 4) for name, value in seconds.items()},
                "seconds_ratio": round(seconds["with"] / seconds["without"], 3),
                "tokens_per_second": {
                    name: round(tokens / value) for name, value in seconds.items()
                },
                "waited_share": {
                    name: round(sum(run.waited[2:]) / sum(map(sum, run.seconds.values())), 4)
                    for name, run in runs.items()
                },
                "steps": number,
                "us_an_example_to_read_lengths": round(reading / len(reader) * 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
