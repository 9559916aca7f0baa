"""Pre-training: shards -> a run directory with checkpoints, metrics and an exported model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.data.shards import Manifest
from bertjax.data.stream import HeldOutBatches, ShardReader, TrainStream
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.runs.pretrain_program import Program, Vocabulary, build
from bertjax.runs.recipes import PretrainConfig
from bertjax.runs.workdir import choose_workdir, write_config
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train import sharding
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.loop import fit
from bertjax.train.step import TrainState
from bertjax.train.telemetry import Field, Telemetry

KIND = "pre-training"
BEST_METRIC = "mlm_loss"
UNDECIDED_NAMES = ("data", "order of the data", "seed", "start", "objective", "batch_size")
"""Of a run's identity: what weights that come from elsewhere do not know. They know the rest."""
# Examples whose tokens are counted for start.mlm_bias, and those of them held in memory at once.
_COUNTED_EXAMPLES, _COUNTED_AT_ONCE = 50_000, 2_000


@dataclasses.dataclass
class PretrainResult:
    """What a pre-training run came to."""

    metrics: dict[str, float]
    """The last evaluation: mlm_loss, mlm_accuracy and, by the objective of the data, nsp_loss and
    nsp_accuracy, sop_loss and sop_accuracy, or nothing else."""
    history: list[dict[str, Any]]
    """The records of metrics.jsonl."""
    workdir: epath.Path
    """The run directory; with `fresh` it may be another than the one named."""
    export: epath.Path | None
    """What from_pretrained, fill_mask and fine-tuning read; None if the run was stopped early."""
    stopped: bool
    """Ended early by a signal, saved, and to be resumed with the same command."""
    model: BertConfig
    """The shape of the model."""


def pretrain(
    config: PretrainConfig,
    log: Callable[[str], None],
    *,
    on_evaluate: Callable[[int, Any], None] | None = None,
) -> PretrainResult:
    """Trains, or resumes, a run and exports its model.

    Args:
        config: the recipe.
        log: told what happens, line by line.
        on_evaluate: called with (step, params) at step 0 and after every evaluation.

    Raises:
        UserError: the recipe, the data and the run directory do not fit together.
    """
    if jax.process_index():  # one of several tells and writes
        log = _silent
    reader = ShardReader(config.data, "train")
    manifest = reader.manifest
    tokenizer = _tokenizer_of(epath.Path(config.data), manifest)
    mesh = sharding.make_mesh(config.mesh)
    vocabulary = Vocabulary.of(tokenizer)
    counts = _count(reader, vocabulary) if config.start.mlm_bias == "unigram" else None
    program = build(
        config,
        mesh,
        vocabulary,
        manifest.max_seq_length,
        counts,
        objective=manifest.objective,
    )
    stream = TrainStream(reader, seed=config.seed, batch_size=config.batch_size)
    evaluate = _evaluator(config, mesh, program, on_evaluate)
    workdir = choose_workdir(config.workdir, KIND, fresh=config.fresh)
    _announce(config, mesh, program, manifest, workdir, log)
    if not (workdir / "config.json").exists():
        _write_run(config, tokenizer, workdir)

    def init() -> TrainState:
        state = program.init()
        if on_evaluate is not None:
            on_evaluate(0, state.params)
        return state

    with Checkpoints(
        workdir / "checkpoints",
        keep_last=config.loop.keep_last,
        keep_best=config.loop.keep_best,
        log=log,
    ) as checkpoints:
        fitted = fit(
            config.loop,
            workdir=workdir,
            init=init,
            abstract_state=program.abstract_state,
            train_step=program.step,
            batch_at=lambda step: sharding.make_global_batch(
                mesh, config.batch_size, functools.partial(stream.rows, step)
            ),
            evaluate=evaluate,
            checkpoints=checkpoints,
            meta=_meta(config, program.model, tokenizer, manifest, stream),
            telemetry=Telemetry(workdir / "metrics.jsonl", _fields(manifest), log=log),
            best_metric=BEST_METRIC,
            tokens_per_step=config.batch_size * manifest.max_seq_length,
        )
    _write_run(config, tokenizer, workdir)  # again: a resumed run may have changed what may change
    evaluations = [record for record in fitted.history if record.get("kind") == "eval"]
    last = evaluations[-1] if evaluations else {}
    export = None
    if not fitted.stopped:
        export = workdir / "export"
        params = sharding.on_host(mesh, fitted.state.params)
        _export(export, program.model, params, tokenizer, manifest)
        log(_verdict(int(fitted.state.step), last, manifest, export))
    return PretrainResult(
        metrics={name: last[name] for name in metric_names(manifest.objective) if name in last},
        history=fitted.history,
        workdir=workdir,
        export=export,
        stopped=fitted.stopped,
        model=program.model,
    )


