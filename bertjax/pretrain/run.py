"""Pre-training: shards -> a run directory with checkpoints, metrics and an exported model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax import signals
from bertjax.config import BertConfig
from bertjax.data.corpora import Corpora
from bertjax.data.shards import TOKENIZER
from bertjax.data.verification import Verification
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, save_pretrained
from bertjax.interop.run_checkpoints import KIND
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.objective import Objective
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.evaluation import make_evaluator
from bertjax.pretrain.frequency import count_tokens, token_groups
from bertjax.pretrain.metrics import described, fields, make_plateau_meter, verdict
from bertjax.pretrain.phases import (
    Phase,
    describe,
    open_phases,
    phase_at,
    run_schedule,
    untrained_positions,
)
from bertjax.pretrain.program import Program, build, with_teacher
from bertjax.pretrain.settings import HELD, known_settings, run_settings
from bertjax.pretrain.teacher import Teacher, open_teacher, read_teacher
from bertjax.rundir.records import CONFIG
from bertjax.rundir.workdir import (
    open_workdir,
    refuse_changed_run,
    write_config,
    write_result,
)
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train import hosts, param_groups, sharding
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.orbax_storage import told_by_first_process
from bertjax.train.checkpoint.settings import RunSettings
from bertjax.train.loop import Evaluation, FitResult, Hooks, TrainProgram, fit
from bertjax.train.step import TrainState
from bertjax.train.stopping import stop_requests
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.trackers import make_profiler, make_trackers

VERIFIED = "verified.json"

Log = Callable[[str], None]


@dataclasses.dataclass
class PretrainResult:
    """The result of a pre-training run."""

    metrics: dict[str, float]
    """The last evaluation: the objective's metrics; with several corpora also those of each
    (`mlm_loss.wiki`)."""
    history: list[dict[str, Any]]
    """The records of metrics.jsonl."""
    workdir: epath.Path
    """The run directory; with `fresh` it may differ from the one in the configuration."""
    export: epath.Path | None
    """The exported model, for from_pretrained; None if the run was stopped early."""
    stopped: bool
    """Whether a signal ended the run early. The same command resumes it."""
    model: BertConfig
    """The shape of the model."""
    kind: str
    """The task of the exported model, a key of `bertjax.model.heads.TASK_PARTS`."""


class Inputs(NamedTuple):
    """The data and the tokenizer of a run."""

    phases: tuple[Phase, ...]
    objective: Objective
    """The objective of all phases."""
    corpora: Corpora
    """The data of the last phase, which the result is about."""
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    counts: np.ndarray
    """int64 [V]: how often every token occurs in the data of the first phase."""
    teacher: Pretrained | None
    """The model that the objective compresses, if it does; its weights are not read yet."""


class Built(NamedTuple):
    """The programs of a run and its evaluation."""

    mesh: Mesh
    model: BertConfig
    programs: list[Program]
    """The program of each stage of each phase. All have the same state."""
    evaluation: Evaluation | None
    teacher: Teacher


def pretrain(config: PretrainConfig, log: Log, *, hooks: Hooks | None = None) -> PretrainResult:
    """Trains, or resumes, a run and exports its model.

    Args:
        config: the recipe.
        log: receives a line at a time.
        hooks: called between steps; see `train.loop.Hooks`.

    Raises:
        UserError: the recipe, the data and the run directory contradict each other.
        Stopped: a signal came before the first step or before the export.
    """
    log = told_by_first_process(log)
    with stop_requests(), open_workdir(config.workdir, KIND, log, fresh=config.fresh) as workdir:
        return _pretrain(config, workdir, log, hooks)


def _pretrain(
    config: PretrainConfig, workdir: epath.Path, log: Log, hooks: Hooks | None
) -> PretrainResult:
    if any((workdir / "checkpoints").glob("[0-9]*")):  # a run that saved nothing may change
        known = known_settings(config)
        refuse_changed_run(workdir, known, {*known, *HELD})
    inputs = load(config)
    signals.check()
    built = build_programs(config, inputs)
    _announce(config, inputs, built, workdir, log)
    fitted = train(config, inputs, built, workdir, log, hooks)
    last = next((each for each in reversed(fitted.history) if each.get("kind") == "eval"), {})
    names = {metric.name for metric in inputs.objective.metrics}
    export = None
    if not fitted.stopped:
        signals.check()
        export = workdir / "export"
        export_model(export, inputs, built, fitted.state, log)
        steps = int(fitted.state.step)
        sentence = verdict(steps, last, inputs.corpora, inputs.objective, export)
        if not jax.process_index():
            write_result(workdir, sentence, steps)
        log(sentence)
    metrics = {name: each for name, each in last.items() if name.partition(".")[0] in names}
    return PretrainResult(
        metrics,
        fitted.history,
        workdir,
        export,
        fitted.stopped,
        built.model,
        inputs.objective.export_kind,
    )


def load(config: PretrainConfig) -> Inputs:
    """Opens the data and reads the tokenizer, which must be the one that made the shards."""
    phases = open_phases(config)
    first = phases[0]
    directory = first.corpora.directories[0] / TOKENIZER
    tokenizer = load_tokenizer(directory)
    if tokenizer.sha256 != (expected := first.corpora.manifest.tokenizer_sha256):
        raise UserError(
            f"{directory}: is not the tokenizer that made these shards (SHA-256 "
            f"{tokenizer.sha256[:12]}, the manifest says {expected[:12]}); put the right one back, "
            "or prepare the data again."
        )
    for phase in phases:
        phase.corpora.check_ids(tokenizer)
    tokenizer.files(export=True)  # refuses now what the export would refuse after the last step
    vocabulary = Vocabulary.of(tokenizer)
    # Mistakes are told before the counting, which takes seconds.
    shape = config.model.resolve(tokenizer.vocab_size)
    if first.corpora.manifest.segment_kind.is_pair and shape.type_vocab_size == 1:
        raise UserError(
            f"The type_vocab_size of {config.model.size} is {shape.type_vocab_size}, so the model "
            "can't tell the two segments of an example apart: prepare single ones (`segments`), or "
            "set 2 there."
        )
    sharding.make_mesh(config.mesh)
    for phase in phases:
        config.masking.predictions(phase.corpora.manifest.max_seq_length, phase.packed or 1)
    teacher, objective = None, first.objective
    if config.teacher is not None:
        teacher = open_teacher(config.teacher, [phase.corpora.manifest for phase in phases])
        objective = objective.taught_by(teacher.bert_config("`teacher`"), shape)
        phases = tuple(phase._replace(objective=objective) for phase in phases)
    counts = count_tokens(first.readers, first.corpora.shares, vocabulary)
    return Inputs(phases, objective, phases[-1].corpora, tokenizer, vocabulary, counts, teacher)


def build_programs(config: PretrainConfig, inputs: Inputs) -> Built:
    """Builds the programs and the evaluation of all phases; patience needs held-out examples."""
    mesh, schedule, phases = sharding.make_mesh(config.mesh), run_schedule(config), inputs.phases
    teacher = read_teacher(inputs.teacher, inputs.objective, mesh)
    programs, evaluators = [], []
    for phase in phases:
        for stage in phase.stages:
            program = build(
                stage.config,
                mesh,
                inputs.vocabulary,
                phase.corpora.manifest.max_seq_length,
                inputs.counts,
                objective=phase.objective,
                schedule=schedule,
                packed=phase.packed,
            )
            programs.append(program)
        evaluator = make_evaluator(
            phase.corpora,
            programs[-1].eval_step,
            mesh,
            batch_size=phase.config.batch_size,
            max_examples=config.eval_examples,
        )
        evaluators.append(evaluator)
    if config.loop.patience and evaluators[0] is None:
        raise UserError(
            "`loop.patience` needs held-out examples, and the shards have none: leave it out, or "
            "prepare the data with `held_out` above 0."
        )

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        """Evaluates on the held-out examples of the phase of the last step done."""
        evaluator = evaluators[phase_at(phases, int(state.step) - 1)]
        params = sharding.gathered(mesh, state.averaged_params())
        return evaluator(with_teacher(params, teacher.params), should_stop)

    evaluation = Evaluation(evaluate, inputs.objective.best_metric) if evaluators[0] else None
    return Built(mesh, programs[0].model, programs, evaluation, teacher)


def train(
    config: PretrainConfig,
    inputs: Inputs,
    built: Built,
    workdir: epath.Path,
    log: Log,
    hooks: Hooks | None = None,
) -> FitResult:
    """Trains in a run directory, from its newest checkpoint if it has one."""
    phases, programs, mesh = inputs.phases, built.programs, built.mesh
    verification = _verification(phases, workdir)
    stages = [stage for phase in phases for stage in phase.stages]

    def batch_at(step: int) -> tuple[int, dict[str, jax.Array]]:
        verification.check()
        read = functools.partial(phases[phase_at(phases, step)].rows, step)
        place = phase_at(stages, step)
        size = stages[place].config.batch_size
        return place, sharding.make_global_batch(mesh, size, read)

    telemetry = Telemetry(
        workdir / "metrics.jsonl",
        fields(inputs.corpora, inputs.objective, [each.name for each in config.optimizer.groups]),
        log=log,
        trackers=make_trackers(config.telemetry, workdir, dataclasses.asdict(config)),
        profiler=make_profiler(config.telemetry, workdir),
        watch=make_plateau_meter(phases[0].corpora, inputs.objective),
    )
    loop, abstract = config.loop, programs[0].abstract_state
    program = TrainProgram(
        programs[0].init,
        abstract,
        lambda state, item: programs[item[0]].step(state, item[1], built.teacher.params),
    )
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep_last=loop.keep_last, keep_best=loop.keep_best, log=log
    )
    settings = run_settings(
        config, built.model, abstract.params, inputs.tokenizer, phases, built.teacher.sha256
    )
    hosts.agree(settings.immutable_at(loop.train_steps))
    with verification, checkpoints:
        if checkpoints.empty() or not (workdir / CONFIG).exists():
            _write_run(config, inputs, workdir)  # also over a run that saved nothing
        fitted = fit(
            loop,
            program,
            batch_at,
            checkpoints=checkpoints,
            telemetry=telemetry,
            evaluation=built.evaluation,
            settings=_once_verified(settings, verification),
            hooks=hooks,
            phases=describe(phases, built.model, mesh),
        )
    _write_run(config, inputs, workdir)  # a resumed run may have changed mutable settings
    for told in filter(None, (telemetry.speed(), telemetry.time())):
        log(told)
    return fitted


def _verification(phases: Sequence[Phase], workdir: epath.Path) -> Verification:
    data = [
        pair
        for corpora in (phase.corpora for phase in phases)
        for pair in zip(corpora.directories, corpora.manifests, strict=True)
    ]
    return Verification(data, workdir / VERIFIED, read_only=jax.process_index() > 0)


def _once_verified(settings: RunSettings, verification: Verification) -> RunSettings:
    """Lets checkpoints record the settings, the manifest's hash among them, once that is true."""

    def immutable(step: int) -> Mapping[str, Any]:
        verification.wait()
        return settings.immutable_at(step)

    return dataclasses.replace(settings, immutable=immutable)


