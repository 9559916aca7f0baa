"""Reads the model of a pre-training run from its checkpoints, whether or not the run has ended."""

from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import BertConfig, read_json_object
from bertjax.errors import UserError
from bertjax.model.heads import kind_of_parts
from bertjax.objectives.objective import Objective
from bertjax.objectives.table import OBJECTIVES
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import Restored

KIND = "pre-training"
"""The kind of a run in its config.json."""
CHECKPOINTS, TOKENIZER = "checkpoints", "tokenizer"
_CONFIG = "config.json"


class RunCheckpoint(NamedTuple):
    """The model in a checkpoint of a run."""

    config: BertConfig
    params: dict[str, Any]
    """All parameters that the run trains, or their moving averages."""
    tokenizer: Tokenizer
    objective: Objective
    """The objective of the run, with default options."""
    meta: dict[str, Any]
    """The record that was saved with the checkpoint."""


def is_pretraining_run(path: epath.Path) -> bool:
    """Whether a directory is a pre-training run with a checkpoint."""
    checkpoints = path / CHECKPOINTS
    if not ((path / _CONFIG).is_file() and checkpoints.is_dir() and any(checkpoints.iterdir())):
        return False
    return read_json_object(path / _CONFIG).get("kind") == KIND


def read_run(path: epath.Path, log: Callable[[str], None]) -> RunCheckpoint:
    """Reads the newest intact checkpoint of a run, which may be in progress.

    `log` receives a sentence about each damaged checkpoint.

    Raises:
        UserError: no checkpoint is intact, or the tokenizer is not that of the run.
    """
    with Checkpoints(path / CHECKPOINTS, read_only=True, log=log) as checkpoints:
        params, meta = _newest(checkpoints, log)
    saved = meta["immutable"]
    config = BertConfig.from_dict(saved["model"], where=str(path))
    tokenizer = load_tokenizer(path / TOKENIZER)
    if tokenizer.sha256 != saved["tokenizer"]:
        raise UserError(
            f"{path / TOKENIZER}: not the vocabulary that the run was trained with; put a copy of "
            "that one back."
        )
    # A converted run names no objective: the first one that exports such heads stands for it.
    kind = kind_of_parts(params)
    exporting = (name for name, each in OBJECTIVES.items() if each.export_kind == kind)
    name = saved["objective"]["name"] if "objective" in saved else next(exporting)
    return RunCheckpoint(config, params, tokenizer, OBJECTIVES[name], meta)


def _newest(checkpoints: Checkpoints, log: Callable[[str], None]) -> Restored:
    steps = checkpoints.steps()
    for step in steps[:0:-1]:
        try:
            return checkpoints.restore_params(which=step)
        except UserError as error:
            log(str(error))
    return checkpoints.restore_params(which=steps[0] if steps else "latest")
