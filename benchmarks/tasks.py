"""Fine-tunes all-MiniLM-L6-v2 with the same recipe and seeds in bertjax and in PyTorch.

    make parity                                            # makes .venv-parity, which has both
    .venv-parity/bin/python benchmarks/tasks.py --part arc_challenge
    .venv-parity/bin/python benchmarks/tasks.py --part sst2 --rows 1000

Needs BERTJAX_TEST_DATA. The two sides run at the same time, each on half of the cores. A seed has
its own head, dropout and order of rows on each side. The recipe is that of transformers'
run_glue.py and run_swag.py: AdamW, a linear decay without warm-up, no decay of biases and
LayerNorms, gradients clipped to 1. PyTorch pads the rows of a batch to the longest. Both sides
train on the token ids that bertjax makes. `--rows` takes a random part of the training rows.
Finished seeds are kept in `--workdir`. The metrics of each seed on the dev rows go to
benchmarks/results/tasks.json, with the difference of the means and two standard errors of it.
"""

import argparse
import json
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
from recorded import keep, machine

import bertjax as bj

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/parity"))
from finetuning import (  # noqa: E402
    SIDES,
    compare,
    logits_and_labels,
    loss_of,
    minilm,
    run_sides,
    train_seeds,
    train_torch,
)

RESULTS = Path(__file__).with_name("results") / "tasks.json"
ARC = {
    "choice_columns": ("a", "b", "c", "d"),
    "column_names": ("question", "a", "b", "c", "d", "answer"),
    "drop_incomplete": True,
}
OPTIMIZER = bj.OptimizerConfig(
    name="adamw", learning_rate=5e-5, schedule="linear", weight_decay=0.01, clip_norm=1.0
)


def arc(name, asked):
    """Returns the task and the files of ARC easy or challenge; the folder has no training file."""
    folder = asked.data / "multiple_choice"
    files = {"train": f"arc_{name}_dev.csv", "dev": f"arc_{name}_test.csv"}
    paths = {side: str(folder / file) for side, file in files.items()}
    if asked.rows:
        paths["train"] = str(part_of(folder / files["train"], asked.rows, True, asked.workdir))
    return {"task": bj.MultipleChoiceConfig(**ARC), "batch_size": 16, **paths}


def glue(name, asked):
    """Returns the task and the files of a task of GLUE; a tenth is held out without a dev file."""
    from etils import epath

    from bertjax.glue.benchmark import TASKS
    from bertjax.glue.config import GlueConfig
    from bertjax.glue.files import GlueData
    from bertjax.glue.run import finetune_config

    folder = str(asked.data / "glue")
    files = GlueData(folder, epath.Path(asked.workdir), 0.1).find(TASKS[name])
    if asked.rows:
        part = part_of(Path(files.train), asked.rows, bool(files.columns), asked.workdir)
        files = files._replace(train=epath.Path(part))
    config = finetune_config(GlueConfig(folder, ""), files, "", "")
    named = ("task", "train", "dev", "max_seq_length", "best_metric", "batch_size")
    return {each: getattr(config, each) for each in named}


def part_of(file, rows, headless, workdir):
    """Writes a random part of the rows of a file, in their order."""
    lines = [line for line in file.read_text().split("\n") if line.strip("\r")]
    head = [] if headless else [lines.pop(0)]
    chosen = np.sort(np.random.default_rng(0).permutation(len(lines))[:rows])
    part = workdir / f"train{file.suffix}"
    text = "".join(f"{line}\n" for line in [*head, *(lines[at] for at in chosen)])
    if not part.exists() or part.read_text() != text:
        part.write_text(text)
    return part


PARTS = {
    "arc_challenge": (arc, "challenge"),
    "arc_easy": (arc, "easy"),
    "rte": (glue, "RTE"),
    "mrpc": (glue, "MRPC"),
    "wnli": (glue, "WNLI"),
    "cola": (glue, "CoLA"),
    "stsb": (glue, "STS-B"),
    "sst2": (glue, "SST-2"),
}