def metric_names(objective: str) -> tuple[str, ...]:
    """What is measured of a run on data for this objective."""
    names = ("mlm_loss", "mlm_accuracy")
    return names if objective == "mlm" else (*names, f"{objective}_loss", f"{objective}_accuracy")


def _silent(line: str) -> None:
    del line


def _count(reader: ShardReader, vocabulary: Vocabulary) -> np.ndarray:
    """How often every token is seen in examples from all over the data: int64 [V]."""
    most = min(len(reader), _COUNTED_EXAMPLES)
    examples = np.linspace(0, len(reader) - 1, most).astype(np.int64)
    counts = np.zeros(vocabulary.size, np.int64)
    for start in range(0, most, _COUNTED_AT_ONCE):
        ids = reader.rows(examples[start : start + _COUNTED_AT_ONCE])["input_ids"]
        counts += np.bincount(ids.ravel(), minlength=vocabulary.size)
    counts[vocabulary.special] = 0
    return counts


def _tokenizer_of(data: epath.Path, manifest: Manifest) -> Tokenizer:
    tokenizer = load_tokenizer(data / "tokenizer")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise UserError(
            f"{data / 'tokenizer'}: is not the tokenizer that made these shards (SHA-256 "
            f"{tokenizer.sha256[:12]}, the manifest says {manifest.tokenizer_sha256[:12]}); put "
            "the right one back, or prepare the data again."
        )
    tokenizer.files(export=True)  # what the export would refuse after the last step
    return tokenizer


def _evaluator(
    config: PretrainConfig,
    mesh: Mesh,
    program: Program,
    on_evaluate: Callable[[int, Any], None] | None,
) -> Callable[[TrainState, Callable[[], bool]], dict[str, float] | None] | None:
    """Evaluates on held-out batches with fixed masks; None where nothing was held out."""
    reader = ShardReader(config.data, "held_out")
    if not len(reader):
        return None
    names = metric_names(reader.manifest.objective)
    batches = HeldOutBatches(
        reader, batch_size=config.batch_size, max_examples=config.eval_examples
    )

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        totals = dict.fromkeys(names, np.zeros(2))
        for index in range(len(batches)):
            if should_stop():
                return None
            batch = sharding.make_global_batch(
                mesh, config.batch_size, functools.partial(batches.rows, index)
            )
            sums = jax.device_get(program.eval_step(state.params, batch, np.int32(index)))
            totals = {name: totals[name] + np.asarray(sums[name], float) for name in names}
        if on_evaluate is not None:
            on_evaluate(int(state.step), state.params)
        return {name: float(total / weight) for name, (total, weight) in totals.items()}

    return evaluate


def _fields(manifest: Manifest) -> tuple[Field, ...]:
    """The metrics of a line, the losses beside what a model gets that knows nothing of the text."""
    unigram, majority = manifest.unigram_entropy, manifest.nsp_majority
    task, sentences = manifest.objective, ()
    if task != "mlm":
        beside = None if majority is None else ("majority", majority)
        sentences = (
            Field(f"{task}_loss", task, ".3f"),
            Field(f"{task}_accuracy", f"{task}_acc", ".3f", beside),
        )
    return (
        Field("mlm_loss", "mlm", ".3f", None if unigram is None else ("unigram entropy", unigram)),
        Field("mlm_accuracy", "mlm_acc", ".3f"),
        *sentences,
        Field("learning_rate", "lr", ".2e", last=True),
        Field("grad_norm", "grad", ".2f"),
    )


