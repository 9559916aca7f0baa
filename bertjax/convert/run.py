"""`convert`: a BERT from one layout into another, weights bit for bit."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from etils import epath

from bertjax.config import BertConfig, read_json_object
from bertjax.convert import reference, verify
from bertjax.errors import UserError
from bertjax.files import filling, location, output_directory, write_atomically
from bertjax.interop import google, hub, vocabulary
from bertjax.interop.huggingface import Pretrained, from_google, from_pretrained, save_pretrained
from bertjax.model.bert import init_params
from bertjax.model.heads import TASK_PARTS, kind_of_parts
from bertjax.objectives.objective import ObjectiveName
from bertjax.pretrain.run import KIND, UNSET_NAMES, heads_setting
from bertjax.rundir.records import CONFIG
from bertjax.rundir.workdir import write_config
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.settings import UNSET
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import TrainState, init_state

MODEL = "model.json"
"""The shape of a converted run's model, for --model.size of the command that continues it."""

CERTIFICATE = "certificate.json"
"""What --verify found."""


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert a BERT into Hugging Face's layout, or into a run that `bertjax pretrain` continues.

    SOURCE is a TF1 checkpoint with the names of google-research/bert (its directory, with
    bert_config.json and vocab.txt, or the path of its files), a model in Hugging Face's layout, or
    a run directory. A run has Adam's moments and the number of steps done, if SOURCE has them;
    data, order, seed, batch size, masking and start are those of the first command that continues
    it. Neither TensorFlow nor torch is needed; with --verify, transformers is asked where it is
    installed.
    """

    source: tyro.conf.Positional[str]
    """Directory to read, the path of a TF1 checkpoint's files (with or without .index), or a name
    on the hub."""
    dest: tyro.conf.Positional[str]
    """Directory to make; one that holds something is never overwritten."""
    to: Literal["huggingface", "run"] = "huggingface"
    """huggingface: config.json, model.safetensors and the tokenizer; run: a run directory."""
    hidden_act: Literal["gelu", "gelu_new", "gelu_tanh", "relu"] | None = None
    """Activation in place of the source's: "gelu" in Google's JSON is erf in the code of 2018 and
    tanh (gelu_new) in that from February 2019 on."""
    verify: bool = False
    """First compare the outputs with those of transformers, where it is installed, else with
    the statistics in SOURCE/parity.json; where they differ, say why and write nothing. DEST gets
    certificate.json and, without other words, a parity.json to compare with later."""
    add_words: str | None = None
    """File of words, one a line, that get a token of their own (WordPiece): unused slots first,
    each beginning as the mean of its old pieces."""
    vocabulary: str | None = None
    """Tokenizer (its directory, vocab.txt, spm.model or tokenizer.json) whose vocabulary replaces
    the model's: tokens of both keep their rows, others begin as the mean of their old pieces."""
    optimizer: str | None = None
    """Of a run: the --optimizer.name that it will be continued with; left out: that of SOURCE, if
    it is a run, else adamw_google."""
    seed: int = 0
    """Of a run: draws the heads that the source has not got."""
    objective: ObjectiveName | None = None
    """Of a run: the objective that will go on with it, and so which heads it has; left out: mlm if
    SOURCE is a run of single sequences, else nsp."""

    def __post_init__(self) -> None:
        if self.add_words and self.vocabulary:
            raise UserError(
                "--add-words changes the model's vocabulary and --vocabulary replaces it: give one "
                "of the two."
            )


@dataclasses.dataclass(frozen=True)
class ConvertResult:
    """What was written."""

    dest: epath.Path
    model: BertConfig
    """The shape."""
    step: int
    """Steps done, of a run; 0 otherwise."""
    moments: bool
    """Whether a run has the source's moments."""
    kind: str
    """What the model does, one of `bertjax.model.heads.TASK_PARTS`."""
    optimizer: str = ""
    """Of a run: the --optimizer.name to go on with."""


class _Source(NamedTuple):
    model: Pretrained
    step: int | None = None
    """Batches consumed."""
    updates: int | None = None
    has_moments: bool = False
    """They are there, whether they were read or not."""
    mu: Any = None
    nu: Any = None
    notes: tuple[str, ...] = ()
    optimizer: str | None = None
    """That of a run."""


