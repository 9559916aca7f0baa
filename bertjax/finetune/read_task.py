"""A fine-tuning configuration's files -> the `Task` that is trained."""

from typing import TYPE_CHECKING

from bertjax.interop.huggingface import Pretrained
from bertjax.tasks.classification.reading import read_classification
from bertjax.tasks.question_answering.reading import read_question_answering
from bertjax.tasks.task import Task

if TYPE_CHECKING:
    from bertjax.finetune.run import FinetuneConfig, Log


def read_task(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    """Reads and tokenizes the files of a configuration.

    Raises:
        UserError: something is wrong with a file; the sentence names the line, or the question.
    """
    return _READERS[config.task](config, model, log)


_READERS = {
    "classification": read_classification,
    "question_answering": read_question_answering,
}
