"""Training one seed of a fine-tuning run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from bertjax import signals
from bertjax.errors import Stopped
from bertjax.finetune import grid
from bertjax.finetune.grid import Setting
from bertjax.finetune.records import Records
from bertjax.finetune.results import SeedResult
from bertjax.finetune.trainer import Evaluated, Schedule, Trainer
from bertjax.rundir.workdir import write_tables
from bertjax.tasks.task import Features, Scores
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract
from bertjax.train.loop import Evaluation, FitResult, TrainProgram, fit
from bertjax.train.loop_config import LoopConfig
from bertjax.train.step import TrainState
from bertjax.train.telemetry.fields import show_fields


def train_seed(
    trainer: Trainer, records: Records, workdir: epath.Path, seed: int, setting: Setting
) -> tuple[SeedResult, Any]:
    """Trains one seed, or finds it trained.

    Args:
        trainer: what all seeds share.
        records: the records of the run.
        workdir: directory of the run.
        seed: the seed.
        setting: learning rate, batch size and epochs.

    Returns:
        The result, and all parameters of the model on the mesh.

    Raises:
        Stopped: a signal came; the run is saved.
    """
    task, schedule = trainer.task, trainer.schedule(setting)
    directory = workdir / grid.directory(setting, trainer.settings) / f"seed-{seed}"
    description = grid.description(setting, trainer.settings)
    trainer.log(f"Seed {seed}, {description}: {schedule.steps:,} steps.")
    params, evaluated = _fit(trainer, records, directory, seed, schedule)
    params = trainer.whole_params(params)
    # A run that was complete already evaluates nothing, no run has evaluated a mean, evaluations of
    # a sample do not count, and of the best evaluation only the metrics are kept.
    if evaluated is None or (task.report_tables and evaluated.outputs is None):
        evaluated = _evaluate(trainer, params, task.dev)
    scores = evaluated.scores
    if task.report_tables and evaluated.outputs is not None and jax.process_index() == 0:
        write_tables(directory, task.report_tables(evaluated.outputs))
    if trainer.config.average_last:
        trainer.log(f"The mean of the checkpoints has {task.metric} {scores[task.metric]:.4f}.")
    test = None
    if task.test:
        of_test = functools.partial(task.test_scores, scores) if task.test_scores else None
        test = _evaluate(trainer, params, task.test, scores=of_test)
        shown = show_fields(records.eval_fields(task.test_baseline), test.scores)
        trainer.log("  ".join(["test rows", *shown]))
    test_scores = test and test.scores
    return SeedResult(seed, *setting, scores, test_scores, str(directory)), params


def _evaluate(trainer: Trainer, params: Any, features: Features, **how: Any) -> Evaluated:
    evaluated = trainer.evaluate(params, features, signals.requested, **how)
    if evaluated is None:
        raise Stopped("stopped in an evaluation")
    return evaluated


def _fit(
    trainer: Trainer, records: Records, directory: epath.Path, seed: int, schedule: Schedule
) -> tuple[Any, Evaluated | None]:
    """Returns the parameters to keep and their evaluation on the dev rows, if it is known."""
    config, task = trainer.config, trainer.task
    hyperparameters = trainer.hyperparameters(seed, schedule)
    latest: list[Evaluated] = []  # of all dev rows
    rows = task.dev if task.dev_sample is None else task.dev_sample

    def train_step(state: TrainState, batch: Any) -> Any:
        return trainer.programs.train_step(state, batch, hyperparameters)

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> Scores | None:
        params = trainer.whole_params(state.averaged_params())
        evaluated = trainer.evaluate(params, rows, should_stop)
        latest[:] = [evaluated] if evaluated and rows is task.dev else []
        return evaluated and evaluated.scores

    loop = LoopConfig(
        train_steps=schedule.steps,
        log_every=config.log_every or min(50, -(-schedule.epoch_steps // 10)),
        eval_every=config.eval_every or schedule.epoch_steps,
        save_every=config.save_every,
        keep_best=int(config.select == "best"),
        patience=config.patience,
    )
    with Checkpoints(
        directory / "checkpoints",
        keep_best=loop.keep_best,
        keep_regular=config.average_last,
        interval=config.save_every,
        best_mode=task.best_mode,
        log=trainer.log,
    ) as checkpoints:
        result = fit(
            loop,
            TrainProgram(
                lambda: trainer.programs.make_state(trainer.initial_params(seed)),
                trainer.programs.abstract_state,
                train_step,
                is_compiled=trainer.is_compiled,
            ),
            functools.partial(trainer.batch, seed, schedule),
            checkpoints=checkpoints,
            telemetry=records.telemetry(directory),
            # Without a best metric no evaluation saves, which spares short runs the time.
            evaluation=Evaluation(evaluate, task.metric if config.uses_dev_rows else None),
            settings=records.run_settings(seed, schedule.setting),
            phases=[records.phase(schedule)],
        )
        trainer.is_compiled = True
        if result.stopped:
            raise Stopped("stopped in training")
        if config.select == "best" and result.best is not None:
            params, scores = _best(result, checkpoints)
            return params, Evaluated(scores, None) if rows is task.dev else None
        if config.average_last:
            return _mean(trainer, result, checkpoints), None
    return result.state.averaged_params(), latest[0] if latest else None


def _best(result: FitResult, checkpoints: Checkpoints) -> tuple[Any, Scores]:
    assert result.best is not None
    target = abstract(result.state.averaged_params())
    restored = checkpoints.restore_params(target, which=result.best["step"])
    return restored.state, result.best["metrics"]


def _mean(trainer: Trainer, result: FitResult, checkpoints: Checkpoints) -> Any:
    """Averages the checkpoints of the last step and of the multiples of `save_every` before it.

    Other checkpoints, such as that of a signal, do not count: a run that was stopped and resumed
    has the mean of one that was not.
    """
    config, last = trainer.config, int(result.state.step)
    regular = range(config.save_every, last, config.save_every)
    steps = [*regular, last][-config.average_last :]
    target = abstract(result.state.averaged_params())
    params, used = checkpoints.mean_params(target, steps)
    names = ", ".join(f"{step:,}" for step in used)
    warning = "" if len(used) == config.average_last else "Warning: "
    trainer.log(
        f"{warning}Averaged {len(used)} of {config.average_last} checkpoints, of the steps {names}."
    )
    return params
