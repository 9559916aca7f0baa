"""One vector for each text."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.runs import inference
from bertjax.runs.inference import Pooling
from bertjax.runs.texts import Text, chunks, max_length, split_pairs
from bertjax.tasks import classification

_DEFAULT = Execution()


def embed(
    model: Pretrained,
    texts: Sequence[Text],
    layer: int | tuple[int, ...] = -1,
    pooling: Pooling = "mean",
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> np.ndarray:
    """One vector for each text: [N, D] float32, or [N, D * layers] for several layers.

    Args:
        model: any.
        texts: N texts or N pairs.
        layer: 0 is the embeddings' output, 1 the first layer's, -1 the last one's; of several the
            vectors are joined (the paper's section 5.3 joins the last four).
        pooling: mean over the tokens ([CLS] and [SEP] included), cls: the first token, pooler: the
            trained layer over the first token (of the last layer only).
        batch_size: most rows at a time.
        execution: how to compute.

    Raises:
        UserError: no such layer or pooling, or a text can't be read.
    """
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    depth = model.config.num_hidden_layers
    for number in layers:
        if not -depth - 1 <= number <= depth:
            raise UserError(
                f"layer is {number}: the model has {depth} layers; give {-depth - 1} to {depth}."
            )
    if pooling not in ("mean", "cls", "pooler"):
        raise UserError(f"pooling is {pooling!r}: use mean, cls or pooler.")
    if pooling == "pooler" and (layers not in ((-1,), (depth,)) or "pooler" not in model.params):
        raise UserError(
            "pooling is pooler, which reads the last layer of a model that has a pooler: leave "
            "layer at -1, or use mean or cls."
        )
    if not layers:
        raise UserError("layer is empty: name at least one layer.")
    firsts, seconds = split_pairs(model, texts, any_form=True)
    length = max_length(model)
    examples = classification.tokenize(firsts, seconds, model.tokenizer, length)
    result = np.zeros((len(firsts), model.config.hidden_size * len(layers)), np.float32)
    for rows, batch in inference.batches(examples, batch_size, length):
        vectors = inference.pooled_vectors(
            model.params,
            inference.model_inputs(batch),
            layers=layers,
            pooling=pooling,
            config=model.config,
            execution=execution,
        )
        result[rows] = np.asarray(vectors)[: len(rows)]
    return result


def embed_lines(
    model: Pretrained,
    lines: Iterable[str],
    *,
    layer: int | tuple[int, ...] = -1,
    pooling: Pooling = "mean",
    batch_size: int = 32,
) -> Iterator[np.ndarray]:
    """The vector of every line of text, in order; as `embed`."""
    for _, chunk in chunks(lines):
        yield from embed(model, chunk, layer, pooling, batch_size=batch_size)
