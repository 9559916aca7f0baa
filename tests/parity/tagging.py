"""Fine-tunes all-MiniLM-L6-v2 on named entities with the same recipe in bertjax and PyTorch.

    python tests/parity/tagging.py wnut17 NER build/tagging
    python tests/parity/tagging.py wikigold NER build/tagging --sentences 500 --seeds 10

NER holds the folders wnut17, wikigold and btc. `--sentences` takes the first sentences of each
file alone. PyTorch's side is transformers' run_ner.py: labels on first pieces, truncated
at 128 tokens, scored by seqeval over the words that have a prediction. Both sides are scored by
bertjax's metric too. What is finished is not run again.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import sys

from finetuning import SIDES, compare, minilm, run_sides, train_seeds, train_torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN_BTC, DEV_BTC = "abeg", "h"


def recipe(seeds: int):
    """The configuration of experiments/minilm_ner.py, with so many seeds."""
    spec = importlib.util.spec_from_file_location(
        "minilm_ner", ROOT / "experiments" / "minilm_ner.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dataclasses.replace(module.config, seeds=tuple(range(seeds)))


def make_files(name: str, data: pathlib.Path, output: pathlib.Path, sentences: int | None):
    """Writes train.conll and dev.conll of a corpus."""
    if name == "wnut17":
        train, dev = (
            (data / "wnut17" / file).read_text()
            for file in ("wnut17train.conll", "emerging.dev.conll")
        )
    elif name == "wikigold":
        text = (data / "wikigold" / "wikigold.conll.txt").read_text()
        documents = text.split("-DOCSTART- O\n")
        at = len(documents) * 4 // 5
        train, dev = "\n".join(documents[:at]), "\n".join(documents[at:])
    else:
        train, dev = (
            "\n".join((data / "btc" / f"{each}.conll").read_text() for each in letters)
            for letters in (TRAIN_BTC, DEV_BTC)
        )
    for part, text in (("train", train), ("dev", dev)):
        blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()][:sentences]
        (output / f"{part}.conll").write_text("\n\n".join(blocks) + "\n")


def run_bertjax(output: pathlib.Path, seeds: int) -> None:
    """Trains all seeds in bertjax; writes F1 on dev to bertjax.json."""
    from bertjax.finetune.run import finetune

    config = dataclasses.replace(
        recipe(seeds),
        model=str(minilm()),
        train=str(output / "train.conll"),
        dev=str(output / "dev.conll"),
        workdir=str(output / "bertjax"),
    )
    result = finetune(config, lambda line: print("bertjax:", line, flush=True))
    scores = {str(seed.seed): seed.metrics["f1"] for seed in result.seeds}
    (output / "bertjax.json").write_text(json.dumps(scores) + "\n")


def run_torch(output: pathlib.Path, seeds: int) -> None:
    """Trains all seeds in PyTorch; writes F1 on dev to torch.json, by seqeval."""
    import torch
    import transformers

    from bertjax.tasks.token_classification.files import read_tagged
    from bertjax.tasks.token_classification.metrics import entity_scores
    from bertjax.tasks.token_classification.reading import find_labels

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = recipe(seeds)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    train_file, dev_file = (
        read_tagged(output / f"{name}.conll", config.task) for name in ("train", "dev")
    )
    labels = find_labels(train_file)
    numbers = {label: number for number, label in enumerate(labels)}

    def batch(file, rows):
        """As `tokenize_and_align_labels` of run_ner.py."""
        encoded = tokenizer(
            [list(file.words[row]) for row in rows],
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=config.row_length(512),  # positions of the model
            return_tensors="pt",
        )
        wanted = torch.full(encoded["input_ids"].shape, -100)
        for at, row in enumerate(rows):
            before = None
            for place, word in enumerate(encoded.word_ids(at)):
                if word is not None and word != before:
                    wanted[at, place] = numbers[file.tags[row][word]]
                before = word
        return dict(encoded), wanted

    def f1(model):
        true, found = [], []
        for begin in range(0, len(dev_file), 64):
            inputs, wanted = batch(dev_file, range(begin, min(begin + 64, len(dev_file))))
            best = model(**inputs).logits.argmax(-1)
            for one, other in zip(wanted, best, strict=True):
                kept = one != -100
                true.append([labels[number] for number in one[kept]])
                found.append([labels[number] for number in other[kept]])
        ours = entity_scores(true, found)["f1"]
        if importlib.util.find_spec("seqeval"):
            from seqeval.metrics import f1_score

            assert f1_score(true, found) == ours
        return ours

    def train(seed):
        torch.manual_seed(seed)
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            minilm(), num_labels=len(labels)
        )

        def loss(rows):
            inputs, wanted = batch(train_file, rows)
            return model(**inputs, labels=wanted).loss

        return train_torch(model, loss, lambda: f1(model), len(train_file), config, seed)

    train_seeds(output, config.seeds, train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=("wnut17", "wikigold", "btc"))
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--sentences", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    part = f"-{options.sentences}" if options.sentences else ""
    output = options.output / f"{options.corpus}{part}"
    output.mkdir(parents=True, exist_ok=True)
    if options.side:
        run = run_bertjax if options.side == "bertjax" else run_torch
        return run(output, options.seeds)
    make_files(options.corpus, options.data, output, options.sentences)
    run_sides([__file__, *sys.argv[1:]])
    sys.exit(0 if compare(output)["agree"] else 1)


if __name__ == "__main__":
    main()
