"""Gathers what the demo measured: numbers.json, and the story that the report tells."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
from typing import Any

import jax
from etils import epath

from bertjax.commands import command
from bertjax.config import BertConfig
from bertjax.files import write_atomically
from bertjax.inference.fill_mask import fill_mask
from bertjax.interop.huggingface import Pretrained
from bertjax.rundir.records import METRICS, read_metrics
from bertjax.train.telemetry.metrics_file import read_records

_PACKAGES = ("bertjax", "jax", "flax", "optax", "numpy", "sentencepiece", "scikit-learn")
SENTENCES = (
    "Returns the [MASK] of the array.",
    "If the file does not [MASK], an error is raised.",
    "The default [MASK] is None.",
    "A list of [MASK] to use.",
    "This function is not thread [MASK].",
)
"""Sentences whose blanks the report shows, filled at several steps of training."""


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of numbers.json from that of demo.json.

    Accuracies are shares of the test rows. Names that end in _few and _fewest belong to fine-tuning
    with fewer labels. Names with _deviation are standard deviations over the seeds, None for
    TF-IDF, where nothing is random. gain is the accuracy of the pre-trained model minus that from
    scratch, gain_error its standard error. embedding_mrr is the mean reciprocal rank of the other
    passage of a file among those of all dev pairs.
    """
    settings, stages = record["settings"], record["stages"]
    corpus = stages["corpus"]
    return {
        "seconds": round(sum(record["seconds"].values()), 1),
        "minutes_asked_for": settings["minutes"],
        "words": corpus["words"],
        "vocab_size": stages["tokenizer"]["vocab_size"],
        "parameters": stages["pretrain"]["parameters"],
        "steps": stages["pretrain"]["steps"],
        **stages["pretrain"]["metrics"],
        "unigram_entropy": stages["prepare"]["unigram_entropy"],
        "majority": stages["prepare"]["majority"],
        "labels": corpus["labels"],
        "labels_all": round(corpus["rows"]["train"] / len(corpus["labels"])),
        "labels_few": round(corpus["rows"]["few"] / len(corpus["labels"])),
        "labels_fewest": round(corpus["rows"]["fewest"] / len(corpus["labels"])),
        "embedding_mrr": stages["embedding"]["metrics"]["mrr"],
        "test_rows": corpus["rows"]["test"],
        **_comparison(stages, "train", ""),
        **_comparison(stages, "few", "_few"),
        **_comparison(stages, "fewest", "_fewest"),
        "corpus_sha256": corpus["sha256"],
        "seeds": settings["seeds"],
        "device": device(),
        "versions": versions(),
        "seconds_by_stage": record["seconds"],
        "hyperparameters": settings["hyperparameters"],
    }


