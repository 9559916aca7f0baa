"""Fine-tunes all-MiniLM-L6-v2 with the same recipe and seeds in bertjax and in PyTorch.

    make parity                                            # makes .venv-parity, which has both
    .venv-parity/bin/python benchmarks/tasks.py --part arc_challenge

Needs BERTJAX_TEST_DATA. A seed has its own head, dropout and order of rows on each side. The recipe
is that of transformers' run_glue.py and run_swag.py: AdamW, a linear decay without warm-up, no
decay of biases and LayerNorms, gradients clipped to 1. PyTorch pads the rows of a batch to the
longest. Both sides train on the token ids that bertjax makes. `--side` runs one side, for
environments that have one of them. Finished seeds are kept in `--workdir`. The metrics of each seed
on the dev rows go to benchmarks/results/tasks.json, with the difference of the means and two
standard errors of it.
"""

import argparse
import itertools
import json
import math
import os
import shlex
import statistics
import sys
from pathlib import Path

import numpy as np
from recorded import keep, machine

RESULTS = Path(__file__).with_name("results") / "tasks.json"
ARC = {
    "choice_columns": ("a", "b", "c", "d"),
    "column_names": ("question", "a", "b", "c", "d", "answer"),
    "drop_incomplete": True,
}
RATE = 5e-5


def arc(name):
    """Returns the task and the files of ARC easy or challenge; the folder has no training file."""
    import bertjax as bj

    folder = Path(os.environ["BERTJAX_TEST_DATA"]) / "multiple_choice"
    files = {"train": f"arc_{name}_dev.csv", "dev": f"arc_{name}_test.csv"}
    paths = {side: str(folder / file) for side, file in files.items()}
    return {"task": bj.MultipleChoiceConfig(**ARC), "batch_size": 16, "epochs": 3, **paths}


def glue(name, epochs):
    """Returns the task and the files of a task of GLUE; a tenth is held out without a dev file."""
    from etils import epath

    from bertjax.glue.benchmark import TASKS
    from bertjax.glue.config import GlueConfig
    from bertjax.glue.files import GlueData
    from bertjax.glue.run import finetune_config

    folder = Path(os.environ["BERTJAX_TEST_DATA"]) / "glue"
    files = GlueData(str(folder), epath.Path("build/tasks"), 0.1).find(TASKS[name])
    config = finetune_config(GlueConfig(str(folder), ""), files, "", "")
    named = ("task", "train", "dev", "max_seq_length", "best_metric", "batch_size")
    return {**{each: getattr(config, each) for each in named}, "epochs": epochs}


PARTS = {
    "arc_challenge": lambda: arc("challenge"),
    "arc_easy": lambda: arc("easy"),
    "rte": lambda: glue("RTE", 3),
    "mrpc": lambda: glue("MRPC", 5),
    "wnli": lambda: glue("WNLI", 5),
    "cola": lambda: glue("CoLA", 3),
    "stsb": lambda: glue("STS-B", 3),
    "sst2": lambda: glue("SST-2", 3),
}


# bertjax's side ---------------------------------------------------------------------------------


def run_bertjax(asked):
    """Trains all seeds, and writes the rows for the other side."""
    import bertjax as bj
    from bertjax.finetune.run import finetune, load_model, read_task

    config = bj.FinetuneConfig(
        model=asked.model,
        workdir=str(asked.workdir / "bertjax"),
        seeds=tuple(range(asked.seeds)),
        warmup_proportion=0.0,
        optimizer=bj.OptimizerConfig(
            name="adamw", learning_rate=RATE, schedule="linear", weight_decay=0.01, clip_norm=1.0
        ),
        **PARTS[asked.part](),
    )
    task = read_task(config, load_model(config), print)
    rows = {name: dumped(getattr(task, name)) for name in ("train", "dev")}
    recipe = {"epochs": config.epochs, "batch_size": config.batch_size, "metric": task.metric}
    asked.workdir.mkdir(parents=True, exist_ok=True)
    facts = {**recipe, "head": task.head.name, "outputs": task.head.outputs, **rows}
    (asked.workdir / "rows.json").write_text(json.dumps(facts))
    result = finetune(config, lambda line: print("bertjax:", line, flush=True))
    scores = {str(seed.seed): seed.metrics[result.metric] for seed in result.seeds}
    (asked.workdir / "bertjax.json").write_text(json.dumps(scores))


def dumped(features):
    """Returns the rows of a file as lists: each has one sequence or one for each choice."""
    texts = getattr(features, "sequences", features)
    starts = getattr(features, "starts", np.arange(len(texts) + 1))
    labels = features.answers if texts is not features else features.labels
    spans = list(itertools.pairwise(starts))
    each = {"input_ids": texts.input_ids, "token_type_ids": texts.token_type_ids}
    return {
        **{k: [[ids.tolist() for ids in v[a:b]] for a, b in spans] for k, v in each.items()},
        "labels": labels.tolist(),
    }


# PyTorch's side ---------------------------------------------------------------------------------


