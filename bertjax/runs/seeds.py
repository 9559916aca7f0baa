"""Training the seeds of a fine-tuning run; what they share is read and compiled once."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bertjax import places
from bertjax.errors import Stopped, UserError
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.model import starts
from bertjax.model.flops import classifier_flops, encoder_flops, training_flops
from bertjax.runs import inference
from bertjax.runs.finetune import FinetuneConfig, Log, SeedResult
from bertjax.runs.finetune_program import programs, random_params
from bertjax.runs.workdir import CONFIG, choose_workdir, write_config
from bertjax.tasks import classification, tables
from bertjax.train import sharding
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.loop import LoopConfig, fit
from bertjax.train.mfu import Work, work_of
from bertjax.train.optimizer import make_schedule
from bertjax.train.restore import abstract
from bertjax.train.step import TrainState
from bertjax.train.telemetry import Field, Telemetry
from bertjax.train.trackers import make_profiler, make_trackers

KIND = "fine-tuning"


class Rows(NamedTuple):
    """The labelled rows of a run, tokenized."""

    labels: tuple[str, ...]
    """Empty for regression."""
    train: classification.Examples
    dev: classification.Examples
    test: classification.Examples | None
    data_hash: str
    """Of the training rows and their labels."""
    dev_hash: str
    """Of the dev rows."""

    @property
    def outputs(self) -> int:
        """Columns C of the classifier."""
        return max(1, len(self.labels))


def read_rows(config: FinetuneConfig, model: Pretrained, log: Log) -> Rows:
    """Reads and tokenizes the files of a configuration.

    Raises:
        UserError: something is wrong with a file; the sentence names the line.
    """
    columns = [config.text_column, config.label_column]
    if config.pair_column:
        columns.insert(1, config.pair_column)

    def read(path: str) -> tables.Table:
        return tables.read_table(path, columns, column_names=config.column_names)

    table = read(config.train)
    labels: tuple[str, ...] = ()
    if not config.regression:
        labels = classification.find_labels(table, config.label_column)

    def examples(table: tables.Table) -> classification.Examples:
        return classification.tokenize(
            table.columns[config.text_column],
            table.columns[config.pair_column] if config.pair_column else None,
            model.tokenizer,
            config.max_seq_length,
            classification.read_labels(table, config.label_column, labels or None),
        )

    # All files are read before any is tokenized: a mistake in the last shows at once.
    others = [read(path) for path in (config.dev, config.test) if path]
    for other in others:
        classification.read_labels(other, config.label_column, labels or None)
    train, dev, *test = [examples(each) for each in (table, *others)]
    digests = [
        hashlib.sha256(json.dumps([labels, each.columns]).encode()).hexdigest()
        for each in (table, others[0])
    ]
    full = int((train.lengths == config.max_seq_length).sum())
    log(
        f"Training on {len(train):,} rows"
        + (f" with {len(labels)} labels ({', '.join(labels[:8])})" if labels else "")
        + f", evaluating on {len(dev):,}; {full:,} training rows fill all {config.max_seq_length} "
        "tokens."
    )
    return Rows(labels, train, dev, test[0] if test else None, *digests)


class SeedTrainer:
    """Trains the seeds of one `finetune`, and remembers the best of them."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Pretrained,
        rows: Rows,
        log: Log,
        progress: bool | None,
    ) -> None:
        """Finds or compiles the programs and chooses the directory; trains and writes nothing yet.

        Raises:
            UserError: the batch does not divide over the devices, the warm-up is too long, or the
                directory holds another run.
        """
        self.config, self.model, self.rows = config, model, rows
        self.log, self.progress = log, progress
        self.mesh = sharding.make_mesh(config.mesh)
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if config.batch_size % ways:
            raise UserError(
                f"batch_size {config.batch_size} can't be split over {ways} devices: give a "
                f"multiple of {ways}, or fewer devices with --mesh.data."
            )
        self.metric = classification.main_metric(config.regression)
        self.buckets = classification.length_buckets(config.max_seq_length)
        self.lengths = rows.train.lengths
        self.epoch_steps = -(-len(rows.train) // config.batch_size)
        self.steps = config.epochs * self.epoch_steps
        config.telemetry.check(self.steps)
        recipe = config.optimizer
        self.warmup = recipe.warmup_steps
        if self.warmup is None:
            self.warmup = int(config.warmup_proportion * self.steps)
        make_schedule(dataclasses.replace(recipe, warmup_steps=self.warmup), self.steps)  # checks
        self.programs = programs(
            model.config,
            config.execution,
            dataclasses.replace(recipe, learning_rate=1.0, warmup_steps=0),
            config.accumulation,
            rows.outputs,
            config.regression,
            self.mesh,
        )
        self.weights: Any = weights_hash(model.params)
        if config.from_scratch:
            config.start.check(model.config)
            self.weights = {"random": dataclasses.asdict(config.start)}
        self.majority = None
        if rows.labels:
            counts = np.bincount(rows.dev.labels)
            self.majority = float(counts.max() / counts.sum())
        self.best: tuple[float, Any] | None = None  # main metric and parameters of the best seed
        several = len(config.learning_rates) > 1
        rate = "several" if several else (*config.learning_rates, recipe.learning_rate)[0]
        self.identity = self._identity(rate)
        self.workdir = choose_workdir(
            config.workdir, KIND, fresh=config.fresh, identity=self.identity
        )

    def write_config(self, *, again: bool) -> None:
        """Keeps the configuration in workdir/config.json; unless `again`, what is there stays."""
        if jax.process_index() == 0 and (again or not (self.workdir / CONFIG).exists()):
            write_config(self.workdir, KIND, self.config, self.identity)

    def write_result(self, text: str) -> None:
        """Keeps the result in workdir/result.json."""
        if jax.process_index() == 0:
            places.write_atomically(self.workdir / "result.json", text.encode())

    def train(self, seed: int, rate: float) -> SeedResult:
        """Trains one seed, or finds it trained.

        Raises:
            Stopped: a signal came; what was done is saved.
        """
        config = self.config
        several = len(config.learning_rates) > 1
        workdir = self.workdir / f"learning-rate-{rate:g}" if several else self.workdir
        workdir = workdir / f"seed-{seed}"
        select_best = config.select == "best"
        self.log(f"Seed {seed}, learning rate {rate:g}: {self.steps:,} steps.")
        latest: dict[str, float] = {}

        def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> Any:
            scores = self._scores(state.averaged_params(), self.rows.dev, should_stop)
            latest.clear()
            latest.update(scores or {})
            return scores

        loop = LoopConfig(
            train_steps=self.steps,
            log_every=config.log_every,
            eval_every=config.eval_every or self.epoch_steps,
            save_every=config.save_every,
            keep_best=int(select_best),
        )
        with Checkpoints(
            workdir / "checkpoints",
            keep_best=loop.keep_best,
            best_mode="max",
            log=self.log,
        ) as checkpoints:
            result = fit(
                loop,
                workdir=workdir,
                init=lambda: self.programs.make_state(self._initial(seed)),
                abstract_state=self.programs.abstract_state,
                train_step=self.programs.train_step,
                batch_at=functools.partial(self._batch, seed, rate),
                evaluate=evaluate,
                checkpoints=checkpoints,
                meta=self._meta(seed, rate),
                telemetry=self._telemetry(workdir),
                # Without it no evaluation saves: a tiny run's time is not spent on checkpoints.
                best_metric=self.metric if select_best else None,
                tokens_per_step=round(config.batch_size * float(self.lengths.mean())),
            )
            if result.stopped:
                raise Stopped("stopped in training")
            params, scores = result.state.averaged_params(), dict(latest)
            if select_best and result.best is not None:
                target = abstract(params)
                params = checkpoints.restore_params(target, which="best").state
                scores = result.best["metrics"]
        # Nothing was evaluated if the run was complete already.
        scores = scores or self._scores(params, self.rows.dev) or {}
        test = self._scores(params, self.rows.test) if self.rows.test else None
        self._keep(scores[self.metric], params)
        return SeedResult(seed, rate, scores, test, str(workdir))

    def export(self) -> epath.Path:
        """Writes the best seed's model to workdir/export."""
        config = self.config
        assert self.best is not None
        task = {
            "kind": "regression" if config.regression else "sequence_classification",
            "labels": list(self.rows.labels),
            "text_column": config.text_column,
            "pair_column": config.pair_column,
            "label_column": config.label_column,
            "max_seq_length": config.max_seq_length,
        }
        export = self.workdir / "export"
        if jax.process_index() == 0:
            model = Pretrained(self.model.config, self.best[1], self.model.tokenizer, task)
            with places.writing(export):
                save_pretrained(export, model)
        return export

    def _initial(self, seed: int) -> dict[str, Any]:
        """The weights to start from, on the host: the step donates its state's arrays."""
        fresh = random_params(
            self.model.config,
            jax.random.key(seed),
            self.rows.outputs,
            self.config.from_scratch,
        )
        if self.config.from_scratch:
            fresh = starts.begin(fresh, self.model.config, self.config.start)
        else:
            parts = ("embeddings", "encoder", "pooler")
            kept = {name: self.model.params[name] for name in parts if name in self.model.params}
            fresh = {**fresh, **kept}
        return jax.tree.map(np.asarray, fresh)

    def _batch(self, seed: int, rate: float, step: int) -> dict[str, jax.Array]:
        """The global batch of a step: a function of its arguments."""
        train, size = self.rows.train, self.config.batch_size
        indices = classification.batch_indices(seed, step, len(train), size)
        longest = int(self.lengths[indices[indices >= 0]].max())
        width = classification.bucket_of(longest, self.buckets)
        batch = sharding.make_global_batch(
            self.mesh, size, lambda rows: train.batch(indices[rows], width)
        )
        whole = sharding.replicated(self.mesh)
        schedule = np.array([rate, self.warmup, self.steps], np.float32)
        batch["seed"] = jax.device_put(np.int32(seed), whole)
        batch["schedule"] = jax.device_put(schedule, whole)
        return batch

    def _scores(
        self,
        params: Any,
        examples: classification.Examples,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Metrics over all examples; None if a signal came in between."""
        logits = np.zeros((len(examples), self.rows.outputs), np.float32)
        for rows, values in inference.output_batches(
            params,
            examples,
            self.model.config,
            batch_size=self.config.batch_size,
            buckets=self.buckets,
            execution=self.config.execution,
            mesh=self.mesh,
        ):
            if should_stop():
                return None
            logits[rows] = values
        return classification.metrics(logits, examples.labels)

    def _identity(self, rate: float | str) -> dict[str, Any]:
        """What may not change when a run resumes; the same for all seeds."""
        config = self.config
        return {
            "model": {**self.model.config.to_dict(), "weights": self.weights},
            "tokenizer": self.model.tokenizer.sha256,
            "data": self.rows.data_hash,
            **({"dev rows": self.rows.dev_hash} if config.select == "best" else {}),  # they chose
            "objective": "regression" if config.regression else "classification",
            "batch_size": config.batch_size,
            "max_seq_length": config.max_seq_length,
            "select": config.select,
            "optimizer": {
                **config.optimizer.fields(),
                "learning_rate": rate,
                "warmup_proportion": config.warmup_proportion,
            },
        }

    def _meta(self, seed: int, rate: float) -> dict[str, Any]:
        config = self.config
        return {
            "identity": {**self._identity(rate), "seed": seed},
            "facts": {
                "dev rows": self.rows.dev_hash,
                "mesh": dict(self.mesh.shape),
                "execution": dataclasses.asdict(config.execution),
                "accumulation": config.accumulation,
            },
            "explain": {"train_steps": "the learning rate follows the new schedule from here on"},
        }

    def _telemetry(self, workdir: epath.Path) -> Telemetry:
        rate = Field("learning_rate", "lr", ".1e", last=True)
        train = [Field("loss"), Field("accuracy"), rate, Field("grad_norm", "grad", ".2f")]
        chance = None if self.majority is None else ("majority", self.majority)
        dev = [Field(self.metric, reference=chance), Field("loss"), Field("pearson")]
        return Telemetry(
            workdir / "metrics.jsonl",
            train,
            log=self.log,
            eval_fields=dev,
            progress=self.progress,
            trackers=make_trackers(self.config.telemetry, workdir, dataclasses.asdict(self.config)),
            profiler=make_profiler(self.config.telemetry, workdir),
            work=self._work(),
        )

    def _work(self) -> Work:
        """A step's FLOPs, as if every row were as wide as its tokens are many."""
        shape, outputs = self.model.config, self.rows.outputs
        lengths, rows = np.unique(self.lengths, return_counts=True)
        encoders = [encoder_flops(shape, int(length)) for length in lengths]
        row = float(np.average(encoders, weights=rows)) + classifier_flops(shape, outputs)
        kind = self.mesh.devices.flat[0].device_kind
        flops = self.config.batch_size * training_flops(1) * row
        return work_of(flops, kind, self.mesh.size, self.config.execution.dtype)

    def _keep(self, score: float, params: Any) -> None:
        """Remembers the parameters of the best seed, on the host."""
        if self.best is None or score > self.best[0]:
            self.best = (score, sharding.on_host(self.mesh, params))
