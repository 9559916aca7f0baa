"""Reads the model of a run from its checkpoints, whether or not the run has ended."""

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from bertjax.config import BertConfig, EncoderDecoderConfig, read_json_object
from bertjax.errors import UserError
from bertjax.files import damaged, write_atomically
from bertjax.interop.encoder_decoder import DECODER_TOKENIZER
from bertjax.interop.tensors import weights_hash
from bertjax.interop.weights import find_weights
from bertjax.model.heads import kind_of_parts
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train import lora
from bertjax.train.checkpoint.fingerprint import Damaged, seal, unseal
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import Restored

if TYPE_CHECKING:
    from bertjax.objectives.objective import Objective

KIND, FINETUNING = "pre-training", "fine-tuning"
"""The kinds of runs in their config.json."""
CHECKPOINTS, TOKENIZER = "checkpoints", "tokenizer"
_CONFIG, _RESULT, _TASK = "config.json", "result.json", "task.json"
# Where the checkpoints of a run are; fine-tuning has a directory for each setting and seed.
_PLACES = {
    KIND: (CHECKPOINTS,),
    FINETUNING: (f"seed-*/{CHECKPOINTS}", f"*/seed-*/{CHECKPOINTS}"),
}


class RunCheckpoint(NamedTuple):
    """The model in a checkpoint of a run."""

    config: BertConfig | EncoderDecoderConfig
    params: dict[str, Any]
    """All parameters that the run trains, or their moving averages, on the base of adapters."""
    tokenizer: Tokenizer
    decoder_tokenizer: Tokenizer | None
    task: dict[str, Any]
    """The record of an export."""
    objective: "Objective | None"
    """The objective of pre-training, with default options; None for fine-tuning."""
    meta: dict[str, Any]
    """The record that was saved with the checkpoint."""
    place: str
    """The step and, for fine-tuning, the seed, in words."""


def is_pretraining_run(path: epath.Path) -> bool:
    """Whether a directory is a pre-training run with a checkpoint."""
    return bool(_directories(path, KIND)) and _newest_step(path) is not None


def is_unfinished(path: epath.Path) -> bool:
    """Whether a directory is a run with a checkpoint that no export/ is as new as."""
    if (newest := _newest_step(path)) is None:
        return False
    if find_weights(path / "export") is None:
        return True
    result = path / _RESULT
    exported = read_json_object(result).get("steps") if result.is_file() else None
    return isinstance(exported, int) and newest > exported


def _directories(path: epath.Path, kind: str | None = None) -> list[epath.Path]:
    """Returns the directories of checkpoints of a run (of a kind); none for other directories."""
    for each in _PLACES if kind is None else (kind,):
        found = [directory for place in _PLACES[each] for directory in sorted(path.glob(place))]
        config = path / _CONFIG
        if found and config.is_file() and read_json_object(config).get("kind") == each:
            return found
    return []


def _newest_step(path: epath.Path) -> int | None:
    names = (step.name for each in _directories(path) for step in each.iterdir())
    return max((int(name) for name in names if name.isdecimal()), default=None)


def write_description(
    path: epath.Path, task: dict[str, Any], tokenizer: Tokenizer, decoder: Tokenizer | None
) -> None:
    """Writes what checkpoints of fine-tuning lack and their model needs: tokenizers and task."""
    tokenizer.save(path / TOKENIZER)
    if decoder is not None:
        decoder.save(path / DECODER_TOKENIZER)
    write_atomically(path / _TASK, (json.dumps(seal(task), indent=2) + "\n").encode())


def recorded_task(path: epath.Path) -> dict[str, Any] | None:
    """Returns what an export of an unfinished run would record; None for pre-training."""
    if _directories(path, KIND):
        return None
    file = path / _TASK
    try:
        return unseal(read_json_object(file), file.name)
    except Damaged as damage:
        damaged(file, damage, "continue the run by the same command")


def read_run(
    path: epath.Path, log: Callable[[str], None], load: Callable[[str], Any] | None = None
) -> RunCheckpoint:
    """Reads the newest intact checkpoint of a run, which may be in progress.

    Of several seeds the first one with the most steps is read.

    Args:
        path: the run directory.
        log: receives a sentence about each damaged checkpoint.
        load: loads the model that a run with adapters started from, by its name.

    Raises:
        UserError: no checkpoint is intact, the tokenizer is not that of the run, or adapters lack
            the model that they were trained on.
    """
    directory, (params, meta) = _newest(_directories(path), log)
    saved, place = meta["immutable"], f"step {meta['step']:,}"
    config, tokenizer = _config(saved["model"], path), load_tokenizer(path / TOKENIZER)
    if tokenizer.sha256 != saved["tokenizer"]:
        raise UserError(
            f"{path / TOKENIZER}: not the vocabulary that the run was trained with; put a copy of "
            "that one back."
        )
    if (task := recorded_task(path)) is not None:
        if "lora" in saved:
            assert load is not None
            params = _adapted(params, saved, read_json_object(path / _CONFIG)["model"], load, path)
        other = path / DECODER_TOKENIZER
        decoder = load_tokenizer(other) if other.is_dir() else None
        place += f" of {directory.parent.relative_to(path)}"
        return RunCheckpoint(config, params, tokenizer, decoder, task, None, meta, place)
    # Imported here, as a mistake in the words of a command needs no objective, and no Optax.
    from bertjax.objectives.table import OBJECTIVES

    # A converted run names no objective: the first one that exports such heads stands for it.
    kind = kind_of_parts(params)
    exporting = (name for name, each in OBJECTIVES.items() if each.export_kind == kind)
    name = saved["objective"]["name"] if "objective" in saved else next(exporting)
    objective = OBJECTIVES[name]
    task = {"kind": objective.export_kind}
    return RunCheckpoint(config, params, tokenizer, None, task, objective, meta, place)


def _config(fields: dict[str, Any], path: epath.Path) -> BertConfig | EncoderDecoderConfig:
    if "encoder" not in fields:
        return BertConfig.from_dict(fields, where=str(path))
    halves = [BertConfig.from_dict(fields[name], str(path)) for name in ("encoder", "decoder")]
    return EncoderDecoderConfig(*halves, share=fields["share"])


def _adapted(
    trained: dict[str, Any],
    saved: dict[str, Any],
    name: str,
    load: Callable[[str], Any],
    path: epath.Path,
) -> dict[str, Any]:
    """Merges adapters into the encoder that they were trained on."""
    params = load(name).params
    if weights_hash(params) != saved["model"]["weights"]:
        raise UserError(
            f"{path}: its checkpoints hold adapters of {name}, whose weights have changed since: "
            "put those back, or continue the run to its end where they are."
        )
    base = {part: params[part] for part in lora.BASE}
    return lora.combine(base, trained, lora.LoraConfig(**saved["lora"]))


def _newest(
    directories: list[epath.Path], log: Callable[[str], None]
) -> tuple[epath.Path, Restored]:
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(Checkpoints(each, read_only=True, log=log)) for each in directories
        ]
        found = [(step, each) for each in opened for step in each.steps()]
        found.sort(key=lambda pair: -pair[0])  # stable: among equal steps the first directory
        for step, checkpoints in found[:-1]:
            try:
                return checkpoints.directory, checkpoints.restore_params(which=step)
            except UserError as error:
                log(str(error))
        step, checkpoints = found[-1] if found else ("latest", opened[0])
        return checkpoints.directory, checkpoints.restore_params(which=step)
