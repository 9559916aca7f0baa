"""The losses of a pre-trained model on shards that it was not trained on."""

import functools
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bertjax.config import Execution
from bertjax.data.corpora import Corpora
from bertjax.data.shards import MANIFEST, Manifest
from bertjax.errors import UserError
from bertjax.files import location
from bertjax.inference.fill_mask import check_head
from bertjax.interop.huggingface import Pretrained
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.objectives.objective import Objective
from bertjax.objectives.table import OBJECTIVES
from bertjax.pretrain.evaluation import make_evaluator
from bertjax.train import sharding
from bertjax.train.step import Loss, make_eval_step


def is_shards(path: epath.PathLike) -> bool:
    """Whether a path is a directory that `bertjax prepare` wrote."""
    return (location(path) / MANIFEST).is_file()


def evaluate_shards(
    model: Pretrained,
    directory: epath.PathLike,
    *,
    batch_size: int = 32,
    max_examples: int | None = None,
    execution: Execution = Execution(),
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Computes the held-out metrics of pre-training over the examples of other shards.

    The masks are those of a run's evaluations with the default settings and seed 0.

    Args:
        model: a model with a masked-LM head.
        directory: shards of the same tokenizer. Their held-out examples are read or, if there are
            none, all.
        batch_size: rows per batch.
        max_examples: maximum number of examples, spread evenly; None: all.
        execution: how to compute.
        mesh: devices that share the rows; None: one device.

    Returns:
        "examples"; "split", "held_out" or "train"; "objective", which names the metrics; the
        metrics of the objective; and "unigram_entropy", the masked-LM loss of a model that knows
        only the frequencies of the tokens.

    Raises:
        UserError: the model has no masked-LM head, or the shards do not fit the model.
    """
    check_head(model)
    corpora = Corpora.of((location(directory),))
    _check(model, directory, corpora.manifest)
    corpora.check_ids(model.tokenizer)
    mesh = sharding.make_mesh(sharding.MeshConfig()) if mesh is None else mesh
    objective = _objective(model, corpora.manifest.segments)
    split = "held_out" if corpora.examples("held_out") else "train"
    examples = min(max_examples or corpora.examples(split), corpora.examples(split))
    ways = sharding.batch_ways(mesh)
    step = make_eval_step(_loss(model, objective, execution))
    evaluate = make_evaluator(
        corpora,
        jax.jit(step, out_shardings=sharding.replicated(mesh)),
        mesh,
        batch_size=-(-batch_size // ways) * ways,
        max_examples=examples,
        split=split,
    )
    assert evaluate is not None
    params = jax.device_put(model.params, sharding.param_shardings(mesh, model.params))
    metrics = evaluate(params, lambda: False) or {}
    found = {"examples": examples, "split": split, "objective": objective.name}
    return {**found, **metrics, "unigram_entropy": corpora.manifest.unigram_entropy}


def _check(model: Pretrained, directory: epath.PathLike, manifest: Manifest) -> None:
    """Refuses shards that do not fit the model."""
    positions = model.bert_config("a masked-LM loss").max_position_embeddings
    if manifest.tokenizer_sha256 != model.tokenizer.sha256:
        raise UserError(
            f"{directory}: made with another tokenizer than the model's; prepare the text with the "
            "model's own."
        )
    if manifest.max_seq_length > positions:
        raise UserError(
            f"{directory}: has rows of {manifest.max_seq_length} tokens, and the model has "
            f"{positions} positions; prepare shorter rows."
        )


def _loss(model: Pretrained, objective: Objective, execution: Execution) -> Loss:
    vocabulary, masking = Vocabulary.of(model.tokenizer), MaskingConfig()
    corrupt = functools.partial(objective.corrupt, vocabulary=vocabulary, masking=masking)
    loss = functools.partial(objective.loss, config=model.config, execution=execution)
    return Loss(loss, objective.normalizers, corrupt)


def _objective(model: Pretrained, segments: str) -> Objective:
    """Returns the objective of the model's heads for such segments, else masked words alone."""
    fitting = [each for each in OBJECTIVES.values() if each.segments == segments]
    own = [each for each in fitting if each.export_kind == model.kind]
    return [*own, *(each for each in OBJECTIVES.values() if each.export_kind == "masked_lm")][0]
