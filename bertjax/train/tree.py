"""Leaves of a tree by path: the names of parameters in tables, checkpoints and files."""

from typing import Any

import jax
from flax import traverse_util


def path_name(path: tuple) -> str:
    """Formats the key path of a leaf as `encoder/layer_0/output/bias`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path, in the order of `jax.tree.leaves`."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """Converts {"a/b": x} to {"a": {"b": x}}."""
    return traverse_util.unflatten_dict(leaves, sep="/")
