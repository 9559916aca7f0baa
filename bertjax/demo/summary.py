"""What the demo measured, as numbers.json and as the report's story."""

import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from bertjax.config import BertConfig
from bertjax.files import write_atomically
from bertjax.inference.fill_mask import fill_mask
from bertjax.interop.huggingface import Pretrained

_PACKAGES = (
    "bertjax",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "sentencepiece",
    "scikit-learn",
)


SENTENCES = (
    "Returns the [MASK] of the array.",
    "If the file does not [MASK], an error is raised.",
    "The default [MASK] is None.",
    "A list of [MASK] to use.",
    "This function is not thread [MASK].",
)
"""The blanks that the report shows being filled, better with every step."""


def numbers(
    settings: dict[str, Any], phases: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """What numbers.json holds.

    Args:
        settings: of the demo: minutes, seed, seeds, recipe.
        phases: the result of every phase by its name, as `runs.demo` keeps them.
        seconds: of every phase.

    Returns:
        JSON values. Accuracies are shares of the test rows; a name that ends in _few is of few
        labels, in _deviation of the standard deviation over the seeds (None for TF-IDF, where
        nothing is random). gain is pre-trained minus scratch, gain_error its standard error.
    """
    corpus, metrics = phases["corpus"], phases["pretrain"]["metrics"]
    result: dict[str, Any] = {
        "seconds": round(sum(seconds.values()), 1),
        "minutes_asked_for": settings["minutes"],
        "words": corpus["words"],
        "vocab_size": phases["tokenizer"]["vocab_size"],
        "parameters": phases["pretrain"]["parameters"],
        "steps": phases["pretrain"]["steps"],
        "mlm_loss": metrics["mlm_loss"],
        "mlm_accuracy": metrics["mlm_accuracy"],
        "unigram_entropy": phases["prepare"]["unigram_entropy"],
        "nsp_accuracy": metrics["nsp_accuracy"],
        "majority": phases["prepare"]["majority"],
        "labels": corpus["labels"],
        "labels_all": round(corpus["rows"]["train"] / len(corpus["labels"])),
        "labels_few": round(corpus["rows"]["few"] / len(corpus["labels"])),
        "test_rows": corpus["rows"]["test"],
    }
    for rows, suffix in (("train", ""), ("few", "_few")):
        result |= _comparison(phases, rows, suffix)
    return result | {
        "corpus_sha256": corpus["sha256"],
        "seeds": settings["seeds"],
        "device": device(),
        "versions": versions(),
        "seconds_by_phase": seconds,
        "recipe": settings["recipe"],
    }


def _comparison(phases: dict[str, Any], rows: str, suffix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    errors = []
    for arm in ("pretrained", "scratch"):
        tuned = phases[f"finetune-{arm}-{rows}"]
        scores = tuned["test"]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        result[f"accuracy_{arm}{suffix}"] = statistics.fmean(scores)
        result[f"accuracy_{arm}_deviation{suffix}"] = deviation
        result[f"accuracy_{arm}_by_seed{suffix}"] = scores
        result[f"learning_rate_{arm}{suffix}"] = tuned["learning_rate"]
        errors.append(deviation / math.sqrt(len(scores)))
    result[f"accuracy_tfidf{suffix}"] = phases["tfidf"][rows]["test"]
    result[f"accuracy_tfidf_deviation{suffix}"] = None
    gain = result[f"accuracy_pretrained{suffix}"] - result[f"accuracy_scratch{suffix}"]
    return result | {f"gain{suffix}": gain, f"gain_error{suffix}": math.hypot(*errors)}


def keep_blanks(
    directory: epath.Path, tokenizer: Any, model: BertConfig, step: int, params: Any
) -> None:
    """Keeps what the model puts into the blanks of `SENTENCES` at a step, for the story.

    Args:
        directory: gets a file for the step.
        tokenizer: of the model.
        model: its shape.
        step: of pre-training.
        params: the parameters at that step, with the masked-LM head.
    """
    task = {"kind": "pretraining", "max_seq_length": model.max_position_embeddings}
    answers = fill_mask(Pretrained(model, jax.device_get(params), tokenizer, task), SENTENCES)
    sentences = [
        {
            "text": answer["text"],
            "tokens": [(token["token"].strip(), token["score"]) for token in answer["masks"][0]],
        }
        for answer in answers
    ]
    text = json.dumps({"step": step, "sentences": sentences}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(directory / f"step-{step:08d}.json", text.encode())


def story(
    workdir: epath.PathLike, settings: dict[str, Any], phases: dict[str, Any]
) -> dict[str, Any]:
    """What the report tells besides the numbers: curve, blanks, predictions, method, commands."""
    workdir = epath.Path(workdir)
    lines = (workdir / "pretrain" / "metrics.jsonl").read_text().splitlines()
    fills = [json.loads(path.read_text()) for path in (workdir / "fills").glob("*.json")]
    fills.sort(key=lambda fill: fill["step"])
    for fill in fills:
        share = fill["step"] / phases["pretrain"]["steps"]
        fill["when"] = "before training" if share == 0 else f"step {fill['step']:,} ({share:.0%})"
    return {
        "curve": [json.loads(line) for line in lines],
        "fills": fills,
        "predictions": phases["predict"],
        "method": method(settings, phases),
        "commands": commands(workdir),
    }


def method(settings: dict[str, Any], phases: dict[str, Any]) -> list[str]:
    """How the comparison was made, a paragraph each."""
    corpus, recipe, steps = phases["corpus"], settings["recipe"], phases["pretrain"]["steps"]
    shown = {
        rows: ", ".join(
            f"{name} {phases[f'finetune-{arm}-{rows}']['learning_rate']:g}"
            for name, arm in (("pre-trained", "pretrained"), ("scratch", "scratch"))
        )
        for rows in ("train", "few")
    }
    rates = " and ".join(f"{rate:g}" for rate in recipe["finetune_rates"])
    tokens = steps * recipe["batch_size"] * recipe["max_seq_length"]
    return [
        f"The text: docstrings and help topics of the Python packages installed here, "
        f"{corpus['words']:,} words of {corpus['files']:,} source files. In the "
        "labelled passages every package's name is replaced by “package”. Dev and test passages "
        f"come from {corpus['held_out_files']} other source files, of which neither the vocabulary "
        "nor pre-training has seen a word.",
        f"Pre-training: masked words and next sentences, {steps:,} steps of "
        f"{recipe['batch_size']} x {recipe['max_seq_length']} tokens ({tokens / 1e6:.1f} million), "
        f"model size {recipe['size']} ({phases['pretrain']['parameters']:,} parameters). "
        "The output bias starts at the log frequencies of the tokens, the position embeddings as "
        "sinusoids, attention as an average of what it attends to; the network from scratch starts "
        "from the same values.",
        f"Fine-tuning: the same recipe, steps and batches for both, which differ in the weights "
        f"they start from alone; {recipe['epochs']} epochs with all labels, {recipe['epochs_few']} "
        f"with few. Of the learning rates {rates} the better one on the dev passages is taken for "
        f"each by its own (all labels: {shown['train']}; few: {shown['few']}). The test passages "
        "choose nothing. The deviations are of fine-tuning alone: all seeds start from one "
        "pre-training, and another one may differ by more.",
        "TF-IDF: words and word pairs, sublinear counts, logistic regression, C of "
        f"{', '.join(phases['tfidf']['train']['tried'])} chosen on the dev passages.",
    ]


def commands(workdir: epath.Path) -> list[str]:
    """What to do next, with the paths of this demo."""
    mine = workdir.parent / "mine"
    tokenizer, data = mine / "tokenizer", mine / "data"
    return [
        "# ask the models of this demo",
        f"echo 'Returns the [MASK] of the array.' | bertjax predict {workdir / 'pretrain'}",
        "echo 'Compute the eigenvalues of a symmetric matrix.' | "
        f"bertjax predict {workdir / 'finetune' / 'pretrained-train'}",
        "",
        "# a BERT of your own (text: a sentence a line, a blank line between documents; or JSONL)",
        f"bertjax tokenizer train --input YOUR_TEXT --output {tokenizer}",
        f"bertjax prepare --input YOUR_TEXT --tokenizer {tokenizer} --output {data}",
        f"bertjax pretrain --data {data} --workdir {mine / 'pretrain'}",
        "",
        f"# your labels: a .csv, .tsv or .jsonl file as {workdir / 'corpus' / 'train.jsonl'}",
        f"bertjax finetune --model {mine / 'pretrain'} --train YOUR_TRAIN.csv --dev YOUR_DEV.csv "
        f"--workdir {mine / 'finetune'}",
        f"bertjax predict {mine / 'finetune'} < YOUR_LINES.txt",
    ]


def device() -> str:
    """What computed, in words."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{jax.device_count()} x {first.device_kind}"


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Python's version and those of packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
