"""Training the seeds of a fine-tuning run; what they share is read and compiled once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bertjax.errors import Stopped, UserError
from bertjax.files import writing
from bertjax.finetune import grid
from bertjax.finetune.grid import Setting
from bertjax.finetune.program import Hyperparameters, programs, random_params
from bertjax.finetune.run import FinetuneConfig, FinetuneResult, Log, SeedResult
from bertjax.inference.programs import output_batches
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.model import initializers
from bertjax.model.flops import task_flops, training_flops
from bertjax.rundir.records import CONFIG, Metric
from bertjax.rundir.workdir import choose_workdir, write_config, write_result
from bertjax.tasks.batches import bucket_of, epoch_batches, length_buckets
from bertjax.tasks.task import LESS_IS_BETTER, Examples, Task
from bertjax.train import lora, sharding
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract
from bertjax.train.checkpoint.settings import RunSettings
from bertjax.train.loop import Evaluation, TrainProgram, fit
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OPTIMIZERS, make_schedule
from bertjax.train.step import TrainState
from bertjax.train.telemetry.fields import Field
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.mfu import Work, work_of
from bertjax.train.telemetry.phases import PhaseInfo
from bertjax.train.telemetry.trackers import make_profiler, make_trackers

KIND = "fine-tuning"
_ADAPTERS = 0x10BA  # what a seed's key is folded with for them: other draws than the new head's


class Plan(NamedTuple):
    """The steps of a setting."""

    setting: Setting
    epoch_steps: int
    """Of an epoch."""
    steps: int
    """In all."""
    warmup: int
    """Of the first steps, those that warm up."""


class SeedTrainer:
    """Trains the seeds of one `finetune`, and remembers the best of them."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Pretrained,
        task: Task,
        log: Log,
        progress: bool | None,
    ) -> None:
        """Finds or compiles the programs and chooses the directory; trains and writes nothing yet.

        Raises:
            UserError: the batch does not divide over the devices, the warm-up is too long, or the
                directory holds another run.
        """
        self.config, self.model, self.task = config, model, task
        self.log, self.progress = log, progress
        self.mesh = sharding.make_mesh(config.mesh)
        self.settings = grid.settings(config)
        sizes = {setting.batch_size for setting in self.settings}
        epochs = {setting.epochs for setting in self.settings}
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        for size in sizes:
            if size % ways:
                raise UserError(
                    f"batch_size {size} can't be split over {ways} devices: give a multiple of "
                    f"{ways}, or fewer devices with --mesh.data."
                )
        self.scored_rows = max(sizes)  # one program for all settings
        self.buckets = length_buckets(task.max_seq_length)
        self.lengths = task.train.lengths
        self._epoch = functools.lru_cache(maxsize=4)(self._epoch_batches)
        recipe = config.optimizer
        for setting in self.settings:
            plan = self.plan(setting)
            make_schedule(dataclasses.replace(recipe, warmup_steps=plan.warmup), plan.steps)
            config.telemetry.check(plan.steps)
        self.programs = programs(
            model.config,
            config.execution,
            dataclasses.replace(recipe, learning_rate=1.0, warmup_steps=0),
            config.accumulation,
            task.head,
            config.lora,
            self.mesh,
            OPTIMIZERS[recipe.name],
        )
        self.base: dict[str, Any] = {}  # with LoRA, what is frozen, on the mesh
        if config.lora.rank:
            self.base = self._place_base()
        self.weights: Any = weights_hash(model.params)
        if config.from_scratch:
            config.initialization.check(model.config)
            self.weights = {"random": dataclasses.asdict(config.initialization)}
        self.best: tuple[dict[str, float], Any] | None = None  # metrics and parameters
        rates = {setting.learning_rate for setting in self.settings}
        self.immutable = self._immutable(_only(rates), _only(sizes))
        if len(epochs) > 1:
            self.immutable["epochs"] = _only(epochs)
        self.workdir = choose_workdir(
            config.workdir, KIND, fresh=config.fresh, immutable=self.immutable
        )

    def write_config(self, *, again: bool) -> None:
        """Keeps the configuration in workdir/config.json; unless `again`, what is there stays."""
        if jax.process_index() == 0 and (again or not (self.workdir / CONFIG).exists()):
            task = self.task
            metrics = [
                Metric(name, name.replace("_", " "), "min" if name in LESS_IS_BETTER else "max")
                for name in dict.fromkeys([task.metric, *task.metrics])
            ]
            if task.baseline is not None:
                baseline = task.baseline.said, task.baseline.score
                metrics[0] = metrics[0]._replace(reference=baseline)
            write_config(self.workdir, KIND, self.config, self.immutable, metrics)

    def write_result(self, result: FinetuneResult) -> None:
        """Writes workdir/result.json."""
        if jax.process_index() == 0:
            steps = max(self.plan(setting).steps for setting in result.tried)
            write_result(self.workdir, result.sentence(), steps, result.to_json())

    def plan(self, setting: Setting) -> Plan:
        """What a setting comes to in steps."""
        epoch_steps = -(-len(self.task.train) // setting.batch_size)
        steps = setting.epochs * epoch_steps
        warmup = self.config.optimizer.warmup_steps
        if warmup is None:
            warmup = int(self.config.warmup_proportion * steps)
        return Plan(setting, epoch_steps, steps, warmup)

    def train(self, seed: int, setting: Setting) -> SeedResult:
        """Trains one seed, or finds it trained.

        Raises:
            Stopped: a signal came; what was done is saved.
        """
        config, plan = self.config, self.plan(setting)
        workdir = self.workdir / grid.directory(setting, self.settings) / f"seed-{seed}"
        select_best = config.select == "best"
        self.log(f"Seed {seed}, {grid.said(setting, self.settings)}: {plan.steps:,} steps.")
        hyperparameters = self.hyperparameters(seed, plan)
        latest: dict[str, float] = {}

        def train_step(state: TrainState, batch: Any) -> Any:
            return self.programs.train_step(state, batch, hyperparameters)

        def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> Any:
            params = self._whole(state.averaged_params())
            scores = self._scores(params, self.task.dev, should_stop)
            latest.clear()
            latest.update(scores or {})
            return scores

        loop = LoopConfig(
            train_steps=plan.steps,
            log_every=config.log_every,
            eval_every=config.eval_every or plan.epoch_steps,
            save_every=config.save_every,
            keep_best=int(select_best),
            patience=config.patience,
        )
        with Checkpoints(
            workdir / "checkpoints",
            keep_best=loop.keep_best,
            best_mode="min" if self.task.less_is_better else "max",
            log=self.log,
        ) as checkpoints:
            result = fit(
                loop,
                TrainProgram(
                    lambda: self.programs.make_state(self.initial(seed)),
                    self.programs.abstract_state,
                    train_step,
                ),
                functools.partial(self.batch, seed, plan),
                checkpoints=checkpoints,
                telemetry=self._telemetry(workdir),
                # Without a best metric no evaluation saves, which spares short runs the time.
                evaluation=Evaluation(
                    evaluate, self.task.metric if self._dev_rows_choose else None
                ),
                settings=self._run_settings(seed, setting),
                phases=[self._phase(plan)],
            )
            if result.stopped:
                raise Stopped("stopped in training")
            params, scores = result.state.averaged_params(), dict(latest)
            if select_best and result.best is not None:
                target = abstract(params)
                params = checkpoints.restore_params(target, which=result.best["step"]).state
                scores = result.best["metrics"]
        params = self._whole(params)
        # Nothing was evaluated if the run was complete already.
        scores = scores or self._scores(params, self.task.dev) or {}
        test = None
        if self.task.test:
            of_test = self.task.test_scores
            score = functools.partial(of_test, scores) if of_test else None
            test = self._scores(params, self.task.test, score=score)
        self._keep(scores, params)
        return SeedResult(seed, *setting, scores, test, str(workdir))

    def export(self) -> epath.Path:
        """Writes the best seed's model to workdir/export."""
        assert self.best is not None
        scores, params = self.best
        task = {"kind": self.task.head.kind, **self.task.fields(scores)}
        export = self.workdir / "export"
        if jax.process_index() == 0:
            model = Pretrained(self.model.config, params, self.model.tokenizer, task)
            with writing(export):
                save_pretrained(export, model)
        return export

    def initial(self, seed: int) -> dict[str, Any]:
        """The weights to start from, on the host: the step donates its state's arrays."""
        fresh = random_params(
            self.model.config,
            jax.random.key(seed),
            self.task.head.kind,
            self.task.head.outputs,
            whole=self.config.from_scratch,
        )
        if self.config.from_scratch:
            fresh = initializers.begin(fresh, self.model.config, self.config.initialization)
        else:
            parts = ("embeddings", "encoder", *({"pooler"} & fresh.keys()))
            kept = {name: self.model.params[name] for name in parts if name in self.model.params}
            fresh = {**fresh, **kept}
        if self.config.lora.rank:
            key = jax.random.fold_in(jax.random.key(seed), _ADAPTERS)
            fresh = lora.partition(fresh, key, self.config.lora)[1]
        return jax.tree.map(np.asarray, fresh)

    def _place_base(self) -> dict[str, Any]:
        base = {name: self.model.params[name] for name in lora.BASE}
        return jax.device_put(
            jax.tree.map(np.asarray, base), sharding.param_shardings(self.mesh, base)
        )

    def _whole(self, params: Any) -> Any:
        """All parameters of the model, from those that a state holds."""
        return lora.jit_combine(self.base, params, self.config.lora) if self.base else params

    def batch(self, seed: int, plan: Plan, step: int) -> dict[str, Any]:
        """The global batch of a step: a function of its arguments."""
        train, size = self.task.train, plan.setting.batch_size
        epoch, place = divmod(step, plan.epoch_steps)
        indices = self._epoch(seed, epoch, size)[place]
        longest = int(self.lengths[indices[indices >= 0]].max())
        width = bucket_of(longest, self.buckets)
        return sharding.make_global_batch(
            self.mesh, size, lambda rows: train.batch(indices[rows], width)
        )

    def hyperparameters(self, seed: int, plan: Plan) -> Hyperparameters:
        """Arguments of the compiled step, on the mesh."""
        rates = (plan.setting.learning_rate, plan.warmup, plan.steps)
        numbers = (np.int32(seed), *map(np.float32, rates))
        placed = (sharding.place_everywhere(self.mesh, number) for number in numbers)
        return Hyperparameters(*placed, base=self.base)

    def _epoch_batches(self, seed: int, epoch: int, size: int) -> np.ndarray:
        """The rows of every step of an epoch; called by way of the cache `_epoch`."""
        grouped = self.config.group_by_length
        return epoch_batches(seed, epoch, self.lengths, size, grouped=grouped)

    def _scores(
        self,
        params: Any,
        examples: Examples,
        should_stop: Callable[[], bool] = lambda: False,
        score: Callable[..., dict[str, float]] | None = None,
    ) -> dict[str, float] | None:
        """Metrics over all examples, by the task's scores or others; None if a signal came in
        between."""
        outputs = []
        for each in output_batches(
            params,
            examples,
            self.model.config,
            batch_size=self.scored_rows,
            buckets=self.buckets,
            kind=self.task.head.kind,
            execution=self.config.execution,
            mesh=self.mesh,
        ):
            if should_stop():
                return None
            outputs.append(each)
        return (score or self.task.scores)(examples, outputs)

    @property
    def _dev_rows_choose(self) -> bool:
        """Whether it depends on the dev rows what a seed's weights are."""
        return self.config.select == "best" or self.config.patience > 0

    def _immutable(self, rate: float | str, batch_size: int | str) -> dict[str, Any]:
        """Returns the settings that a resumed run can't change; they are the same for all seeds."""
        config = self.config
        chosen: dict[str, Any] = {"dev rows": self.task.dev_hash} if self._dev_rows_choose else {}
        if chosen and self.task.metric not in self.task.metrics[:1]:
            chosen["best_metric"] = self.task.metric
        return {
            "model": {**self.model.config.to_dict(), "weights": self.weights},
            "tokenizer": self.model.tokenizer.sha256,
            "data": self.task.data_hash,
            **chosen,
            **self.task.immutable,
            **({"group_by_length": True} if config.group_by_length else {}),
            **({"lora": dataclasses.asdict(config.lora)} if config.lora.rank else {}),
            "batch_size": batch_size,
            "max_seq_length": self.task.max_seq_length,
            "select": config.select,
            "optimizer": {
                **dataclasses.asdict(config.optimizer),
                "learning_rate": rate,
                "warmup_proportion": config.warmup_proportion,
            },
        }

    def _run_settings(self, seed: int, setting: Setting) -> RunSettings:
        config = self.config
        immutable = self._immutable(setting.learning_rate, setting.batch_size)
        return RunSettings(
            immutable={**immutable, "seed": seed},
            mutable={
                "dev rows": self.task.dev_hash,
                "mesh": dict(self.mesh.shape),
                "execution": dataclasses.asdict(config.execution),
                "accumulation": config.accumulation,
            },
            effects={"train_steps": "the learning rate follows the new schedule from here on"},
        )

    def _telemetry(self, workdir: epath.Path) -> Telemetry:
        rate = Field("learning_rate", "lr", ".1e", last=True)
        right = [Field("accuracy"), Field("exact_match", "exact")]
        train = [Field("loss"), *right, rate, Field("grad_norm", "grad", ".2f")]
        baseline = self.task.baseline and (self.task.baseline.name, self.task.baseline.score)
        main = self.task.metric
        others = [Field(name) for name in self.task.shown if name != main]
        dev = [Field(main, reference=baseline), *others]
        return Telemetry(
            workdir / "metrics.jsonl",
            train,
            log=self.log,
            eval_fields=dev,
            progress=self.progress,
            trackers=make_trackers(self.config.telemetry, workdir, dataclasses.asdict(self.config)),
            profiler=make_profiler(self.config.telemetry, workdir),
        )

    def _phase(self, plan: Plan) -> PhaseInfo:
        tokens = round(self.lengths.sum() / plan.epoch_steps)
        work = self._work(len(self.task.train) / plan.epoch_steps)
        return PhaseInfo(plan.steps, tokens, work=work)

    def _work(self, rows_per_step: float) -> Work:
        """A step's FLOPs on average, as if every row were as wide as its tokens are many."""
        shape, head = self.model.config, self.task.head
        lengths, rows = np.unique(self.lengths, return_counts=True)
        each = [task_flops(shape, head.kind, head.outputs, int(length)) for length in lengths]
        flops = rows_per_step * training_flops(float(np.average(each, weights=rows)))
        kind = self.mesh.devices.flat[0].device_kind
        return work_of(flops, kind, self.mesh.size, self.config.execution.dtype)

    def _keep(self, scores: dict[str, float], params: Any) -> None:
        """Remembers the parameters of the best seed, on the host."""
        metric, sign = self.task.metric, -1 if self.task.less_is_better else 1
        if self.best is None or sign * scores[metric] > sign * self.best[0][metric]:
            self.best = (scores, sharding.on_host(self.mesh, params))


def _only(values: set[Any]) -> Any:
    """The one value, or that there are several."""
    return next(iter(values)) if len(values) == 1 else "several"