def _write_run(config: PretrainConfig, inputs: Inputs, workdir: epath.Path) -> None:
    if not jax.process_index():
        metrics = described(inputs.corpora, inputs.objective, token_groups(inputs.counts))
        write_config(workdir, KIND, dataclasses.asdict(config), known_settings(config), metrics)
        inputs.tokenizer.save(workdir / "tokenizer")


def export_model(
    path: epath.Path, inputs: Inputs, built: Built, state: TrainState, log: Log
) -> None:
    """Writes the model that the objective exports."""
    params = sharding.on_host(built.mesh, state.averaged_params())
    if not jax.process_index():
        length = inputs.corpora.manifest.max_seq_length
        task = {"kind": inputs.objective.export_kind, "max_seq_length": length}
        params = inputs.objective.exported(params)
        model = Pretrained(built.model, params, inputs.tokenizer, task)
        save_pretrained(path, model, own_layout=True)
    if untrained := untrained_positions(inputs.phases, built.model):
        log(
            f"Warning: positions {untrained} of the exported model have their initial values, "
            "because no row of this run is that long."
        )


def _announce(
    config: PretrainConfig, inputs: Inputs, built: Built, workdir: epath.Path, log: Log
) -> None:
    mesh, model, phases = built.mesh, built.model, inputs.phases
    state = built.programs[0].abstract_state
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    kind = mesh.devices.flat[0].device_kind
    log(
        f"BERT with {model.num_hidden_layers} layers of {model.hidden_size}, vocabulary "
        f"{model.vocab_size:,}: {count:,} parameters on {mesh.size} {kind} device"
        f"{f's ({axes})' if axes else ''}."
    )
    for place, phase in enumerate(phases):
        name = f"Phase {place + 1}: " if len(phases) > 1 else ""
        where = f" Run directory: {workdir}" if place == len(phases) - 1 else ""
        log(f"{name}{_amount(phase)}{where}")
        if phase.config.length_buckets:
            lengths = [f"{share:.1%} of {length}" for length, share in phase.stream.lengths]
            log(f"{name}All rows of a step have one length: {', '.join(lengths)} tokens.")
    if untrained := untrained_positions(phases, model):
        longest = untrained.split()[0]
        log(
            f"Warning: positions {untrained} of the model are not trained, because no row of this "
            "run is that long: add a phase with longer rows (`second.data`), or set "
            f"`model.max_position_embeddings` to {longest}."
        )
    if inputs.teacher is not None:
        log(f"The teacher is {config.teacher}: {inputs.objective}.")
    if built.programs[0].frozen:
        log(param_groups.trained_share(state.params, built.programs[0].frozen))
    alone = sharding.replicated_moments(mesh, state) if mesh.size > 1 else []
    if mesh.shape["data"] > 1 and alone:
        log(f"Not split over data, because no dimension divides: {', '.join(alone)}.")


