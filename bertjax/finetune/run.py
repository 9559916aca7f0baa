"""Fine-tuning: labeled files -> several seeds of one recipe -> metrics, and the best's export."""

import contextlib
import copy
import dataclasses
from typing import Any

import jax
from etils import epath
from jax.experimental.multihost_utils import sync_global_devices

from bertjax import signals
from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import Stopped, UserError
from bertjax.files import location, writing
from bertjax.finetune import grid, head_start
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.grid import Setting
from bertjax.finetune.records import Records, refuse_changed_config, refuse_changed_model
from bertjax.finetune.results import FinetuneResult, SeedResult, summarize
from bertjax.finetune.seed import train_seed
from bertjax.finetune.teacher import Teacher, open_teacher
from bertjax.finetune.trainer import Log, Trainer
from bertjax.interop.huggingface import (
    Pretrained,
    from_pretrained,
    open_pretrained,
    save_pretrained,
)
from bertjax.interop.pretrained import Unread
from bertjax.interop.run_checkpoints import FINETUNING, write_description
from bertjax.interop.sentence_transformers import recorded_modules
from bertjax.rundir.records import CONFIG
from bertjax.rundir.workdir import open_workdir, refuse_changed_run, write_config, write_result
from bertjax.tasks import row_checks
from bertjax.tasks.headers import check_file
from bertjax.tasks.task import Scores, Task, TaskFiles
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import hosts, sharding
from bertjax.train.checkpoint.orbax_storage import told_by_first_process
from bertjax.train.stopping import stop_requests


def finetune(
    config: FinetuneConfig,
    log: Log,
    *,
    model: Pretrained | None = None,
    progress: bool | None = None,
) -> FinetuneResult:
    """Fine-tunes every seed, reports their metrics and exports the best one.

    workdir/seed-N/ is the run directory of a seed; below workdir/learning-rate-X/,
    workdir/learning-rate-X-batch-size-Y/, ... if the grid has several settings. workdir/export/
    holds the model of the seed with the best main metric on the dev rows. Finished seeds are not
    trained again.

    Args:
        config: what to train.
        log: takes one line at a time.
        model: the loaded `config.model`.
        progress: whether to show a bar; None: if there is a terminal.

    Raises:
        UserError: something is wrong with the model, the files or the configuration.
        Stopped: a signal came before the first seed.
    """
    log = told_by_first_process(log)
    for path in filter(None, (config.train, config.dev, config.test)):
        check_file(path, config.task)
    with (
        stop_requests(),
        open_workdir(config.workdir, FINETUNING, log, fresh=config.fresh) as workdir,
    ):
        refuse_changed_config(workdir, config)
        model = load_model(config) if model is None else model
        model = with_dropout(config, keep_layers(config, model))
        refuse_changed_model(workdir, config, model)
        model.tokenizer.files(export=True)  # what the export would refuse after the last step
        opened = open_teacher(config, model)
        signals.check()
        task = read_task(config, model, log)
        teacher = opened and Teacher(config, opened, task)
        trainer = Trainer(config, model, task, log, progress, teacher)
        if line := head_start.described(config, trainer.label_sources, task, model):
            log(line)
        return _Run(config, trainer, workdir).go()


def load_model(config: FinetuneConfig) -> Pretrained:
    """Returns the model that a configuration starts from; without parameters if it is a new one.

    Raises:
        UserError: there is no such model, shape or vocabulary.
    """
    if config.tokenizer is None:
        return open_pretrained(config.model)
    tokenizer = load_tokenizer(config.tokenizer)
    if config.model.endswith(".json"):
        shape = BertConfig.from_json(location(config.model))
        shape = dataclasses.replace(shape, vocab_size=tokenizer.vocab_size)
    else:
        shape = BertConfig.named(config.model, vocab_size=tokenizer.vocab_size)
    return Pretrained(shape, {}, tokenizer, {"kind": "encoder"})


def keep_layers(config: FinetuneConfig, model: Pretrained) -> Pretrained:
    """Returns a model with the encoder layers that a configuration keeps.

    Raises:
        UserError: the model has fewer layers, or is an encoder-decoder.
    """
    if (layers := config.layers_to_keep) is None:
        return model
    shape = model.bert_config("`layers_to_keep`")
    if layers[-1] >= (depth := shape.num_hidden_layers):
        raise UserError(
            f"`layers_to_keep` is {tuple(layers)}, and the model has {depth} layers: give numbers "
            f"from 0 to {depth - 1}."
        )

    def role(layer: int) -> tuple[bool, bool]:
        return shape.is_local(layer), shape.lacks_norm(layer)

    if any(role(at) != role(layer) for at, layer in enumerate(layers)):
        raise UserError(
            f"`layers_to_keep` is {tuple(layers)}, which gives layers of the model another number: "
            "there, they attend within windows or to all tokens, or lack a LayerNorm; give numbers "
            "from 0 on, without gaps."
        )

    def kept(params: dict[str, Any]) -> dict[str, Any]:
        encoder = dict(params["encoder"])
        own = [encoder.pop(f"layer_{layer}") for layer in range(depth)]
        encoder |= {f"layer_{at}": own[layer] for at, layer in enumerate(layers)}
        return {**params, "encoder": encoder}

    names = {field.name for field in dataclasses.fields(model)} - {"config", "params"}
    others = {name: getattr(model, name) for name in names}
    shape = dataclasses.replace(shape, num_hidden_layers=len(layers))
    return Unread(shape, (kept(model.shapes), lambda: kept(model.params)), **others)


