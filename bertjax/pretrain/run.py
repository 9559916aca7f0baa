"""Pre-training: shards -> a run directory with checkpoints, metrics and an exported model."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.data.corpora import Corpora
from bertjax.data.shards import TOKENIZER, Manifest
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.objective import objective_for
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.evaluation import (
    Evaluator,
    described,
    fields,
    make_evaluator,
    make_plateau_meter,
    metric_names,
    verdict,
)
from bertjax.pretrain.phases import (
    Phase,
    data_settings,
    immutable_at,
    open_phases,
    phase_at,
    run_schedule,
    second_mutable,
    untrained_positions,
)
from bertjax.pretrain.program import Program, build
from bertjax.rundir.records import CONFIG, Metric
from bertjax.rundir.workdir import choose_workdir, write_config, write_result
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train import param_groups, sharding
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.orbax_storage import told_by_first_process
from bertjax.train.checkpoint.settings import RunSettings
from bertjax.train.loop import Evaluation, Hooks, TrainProgram, fit
from bertjax.train.optimizer import RATE_FIELDS
from bertjax.train.step import TrainState
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.trackers import make_profiler, make_trackers

KIND = "pre-training"
BEST_METRIC = "mlm_loss"
UNSET_NAMES = (
    *("data", "order of the data", "length_buckets"),
    *("seed", "initialization", "objective", "batch_size"),
)
"""Immutable settings without a value in the first checkpoint of a converted run."""
# The examples whose tokens are counted (for initialization.mlm_bias and accuracies by frequency),
# and how many of them are in memory at once.
_COUNTED_EXAMPLES, _COUNTED_AT_ONCE = 50_000, 2_000


@dataclasses.dataclass
class PretrainResult:
    """What a pre-training run came to."""

    metrics: dict[str, float]
    """The last evaluation: mlm_loss, mlm_accuracy and, by the objective of the data, nsp_loss and
    nsp_accuracy, sop_loss and sop_accuracy, or nothing else; of several corpora also those of each
    (`mlm_loss.wiki`)."""
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
    hooks: Hooks | None = None,
) -> PretrainResult:
    """Trains, or resumes, a run and exports its model.

    Args:
        config: the recipe.
        log: told what happens, line by line.
        hooks: called between steps, see `train.loop.Hooks`.

    Raises:
        UserError: the recipe, the data and the run directory do not fit together.
    """
    log = told_by_first_process(log)
    phases = open_phases(config)
    first, corpora = phases[0], phases[-1].corpora  # what a run comes to is of its last phase
    tokenizer = _tokenizer_of(first.corpora)
    mesh = sharding.make_mesh(config.mesh)
    vocabulary = Vocabulary.of(tokenizer)
    counts = _count(first.readers, first.corpora.shares, vocabulary)
    schedule = run_schedule(config)
    programs = [
        build(
            phase.config,
            mesh,
            vocabulary,
            phase.corpora.manifest.max_seq_length,
            counts,
            objective=objective_for(phase.corpora.manifest.segments),
            schedule=schedule,
        )
        for phase in phases
    ]
    program = programs[0]  # all have the same state
    evaluators = [
        make_evaluator(
            phase.corpora,
            own,
            mesh,
            batch_size=phase.config.batch_size,
            max_examples=config.eval_examples,
        )
        for phase, own in zip(phases, programs, strict=True)
    ]
    if config.loop.patience and evaluators[0] is None:
        raise UserError(
            "loop.patience goes by held-out examples, and the shards have none: leave it out, or "
            "prepare them with --held-out above 0."
        )
    workdir = choose_workdir(config.workdir, KIND, fresh=config.fresh)
    _announce(config, mesh, program, phases, workdir, log)

    telemetry = Telemetry(
        workdir / "metrics.jsonl",
        fields(corpora),
        log=log,
        trackers=make_trackers(config.telemetry, workdir, dataclasses.asdict(config)),
        profiler=make_profiler(config.telemetry, workdir),
        watch=make_plateau_meter(first.corpora),
    )
    metrics = described(corpora, program.token_groups)
    write_run = functools.partial(_write_run, config, tokenizer, workdir, metrics)
    with Checkpoints(
        workdir / "checkpoints",
        keep_last=config.loop.keep_last,
        keep_best=config.loop.keep_best,
        log=log,
    ) as checkpoints:
        if checkpoints.empty() or not (workdir / CONFIG).exists():
            write_run()  # also over what a run left that saved nothing
        fitted = fit(
            config.loop,
            TrainProgram(
                program.init,
                program.abstract_state,
                lambda state, item: programs[item[0]].step(state, item[1]),
            ),
            functools.partial(_batch_at, phases, mesh),
            checkpoints=checkpoints,
            telemetry=telemetry,
            evaluation=_evaluation(phases, evaluators),
            settings=_settings(config, program.model, tokenizer, phases),
            hooks=hooks,
            phases=[
                phase.info(program.model, mesh, str(place + 1) if len(phases) > 1 else "")
                for place, phase in enumerate(phases)
            ],
        )
    write_run()  # again: a resumed run may have changed what may change
    evaluations = [record for record in fitted.history if record.get("kind") == "eval"]
    last = evaluations[-1] if evaluations else {}
    if speed := telemetry.speed():
        log(speed)
    export = None
    if not fitted.stopped:
        export = workdir / "export"
        params = sharding.on_host(mesh, fitted.state.averaged_params())
        _export(export, program.model, params, tokenizer, corpora.manifest)
        if untrained := untrained_positions(phases, program.model.max_position_embeddings):
            log(
                f"Warning: positions {untrained} of the exported model are as they were before "
                "this run, which had no row so long."
            )
        steps = int(fitted.state.step)
        sentence = verdict(steps, last, corpora, export)
        if not jax.process_index():
            write_result(workdir, sentence, steps)
        log(sentence)
    return PretrainResult(
        metrics={
            name: value
            for name, value in last.items()
            if name.partition(".")[0] in metric_names(objective_for(corpora.manifest.segments))
        },
        history=fitted.history,
        workdir=workdir,
        export=export,
        stopped=fitted.stopped,
        model=program.model,
    )


def _batch_at(phases: Sequence[Phase], mesh: Mesh, step: int) -> tuple[int, dict[str, jax.Array]]:
    """The place of a step's phase, and its batch."""
    place = phase_at(phases, step)
    read = functools.partial(phases[place].rows, step)
    size = phases[place].config.batch_size
    return place, sharding.make_global_batch(mesh, size, read)