def make_config(asked):
    """Returns the configuration of a part, and writes its files."""
    of_part, name = PARTS[asked.part]
    return bj.FinetuneConfig(
        model=asked.model,
        workdir=str(asked.workdir / "bertjax"),
        seeds=tuple(range(asked.seeds)),
        epochs=asked.epochs,
        warmup_proportion=0.0,
        optimizer=OPTIMIZER,
        **of_part(name, asked),
    )


def run_bertjax(asked, config):
    """Trains all seeds in bertjax; writes the metrics on dev to bertjax.json."""
    from bertjax.finetune.run import finetune

    result = finetune(config, lambda line: print("bertjax:", line, flush=True))
    scores = {str(seed.seed): seed.metrics[result.metric] for seed in result.seeds}
    (asked.workdir / "bertjax.json").write_text(json.dumps(scores) + "\n")


def run_torch(asked, config):
    """Trains all seeds in PyTorch; writes the metrics on dev to torch.json."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    task = read_task(config)

    def train_seed(seed):
        torch.manual_seed(seed)
        auto = transformers.AutoModelForSequenceClassification
        options = {"num_labels": task.head.outputs}
        if task.head.name == "multiple_choice":
            auto, options = transformers.AutoModelForMultipleChoice, {}
        model = auto.from_pretrained(asked.model, **options)

        def loss(rows):
            return loss_of(*logits_and_labels(model, task.train, rows))

        def score():
            places = np.array_split(np.arange(len(task.dev)), math.ceil(len(task.dev) / 64))
            found = (logits_and_labels(model, task.dev, rows) for rows in places)
            logits, labels = (torch.cat(each).numpy() for each in zip(*found, strict=True))
            return metric_of(task.metric, logits, labels)

        return train_torch(model, loss, score, len(task.train), config, seed)

    train_seeds(asked.workdir, config.seeds, train_seed)


def read_task(config):
    """Returns the tokenized rows and the head of a configuration."""
    from bertjax.finetune.run import load_model, read_task

    return read_task(config, load_model(config), lambda line: None)


def metric_of(name, logits, labels):
    """Returns a metric by scikit-learn or scipy, independent of bertjax's."""
    import scipy.stats
    import sklearn.metrics

    if name in ("pearson", "spearman"):
        return float(getattr(scipy.stats, f"{name}r")(logits[:, 0], labels)[0])
    chosen = logits.argmax(1)
    if name == "mcc":
        return float(sklearn.metrics.matthews_corrcoef(labels, chosen))
    if name == "f1":
        return float(sklearn.metrics.f1_score(labels, chosen))
    return float((chosen == labels).mean())


def main():
    """Runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--side", choices=SIDES, help="runs one side; default: both")
    parser.add_argument("--model", help="directory of all-MiniLM-L6-v2; default: the package's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with multiple_choice and glue")
    asked.data = Path(os.environ["BERTJAX_TEST_DATA"])
    asked.model = asked.model or str(minilm())
    named = [asked.part, *([str(asked.rows)] if asked.rows else [])]
    asked.workdir = asked.workdir or Path("build/tasks") / "-".join(named)
    asked.workdir.mkdir(parents=True, exist_ok=True)
    config = make_config(asked)
    if asked.side:
        return (run_bertjax if asked.side == "bertjax" else run_torch)(asked, config)
    run_sides([__file__, *sys.argv[1:]])
    task = read_task(config)
    facts = {
        "command": shlex.join(["python", "benchmarks/tasks.py", *sys.argv[1:]]),
        **machine("jax", "torch", "transformers"),
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.optimizer.learning_rate,
        "rows": {"train": len(task.train), "dev": len(task.dev)},
        "metric": task.metric,
        **compare(asked.workdir),
    }
    keep(asked.output, asked.part, facts)


if __name__ == "__main__":
    main()
