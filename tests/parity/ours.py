"""bertjax's side of a parity test: weights with the same names, and their outputs."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np

import bertjax as bj
from bertjax.interop.tensors import tensor_name
from bertjax.train.tree import named, nested

EXECUTION = bj.Execution(precision="highest")
SCAN = bj.Execution(precision="highest", scan_layers=True)


def config(case: str) -> bj.BertConfig:
    """The configuration of a case."""
    return bj.BertConfig(**cases.CONFIGS[case])


def params(case: str) -> dict:
    """Returns embeddings, encoder, pooler, mlm and nsp of a case."""
    shapes = jax.eval_shape(lambda: bj.init_params(config(case), jax.random.key(0)))
    return nested({path: leaf(path, tree.shape) for path, tree in named(shapes).items()})


def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a parameter, drawn for Hugging Face's name in Hugging Face's layout."""
    name, transposed = tensor_name(path)
    array = cases.tensor(name, shape[::-1] if transposed else shape)
    return array.T if transposed else array


def heads(case: str) -> dict[str, dict]:
    """Returns {kind: the subtree of its head}; `classifier` is another matrix for each kind."""
    width = cases.CONFIGS[case]["hidden_size"]

    def head(name: str, labels: int) -> dict:
        kernel = cases.tensor(f"{name}.weight", (labels, width)).T
        return {name: {"kernel": kernel, "bias": cases.tensor(f"{name}.bias", (labels,))}}

    return {kind: head("classifier", labels) for kind, labels in cases.LABELS.items()} | {
        "question_answering": head("qa_outputs", 2),
        "multiple_choice": head("classifier", 1),
    }


@partial(jax.jit, static_argnames=("config", "kinds"))
def outputs(params, heads, inputs, questions, config, kinds) -> dict[str, jax.Array]:
    """Computes the arrays that golden files have under `forward/`, with bertjax's public functions.

    Of twelve layers one is compiled, for all of them; the gradients are those of the loop.
    """
    execution = SCAN if config.num_hidden_layers > 3 else EXECUTION
    out = bj.encode(params, inputs, config, execution=execution)
    rows, width = inputs["input_ids"].shape
    everywhere = jnp.broadcast_to(jnp.arange(width), (rows, width))
    mlm, nsp = bj.pretraining_logits(params, inputs, everywhere, config, execution=execution)
    found = {
        "last_hidden_state": out.last_hidden_state,
        "pooled": out.pooled,
        "mlm": mlm,
        "nsp": nsp,
    }
    for kind in kinds:
        given = questions if kind == "multiple_choice" else inputs
        task = {"kind": kind}
        whole = {**params, **heads[kind]}
        found[kind] = bj.task_logits(whole, given, config, task, execution=execution)
    return found


@partial(jax.jit, static_argnames="config")
def loss_and_gradients(params, batch, config):
    """Returns the pre-training loss and its gradient for every parameter."""

    def loss(params):
        return bj.pretraining_loss(params, batch, config, execution=EXECUTION)[0]

    return jax.value_and_grad(loss)(params)


def by_their_names(tree: dict) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree like the parameters with Hugging Face's names and layout."""
    found = {}
    for path, value in named(tree).items():
        name, transposed = tensor_name(path)
        found[name] = np.asarray(value).T if transposed else np.asarray(value)
    return found
