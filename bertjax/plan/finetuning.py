"""The training step of a fine-tuning recipe on a mesh: that of its largest batch."""

import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.program import Hyperparameters, random_params
from bertjax.finetune.run import keep_layers, load_model, read_task, with_dropout
from bertjax.finetune.teacher import Teacher, open_teacher
from bertjax.finetune.trainer import Trainer
from bertjax.glue.benchmark import chosen
from bertjax.glue.files import GlueData
from bertjax.glue.run import finetune_config
from bertjax.model.flops import training_flops
from bertjax.plan.config import GluePlan
from bertjax.plan.steps import Step
from bertjax.train import lora, sharding


def finetuning_step(config: FinetuneConfig, mesh: Mesh) -> Step:
    """Returns the step of `bertjax finetune`.

    Raises:
        UserError: something is wrong with the model, the files or the configuration.
    """
    return _step(_trainer(config, mesh))


def glue_step(config: GluePlan, mesh: Mesh) -> Step:
    """Returns the step of the first task with the longest rows, and the steps of all tasks.

    Raises:
        UserError: something is wrong with the model, the files or the configuration.
    """
    with tempfile.TemporaryDirectory() as directory:  # for rows that are held out
        data = GlueData(config.directory, epath.Path(directory), config.hold_out)
        found = [
            files for task in chosen(config.tasks) if not isinstance(files := data.find(task), str)
        ]
        if not found:
            raise UserError(f"{config.directory}: no task can be trained; give GLUE's directory.")
        configs = [finetune_config(config, files, config.model, directory) for files in found]
        trainers = [_trainer(each, mesh) for each in configs]
    steps = [_step(trainer) for trainer in trainers]
    largest = max(steps, key=lambda step: step.facts["length"])
    largest.facts["steps"] = sum(step.facts["steps"] for step in steps)
    return largest


def _trainer(config: FinetuneConfig, mesh: Mesh) -> Trainer:
    def ignore(line: str) -> None:
        del line  # a run tells it

    model = with_dropout(config, keep_layers(config, load_model(config)))
    teacher, task = open_teacher(config, model), read_task(config, model, ignore)
    return Trainer(
        config, model, task, ignore, False, teacher and Teacher(config, teacher, task), mesh
    )


def _steps(trainer: Trainer) -> int:
    """Returns the steps of all settings with one seed, and of the longest one with the others."""
    steps = [trainer.schedule(setting).steps for setting in trainer.settings]
    return sum(steps) + (len(trainer.config.seeds) - 1) * max(steps)


def _step(trainer: Trainer) -> Step:
    config, head, mesh = trainer.config, trainer.task.head, trainer.mesh
    arrays, width = trainer.largest_batch()
    taught = {"teacher_logits": _outputs(trainer, arrays)} if trainer.teacher else {}
    arrays: dict[str, Any] = {**arrays, **taught}
    batch = sharding.placed(arrays, jax.tree.map(lambda _: sharding.batch_sharding(mesh), arrays))
    base = {name: trainer.model.shapes[name] for name in lora.BASE if config.lora.rank}
    base = sharding.placed(base, sharding.param_shardings(mesh, base))
    scalars = [jax.ShapeDtypeStruct((), kind) for kind in (np.int32, *[np.float32] * 3)]
    lengths = np.atleast_1d(width).tolist()
    return Step(
        trainer.programs.train_step,
        (trainer.programs.abstract_state, batch, Hyperparameters(*scalars, base=base)),
        mesh,
        trainer.shape,
        training_flops(head.flops(trainer.shape, head.name, head.outputs, *lengths)),
        {
            "rows": len(arrays["example_weight"]),
            "length": sum(lengths),
            "is_longest": True,
            "padding": None,
            "packed": None,
            "accumulation": config.accumulation,
            "steps": _steps(trainer),
        },
    )


def _outputs(trainer: Trainer, arrays: dict[str, Any]) -> jax.ShapeDtypeStruct:
    """Returns the shape of a teacher's outputs for a batch."""
    head, shape, execution = trainer.task.head, trainer.shape, trainer.config.execution

    def outputs() -> Any:
        params = random_params(shape, jax.random.key(0), head, whole=True)
        return head.forward(params, arrays, shape, head.name, execution=execution)

    return jax.ShapeDtypeStruct(jax.eval_shape(outputs).shape, np.float32)