def _meta(
    config: PretrainConfig,
    model: BertConfig,
    tokenizer: Tokenizer,
    manifest: Manifest,
    stream: TrainStream,
) -> dict[str, Any]:
    """What a resumed run must share with the one it continues, and what it may change."""
    optimizer = dataclasses.asdict(config.optimizer)
    name = optimizer.pop("name")
    rescheduled = "the learning rate follows the new schedule from here on"
    return {
        "identity": {
            "model": model.to_dict(),
            "tokenizer": tokenizer.sha256,
            "data": manifest.hash,
            "order of the data": stream.order_fingerprint(),
            "seed": config.seed,
            "start": dataclasses.asdict(config.start),
            "objective": _objective(config, manifest),
            "batch_size": config.batch_size,
            "optimizer": name,
            **heads_identity(manifest.objective),
        },
        "facts": {
            "optimizer": optimizer,
            "mesh": dataclasses.asdict(config.mesh),
            "devices": jax.device_count(),
            "execution": dataclasses.asdict(config.execution),
            "accumulation": config.accumulation,
            "eval_examples": config.eval_examples,
        },
        "explain": {
            "train_steps": rescheduled,
            "optimizer.learning_rate": rescheduled,
            "optimizer.schedule": rescheduled,
            "optimizer.warmup_steps": rescheduled,
        },
    }


def _objective(config: PretrainConfig, manifest: Manifest) -> dict[str, Any]:
    """Masking, and what the data are for. Newer fields are named only where they have not their
    default, so that runs that began without them go on."""
    fields = dataclasses.asdict(config.masking)
    if not config.masking.span:
        del fields["span"]
    if manifest.objective != "nsp":
        fields["data"] = manifest.objective
    return fields


def heads_identity(objective: str) -> dict[str, str]:
    """Of a run's identity: that it has no next-sentence head. Unlike the rest of the objective,
    weights that come from elsewhere do know it."""
    return {"heads": "masked LM alone"} if objective == "mlm" else {}


def _announce(
    config: PretrainConfig,
    mesh: Mesh,
    program: Program,
    manifest: Manifest,
    workdir: epath.Path,
    log: Callable[[str], None],
) -> None:
    params = program.abstract_state.params
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    model, steps = program.model, config.loop.train_steps
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    kind = mesh.devices.flat[0].device_kind
    log(
        f"BERT with {model.num_hidden_layers} layers of {model.hidden_size}, vocabulary "
        f"{model.vocab_size:,}: {count:,} parameters on {mesh.size} {kind} device"
        f"{f's ({axes})' if axes else ''}."
    )
    epochs = steps * config.batch_size / max(manifest.examples("train"), 1)
    log(
        f"{manifest.examples('train'):,} training examples of {manifest.max_seq_length} tokens: "
        f"{steps:,} steps of {config.batch_size} are {epochs:.1f} epochs. Run directory: {workdir}"
    )
    alone = sharding.replicated_moments(mesh, program.abstract_state) if mesh.size > 1 else []
    if mesh.shape["data"] > 1 and alone:
        log(f"Not split over data, because no dimension divides: {', '.join(alone)}.")


def _verdict(step: int, scores: dict[str, Any], manifest: Manifest, export: epath.Path) -> str:
    """The one sentence that a run comes to."""
    sentence = f"Trained {step:,} steps"
    if scores:
        sentence += (
            f": held-out masked-LM loss {scores['mlm_loss']:.3f} nats (unigram entropy "
            f"{manifest.unigram_entropy:.3f})"
        )
        if (task := manifest.objective) != "mlm":
            what = "next-sentence" if task == "nsp" else "sentence-order"
            sentence += (
                f", {what} accuracy {scores[f'{task}_accuracy']:.1%} (majority "
                f"{manifest.nsp_majority:.1%})"
            )
    return f"{sentence}. The model is in {export}."


def _write_run(config: PretrainConfig, tokenizer: Tokenizer, workdir: epath.Path) -> None:
    if jax.process_index():
        return
    write_config(workdir, KIND, config)
    tokenizer.save(workdir / "tokenizer")


def _export(
    path: epath.Path, model: BertConfig, params: Any, tokenizer: Tokenizer, manifest: Manifest
) -> None:
    if jax.process_index():
        return
    kind = "masked_lm" if manifest.objective == "mlm" else "pretraining"
    task = {"kind": kind, "max_seq_length": manifest.max_seq_length}
    save_pretrained(path, Pretrained(model, params, tokenizer, task))
