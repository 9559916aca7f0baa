"""A vector for each text."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
from etils import epath

from bertjax.config import Execution
from bertjax.errors import UserError, refuse_unknown
from bertjax.files import location, write_atomically
from bertjax.inference import programs
from bertjax.inference.config import EmbedConfig, Pooling
from bertjax.inference.texts import Line, chunks, open_lines, read_line
from bertjax.interop.huggingface import Pretrained, open_pretrained
from bertjax.interop.sentence_transformers import Normalize, SentenceModules
from bertjax.tasks.row_checks import check_inputs
from bertjax.tasks.task import trained_length
from bertjax.tasks.texts import Text, TextFeatures, split_pairs, tokenize


def embed(
    model: Pretrained,
    texts: str | Sequence[Text],
    layer: int | Sequence[int] | None = None,
    pooling: Pooling | None = None,
    *,
    layer_weights: Sequence[float] | None = None,
    normalize: bool = False,
    size: int | None = None,
    batch_size: int = 32,
    execution: Execution = Execution(),
) -> np.ndarray:
    """Embeds texts: [N, D] float32, or [N, D * layers] for several joined layers.

    A model of sentence-transformers has files that say how its vectors are made. They are followed
    if neither `layer` nor `pooling` nor `layer_weights` is given; its maximum length always is.

    Args:
        model: any model.
        texts: N texts or N pairs; a single string gives one vector [D].
        layer: layers to take: 0 for the output of the embeddings, 1 for that of the first layer, -1
            for that of the last, the default. The vectors of several layers are joined (the BERT
            paper's section 5.3 joins the last four).
        pooling: "mean", the default, of all tokens with [CLS] and [SEP]; "cls" for the first token
            and "lasttoken" for the last; "max" of every number; "mean_sqrt_len_tokens" for the sum
            divided by the square root of the number of tokens; "weightedmean" by positions;
            "pooler" for the trained layer on the first token of the last layer.
        layer_weights: weights of the layers, whose vectors are then summed instead of joined (the
            BERT paper's table 7 sums the last four layers, and all layers).
        normalize: scale each vector to length 1.
        size: numbers of a vector to keep, the first ones; a length of 1 stays 1.
        batch_size: maximum rows per batch.
        execution: how to compute.

    Raises:
        UserError: a layer, the pooling or the weights do not fit the model, or a text can't be
            read.
    """
    if isinstance(texts, str):
        options = {"layer_weights": layer_weights, "normalize": normalize, "execution": execution}
        return embed(model, [texts], layer, pooling, size=size, **options)[0]
    modules = followed_modules(model, layer, pooling, layer_weights)
    layers = check_layers(model, layer, pooling, layer_weights)
    poolings = modules.pooling if modules else (pooling or "mean",)
    features = _features(model, texts)
    check_inputs(features, model.tokenizer, model.config)
    joined = len(poolings) * (len(layers) if layer_weights is None else 1)
    weights = None if layer_weights is None else np.asarray(layer_weights, np.float32)
    config = model.bert_config("an embedding")
    result = np.zeros((len(features), config.hidden_size * joined), np.float32)
    for rows, inputs in programs.batches(features, batch_size, trained_length(model)):
        vectors = programs.pooled_vectors(
            model.params, inputs, weights, layers, poolings, config, execution
        )
        result[rows] = np.asarray(vectors)[: len(rows)]
    functions = [*(modules.after if modules else ()), *([Normalize()] if normalize else [])]
    for function in functions:
        result = function(result)
    return result if size is None else _shortened(result, size, functions)


def _shortened(vectors: np.ndarray, size: int, functions: Sequence[Any]) -> np.ndarray:
    """Keeps the first numbers of vectors that `functions` made."""
    if not 0 < size <= vectors.shape[1]:
        raise UserError(f"`size` is {size}: the vectors have {vectors.shape[1]} numbers.")
    short = vectors[:, :size]
    return Normalize()(short) if functions and isinstance(functions[-1], Normalize) else short


def followed_modules(
    model: Pretrained,
    layer: int | Sequence[int] | None = None,
    pooling: str | None = None,
    layer_weights: Sequence[float] | None = None,
) -> SentenceModules | None:
    """Returns the modules that make a model's vectors, if it has some and no option replaces them.

    Raises `UserError` if bertjax does not compute them.
    """
    modules = model.sentence_modules
    if modules is None or not (layer is pooling is layer_weights is None):
        return None
    if modules.unknown:
        raise UserError(
            f"{modules.unknown}, which bertjax does not compute: give `pooling`, for vectors of "
            "the encoder alone."
        )
    return modules


def noted_modules(
    model: Pretrained, note: Callable[[str], None], *ways: Any, **named: Any
) -> SentenceModules | None:
    """Returns the `followed_modules`, and says that they are followed."""
    if modules := followed_modules(model, *ways, **named):
        note(f"As the model's modules.json says: {modules}.")
    return modules


def _features(model: Pretrained, texts: Sequence[Text]) -> TextFeatures:
    firsts, seconds = split_pairs(texts)
    length, modules = trained_length(model), model.sentence_modules
    if modules:
        length = min(length, modules.max_seq_length or length)
        if modules.lowercase:
            firsts = [text.lower() for text in firsts]
            seconds = None if seconds is None else [text.lower() for text in seconds]
    return tokenize(firsts, seconds, model.tokenizer, length)


def check_layers(
    model: Pretrained,
    layer: int | Sequence[int] | None,
    pooling: str | None,
    layer_weights: Sequence[float] | None,
) -> tuple[int, ...]:
    """Returns the layers that `embed` takes; raises UserError unless the model has them."""
    layers = (-1,) if layer is None else (layer,) if isinstance(layer, int) else tuple(layer)
    depth = model.bert_config("an embedding").num_hidden_layers
    for number in layers:
        if not -depth - 1 <= number <= depth:
            raise UserError(
                f"`layer` is {number}: the model has {depth} layers; give {-depth - 1} to {depth}."
            )
    if pooling is not None:
        refuse_unknown("`pooling`", pooling, get_args(Pooling))
    if pooling == "pooler" and (layers not in ((-1,), (depth,)) or "pooler" not in model.shapes):
        raise UserError(
            "`pooling` pooler needs the last layer of a model that has a pooler: leave `layer` at "
            "-1, or use mean or cls."
        )
    if not layers:
        raise UserError("`layer` is empty: name at least one layer.")
    if layer_weights is None:
        return layers
    if pooling == "pooler":
        raise UserError("`pooling` pooler reads one layer: leave out `layer_weights`.")
    if (given := len(layer_weights)) != (need := len(layers)):
        raise UserError(f"`layer_weights` has {given} numbers for {need} layers: give {need}.")
    for weight in layer_weights:
        if not abs(weight) <= float(np.finfo(np.float32).max):
            raise UserError(f"`layer_weights` has {weight}: give finite numbers.")
    return layers


def embed_lines(model: Pretrained, lines: Iterable[Line], **options: Any) -> Iterator[np.ndarray]:
    """Yields the vector of each line of text, with the options of `embed`."""
    for chunk in chunks(lines):
        texts = [read_line(line, where) for where, line in chunk.items()]
        yield from embed(model, texts, **options)


def embed_file(
    config: EmbedConfig, say: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Embeds the lines of a file as `bertjax embed` does; `note` gets what is not an answer."""
    options = {**vars(config)}
    name, file, output = (options.pop(each) for each in ("model", "lines", "output"))
    with open_lines(file) as lines:
        model = open_pretrained(name)
        ways = (config.layer, config.pooling, config.layer_weights)
        check_layers(model, *ways)
        noted_modules(model, note, *ways)
        vectors = embed_lines(model, lines, **options)
        if output is not None:
            say(f"Wrote {output}: {write_vectors(output, vectors)}.")
            return
        for vector in vectors:
            say(json.dumps([round(float(value), 6) for value in vector]))


def write_vectors(path: epath.PathLike, vectors: Iterable[np.ndarray]) -> str:
    """Writes vectors as the rows of a NumPy array in a .npy file; returns its shape in words."""
    rows = list(vectors)
    array = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    write_atomically(location(path), data.getvalue())
    return f"{array.shape[0]:,} vectors of {array.shape[1]:,} numbers"