def run_torch(asked):
    """Trains all seeds on the rows that the other side wrote."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts = json.loads((asked.workdir / "rows.json").read_text())
    chooses, size = facts["head"] == "multiple_choice", facts["batch_size"]
    regresses = facts["head"] == "regression"
    train, dev = facts["train"], facts["dev"]

    def batch(rows, chosen):
        """Pads to the longest sequence and the most choices; [B * C, T] and the mask [B, C]."""
        most = max(len(rows["input_ids"][at]) for at in chosen)
        width = max(len(ids) for at in chosen for ids in rows["input_ids"][at])
        arrays = {name: np.zeros((len(chosen), most, width), np.int64) for name in train}
        del arrays["labels"]
        arrays["attention_mask"] = np.zeros((len(chosen), most, width), np.int64)
        mask = np.zeros((len(chosen), most), bool)
        for row, at in enumerate(chosen):
            for place, ids in enumerate(rows["input_ids"][at]):
                arrays["input_ids"][row, place, : len(ids)] = ids
                types = rows["token_type_ids"][at][place]
                arrays["token_type_ids"][row, place, : len(ids)] = types
                arrays["attention_mask"][row, place, : len(ids)] = 1
                mask[row, place] = True
        arrays["attention_mask"][~mask, 0] = 1
        inputs = {k: torch.tensor(v).flatten(0, 1) for k, v in arrays.items()}
        labels = torch.tensor([rows["labels"][at] for at in chosen])
        return inputs, torch.tensor(mask), labels

    def logits_of(model, inputs, mask):
        if not chooses:
            return model(**inputs).logits
        # BertForMultipleChoice takes [B, C, T]; its classifier has one output.
        shaped = {k: v.view(*mask.shape, -1) for k, v in inputs.items()}
        return model(**shaped).logits.masked_fill(~mask, -1e9)

    def train_seed(seed):
        torch.manual_seed(seed)
        auto = transformers.AutoModelForSequenceClassification
        options = {"num_labels": facts["outputs"]}
        if chooses:
            auto, options = transformers.AutoModelForMultipleChoice, {}
        model = auto.from_pretrained(asked.model, **options).train()
        named = dict(model.named_parameters())
        plain = {n for n in named if n.endswith("bias") or "LayerNorm" in n}
        groups = [
            {"params": [named[n] for n in named if n not in plain]},
            {"params": [named[n] for n in plain], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-8, weight_decay=0.01)
        count = len(train["labels"])
        steps = facts["epochs"] * math.ceil(count / size)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, steps)
        order = torch.Generator().manual_seed(seed)
        for _ in range(facts["epochs"]):
            permuted = torch.randperm(count, generator=order).tolist()
            for at in range(0, count, size):
                inputs, mask, labels = batch(train, permuted[at : at + size])
                logits = logits_of(model, inputs, mask)
                if regresses:
                    loss = torch.nn.functional.mse_loss(logits[:, 0], labels.float())
                else:
                    loss = torch.nn.functional.cross_entropy(logits, labels)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        model.eval()
        outputs = []
        with torch.no_grad():
            for at in range(0, len(dev["labels"]), 64):
                inputs, mask, _ = batch(dev, range(at, min(at + 64, len(dev["labels"]))))
                outputs.append(logits_of(model, inputs, mask).numpy())
        most = max(each.shape[1] for each in outputs)
        padded = [
            np.pad(each, [(0, 0), (0, most - each.shape[1])], constant_values=-1e9)
            for each in outputs
        ]
        return metric_of(facts["metric"], np.concatenate(padded), np.array(dev["labels"]))

    file = asked.workdir / "torch.json"
    scores = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(asked.seeds):
        if str(seed) not in scores:
            scores[str(seed)] = train_seed(seed)
            print(f"torch: seed {seed}: {facts['metric']} {scores[str(seed)]:.4f}", flush=True)
            file.write_text(json.dumps(scores))


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


# Both sides -------------------------------------------------------------------------------------


def compare(asked):
    """Keeps and prints the scores of both sides."""
    scores = {
        side: list(json.loads((asked.workdir / f"{side}.json").read_text()).values())
        for side in ("bertjax", "torch")
    }
    means = {side: statistics.fmean(values) for side, values in scores.items()}
    error = math.hypot(*(statistics.stdev(v) / math.sqrt(len(v)) for v in scores.values()))
    recipe = json.loads((asked.workdir / "rows.json").read_text())
    facts = {
        "command": shlex.join(["python", "benchmarks/tasks.py", "--part", asked.part]),
        **machine(),
        **{name: recipe[name] for name in ("epochs", "batch_size", "metric")},
        "learning_rate": RATE,
        "rows": {name: len(recipe[name]["labels"]) for name in ("train", "dev")},
        **{side: [round(value, 4) for value in values] for side, values in scores.items()},
        "means": {side: round(mean, 4) for side, mean in means.items()},
        "difference": round(means["bertjax"] - means["torch"], 4),
        "two_standard_errors": round(2 * error, 4),
    }
    keep(asked.output, asked.part, facts)
    print(json.dumps(facts))


def main():
    """Runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--side", choices=["bertjax", "torch", "neither"], help="default: both")
    parser.add_argument("--model", help="directory of all-MiniLM-L6-v2; default: the package's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with multiple_choice and glue")
    if asked.model is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/parity"))
        from finetuning import minilm

        asked.model = str(minilm())
    asked.workdir = asked.workdir or Path("build/tasks") / asked.part
    if asked.side in (None, "bertjax"):
        run_bertjax(asked)
    if asked.side in (None, "torch"):
        run_torch(asked)
    if asked.side in (None, "neither"):
        compare(asked)


if __name__ == "__main__":
    main()
