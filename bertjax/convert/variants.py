"""Variants of a model, each with one known mistake that no tensor shape reveals.

`verify` compares the outputs of each variant with the reference to name the cause of a difference.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertjax.interop.huggingface import Pretrained
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.train.tree import named, nested

_ACTS = {"gelu": "gelu (erf)", "gelu_new": "gelu_new (tanh)", "relu": "relu"}
_EPSILONS = (1e-12, 1e-6, 1e-5)
_TOKEN_TYPES = "embeddings/token_type_embeddings/embedding"


def variants(model: Pretrained) -> Iterator[tuple[str, Pretrained]]:
    """Yields (a clause that says what differs, the model with that difference)."""
    config, leaves = model.bert_config("`verify`"), named(model.params)

    def configured(**fields: Any) -> Pretrained:
        return dataclasses.replace(model, config=dataclasses.replace(config, **fields))

    def changed(new: Mapping[str, Any]) -> Pretrained:
        return dataclasses.replace(model, params=nested({**leaves, **new}))

    act = "gelu_new" if config.hidden_act == "gelu_tanh" else config.hidden_act
    for name, shown in _ACTS.items():
        if name != act:
            cause = f"hidden_act is {shown} there and {_ACTS.get(act, act)} here"
            yield cause, configured(hidden_act=name)
    for epsilon in _EPSILONS:
        if epsilon != config.layer_norm_eps:
            cause = f"layer_norm_eps is {epsilon:g} there and {config.layer_norm_eps:g} here"
            yield cause, configured(layer_norm_eps=epsilon)

    for kind, paths in _square_kernels(leaves).items():
        yield (
            f"every {kind} kernel is transposed",
            changed({path: leaves[path].T for path in paths}),
        )

    if (types := leaves.get(_TOKEN_TYPES)) is not None:
        yield "token types are ignored there", changed({_TOKEN_TYPES: 0 * types})
        yield "every token is of type 0 there", changed({_TOKEN_TYPES: types[:1] + 0 * types})

    norms = {path: 0 * leaf for path, leaf in leaves.items() if "layer_norm/" in path}
    ones = {path: zero + 1 for path, zero in norms.items() if path.endswith("/scale")}
    zeros = {path: zero for path, zero in norms.items() if path.endswith("/bias")}
    yield "LayerNorm's gamma and beta are not read", changed(ones | zeros)
    yield "LayerNorm's gamma is not read", changed(ones)
    yield "LayerNorm's beta is not read", changed(zeros)
    if "mlm/bias" in leaves:
        yield "the masked-LM bias is not read", changed({"mlm/bias": 0 * leaves["mlm/bias"]})


def tokenizer_variants(tokenizer: Tokenizer) -> Iterator[tuple[str, Tokenizer]]:
    """Yields (a clause that says what differs, a tokenizer with that difference)."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        return
    for lower in (tokenizer.lowercase, not tokenizer.lowercase):
        for strip in (None, True, False):
            found = []
            if lower != tokenizer.lowercase:
                found.append(f"the tokenizer {'lower-cases' if lower else 'keeps case'} there")
            if strip is not None:
                found.append(f"the tokenizer {'strips' if strip else 'keeps'} accents there")
            if found:
                yield " and ".join(found), tokenizer.with_casing(lower, strip)


def label_order(ours: np.ndarray, positions: np.ndarray, values: np.ndarray) -> list[int] | None:
    """Matches every class of the reference with the class of ours that has the nearest logits.

    Compares `ours` [..., C] at flat indices [K] with the reference's `values` [K]. Returns a
    permutation of the C classes other than the identity, or None.
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
    """Returns the paths of square kernels by module, over all layers, and all paths as "square"."""
    groups: dict[str, list[str]] = {}
    for path, leaf in leaves.items():
        if path.endswith("/kernel") and leaf.shape[0] == leaf.shape[1]:
            kind = re.sub(r"^encoder/layer_\d+/|/kernel$", "", path).replace("/", " ")
            groups.setdefault(kind, []).append(path)
    groups["square"] = [path for paths in groups.values() for path in paths]
    return groups