def convert(config: ConvertConfig, log: Callable[[str], None]) -> ConvertResult:
    """Reads a model and writes it in another layout; nothing is left behind by a failure.

    Args:
        config: from where, to where, into what.
        log: told what was read and what was written, line by line.

    Raises:
        UserError: the source can't be read, or the destination holds something.
    """
    dest = output_directory(config.dest)
    if dest.exists() and any(dest.iterdir()):
        raise UserError(
            f"{dest}: holds something already, which convert never overwrites; name another "
            "directory, or remove that one."
        )
    if (name := hub.parse_name(config.source)) is not None:
        directory, downloaded = hub.download(name)
        log(f"Downloaded {downloaded}.")
        config = dataclasses.replace(config, source=str(directory))
    source = _read(config)
    if config.hidden_act is not None:
        shape = dataclasses.replace(source.model.config, hidden_act=config.hidden_act)
        source = source._replace(model=dataclasses.replace(source.model, config=shape))
    log(f"Read {config.source}: {_described(source)}.")
    for note in source.notes:
        log(note)
    certificate = _verified(config, source.model, log) if config.verify else None
    source = _with_other_words(config, source, log)
    if config.to == "huggingface":
        with filling(dest) as directory:
            _certify(config, directory, certificate)
            save_pretrained(directory, source.model)
        if source.has_moments:
            log("Adam's moments have no place in Hugging Face's layout: left out.")
        log(f"Wrote {dest}: config.json, model.safetensors and the tokenizer.")
        return ConvertResult(dest, source.model.config, 0, False, source.model.kind)
    result = _write_run(config, source, dest, certificate, log)
    moments = "the source's" if result.moments else "fresh"
    log(f"Wrote {dest}: a run at step {result.step:,}, with {moments} Adam moments.")
    if result.step:
        log(
            "The learning rate goes on by --optimizer.schedule over --loop.train-steps, of which "
            f"{result.step:,} are done."
        )
    return result


# Reading ---------------------------------------------------------------------------------------


def _read(config: ConvertConfig) -> _Source:
    path = location(config.source)
    if google.is_checkpoint(path):
        return _read_google(path, config)
    if _is_pretraining_run(path):
        return _read_run(path, with_moments=config.to == "run")
    return _Source(from_pretrained(path))


def _read_google(path: epath.Path, config: ConvertConfig) -> _Source:
    found = google.read_checkpoint(path, moments=config.to == "run")
    model = from_google(found)
    notes = found.notes
    if config.hidden_act is None and found.config.hidden_act == "gelu":
        notes += (
            "hidden_act is gelu (erf), as its JSON says; weights of Google's code from February "
            "2019 on were trained with tanh: for them, --hidden-act gelu_new.",
        )
    return _Source(
        model, found.step, found.step, found.has_moments, found.mu, found.nu, tuple(notes)
    )


def _is_pretraining_run(path: epath.Path) -> bool:
    checkpoints = path / "checkpoints"
    if not ((path / CONFIG).is_file() and checkpoints.is_dir() and any(checkpoints.iterdir())):
        return False
    return read_json_object(path / CONFIG).get("kind") == KIND


def _read_run(path: epath.Path, *, with_moments: bool) -> _Source:
    """The newest checkpoint of a pre-training run."""
    notes: list[str] = []
    with Checkpoints(path / "checkpoints", read_only=True, log=notes.append) as checkpoints:
        params, meta = checkpoints.restore_params()
        shape = BertConfig.from_dict(meta["immutable"]["model"], where=str(path))
        tokenizer = load_tokenizer(path / "tokenizer")
        if tokenizer.sha256 != meta["immutable"]["tokenizer"]:
            raise UserError(
                f"{path}/tokenizer: not the vocabulary that the run was trained with: put a copy "
                "of that one back."
            )
        model = Pretrained(shape, params, tokenizer, {"kind": kind_of_parts(params)})
        if not with_moments:
            return _Source(model, meta["step"], has_moments=True, notes=tuple(notes))
        saved = meta["immutable"]
        if "freeze" in saved:
            raise UserError(
                f"{path}: froze {', '.join(saved['freeze'])}, of which it has no moments, and a "
                "run needs them all: convert it with --to huggingface, and that into a run."
            )
        average = "ema_decay" in saved
        if average:
            notes.append("The run goes on from its weights; their moving average is left out.")
        optimizer_name = saved["optimizer"]
        optimizer = _optimizer(optimizer_name)
        target = jax.eval_shape(lambda: init_state(params, optimizer, average=average))
        restored = checkpoints.restore(target, step=meta["step"])
    assert restored is not None
    state = restored.state
    mu, nu = (optax.tree.get(state.opt_state, name) for name in ("mu", "nu"))
    model = dataclasses.replace(model, params=state.params)
    step, updates = int(state.step), int(state.updates)
    return _Source(model, step, updates, True, mu, nu, tuple(notes), optimizer_name)


