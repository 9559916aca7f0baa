"""The state that all seeds of a run share: data, compiled programs, frozen parameters, and which
weights come from the model and which are new."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.config import EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.finetune import head_start
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.grid import Setting
from bertjax.finetune.program import Hyperparameters, Programs, programs, random_params
from bertjax.finetune.teacher import Teacher
from bertjax.inference.programs import output_batches
from bertjax.interop.huggingface import Pretrained
from bertjax.model import initializers
from bertjax.tasks.batches import (
    Batch,
    Buckets,
    Width,
    epoch_batches,
    fitted_buckets,
    row_buckets,
    token_batches,
    width_of,
)
from bertjax.tasks.task import Features, Outputs, Scores, Task
from bertjax.train import lora, sharding
from bertjax.train.optimizer import OPTIMIZERS
from bertjax.train.schedules import make_schedule

Log = Callable[[str], None]

# Folded into the key of a seed, so that adapters and head have different draws.
_ADAPTERS = 0x10BA


class Schedule(NamedTuple):
    """The steps of a setting."""

    setting: Setting
    epoch_steps: int
    """Steps per epoch."""
    steps: int
    """Steps in total."""
    warmup_steps: int
    """Steps that warm up."""


class Evaluated(NamedTuple):
    """An evaluation of a model."""

    scores: Scores
    """The metrics."""
    outputs: Outputs | None
    """What the model computed for each row, if it is known."""


class Trainer:
    """Makes the batches, the initial parameters and the scores of every seed."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Pretrained,
        task: Task,
        log: Log,
        progress: bool | None = None,
        teacher: Teacher | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """Makes the programs, on a mesh of all devices if none is given. It touches no device.

        Raises:
            UserError: a batch can't be split over the devices, the warm-up is too long, or the
                task or LoRA needs a BERT and not an encoder-decoder.
        """
        self.config, self.model, self.task, self.teacher = config, model, task, teacher
        self.train: Features = task.train  # `teach` adds what the loss of a student needs
        self.shape: Any = task.config or model.bert_config(f"the task {config.task.kind}")
        self.log, self.progress = log, progress
        self.mesh = sharding.make_mesh(config.mesh) if mesh is None else mesh
        self.settings = config.settings()
        self.max_batch_size = max(setting.batch_size for setting in self.settings)
        self.max_seq_length = config.row_length(model.config.max_position_embeddings)
        self.lengths = task.train.lengths
        self.buckets = functools.lru_cache(self._make_buckets)
        self._epoch_batches = functools.lru_cache(maxsize=4)(self._make_epoch_batches)
        self._check_settings()
        self.label_sources: dict[str, str] = {}
        if config.keep_head:
            self.label_sources = head_start.label_sources(task, model, config.head_labels)
        self.programs: Programs = programs(
            self.shape,
            config.execution,
            dataclasses.replace(config.optimizer, learning_rate=1.0, warmup_steps=0),
            config.accumulation,
            task.head,
            config.lora,
            self.mesh,
            OPTIMIZERS[config.optimizer.name],
            teacher and teacher.distillation,
        )
        self.is_compiled = False  # whether a seed has compiled the step

    @functools.cached_property
    def _base(self) -> dict[str, Any]:
        """The parameters that LoRA freezes, on the mesh."""
        if not self.config.lora.rank:
            return {}
        base = jax.tree.map(np.asarray, {name: self.model.params[name] for name in lora.BASE})
        return jax.device_put(base, sharding.param_shardings(self.mesh, base))

    @property
    def _shards(self) -> int:
        """Parts of a batch on different devices."""
        return sharding.batch_ways(self.mesh)

    def _check_settings(self) -> None:
        if self.config.lora.rank:
            if isinstance(self.shape, EncoderDecoderConfig):
                raise UserError(
                    "`lora.rank` adapts a BERT and not an encoder-decoder: leave it out."
                )
            lora.adapted(self.model.shapes, self.config.lora)
        shards, tokens = self._shards, self.config.batch_tokens
        if tokens is not None and tokens < self.lengths.max():
            raise UserError(
                f"`batch_tokens` {tokens} does not hold the longest row of {self.lengths.max()} "
                "tokens: raise it, or truncate rows with `max_seq_length`."
            )
        for setting in self.settings:
            if setting.batch_size % shards:
                raise UserError(
                    f"`batch_size` {setting.batch_size} can't be split over {shards} devices: give "
                    f"a multiple of {shards}, or fewer devices with `mesh.data`."
                )
            fewest = min(len(rows) for rows, _ in self._epoch_batches(0, 0, setting.batch_size))
            if min(fewest, len(self.lengths)) < (least := self.task.min_batch_rows):
                raise UserError(
                    f"A step has only {min(fewest, len(self.lengths))} row, and the loss of this "
                    f"task compares at least {least} rows: raise `batch_size` (or `batch_tokens`), "
                    "or add training rows."
                )
            steps, warmup = self.schedule(setting)[2:]
            make_schedule(dataclasses.replace(self.config.optimizer, warmup_steps=warmup), steps)
            self.config.telemetry.check(steps)
            saves, average = -(-steps // self.config.save_every), self.config.average_last
            if average > saves:
                raise UserError(
                    f"`average_last` is {average}, and a run of {steps:,} steps saves {saves} "
                    f"regular checkpoints (`save_every` {self.config.save_every:,}): lower one of "
                    "the two."
                )

    def schedule(self, setting: Setting) -> Schedule:
        """Returns the steps of a setting."""
        epoch_steps = len(self._epoch_batches(0, 0, setting.batch_size))
        steps = setting.epochs * epoch_steps
        warmup = self.config.optimizer.warmup_steps
        if warmup is None:
            warmup = int(self.config.warmup_proportion * steps)
        return Schedule(setting, epoch_steps, steps, warmup)

    def initial_params(self, seed: int) -> dict[str, Any]:
        """Returns the parameters of a seed before its first step, on the host.

        The step donates the arrays of its state, so that they must not be those of the model.
        """
        config, key = self.config, jax.random.key(seed)
        params = random_params(self.shape, key, self.task.head, whole=config.from_scratch)
        if config.from_scratch:
            params = initializers.reinitialize(params, self.shape, config.initialization)
        else:
            params = self.task.start_params(params, self.model)
        if config.keep_head:
            params = head_start.keep_head(params, self.task, self.model, self.label_sources)
        if config.lora.rank:
            params = lora.partition(params, jax.random.fold_in(key, _ADAPTERS), config.lora)[1]
        return jax.tree.map(np.asarray, params)

    def whole_params(self, params: Any) -> Any:
        """Combines parameters of the state with the frozen ones of LoRA, as a model reads them."""
        params = sharding.gathered(self.mesh, params)
        return lora.jit_combine(self._base, params, self.config.lora) if self._base else params

    def batch(self, seed: int, schedule: Schedule, step: int) -> dict[str, Any]:
        """Returns the global batch of a step. It depends on the arguments alone."""
        epoch, step_of_epoch = divmod(step, schedule.epoch_steps)
        batches = self._epoch_batches(seed, epoch, schedule.setting.batch_size)
        indices, width = batches[step_of_epoch]
        return sharding.make_global_batch(
            self.mesh, len(indices), lambda rows: self.train.batch(indices[rows], width)
        )

    def largest_batch(self, seed: int = 0) -> tuple[dict[str, np.ndarray], Width]:
        """Returns the batch with the most tokens of a first epoch, on the host, and its width."""
        batches = self._epoch_batches(seed, 0, self.max_batch_size)
        rows, width = max(batches, key=lambda batch: len(batch[0]) * np.sum(batch[1]))
        return self.train.batch(rows, width), width

    def teach(self, workdir: epath.Path) -> None:
        """Adds the outputs of the teacher, if there is one, to the training rows."""
        if self.teacher is not None:
            self.train = self.teacher.teach(self.task, self._run_teacher, workdir, self.log)

    def _run_teacher(self, features: Features) -> Outputs:
        assert self.teacher is not None
        model = self.teacher.model
        params = jax.tree.map(np.asarray, model.params)
        params = jax.device_put(params, sharding.param_shardings(self.mesh, params))
        return self._outputs(params, features, model.config)

    def _outputs(self, params: Any, features: Features, shape: Any) -> Outputs:
        return output_batches(
            params,
            features,
            shape,
            head=self.task.head.name,
            forward=self.task.head.forward,
            batch_size=self.max_batch_size,
            max_seq_length=self.max_seq_length,
            execution=self.config.execution,
            mesh=self.mesh,
        )

    def _make_buckets(self, size: int) -> Buckets:
        """Returns the widths that fit an epoch, which are those of every seed and epoch."""
        lengths = self.lengths
        if lengths.ndim > 1:
            return row_buckets(lengths, self.max_seq_length)
        batches = epoch_batches(0, 0, lengths, size, grouped=self.config.group_by_length)
        longest = np.where(batches >= 0, lengths[batches], 0).max(axis=1, keepdims=True)
        longest[0] = lengths.max()  # which another epoch may meet in any batch
        return fitted_buckets(np.broadcast_to(longest, batches.shape))

    def _make_epoch_batches(self, seed: int, epoch: int, size: int) -> list[Batch]:
        config, lengths = self.config, self.lengths
        if config.batch_tokens is None:
            batches = epoch_batches(seed, epoch, lengths, size, grouped=config.group_by_length)
            buckets = self.buckets(size)
            return [(rows, width_of(lengths[rows[rows >= 0]], buckets)) for rows in batches]
        # Padding rows come last, so that another mesh changes no draw of the other rows.
        ways = self._shards * config.accumulation
        return [
            (np.pad(rows, (0, -len(rows) % ways), constant_values=-1), width)
            for rows, width in token_batches(seed, epoch, lengths, config.batch_tokens)
        ]

    def hyperparameters(self, seed: int, schedule: Schedule) -> Hyperparameters:
        """Returns arguments of the compiled step."""
        rates = (schedule.setting.learning_rate, schedule.warmup_steps, schedule.steps)
        return Hyperparameters(np.int32(seed), *map(np.float32, rates), base=self._base)

    def evaluate(
        self,
        params: Any,
        features: Features,
        should_stop: Callable[[], bool] = lambda: False,
        scores: Callable[[Any, Outputs], Scores] | None = None,
    ) -> Evaluated | None:
        """Computes outputs and metrics of all rows, or returns None if a signal came.

        Args:
            params: all parameters of the model.
            features: the rows.
            should_stop: whether a signal came.
            scores: (features, outputs) -> metrics; None: those of the task.
        """
        outputs = []
        for each in self._outputs(params, features, self.shape):
            if should_stop():
                return None
            outputs.append(each)
        return Evaluated((scores or self.task.scores)(features, outputs), outputs)
