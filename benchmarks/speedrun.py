"""Trains the rows of experiments/speedrun.py and compares how soon each has classic BERT's loss.

    python benchmarks/speedrun.py --rows classic muon
    python benchmarks/speedrun.py --rows classic muon --seeds 0 --steps 240 --size L-2_H-128
    python benchmarks/speedrun.py --table

Needs BERTJAX_TEST_DATA, of which it reads pretrain/novels.tar.xz. The text, its vocabulary and the
held-out examples are the same for all rows; evaluations mask 15% of the tokens, 80/10/10. `--steps`
shortens the recipe, schedule and warm-up included, and `--size` makes the model smaller. Started
again, it goes on where it was stopped, and finished runs in `--workdir` are read. The losses by
step go to benchmarks/results/speedrun.json. `--table` prints these as the table of
docs/speedrun.md: the row's FLOPs and seconds until its held-out loss is as low as the last of
classic BERT, linearly between evaluations, as shares of classic BERT's. FLOPs are those of the
matrix products of model and optimizer. Seconds leave out evaluations and compilation.
"""

import argparse
import itertools
import json
import os
import runpy
import shlex
import statistics
import tarfile
from pathlib import Path

import jax
import numpy as np
from recorded import keep, machine

import bertjax as bj
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.parsing import parse_recipe
from bertjax.pretrain.phases import describe, open_phases
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.param_groups import in_layer
from bertjax.train.sharding import MeshConfig, make_mesh
from bertjax.train.tree import named

HERE = Path(__file__).resolve()
RESULTS = HERE.with_name("results") / "speedrun.json"
RECIPE = HERE.parents[1] / "experiments" / "speedrun.py"
WHOLE = runpy.run_path(str(RECIPE))
CHANGES, STEPS = WHOLE["CHANGES"], WHOLE["config"].loop.train_steps
SIZE = WHOLE["config"].model.size


def prepare_text(workdir):
    """Extracts the novels, trains their vocabulary and prepares shards, where these are missing."""
    text, tokenizer, shards = (workdir / name for name in ("novels", "tokenizer", "shards"))
    if not (text / "train").exists():
        with tarfile.open(Path(os.environ["BERTJAX_TEST_DATA"]) / "pretrain/novels.tar.xz") as tar:
            tar.extractall(text, filter="data")
    novels = (str(text / "train"),)
    if not tokenizer.exists():
        train_tokenizer(TokenizerConfig(novels, str(tokenizer)), print)
    prepare(
        PrepareConfig(novels, str(tokenizer), str(shards), max_seq_length=64, dupe_factor=1), print
    )
    return shards