def _described(source: _Source) -> str:
    shape, heads = source.model.config, set(source.model.params) - {"embeddings", "encoder"}
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(source.model.params))
    step = "no step" if source.step is None else f"step {source.step:,}"
    moments = "Adam moments" if source.has_moments else "no Adam moments"
    return (
        f"BERT with {shape.num_hidden_layers} layers of {shape.hidden_size} and "
        f"{shape.num_attention_heads} heads, vocabulary {shape.vocab_size:,}, {count:,} "
        f"parameters ({', '.join(['encoder', *sorted(heads)])}); {step}, {moments}"
    )


# Between reading and writing ------------------------------------------------------------------


def _verified(
    config: ConvertConfig, model: Pretrained, log: Callable[[str], None]
) -> verify.Certificate:
    if _is_pretraining_run(location(config.source)):
        raise UserError(
            f"{config.source}: is a run, whose weights are bertjax's own: convert it to Hugging "
            "Face's layout first, then that with --verify."
        )
    certificate = verify.verify(model, config.source, log)
    if not certificate.agrees:
        raise UserError(f"{config.source}: not converted. {certificate.verdict()}")
    log(certificate.verdict())
    return certificate


def _certify(
    config: ConvertConfig, directory: epath.Path, certificate: verify.Certificate | None
) -> None:
    """Keeps what --verify found beside what is written."""
    if certificate is None:
        return
    write_atomically(directory / CERTIFICATE, certificate.to_json().encode() + b"\n")
    if not (config.add_words or config.vocabulary):
        reference.write_golden(directory / reference.GOLDEN, certificate.reference)


def _with_other_words(
    config: ConvertConfig, source: _Source, log: Callable[[str], None]
) -> _Source:
    if not (config.add_words or config.vocabulary):
        return source
    moments = [] if source.mu is None else [source.mu, source.nu]
    if config.add_words:
        changed = vocabulary.add_words(source.model, _read_words(config.add_words), moments)
    else:
        tokenizer = load_tokenizer(str(config.vocabulary))
        changed = vocabulary.swap_vocabulary(source.model, tokenizer, moments)
    log(changed.report)
    mu, nu = changed.moments or (None, None)
    return source._replace(model=changed.model, mu=mu, nu=nu)


def _read_words(path: str) -> list[str]:
    file = location(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a text file with one word a line.")
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not UTF-8 ({error.reason}); convert it, for example with iconv."
        ) from None
    return [word for line in lines if (word := line.strip())]


# Writing a run ---------------------------------------------------------------------------------