def _evaluation(
    phases: Sequence[Phase], evaluators: Sequence[Evaluator | None]
) -> Evaluation | None:
    """Evaluates on the held-out examples of the phase of the last step."""
    if evaluators[0] is None:
        return None

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        own = evaluators[phase_at(phases, int(state.step) - 1)]
        assert own is not None
        return own(state, should_stop)

    return Evaluation(evaluate, BEST_METRIC)


def _count(
    readers: Sequence[ShardReader], shares: Sequence[float], vocabulary: Vocabulary
) -> np.ndarray:
    """How often every token is seen in examples from all over the data, mixed as in training:
    int64 [V]."""
    most = min(sum(map(len, readers)), _COUNTED_EXAMPLES)
    counts = np.zeros(vocabulary.size, np.int64)
    for reader, share in zip(readers, shares, strict=True):
        number = max(1, round(most * share))
        examples = np.linspace(0, len(reader) - 1, number).astype(np.int64)
        for start in range(0, number, _COUNTED_AT_ONCE):
            ids = reader.rows(examples[start : start + _COUNTED_AT_ONCE])["input_ids"]
            counts += np.bincount(ids.ravel(), minlength=vocabulary.size)
    counts[vocabulary.special] = 0
    return counts


def _tokenizer_of(corpora: Corpora) -> Tokenizer:
    directory, expected = corpora.directories[0] / TOKENIZER, corpora.manifest.tokenizer_sha256
    tokenizer = load_tokenizer(directory)
    if tokenizer.sha256 != expected:
        raise UserError(
            f"{directory}: is not the tokenizer that made these shards (SHA-256 "
            f"{tokenizer.sha256[:12]}, the manifest says {expected[:12]}); put the right one back, "
            "or prepare the data again."
        )
    tokenizer.files(export=True)  # what the export would refuse after the last step
    return tokenizer


