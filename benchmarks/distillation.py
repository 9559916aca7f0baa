"""Distills all-MiniLM-L6-v2 fine-tuned on the small SST-2, and trains its students without it too.

    python benchmarks/distillation.py --model all-MiniLM-L6-v2

Needs BERTJAX_TEST_DATA. The teacher is seed 0 of experiments/minilm_sst2.py, of two epochs. The
students are three layers of the teacher by experiments/minilm_distilled.py, and the miniature
L-2_H-128 from scratch, five epochs at a learning rate of 5e-4. Each learns the labels alone, and
both labels and teacher; the miniature learns the teacher alone (weight 1) too. All else is equal.
`--student` trains one of the students, `--rows` on the first rows alone. Finished seeds are kept in
`--workdir`. The accuracies on the dev rows go to benchmarks/results/distillation.json, with the
differences of means and their standard errors.
"""

import argparse
import dataclasses
import math
import os
import runpy
import shlex
import statistics
from pathlib import Path

from recorded import keep, machine

import bertjax as bj

HERE = Path(__file__).resolve()
RESULTS = HERE.with_name("results") / "distillation.json"
ARMS = {
    "labels": {"teacher": None, "teacher_weight": None, "teacher_temperature": None},
    "both": {"teacher_weight": 0.5},
    "teacher": {"teacher_weight": 1.0},
}
STUDENTS = {"three layers": ("labels", "both"), "L-2_H-128": tuple(ARMS)}


def recipe(asked, name, **options):
    """Returns the configuration of an experiment on the asked model and files."""
    config = runpy.run_path(str(HERE.parents[1] / "experiments" / f"{name}.py"))["config"]
    folder = Path(os.environ["BERTJAX_TEST_DATA"]) / "sst2"
    files = {side: str(folder / f"{side}.tsv") for side in ("train", "dev")}
    return dataclasses.replace(config, **{"model": asked.model, **files, **options})


def student(asked, name):
    """Returns the configuration of a student; that of an arm is added."""
    teacher = str(asked.workdir / "teacher")
    config = recipe(asked, "minilm_distilled", model=teacher, teacher=teacher)
    if asked.rows:
        train = asked.workdir / f"train-{asked.rows}.tsv"
        lines = Path(config.train).read_text().splitlines()[: asked.rows]
        train.write_text("".join(f"{line}\n" for line in lines))
        config = dataclasses.replace(config, train=str(train))
    if name == "three layers":
        return config
    return dataclasses.replace(
        config,
        model=name,
        tokenizer=asked.model,
        from_scratch=True,
        keep_head=False,
        layers_to_keep=None,
        epochs=5,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=5e-4),
    )


def train(config):
    """Returns the accuracies of all seeds."""
    result = bj.fit(config)
    if result.stopped:
        raise SystemExit(75)
    return [round(seed.metrics["accuracy"], 4) for seed in result.seeds]


def described(scores):
    """Returns mean and standard error of the accuracies of an arm."""
    return statistics.fmean(scores), statistics.stdev(scores) / math.sqrt(len(scores))


def compare(asked, name, teacher):
    """Trains a student in all ways; keeps and prints the results."""
    config = student(asked, name)
    directory = asked.workdir / f"{name.replace(' ', '-')}-{asked.rows or 'all'}"
    arms = {
        arm: train(dataclasses.replace(config, **ARMS[arm], workdir=str(directory / arm)))
        for arm in STUDENTS[name]
    }
    means = {arm: described(scores) for arm, scores in arms.items()}
    words = ["python", "benchmarks/distillation.py", "--student", name]
    facts = {
        "command": shlex.join(words + (["--rows", str(asked.rows)] if asked.rows else [])),
        **machine("jax"),
        "teacher_accuracy": teacher,
        **arms,
        "mean": {arm: round(mean, 4) for arm, (mean, _) in means.items()},
        "standard_error": {arm: round(error, 4) for arm, (_, error) in means.items()},
        "of_teacher": {arm: round(mean / teacher, 4) for arm, (mean, _) in means.items()},
        "gain": {
            arm: [
                round(means[arm][0] - means["labels"][0], 4),
                round(math.hypot(means[arm][1], means["labels"][1]), 4),
            ]
            for arm in STUDENTS[name][1:]
        },
    }
    keep(asked.output, name, facts)
    print(facts)


def main():
    """Trains the teacher, and then the students."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="directory or name of all-MiniLM-L6-v2")
    parser.add_argument("--student", choices=STUDENTS, help="default: both")
    parser.add_argument("--rows", type=int, help="training rows of the students; default: all")
    parser.add_argument("--workdir", type=Path, default=Path("build/distillation"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with sst2")
    options = {"seeds": (0,), "epochs": 2, "group_by_length": True}
    workdir = str(asked.workdir / "teacher")
    (teacher,) = train(recipe(asked, "minilm_sst2", workdir=workdir, **options))
    for name in [asked.student] if asked.student else STUDENTS:
        compare(asked, name, teacher)


if __name__ == "__main__":
    main()
