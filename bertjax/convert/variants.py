"""Variants of a model, each with one known mistake that no tensor shape reveals.

`verify` compares the outputs of each variant with the reference to name the cause of a difference.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bertjax.interop.huggingface import Pretrained
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.train.tree import named, nested

_ACTS = {"gelu": "gelu (erf)", "gelu_new": "gelu_new (tanh)", "relu": "relu"}
_SAME_ACTS = {"gelu_tanh": "gelu_new"}
_EPSILONS = (1e-12, 1e-6, 1e-5)
_TOKEN_TYPES = "embeddings/token_type_embeddings/embedding"


class Variant(NamedTuple):
    """A model that differs from another by one known mistake."""

    cause: str
    """A clause that says what differs."""
    model: Pretrained


def variants(model: Pretrained) -> Iterator[Variant]:
    """Yields every known variant that differs from the model."""
    config, leaves = model.config, named(model.params)
    act = _SAME_ACTS.get(config.hidden_act, config.hidden_act)
    for name, shown in _ACTS.items():
        if name != act:
            cause = f"hidden_act is {shown} there and {_ACTS[act]} here"
            yield Variant(cause, _with_config(model, hidden_act=name))
    for epsilon in _EPSILONS:
        if epsilon != config.layer_norm_eps:
            cause = f"layer_norm_eps is {epsilon:g} there and {config.layer_norm_eps:g} here"
            yield Variant(cause, _with_config(model, layer_norm_eps=epsilon))

    for kind, paths in _square_kernels(leaves).items():
        changed = {path: leaves[path].T for path in paths}
        yield Variant(f"every {kind} kernel is transposed", _with(model, changed))

    types = leaves[_TOKEN_TYPES]
    yield Variant("token types are ignored there", _with(model, {_TOKEN_TYPES: 0 * types}))
    first = types[:1] + 0 * types
    yield Variant("every token is of type 0 there", _with(model, {_TOKEN_TYPES: first}))

    norms = [path for path in leaves if "layer_norm/" in path]
    ones = {path: 0 * leaves[path] + 1 for path in norms if path.endswith("/scale")}
    zeros = {path: 0 * leaves[path] for path in norms if path.endswith("/bias")}
    yield Variant("LayerNorm's gamma and beta are not read", _with(model, ones | zeros))
    yield Variant("LayerNorm's gamma is not read", _with(model, ones))
    yield Variant("LayerNorm's beta is not read", _with(model, zeros))
    if "mlm/bias" in leaves:
        zero = {"mlm/bias": 0 * leaves["mlm/bias"]}
        yield Variant("the masked-LM bias is not read", _with(model, zero))


def tokenizer_variants(tokenizer: Tokenizer) -> Iterator[tuple[str, Tokenizer]]:
    """Yields (a clause that says what differs, a tokenizer with that difference)."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        return
    tokens = [tokenizer.token(number) for number in range(tokenizer.vocab_size)]
    for lower in (tokenizer.lowercase, not tokenizer.lowercase):
        for strip in (None, True, False):
            found = []
            if lower != tokenizer.lowercase:
                found.append(f"the tokenizer {'lower-cases' if lower else 'keeps case'} there")
            if strip is not None:
                found.append(f"the tokenizer {'strips' if strip else 'keeps'} accents there")
            if found:
                yield " and ".join(found), WordPieceTokenizer(tokens, lower, strip)


def label_order(ours: np.ndarray, positions: np.ndarray, values: np.ndarray) -> list[int] | None:
    """Matches every class of the reference with the class of ours that has the nearest logits.

    Args:
        ours: logits [..., C].
        positions: flat indices into them.
        values: the reference's logits at these positions.

    Returns:
        A permutation of the C classes other than the identity, or None.
    """
    classes = ours.shape[-1]
    rows, columns = np.divmod(positions, classes)
    flat = ours.reshape(-1, classes)
    order = []
    for column in range(classes):
        chosen = columns == column
        if not chosen.any():
            return None
        order.append(int(np.abs(flat[rows[chosen]] - values[chosen, None]).max(0).argmin()))
    is_permutation = sorted(order) == list(range(classes))
    return order if is_permutation and order != sorted(order) else None


def has_plain_norms(model: Pretrained) -> bool:
    """Whether every LayerNorm has gamma 1 and beta 0, which no trained model has."""
    return all(
        bool((leaf == path.endswith("/scale")).all())
        for path, leaf in named(model.params).items()
        if "layer_norm/" in path
    )


def _square_kernels(leaves: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the paths of square kernels by module, over all layers, and under "square" all paths.

    The shape of a square kernel does not reveal that it should have been transposed.
    """
    groups: dict[str, list[str]] = {}
    for path, leaf in leaves.items():
        if path.endswith("/kernel") and leaf.shape[0] == leaf.shape[1]:
            kind = re.sub(r"^encoder/layer_\d+/|/kernel$", "", path).replace("/", " ")
            groups.setdefault(kind, []).append(path)
    groups["square"] = [path for paths in groups.values() for path in paths]
    return groups


def _with_config(model: Pretrained, **fields: Any) -> Pretrained:
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **fields))


def _with(model: Pretrained, changed: Mapping[str, Any]) -> Pretrained:
    return dataclasses.replace(model, params=nested({**named(model.params), **changed}))