def _settings(
    config: PretrainConfig,
    model: BertConfig,
    tokenizer: Tokenizer,
    phases: Sequence[Phase],
) -> RunSettings:
    """Returns the settings that a resumed run must share, and those that it may change."""
    first, objective = phases[0], objective_for(phases[0].corpora.manifest.segments)
    optimizer = dataclasses.asdict(config.optimizer)
    # These decide the state's arrays; the optimizer's other settings may change.
    held = {name: value for name in ("freeze", "ema_decay") if (value := optimizer.pop(name))}
    name = optimizer.pop("name")
    rescheduled = "the learning rate follows the new schedule from here on"
    immutable = {
        "model": model.to_dict(),
        "tokenizer": tokenizer.sha256,
        "seed": config.seed,
        "initialization": dataclasses.asdict(config.initialization),
        "objective": {"name": objective, **dataclasses.asdict(config.masking)},
        "optimizer": name,
        **held,
        **data_settings(first),
        **heads_setting(objective),
    }
    return RunSettings(
        immutable=functools.partial(immutable_at, phases=phases, immutable=immutable),
        mutable={
            "optimizer": optimizer,
            "mesh": dataclasses.asdict(config.mesh),
            "devices": jax.device_count(),
            "execution": dataclasses.asdict(config.execution),
            "accumulation": config.accumulation,
            "eval_examples": config.eval_examples,
            **second_mutable(config),
        },
        effects={
            "train_steps": rescheduled,
            **{f"optimizer.{field}": rescheduled for field in RATE_FIELDS},
            **{f"second.{field}": rescheduled for field in ("learning_rate", "warmup_steps")},
        },
    )


def heads_setting(objective: str) -> dict[str, str]:
    """Returns the immutable setting of a run without a next-sentence head.

    Unlike the rest of the objective, converted weights determine it.
    """
    return {"heads": "masked LM alone"} if objective == "mlm" else {}


def _announce(
    config: PretrainConfig,
    mesh: Mesh,
    program: Program,
    phases: Sequence[Phase],
    workdir: epath.Path,
    log: Callable[[str], None],
) -> None:
    params = program.abstract_state.params
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    model = program.model
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    kind = mesh.devices.flat[0].device_kind
    log(
        f"BERT with {model.num_hidden_layers} layers of {model.hidden_size}, vocabulary "
        f"{model.vocab_size:,}: {count:,} parameters on {mesh.size} {kind} device"
        f"{f's ({axes})' if axes else ''}."
    )
    for place, phase in enumerate(phases):
        of_phase = f"Phase {place + 1}: " if len(phases) > 1 else ""
        where = f" Run directory: {workdir}" if phase is phases[-1] else ""
        log(f"{of_phase}{_told(phase)}{where}")
        if phase.config.length_buckets:
            lengths = [f"{share:.1%} of {length}" for length, share in phase.stream.lengths]
            log(f"{of_phase}Steps have rows of one length: {', '.join(lengths)} tokens.")
    if untrained := untrained_positions(phases, model.max_position_embeddings):
        longest = untrained.split()[0]
        log(
            f"Warning: positions {untrained} of the model are not trained, as no row of this run "
            "is so long: add a phase of longer rows (--second.data), or set "
            f"--model.max-position-embeddings {longest}."
        )
    if config.optimizer.freeze:
        log(param_groups.trained_share(params, program.frozen))
    alone = sharding.replicated_moments(mesh, program.abstract_state) if mesh.size > 1 else []
    if mesh.shape["data"] > 1 and alone:
        log(f"Not split over data, because no dimension divides: {', '.join(alone)}.")


def _told(phase: Phase) -> str:
    """How much a phase reads of its data."""
    corpora, steps, batch_size = phase.corpora, phase.end - phase.first, phase.config.batch_size
    drawn = steps * batch_size
    epochs = [
        drawn * share / manifest.examples("train")
        for share, manifest in zip(corpora.shares, corpora.manifests, strict=True)
    ]
    told = f"{epochs[0]:.1f} epochs"
    if len(epochs) > 1:
        rows = zip(corpora.names, corpora.shares, epochs, strict=True)
        told = ", ".join(f"{each:.1f} epochs of {name} ({share:.1%})" for name, share, each in rows)
    return (
        f"{corpora.examples('train'):,} training examples of {corpora.manifest.max_seq_length} "
        f"tokens: {steps:,} steps of {batch_size} are {told}."
    )


def _write_run(
    config: PretrainConfig, tokenizer: Tokenizer, workdir: epath.Path, metrics: Sequence[Metric]
) -> None:
    if jax.process_index():
        return
    write_config(workdir, KIND, dataclasses.asdict(config), metrics=metrics)
    tokenizer.save(workdir / "tokenizer")


def _export(
    path: epath.Path, model: BertConfig, params: Any, tokenizer: Tokenizer, manifest: Manifest
) -> None:
    if jax.process_index():
        return
    kind = "pretraining" if manifest.segment_kind.is_pair else "masked_lm"
    task = {"kind": kind, "max_seq_length": manifest.max_seq_length}
    save_pretrained(path, Pretrained(model, params, tokenizer, task))