def words_of(row, seed, steps, size):
    """Returns the flags of a run, without those that name its directories."""
    words = [*shlex.split(CHANGES[row]), "--seed", str(seed)]
    if size != SIZE:
        words += ["--model.size", size]
    if steps < STEPS:
        every = max(1, steps // 6)
        loop = {"train-steps": steps, "eval-every": every, "save-every": every, "log-every": 10}
        words += [word for name, value in loop.items() for word in (f"--loop.{name}", str(value))]
        words += ["--optimizer.warmup-steps", str(steps // 9)]
        if "--ramp-steps" in words:
            place = words.index("--ramp-steps") + 1
            words[place] = str(int(words[place]) * steps // STEPS)
    return words


def orthogonalization(params):
    """Counts the FLOPs of the products of an update of Muon (five Newton-Schulz steps)."""
    matrices = (leaf.shape for name, leaf in named(params).items() if in_layer(name))
    sizes = (sorted(shape) for shape in matrices if len(shape) == 2)
    return sum(5 * (4 * small**2 * large + 2 * small**3) for small, large in sizes)


def train(row, seed, asked, shards):
    """Returns the held-out losses of a run by step, its FLOPs until then, and its seconds."""
    words = words_of(row, seed, asked.steps, asked.size)
    workdir = asked.workdir / f"{row}-{asked.size}-{asked.steps}-{seed}"
    places = ["--data", str(shards), "--workdir", str(workdir)]
    config = parse_recipe(bj.PretrainConfig, "pretrain", [str(RECIPE), *words, *places])
    result = bj.fit(config)
    if result.stopped:
        raise SystemExit(75)
    extra = 0
    if config.optimizer.name == "muon":
        extra = orthogonalization(bj.from_pretrained(str(result.export)).params)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    parts = describe(open_phases(config), result.model, mesh)
    ends, flops = [0, *(part.end for part in parts)], [part.work.flops + extra for part in parts]
    lines = [each for each in result.history if "tokens_per_second" in each]
    paces = {each["step"]: each["model_flops_per_second"] for each in lines}

    def until(step):
        spans = np.diff(np.clip(ends, 0, step))
        work = float(np.dot(spans, flops))
        model = float(np.dot(spans, [each - extra for each in flops]))
        known = [pace for at, pace in paces.items() if at <= step]
        return work, model / statistics.harmonic_mean(known)

    found = {}
    for record in result.history:
        if record["kind"] == "eval":
            work, seconds = until(record["step"])
            found[record["step"]] = [round(record["mlm_loss"], 4), work, round(seconds, 1)]
    return found


def reached(curve, target):
    """Returns FLOPs and seconds until the loss of a curve is the target's; None if it never is."""
    points = [values for _, values in sorted((int(step), each) for step, each in curve.items())]
    for before, after in itertools.pairwise(points):
        if after[0] <= target:
            share = min(1.0, max(0.0, (before[0] - target) / (before[0] - after[0])))
            return [a + share * (b - a) for a, b in zip(before[1:], after[1:], strict=True)]
    return None


def compared(facts, classic):
    """Returns the cells of a row: the mean of the last losses, both shares, and how many seeds."""
    seeds = sorted(facts["seeds"].keys() & classic["seeds"].keys())
    last, whole = (
        [each["seeds"][seed][max(each["seeds"][seed], key=int)] for seed in seeds]
        for each in (facts, classic)
    )
    losses = [loss for loss, *_ in last]
    spread = f" ± {statistics.stdev(losses) / len(losses) ** 0.5:.3f}" if len(losses) > 1 else ""
    shares = [
        found and [a / b for a, b in zip(found, costs, strict=True)]
        for seed, (target, *costs) in zip(seeds, whole, strict=True)
        for found in [reached(facts["seeds"][seed], target)]
    ]
    means = ["not reached"] * 2
    if all(shares):
        means = [f"{statistics.fmean(each):.2f}" for each in zip(*shares, strict=True)]
    return [f"{statistics.fmean(losses):.3f}{spread}", *means, str(len(seeds))]


def table():
    """Prints the results, a part for each size and number of steps."""
    results = json.loads(RESULTS.read_text()).values()
    for size, steps in sorted({(facts["size"], facts["steps"]) for facts in results}):
        rows = {
            facts["row"]: facts
            for facts in results
            if (facts["size"], facts["steps"]) == (size, steps)
        }
        print(f"\n{size}, {steps:,} of {STEPS:,} steps ({steps / STEPS:.0%} of the recipe)\n")
        print("| row | flags | last held-out loss | FLOPs | seconds | seeds |")
        print("|---|---|---|---|---|---|")
        for row in (row for row in CHANGES if row in rows):
            flags = f"`{CHANGES[row]}`" if CHANGES[row] else "none"
            print(f"| {row} | {flags} | {' | '.join(compared(rows[row], rows['classic']))} |")


def main():
    """Trains the asked rows, seed by seed, and keeps their curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--size", default=SIZE)
    parser.add_argument("--workdir", type=Path, default=Path("build/speedrun"))
    parser.add_argument("--table", action="store_true", help="print the results; train nothing")
    asked = parser.parse_args()
    if asked.table:
        table()
        return
    if "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with pretrain/novels.tar.xz")
    shards = prepare_text(asked.workdir)
    for seed in asked.seeds:
        for row in asked.rows:
            name = f"{row}, {asked.size}, {asked.steps} steps"
            curve = train(row, seed, asked, shards)
            kept = json.loads(RESULTS.read_text()).get(name, {}) if RESULTS.exists() else {}
            words = words_of(row, seed, asked.steps, asked.size)
            facts = {
                "command": shlex.join(["bertjax", "pretrain", "experiments/speedrun.py", *words]),
                **machine("jax"),
                "row": row,
                "size": asked.size,
                "steps": asked.steps,
                "columns": "step: held-out loss, FLOPs, seconds",
                "seeds": {**kept.get("seeds", {}), str(seed): curve},
            }
            keep(RESULTS, name, facts)
            print(name, "seed", seed, curve)


if __name__ == "__main__":
    main()