def _write_run(
    config: ConvertConfig,
    source: _Source,
    dest: epath.Path,
    certificate: verify.Certificate | None,
    log: Callable[[str], None],
) -> ConvertResult:
    shape, tokenizer = source.model.config, source.model.tokenizer
    if tokenizer.vocab_size != shape.vocab_size:
        raise UserError(
            f"{config.source}: the tokenizer has {tokenizer.vocab_size} pieces and the model "
            f"{shape.vocab_size}; a run needs as many of both: add lines such as [unused99] to "
            "its vocabulary."
        )
    was_single = source.optimizer is not None and source.model.kind == "masked_lm"
    objective = config.objective or ("mlm" if was_single else "nsp")
    kind = "masked_lm" if objective == "mlm" else "pretraining"
    source = _with_parts_of_pretraining(source, kind, config.seed, log)
    optimizer = config.optimizer or source.optimizer or "adamw_google"
    state = _state(source, optimizer)
    step, moments = int(state.step), source.mu is not None
    if step and not moments:
        log(f"Without its moments Adam starts anew, and so do the steps: from 0, not {step:,}.")
        step, state = 0, _state(source._replace(step=0, updates=0), optimizer)
    with filling(dest) as directory:
        _certify(config, directory, certificate)
        tokenizer.save(directory / "tokenizer")
        (directory / MODEL).write_text(json.dumps(shape.to_dict(), indent=2) + "\n")
        with Checkpoints(directory / "checkpoints", log=log) as checkpoints:
            meta = _meta(shape, tokenizer, optimizer, step, objective)
            checkpoints.save(state, meta, wait=True)
        write_config(directory, KIND, config)
    return ConvertResult(dest, shape, step, moments, kind, optimizer)


def _with_parts_of_pretraining(
    source: _Source, kind: str, seed: int, log: Callable[[str], None]
) -> _Source:
    """The source with exactly the parts that pre-training trains, which are those of `kind`."""
    params = source.model.params
    shape = source.model.config
    parts = ("embeddings", "encoder", *TASK_PARTS[kind])
    surplus = sorted(params.keys() - set(parts))
    missing = [part for part in parts if part not in params]
    if surplus:
        log(f"No part of pre-training, and left out: {', '.join(surplus)}.")
    drawn: dict[str, Any] = {}
    if missing:
        log(f"Not in the source, and drawn with seed {seed}: {', '.join(missing)}.")

        def draw(key: jax.Array) -> dict[str, Any]:
            whole = init_params(shape, key)
            return {part: whole[part] for part in missing}

        drawn = jax.jit(draw)(jax.random.key(seed, impl="threefry2x32"))

    def whole(tree: Any, rest: Any) -> Any:
        return None if tree is None else {part: {**tree, **rest}[part] for part in parts}

    zeros = jax.tree.map(jnp.zeros_like, drawn)
    model = dataclasses.replace(source.model, params=whole(params, drawn))
    return source._replace(model=model, mu=whole(source.mu, zeros), nu=whole(source.nu, zeros))


def _state(source: _Source, optimizer_name: str) -> TrainState:
    """The state of training after the source's steps, with its moments if it has some."""
    optimizer = _optimizer(optimizer_name)
    params = jax.tree.map(jnp.asarray, source.model.params)
    if source.mu is None:
        state = init_state(params, optimizer)
    else:
        shapes = jax.eval_shape(lambda: init_state(params, optimizer))
        updates = jnp.asarray(source.updates or 0, jnp.int32)
        moments = optax.tree.set(shapes.opt_state, mu=source.mu, nu=source.nu, count=updates)
        state = shapes.replace(params=params, opt_state=moments, bad_steps=jnp.zeros((), jnp.int32))
    return state.replace(
        step=jnp.asarray(source.step or 0, jnp.int32),
        updates=jnp.asarray(source.updates or 0, jnp.int32),
    )


def _optimizer(name: Any) -> optax.GradientTransformation:
    # The state does not depend on the schedule, and the number of steps is not known yet.
    optimizer = make_optimizer(OptimizerConfig(name), optax.constant_schedule(0.0))
    state = optimizer.init({"kernel": jnp.zeros((1, 1))})
    if any(len(optax.tree.get_all_with_path(state, moment)) != 1 for moment in ("mu", "nu")):
        raise UserError(
            f"The optimizer {name} does not keep the two moments of Adam, which a converted run "
            "needs: convert to Hugging Face's layout and start a new run from that."
        )
    return optimizer


def _meta(
    shape: BertConfig, tokenizer: Tokenizer, optimizer: str, step: int, objective: str
) -> dict[str, Any]:
    """What `train.loop` saves with a step; the run that continues sets the unset settings."""
    return {
        "immutable": {
            "model": shape.to_dict(),
            "tokenizer": tokenizer.sha256,
            "optimizer": optimizer,
            **heads_setting(objective),
        },
        UNSET: list(UNSET_NAMES),
        "mutable": {},
        "loop": {"best": None, "evaluated": step, "no_better": 0, "window": None},
    }