def _amount(phase: Phase) -> str:
    """Says how much of its data a phase reads."""
    corpora, steps, batch_size = phase.corpora, phase.end - phase.first, phase.config.batch_size
    epochs, length = phase.stream.epochs(steps), corpora.manifest.max_seq_length
    told = f"{epochs[0]:.1f} epochs"
    if len(epochs) > 1:
        rows = zip(corpora.names, corpora.shares, epochs, strict=True)
        told = ", ".join(f"{each:.1f} epochs of {name} ({share:.1%})" for name, share, each in rows)
    places, size = f"{length} tokens", f"{batch_size}"
    if phase.packed is not None:
        rows, full = sum(map(len, phase.stream.readers)), phase.real_tokens / length
        places = f"at most {length} tokens, packed into {rows:,} rows that are {full:.1%} full"
        counts = [manifest.examples("train") for manifest in corpora.manifests]
        examples = round(np.dot(phase.stream.epochs_of_rows(batch_size), counts))
        size = f"{batch_size} rows ({examples:,} examples)"
    for end, rows in reversed(phase.stream.ramp):
        size = f"{rows} until step {end:,}, then of {size}"
    return (
        f"{corpora.examples('train'):,} training examples of {places}: {steps:,} steps of {size} "
        f"are {told}."
    )