def with_dropout(config: FinetuneConfig, model: Pretrained) -> Pretrained:
    """Returns a model with a configuration's dropout, in both halves of an encoder-decoder."""
    given = config.dropout()
    if isinstance(model.config, EncoderDecoderConfig):
        halves = (model.config.encoder, model.config.decoder)
        encoder, decoder = (dataclasses.replace(each, **given) for each in halves)
        shape = dataclasses.replace(model.config, encoder=encoder, decoder=decoder)
    else:
        shape = dataclasses.replace(model.config, **given)
    changed = copy.copy(model)  # its weights may not be read yet
    changed.config = shape
    return changed


def read_task(config: FinetuneConfig, model: Pretrained, log: Log) -> Task:
    """Reads and tokenizes the files of a configuration.

    Raises:
        UserError: something is wrong with a file.
    """

    def load(path: str) -> Pretrained:
        return with_dropout(config, from_pretrained(path))

    length = config.row_length(model.config.max_position_embeddings)
    files = TaskFiles(config.train, config.dev, config.test, model, length, log, load=load)
    task = config.kind.read(config.task, files)
    read = dict(zip(files.paths, (task.train, task.dev, task.test), strict=False))
    for path, features in read.items():
        if line := row_checks.warning(path, features, model.tokenizer, model.config):
            log(line)
    return task if config.best_metric is None else task.judged_by(config.best_metric)


class _Run:
    """Trains the seeds, and keeps the parameters of the best one."""

    def __init__(self, config: FinetuneConfig, trainer: Trainer, workdir: epath.Path) -> None:
        """Takes a run directory.

        Raises:
            UserError: it holds another run.
        """
        self.config, self.trainer, self.records = config, trainer, Records(trainer)
        self.immutable = self.records.immutable()
        hosts.agree(self.immutable)
        self.workdir = workdir
        refuse_changed_run(workdir, self.immutable)
        self.best: tuple[Scores, Any] | None = None

    def go(self) -> FinetuneResult:
        """Trains all seeds with the best setting."""
        task, log = self.trainer.task, self.trainer.log
        self._write_description()
        if not (self.workdir / CONFIG).exists():
            self._write_config()
        settings = self.trainer.settings
        setting, better = settings[0], min if task.best_mode == "min" else max
        tried: dict[Setting, SeedResult] = {}
        seeds: list[SeedResult] = []
        export = None
        with contextlib.suppress(Stopped):
            self.trainer.teach(self.workdir)
            for each in settings:
                tried[each] = self._train(self.config.seeds[0], each)
            setting = better(tried, key=lambda each: tried[each].metrics[task.metric])
            if len(settings) > 1:
                log(f"The best on the dev rows is {grid.description(setting, settings)}.")
            seeds.append(tried[setting])
            for seed in self.config.seeds[1:]:
                seeds.append(self._train(seed, setting))
            signals.check()
            export = str(self._export())
        result = summarize(task, setting, tried, seeds, str(self.workdir), export)
        if export is not None:
            self._write_config()  # a resumed run may have changed mutable settings
            self._write_result(result)
        for line in result.lines():
            log(line)
        return result

    def _train(self, seed: int, setting: Setting) -> SeedResult:
        signals.check()
        result, params = train_seed(self.trainer, self.records, self.workdir, seed, setting)
        metric, scores = self.trainer.task.metric, result.metrics
        sign = -1 if self.trainer.task.best_mode == "min" else 1
        if self.best is None or sign * scores[metric] > sign * self.best[0][metric]:
            self.best = (scores, sharding.on_host(self.trainer.mesh, params))
        return result

    def _export(self) -> epath.Path:
        """Writes the best seed's model to workdir/export."""
        assert self.best is not None
        scores, params = self.best
        task, model, shape = self.trainer.task, self.trainer.model, self.trainer.shape
        recorded = self._recorded(scores)
        export = self.workdir / "export"
        if jax.process_index() == 0:
            with writing(export):
                save_pretrained(
                    export,
                    Pretrained(
                        shape,
                        params,
                        model.tokenizer,
                        recorded,
                        decoder_tokenizer=task.decoder_tokenizer,
                        sentence_modules=recorded_modules(recorded, shape),
                    ),
                    own_layout=True,
                )
        if jax.process_count() > 1:  # GLUE's next task may start from this model
            sync_global_devices("bertjax_exported")
        return export

    def _recorded(self, scores: Scores) -> dict[str, Any]:
        """Returns what an export of a model with these metrics on the dev rows records."""
        task = self.trainer.task
        return {
            "kind": task.head.name,
            "task": self.config.task.kind,
            "max_seq_length": self.trainer.max_seq_length,
            **({"notes": dict(task.notes)} if task.notes else {}),
            **({"vectors": dict(task.vectors)} if task.vectors else {}),
            **task.export(scores),
        }

    def _write_description(self) -> None:
        """Writes what the checkpoints of a run that is stopped need to be a model."""
        if jax.process_index() == 0:
            task, tokenizer = self.trainer.task, self.trainer.model.tokenizer
            write_description(self.workdir, self._recorded({}), tokenizer, task.decoder_tokenizer)

    def _write_config(self) -> None:
        if jax.process_index() == 0:
            write_config(
                self.workdir,
                FINETUNING,
                self.config.to_dict(),
                self.immutable,
                self.records.metrics(),
            )

    def _write_result(self, result: FinetuneResult) -> None:
        if jax.process_index() == 0:
            steps = max(self.trainer.schedule(setting).steps for setting in result.tried)
            write_result(self.workdir, result.sentence(), steps, result.to_json())
