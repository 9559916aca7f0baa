"""Records of a fine-tuning run: its settings, its metrics and their speed."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.grid import Setting
from bertjax.finetune.trainer import Schedule, Trainer
from bertjax.interop.huggingface import Pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.model.flops import training_flops
from bertjax.model.heads import TASK_PARTS
from bertjax.rundir.records import CONFIG, Metric, read_object
from bertjax.rundir.workdir import saved_settings
from bertjax.tasks.headers import file_digest
from bertjax.tasks.task import Baseline, best_mode
from bertjax.train.checkpoint.settings import RunSettings, refuse_changed
from bertjax.train.telemetry.fields import Field, rate_fields
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.mfu import Work, work_of
from bertjax.train.telemetry.phases import PhaseInfo
from bertjax.train.telemetry.trackers import make_profiler, make_trackers

_AVERAGE = ("average_last", "save_every")
"""Fields that decide which checkpoints are averaged."""


_KNOWN = (
    *("group_by_length", "batch_tokens", "lora", "batch_size", "select", "optimizer"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "epochs", "train", "dev"),
    *("keep_head", "task", "model", "layers_to_keep", "teacher", *_AVERAGE),
)
"""Immutable settings that are known before the model is read."""


def refuse_changed_config(workdir: epath.Path, config: FinetuneConfig) -> None:
    """Refuses settings that the run in a directory can't change, before the model is read.

    Raises:
        UserError: names the settings with both values.
    """
    if not (saved := saved_settings(workdir)):
        return
    fields = read_object(workdir / CONFIG)
    rate, size, epochs = _axes(config)
    here = {**_known_settings(config, rate, size), **_file_settings(config)}
    for name in ("train", "dev"):
        if saved.get(name) != here.get(name) and name in saved and name in here:
            pairs = ((saved, fields.get(name)), (here, getattr(config, name)))
            for settings, path in pairs:  # shown with the name of the file
                settings[name] = f"{epath.Path(str(path)).name}, {settings[name]}"
    if epochs == "several":
        here["epochs"] = epochs
    if config.keep_head:
        here["keep_head"] = saved.get("keep_head") or True
    if isinstance(saved.get("teacher"), dict) and "teacher" in here:
        here["teacher"] = {**saved["teacher"], **here["teacher"]}  # its weights are not read yet
    if isinstance(task := saved.get("task"), dict):
        same = task.get("kind") == config.task.kind
        known = config.kind.immutable(config.task) if same else {}
        here["task"] = {**task, "kind": config.task.kind, **known}
    if isinstance(shape := saved.get("model"), dict):
        here["model"] = {**shape, **_weights_setting(config, shape.get("weights"))}
    refuse_changed({name: saved[name] for name in saved if name in _KNOWN}, here, workdir)


def refuse_changed_model(workdir: epath.Path, config: FinetuneConfig, model: Pretrained) -> None:
    """Refuses another vocabulary, shape or length of rows, before weights and rows are read.

    Raises:
        UserError: names the settings with both values.
    """
    here: dict[str, Any] = {
        "tokenizer": model.tokenizer.sha256,
        "max_seq_length": config.row_length(model.config.max_position_embeddings),
    }
    if not (saved := saved_settings(workdir)):
        return
    shape, own = saved.get("model"), model.config.to_dict()
    if isinstance(shape, dict) and own.keys() <= shape.keys():  # else a task made the shape
        here["model"] = {**shape, **own}
    refuse_changed({name: saved[name] for name in here if name in saved}, here, workdir)


def _weights_setting(config: FinetuneConfig, saved: Any) -> dict[str, Any]:
    """Returns the setting that tells random weights, and the saved one for those of a model."""
    if config.from_scratch:
        return {"weights": {"random": dataclasses.asdict(config.initialization)}}
    return {"weights": "those of the model"} if isinstance(saved, dict) else {}


def _file_settings(config: FinetuneConfig) -> dict[str, str]:
    """Returns the digest of each file that decides what is learned, if it is a single file."""
    names = ("train", "dev") if config.uses_dev_rows else ("train",)
    paths = {name: getattr(config, name) for name in names}
    digests = {name: file_digest(path) for name, path in paths.items()}
    return {name: f"SHA-256 {digest[:12]}" for name, digest in digests.items() if digest}


def _axes(config: FinetuneConfig) -> tuple[Any, Any, Any]:
    """Returns learning rate, batch size and epochs, or "several" for an axis of the grid."""
    columns = zip(*config.settings(), strict=True)
    rate, size, epochs = (
        values.pop() if len(values) == 1 else "several" for values in map(set, columns)
    )
    return rate, size, epochs


def _known_settings(
    config: FinetuneConfig, learning_rate: float | str, batch_size: int | str
) -> dict[str, Any]:
    """Returns the immutable settings that are known before files and model are read."""
    return {
        **({"group_by_length": True} if config.group_by_length else {}),
        **({"batch_tokens": config.batch_tokens} if config.batch_tokens else {}),
        **({"lora": dataclasses.asdict(config.lora)} if config.lora.rank else {}),
        **({"layers_to_keep": config.layers_to_keep} if config.layers_to_keep else {}),
        **({"teacher": config.teaching()} if config.teacher else {}),
        **config.dropout(),
        "batch_size": batch_size,
        "select": config.select,
        **({name: getattr(config, name) for name in _AVERAGE} if config.average_last else {}),
        "optimizer": {
            **dataclasses.asdict(config.optimizer),
            "learning_rate": learning_rate,
            "warmup_proportion": config.warmup_proportion,
        },
    }


class Records:
    """The records of a run; every seed adds its own."""

    def __init__(self, trainer: Trainer) -> None:
        """Hashes the weights of the model.

        Raises:
            UserError: the model has no such initialization.
        """
        self.trainer = trainer
        config = trainer.config
        self._files = _file_settings(config)
        self.weights: Any = weights_hash(trainer.model.params)
        if config.from_scratch:
            config.initialization.check(trainer.shape)
            parts = TASK_PARTS[trainer.task.head.name]
            writes = "mlm" in parts or "decoder" in parts
            if writes and config.initialization.mlm_bias == "unigram":
                raise UserError(
                    "`initialization.mlm_bias` unigram needs the counts of tokens that `prepare` "
                    "makes, and fine-tuning has none: let it be zeros."
                )
            self.weights = {"random": dataclasses.asdict(config.initialization)}

    def immutable(self) -> dict[str, Any]:
        """Returns the settings that a resumed run can't change.

        An axis of the grid is "several". The number of epochs may change, so that a run can go on,
        unless it is an axis of the grid.
        """
        rate, size, epochs = _axes(self.trainer.config)
        settings = self._immutable(rate, size)
        return {**settings, "epochs": epochs} if epochs == "several" else settings

    def _immutable(self, learning_rate: float | str, batch_size: int | str) -> dict[str, Any]:
        config, model, task = self.trainer.config, self.trainer.model, self.trainer.task
        dev: dict[str, Any] = {"dev rows": task.dev_hash} if config.uses_dev_rows else {}
        if dev and task.metric != task.metrics[0]:
            dev["best_metric"] = task.metric
        known = _known_settings(config, learning_rate, batch_size)
        if self.trainer.teacher is not None:
            known["teacher"]["weights"] = self.trainer.teacher.weights
        return {
            "model": {**self.trainer.shape.to_dict(), "weights": self.weights},
            "tokenizer": model.tokenizer.sha256,
            "data": task.data_hash,
            **dev,
            **self._files,
            "task": {
                "kind": config.task.kind,
                **config.kind.immutable(config.task),
                **task.immutable,
            },
            **({"keep_head": self.trainer.label_sources or True} if config.keep_head else {}),
            "max_seq_length": self.trainer.max_seq_length,
            **known,
        }

    def run_settings(self, seed: int, setting: Setting) -> RunSettings:
        """Returns the settings that the checkpoints of a seed record."""
        trainer = self.trainer
        immutable = self._immutable(setting.learning_rate, setting.batch_size)
        return RunSettings(
            immutable={**immutable, "seed": seed},
            mutable={
                "dev rows": trainer.task.dev_hash,
                "mesh": dict(trainer.mesh.shape),
                "execution": dataclasses.asdict(trainer.config.execution),
                "accumulation": trainer.config.accumulation,
            },
            effects={"train_steps": "the learning rate follows the new schedule from here on"},
        )

    def telemetry(self, workdir: epath.Path) -> Telemetry:
        """Makes the telemetry of a seed."""
        trainer, task = self.trainer, self.trainer.task
        config = trainer.config
        rates = rate_fields([group.name for group in config.optimizer.groups], ".1e")
        train = map(Field, ("loss", "hard_loss", "soft_loss", *task.train_metrics))
        return Telemetry(
            workdir / "metrics.jsonl",
            [*train, *rates, Field("grad_norm", "grad", ".2f")],
            log=trainer.log,
            eval_fields=self.eval_fields(task.baseline),
            progress=trainer.progress,
            trackers=make_trackers(config.telemetry, workdir, config.to_dict()),
            profiler=make_profiler(config.telemetry, workdir),
        )

    def eval_fields(self, baseline: Baseline | None) -> list[Field]:
        """Returns the metrics of a line, the main one first, beside those of a baseline."""
        scores = baseline.scores if baseline else {}
        name = baseline.name if baseline else ""
        return [
            Field(each, reference=(name, scores[each]) if each in scores else None)
            for each in dict.fromkeys((self.trainer.task.metric, *self.trainer.task.dev_metrics))
        ]

    def phase(self, schedule: Schedule) -> PhaseInfo:
        """Returns the tokens and FLOPs of a step."""
        lengths = self.trainer.task.sequence_lengths
        if lengths is None:
            lengths = self.trainer.lengths
        tokens = round(lengths.sum() / schedule.epoch_steps)
        return PhaseInfo(schedule.steps, tokens, work=self._work(lengths, schedule.epoch_steps))

    def metrics(self) -> list[Metric]:
        """Returns what reports say of the metrics, the main one first."""
        task = self.trainer.task
        metrics = []
        for name in dict.fromkeys([task.metric, *task.metrics, *task.figures]):
            title, words = task.figures.get(name, (None, name.replace("_", " ")))
            better = best_mode(name) if name in task.metrics else None
            reference = None
            if task.baseline is not None and name in task.baseline.scores:
                reference = (task.baseline.description, task.baseline.scores[name])
            note = task.notes.get(name)
            metrics.append(Metric(name, words, better, reference, title, note, task.dev_hash))
        return metrics

    def _work(self, lengths: np.ndarray, epoch_steps: int) -> Work:
        """FLOPs of an average step, with each sequence as wide as its tokens."""
        trainer, head = self.trainer, self.trainer.task.head
        lengths, rows = np.unique(lengths, axis=0, return_counts=True)
        each = [
            head.flops(trainer.shape, head.name, head.outputs, *row)
            for row in lengths.reshape(len(rows), -1).tolist()
        ]
        flops = training_flops(float(np.dot(each, rows)) / epoch_steps)
        device = trainer.mesh.devices.flat[0].device_kind
        return work_of(flops, device, trainer.mesh.size, trainer.config.execution.dtype)
