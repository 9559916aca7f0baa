"""Texts that a sequence-to-sequence model writes."""

from collections.abc import Sequence
from typing import Any

from bertjax.errors import UserError
from bertjax.inference.predict import predict
from bertjax.interop.huggingface import Pretrained
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks import kinds


def generate(model: Pretrained, texts: Sequence[str], **options: Any) -> list[Any]:
    """Writes a text for each text, such as its translation or its summary.

    Args:
        model: a model that was trained to write, or an encoder-decoder of two BERTs.
        texts: N texts.
        **options: those of `bertjax.predict`, and the fields of `bertjax.GenerationConfig`, such as
            num_beams. By default they are as in training.

    Returns:
        N texts; with `n_best` above 1, N lists of so many texts, the best first.

    Raises:
        UserError: the model does not write, an option is wrong, or a text can't be read.
    """
    kind = kinds.of_model(model)
    if kind is None or not issubclass(kind.prediction, GenerationConfig):
        raise UserError(f"The model does {model.kind}, which writes no text: use predict.")
    answers = predict(model, texts, **options)
    if options.get("n_best", 1) == 1:
        return [answer["text"] for answer in answers]
    return [[each["text"] for each in answer["n_best"]] for answer in answers]
