"""The teacher of a fine-tuning run: a trained model whose outputs for the rows a student learns.

A teacher has no dropout, so its outputs for a row never change. They are computed once, before the
first step, and kept in the run directory: the training program has no teacher in it.
"""

import functools
import io
import time
import zipfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath

from bertjax import signals
from bertjax.errors import UserError
from bertjax.files import damaged, reading, write_atomically
from bertjax.finetune import head_start
from bertjax.finetune.config import FinetuneConfig
from bertjax.interop.huggingface import Pretrained, open_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.objectives.distillation import Distillation
from bertjax.tasks import kinds, row_checks
from bertjax.tasks.batches import Width
from bertjax.tasks.task import Features, Outputs, Run, Task
from bertjax.train.checkpoint.orbax_storage import from_first_process
from bertjax.train.telemetry.fields import duration

FILE = "teacher.npz"
"""The outputs for the training rows and whose they are, in the run directory."""


class TaughtRows:
    """The N training rows of a task, with the teacher's outputs."""

    def __init__(self, rows: Features, outputs: np.ndarray) -> None:
        """Takes outputs float32 [N, C], or [P, C] for each of the P tokens of all rows."""
        self.rows, self.outputs, self.lengths = rows, outputs, rows.lengths
        self._ends = self.lengths.cumsum()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, width: Width) -> dict[str, np.ndarray]:
        """Adds teacher_logits, float32 [B, C] or [B, T, C], to a batch of the rows."""
        batch = self.rows.batch(indices, width)
        if len(self.outputs) == len(self):
            return {**batch, "teacher_logits": self.outputs[np.maximum(indices, 0)]}
        logits = np.zeros((len(indices), width, self.outputs.shape[1]), np.float32)
        for at, row in enumerate(indices):
            if row >= 0:
                end, length = self._ends[row], self.lengths[row]
                logits[at, :length] = self.outputs[end - length : end]
        return {**batch, "teacher_logits": logits}


def open_teacher(config: FinetuneConfig, student: Pretrained) -> Pretrained | None:
    """Opens the teacher of a configuration, if it names one, before rows are read.

    Raises:
        UserError: the teacher does not know this task, or can't read the rows of the student.
    """
    if config.teacher is None:
        return None
    model = open_pretrained(config.teacher)
    shape, kind = model.bert_config("`teacher`"), kinds.of_model(model)
    if kind is None:
        raise UserError(
            f"`teacher`: {config.teacher} has no head of a task ({model.kind}): fine-tune it first."
        )
    if kind.name != config.task.kind:
        raise UserError(
            f"`teacher`: {config.teacher} was trained for the task {kind.name}, and this run is "
            f"for {config.task.kind}: give a teacher of the same task."
        )
    if model.tokenizer.sha256 != student.tokenizer.sha256:
        raise UserError(
            f"`teacher`: {config.teacher} has another vocabulary than `model`, so that the same "
            "ids are other tokens: give a teacher with the vocabulary of the student."
        )
    length = config.row_length(student.config.max_position_embeddings)
    if length > shape.max_position_embeddings:
        raise UserError(
            f"`teacher`: {config.teacher} has {shape.max_position_embeddings} positions, and rows "
            f"have up to {length} tokens: lower `max_seq_length`."
        )
    return model


class Teacher:
    """A teacher that fits a task, and the loss against its outputs."""

    def __init__(self, config: FinetuneConfig, model: Pretrained, task: Task) -> None:
        """Finds the output for each label of the task.

        Raises:
            UserError: the teacher has another head, or other labels.
        """
        self.path, self.model = config.teacher, model
        if model.kind != task.head.name:
            raise UserError(
                f"`teacher`: {self.path} does {model.kind}, and this run trains {task.head.name}: "
                "give a teacher that was trained on the same labels."
            )
        # Refuses rows with a token type that the teacher lacks; the run has told what is [UNK].
        row_checks.warning(config.train, task.train, model.tokenizer, model.config)
        self.columns = self._columns(task.labels)
        loss = Distillation(config.kind.soft_losses[task.head.name], **config.teaching())
        # Without weight the program is that of a run without a teacher, to the last bit.
        self.distillation = loss if loss.weight else None

    @functools.cached_property
    def weights(self) -> str:
        """SHA-256 of the teacher's weights."""
        return weights_hash(self.model.params)

    def _columns(self, labels: Sequence[str]) -> list[int]:
        """Returns the output of the teacher for each label; none if outputs have no labels."""
        if not labels:
            return []
        theirs = head_start.labels_of(self.model)
        sources = [head_start.source_of(label, theirs) for label in labels]
        columns = [theirs.index(source) for source in sources if source is not None]
        if sorted(columns) != list(range(len(theirs))) or len(theirs) != len(labels):
            there, here = (", ".join(names[:8]) for names in (theirs, labels))
            raise UserError(
                f"`teacher`: {self.path} has {len(theirs)} labels ({there}) and the training file "
                f"{len(labels)} ({here}): give a teacher that was trained on the same labels."
            )
        return columns

    def teach(
        self, task: Task, run: Run, workdir: epath.Path, log: Callable[[str], None]
    ) -> TaughtRows:
        """Adds the teacher's outputs to the training rows.

        Args:
            task: the task.
            run: runs the teacher.
            workdir: directory of the run. Outputs that it holds are read if this teacher gave them
                for these rows.
            log: takes one line at a time.

        Raises:
            Stopped: a signal came.
        """
        path = workdir / FILE
        origin = f"{self.weights} {task.data_hash}"
        known = _read(path, origin) if path.exists() else None
        (is_known,) = from_first_process([int(known is not None)])
        if is_known and known is not None:
            log(f"The outputs of the teacher are read from {path}.")
            return TaughtRows(task.train, known)
        begin = time.monotonic()
        scores = task.scores(task.dev, self._outputs(run, task.dev))
        outputs = _flat(task.train, self._outputs(run, task.train))
        log(
            f"The teacher {self.path} ({self.model.config.num_hidden_layers} layers) has "
            f"{task.metric} {scores[task.metric]:.4f} on the dev rows. Its outputs for these and "
            f"{len(task.train):,} training rows took {duration(time.monotonic() - begin)}."
        )
        if jax.process_index() == 0:
            data = io.BytesIO()
            np.savez(data, outputs=outputs, origin=np.array(origin))
            write_atomically(path, data.getvalue())
        return TaughtRows(task.train, outputs)

    def _outputs(self, run: Run, features: Features) -> Outputs:
        """Yields outputs in the order of the task's labels."""
        for rows, values in run(features):
            signals.check()
            yield rows, values[..., self.columns] if self.columns else values


def _flat(features: Features, outputs: Outputs) -> np.ndarray:
    """Returns outputs [n, C] of batches as [N, C], and [n, T, C] without padding as [P, C]."""
    lengths = features.lengths
    found: dict[int, np.ndarray] = {}
    for rows, values in outputs:
        for row, value in zip(rows.tolist(), values, strict=True):
            found[row] = value[None] if value.ndim == 1 else value[: lengths[row]]
    return np.concatenate([found[row] for row in range(len(features))])


def _read(path: epath.Path, origin: str) -> np.ndarray | None:
    """Returns the outputs in a file; None if they are those of another teacher or of other rows."""
    try:
        with reading(path):
            found = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
            return found["outputs"] if str(found["origin"]) == origin else None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        damaged(path, error, "delete it, so that the outputs are computed again")
