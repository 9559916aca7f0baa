"""GLUE as one run: each task is a fine-tuning run, whose best model answers the test rows."""

import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from bertjax import signals
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.results import FinetuneResult
from bertjax.finetune.run import finetune
from bertjax.glue.benchmark import STARTED, TASKS, chosen
from bertjax.glue.config import GlueConfig
from bertjax.glue.files import GlueData, LabeledFiles
from bertjax.glue.results import MNLI_START, GlueResult, Score, scores_of
from bertjax.glue.submission import write_predictions, write_zip
from bertjax.interop.huggingface import Pretrained, from_pretrained
from bertjax.rundir.workdir import open_workdir, write_config, write_result
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.train.checkpoint.orbax_storage import told_by_first_process

KIND = "GLUE"
GRID = {
    "learning_rates": (5e-5, 3e-5, 2e-5),
    "batch_sizes": (16, 32),
    "epoch_counts": (2, 3, 4),
}
"""The grid of the paper's appendix A.3."""


def glue(
    config: GlueConfig, log: Callable[[str], None], *, progress: bool | None = None
) -> GlueResult:
    """Fine-tunes each task and writes workdir/table.md and workdir/submission.zip.

    workdir/TASK is the fine-tuning run of a task, and workdir/TASK-from-MNLI one that starts from
    the model of MNLI. Finished seeds are not trained again.

    Args:
        config: what to train.
        log: takes one line at a time.
        progress: whether to show a bar; None: if there is a terminal.

    Raises:
        UserError: something is wrong with the model, the files or the configuration.
        Stopped: a signal came between two tasks.
    """
    log = told_by_first_process(log)
    with open_workdir(config.workdir, KIND, log, fresh=False) as workdir:
        data = GlueData(config.directory, workdir, config.hold_out)
        found: dict[str, LabeledFiles] = {}
        missing: dict[str, str] = {}
        for task in chosen(config.tasks):
            files = data.find(task)
            if isinstance(files, str):
                missing[task.name] = files
            else:
                found[task.name] = files
        for name, what in missing.items():
            log(f"Skipping {name}: {what}.")
        if not found:
            raise UserError(f"{config.directory}: no task can be trained; give GLUE's directory.")
        if config.mnli_start and "MNLI" not in found:
            raise UserError(f"`mnli_start` needs MNLI: {missing['MNLI']}.")
        model = from_pretrained(config.model)
        if jax.process_index() == 0:
            write_config(workdir, KIND, dataclasses.asdict(config))
        run = _Run(config, data, model, workdir, log, progress)
        return run.go(found, missing)


class _Run:
    """Trains the tasks one after the other."""

    def __init__(
        self,
        config: GlueConfig,
        data: GlueData,
        model: Pretrained,
        workdir: epath.Path,
        log: Callable[[str], None],
        progress: bool | None,
    ) -> None:
        self.config, self.data, self.model, self.workdir = config, data, model, workdir
        self.log, self.progress = log, progress

    def go(self, found: dict[str, LabeledFiles], missing: dict[str, str]) -> GlueResult:
        """Trains all tasks; writes the table and the submission."""
        scores: list[Score] = []
        result = GlueResult((), missing, str(self.workdir), None, (), stopped=True)
        predictions = self.workdir / "predictions"
        mnli = None
        for name, files in found.items():
            done = self._train(files, self.model, self.config.model, name)
            if done.export is None:
                return result
            mnli = done.export if name == "MNLI" else mnli
            scores += scores_of(files.task, done)
            if jax.process_index() == 0:
                write_predictions(self.data, files.task, done.export, predictions, self.log)
        if self.config.mnli_start and mnli is not None:
            start = from_pretrained(mnli)
            for name in (each for each in STARTED if each in found):
                done = self._train(found[name], start, mnli, f"{name}-from-MNLI")
                if done.export is None:
                    return result
                scores += scores_of(TASKS[name], done, MNLI_START)
        submission = self.workdir / "submission.zip"
        filled = write_zip(predictions, submission) if jax.process_index() == 0 else []
        result = dataclasses.replace(
            result,
            scores=tuple(scores),
            submission=str(submission),
            filled=tuple(filled),
            stopped=False,
        )
        if jax.process_index() == 0:
            table = "".join(f"{line}\n" for line in result.table())
            write_atomically(self.workdir / "table.md", table.encode())
            write_result(self.workdir, result.sentence(), 0, result.to_json())
        for line in result.lines():
            self.log(line)
        return result

    def _train(
        self, files: LabeledFiles, model: Pretrained, path: str, directory: str
    ) -> FinetuneResult:
        signals.check()
        self.log(f"--- {directory}")
        config = finetune_config(self.config, files, path, str(self.workdir / directory))
        return finetune(config, self.log, model=model, progress=self.progress)


def finetune_config(
    config: GlueConfig, files: LabeledFiles, model: str, workdir: str
) -> FinetuneConfig:
    """Returns the configuration of the fine-tuning run of a task."""
    task = files.task
    return FinetuneConfig(
        model=model,
        train=str(files.train),
        dev=str(files.dev),
        test=None if files.second_dev is None else str(files.second_dev),
        workdir=workdir,
        task=ClassificationConfig(
            text_column=task.text,
            pair_column=task.pair,
            label_column=task.label,
            column_names=files.columns,
            regression=not task.labels,
        ),
        seeds=config.seeds,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_seq_length=config.max_seq_length,
        group_by_length=config.group_by_length,
        warmup_proportion=config.warmup_proportion,
        best_metric=task.metrics[0],
        optimizer=config.optimizer,
        mesh=config.mesh,
        execution=config.execution,
        **(GRID if config.grid else {}),
    )
