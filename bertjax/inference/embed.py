"""A vector for each text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.inference.programs import Pooling
from bertjax.inference.texts import Line, chunks, read_line
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks.task import trained_length
from bertjax.tasks.texts import Text, split_pairs, tokenize


def embed(
    model: Pretrained,
    texts: Sequence[Text],
    layer: int | tuple[int, ...] = -1,
    pooling: Pooling = "mean",
    *,
    layer_weights: Sequence[float] | None = None,
    batch_size: int = 32,
    execution: Execution = Execution(),
) -> np.ndarray:
    """Embeds texts: [N, D] float32, or [N, D * layers] for several joined layers.

    Args:
        model: any model.
        texts: N texts or N pairs.
        layer: layers to take: 0 for the output of the embeddings, 1 for that of the first layer, -1
            for that of the last. The vectors of several layers are joined (the BERT paper's section
            5.3 joins the last four).
        pooling: "mean" of all tokens with [CLS] and [SEP]; "cls" for the first token; "pooler" for
            the trained layer on the first token of the last layer.
        layer_weights: weights of the layers, whose vectors are then summed instead of joined (the
            BERT paper's table 7 sums the last four layers, and all layers).
        batch_size: maximum rows per batch.
        execution: how to compute.

    Raises:
        UserError: a layer, the pooling or the weights do not fit the model, or a text can't be
            read.
    """
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    check_layers(model, layers, pooling, layer_weights)
    firsts, seconds = split_pairs(texts)
    length = trained_length(model)
    features = tokenize(firsts, seconds, model.tokenizer, length)
    joined = len(layers) if layer_weights is None else 1
    weights = None if layer_weights is None else np.asarray(layer_weights, np.float32)
    config = model.bert_config("an embedding")
    result = np.zeros((len(firsts), config.hidden_size * joined), np.float32)
    for rows, inputs in programs.batches(features, batch_size, length):
        vectors = programs.pooled_vectors(
            model.params, inputs, weights, layers, pooling, config, execution
        )
        result[rows] = np.asarray(vectors)[: len(rows)]
    return result


def check_layers(
    model: Pretrained, layers: Sequence[int], pooling: str, layer_weights: Sequence[float] | None
) -> None:
    """Raises a UserError unless the model has these layers and this pooling."""
    depth = model.bert_config("an embedding").num_hidden_layers
    for number in layers:
        if not -depth - 1 <= number <= depth:
            raise UserError(
                f"`layer` is {number}: the model has {depth} layers; give {-depth - 1} to {depth}."
            )
    if pooling not in ("mean", "cls", "pooler"):
        raise UserError(f"`pooling` is {pooling!r}: use mean, cls or pooler.")
    if pooling == "pooler" and (layers not in ((-1,), (depth,)) or "pooler" not in model.params):
        raise UserError(
            "`pooling` pooler needs the last layer of a model that has a pooler: leave `layer` at "
            "-1, or use mean or cls."
        )
    if not layers:
        raise UserError("`layer` is empty: name at least one layer.")
    if layer_weights is None:
        return
    if pooling == "pooler":
        raise UserError("`pooling` pooler reads one layer: leave out `layer_weights`.")
    if (given := len(layer_weights)) != (need := len(layers)):
        raise UserError(f"`layer_weights` has {given} numbers for {need} layers: give {need}.")
    for weight in layer_weights:
        if not abs(weight) <= float(np.finfo(np.float32).max):
            raise UserError(f"`layer_weights` has {weight}: give finite numbers.")


def embed_lines(model: Pretrained, lines: Iterable[Line], **options: Any) -> Iterator[np.ndarray]:
    """Yields the vector of each line of text, with the options of `embed`."""
    for chunk in chunks(lines):
        texts = [read_line(line, where) for where, line in chunk.items()]
        yield from embed(model, texts, **options)