def _comparison(stages: dict[str, Any], rows: str, suffix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    errors = []
    for arm in ("pretrained", "scratch"):
        tuned = stages[f"finetune-{arm}-{rows}"]
        scores = tuned["test"]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        errors.append(deviation / math.sqrt(len(scores)))
        result |= {
            f"accuracy_{arm}": statistics.fmean(scores),
            f"accuracy_{arm}_deviation": deviation,
            f"accuracy_{arm}_by_seed": scores,
        }
    result |= {
        "accuracy_tfidf": stages["tfidf"][rows]["test"],
        "accuracy_tfidf_deviation": None,
        "gain": result["accuracy_pretrained"] - result["accuracy_scratch"],
        "gain_error": math.hypot(*errors),
    }
    return {f"{name}{suffix}": value for name, value in result.items()}


def keep_blanks(
    directory: epath.Path, tokenizer: Any, model: BertConfig, step: int, params: Any
) -> None:
    """Writes the model's words for the blanks of `SENTENCES` at a step to `directory`.

    `params` include the masked-LM head.
    """
    task = {"kind": "pretraining", "max_seq_length": model.max_position_embeddings}
    answers = fill_mask(Pretrained(model, jax.device_get(params), tokenizer, task), SENTENCES)
    sentences = []
    for answer in answers:
        tokens = [(guess["token_str"].strip(), guess["score"]) for guess in answer["masks"][0]]
        sentences.append({"text": answer["text"], "tokens": tokens})
    text = json.dumps({"step": step, "sentences": sentences}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(directory / f"step-{step:08d}.json", text.encode())


def story(workdir: epath.Path, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of story.json: what the report shows besides the numbers."""
    run, stages = workdir / "pretrain", record["stages"]
    fills = [json.loads(path.read_text()) for path in sorted((workdir / "fills").glob("*.json"))]
    for fill in fills:
        share = fill["step"] / stages["pretrain"]["steps"]
        fill["when"] = "before training" if share == 0 else f"step {fill['step']:,} ({share:.0%})"
    return {
        "curve": read_records(run / METRICS),
        "metrics": [metric._asdict() for metric in read_metrics(run).values()],
        "fills": fills,
        "predictions": stages["predict"],
        "method": method(record["settings"], stages),
        "commands": commands(workdir),
    }


def method(settings: dict[str, Any], stages: dict[str, Any]) -> list[str]:
    """Returns paragraphs on how the comparison was made."""
    corpus, hyper = stages["corpus"], settings["hyperparameters"]
    steps = stages["pretrain"]["steps"]
    tokens = steps * hyper["batch_size"] * hyper["max_seq_length"]
    return [
        f"The text: docstrings and help topics of the Python packages installed here, "
        f"{corpus['words']:,} words of {corpus['files']:,} source files. In the "
        "labeled passages every package's name is replaced by “package”. Dev and test passages "
        f"come from {corpus['held_out_files']} other source files; neither the vocabulary nor "
        "pre-training uses a word of them.",
        f"Pre-training: masked words and next sentences, Muon, {steps:,} steps of "
        f"{hyper['batch_size']} x {hyper['max_seq_length']} tokens ({tokens / 1e6:.1f} million), "
        f"model size {hyper['size']} ({stages['pretrain']['parameters']:,} parameters). "
        "The output bias starts at the log frequencies of the tokens, the position embeddings "
        "start as sinusoids, and attention starts as an average of what it attends to. The network "
        "from scratch starts from the same values.",
        f"Passages of one source file: in each step, [CLS] of a passage must be nearer to that of "
        f"another passage of its file than to those of {hyper['embedding_batch_size'] - 1} other "
        f"files (in-batch negatives); {corpus['rows']['pairs']:,} pairs, once each, no labels. On "
        f"held-out files the mean reciprocal rank among {corpus['rows']['dev_pairs']} is "
        f"{stages['embedding']['metrics']['mrr']:.3f}.",
        f"Fine-tuning: both use the same hyperparameters, steps and batches and differ only in the "
        f"weights they start from; {hyper['epochs']} epochs with all labels, {hyper['epochs_few']} "
        f"and {hyper['epochs_fewest']} with fewer; learning rate {hyper['finetune_rate']:g}. The "
        "test passages choose nothing. The deviations measure fine-tuning only: all seeds start "
        "from one pre-training, and another one may differ by more.",
        "TF-IDF: words and word pairs, sublinear counts, logistic regression. C is chosen from "
        f"{', '.join(stages['tfidf']['train']['tried'])} on the dev passages.",
    ]


def commands(workdir: epath.Path) -> list[str]:
    """Returns what to do next, with the paths of this demo."""
    mine = workdir.parent / "mine"
    tokenizer, data, run, task = (
        mine / name for name in ("tokenizer", "data", "pretrain", "finetune")
    )
    labeled = {"train": "YOUR_TRAIN.csv", "dev": "YOUR_DEV.csv"}
    topic = "Compute the eigenvalues of a symmetric matrix."
    return [
        "# ask the models of this demo",
        f"echo '{SENTENCES[0]}' | {command('predict', workdir / 'pretrain')}",
        f"echo '{topic}' | {command('predict', workdir / 'finetune' / 'pretrained-train')}",
        "",
        "# a BERT of your own (text: a sentence a line, a blank line between documents; or JSONL)",
        command("tokenizer train", input="YOUR_TEXT", output=tokenizer),
        command("prepare", input="YOUR_TEXT", tokenizer=tokenizer, output=data),
        command("pretrain", data=data, workdir=run),
        "",
        f"# your labels: a .csv, .tsv or .jsonl file like {workdir / 'corpus' / 'train.jsonl'}",
        command("finetune", model=run, **labeled, workdir=task),
        f"{command('predict', task)} < YOUR_LINES.txt",
    ]


def device() -> str:
    """Names the hardware that JAX computes on."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{jax.device_count()} x {first.device_kind}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of some packages, if they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
