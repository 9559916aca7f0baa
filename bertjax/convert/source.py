"""Reads what `convert` converts: a TF1 checkpoint, a pre-training run, or a model directory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.files import location
from bertjax.interop import google
from bertjax.interop.huggingface import Pretrained, from_google, from_pretrained
from bertjax.interop.run_checkpoints import CHECKPOINTS, is_pretraining_run, read_run
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import init_state
from bertjax.train.tree import named


@dataclasses.dataclass(frozen=True)
class Source:
    """A model, and the training state that lies with it."""

    model: Pretrained
    step: int | None = None
    """Number of batches consumed; None if it is unknown."""
    updates: int | None = None
    """Number of updates applied; None if it is unknown."""
    has_moments: bool = False
    """Whether Adam's moments exist, even if they were not read."""
    mu: Any = None
    """First moments, a tree like the parameters; None if they were not read."""
    nu: Any = None
    """Second moments."""
    notes: tuple[str, ...] = ()
    """Sentences for the log."""
    optimizer: str | None = None
    """Name of the optimizer; only a run has one."""
    objective: str | None = None
    """Name of the objective; only a run has one."""

    def __str__(self) -> str:
        shape, params = self.model.config, self.model.params
        if isinstance(shape, EncoderDecoderConfig):
            berts = f"{_describe(shape.encoder)}, and to write a {_describe(shape.decoder)}"
            model = f"encoder-decoder: to read a {berts}"
        else:
            model = _describe(shape)
        heads = sorted(set(params) - {"embeddings", "encoder"})
        count = optax.tree.size(params)
        step = "no step" if self.step is None else f"step {self.step:,}"
        moments = "Adam moments" if self.has_moments else "no Adam moments"
        parts = ", ".join(["encoder", *heads])
        return f"{model}, {count:,} parameters ({parts}); {step}, {moments}"


def _describe(shape: BertConfig) -> str:
    return (
        f"BERT with {shape.num_hidden_layers} layers of {shape.hidden_size} and "
        f"{shape.num_attention_heads} heads, vocabulary {shape.vocab_size:,}"
    )


def read_source(path: str, *, with_moments: bool, hidden_act: str | None = None) -> Source:
    """Reads a TF1 checkpoint, a run directory, or a model in Hugging Face's layout.

    Adam's moments are read if they exist and `with_moments` is set. `hidden_act` replaces the
    source's own activation.

    Raises:
        UserError: the source can't be read, or its moments are incomplete.
    """
    place = location(path)
    if google.is_checkpoint(place):
        found = google.read_checkpoint(place, moments=with_moments)
        notes = found.notes
        if hidden_act is None and found.config.hidden_act == "gelu":
            notes += (
                "hidden_act is gelu (erf), as its JSON says. Weights of Google's code from "
                "February 2019 on were trained with tanh: for them, set `hidden_act` gelu_new.",
            )
        state = (found.step, found.step, found.has_moments, found.mu, found.nu)
        source = Source(from_google(found), *state, notes)
    elif is_pretraining_run(place):
        source = _read_run(place, with_moments)
    else:
        told: list[str] = []
        model = from_pretrained(place, log=told.append)
        source = Source(model, notes=tuple(told))
    if hidden_act is None:
        return source
    shape = source.model.bert_config("`hidden_act`")
    shape = dataclasses.replace(shape, hidden_act=hidden_act)
    return dataclasses.replace(source, model=dataclasses.replace(source.model, config=shape))


def _read_run(path: epath.Path, with_moments: bool) -> Source:
    """Reads the newest checkpoint of a pre-training run."""
    notes: list[str] = []
    found = read_run(path, notes.append)
    shape, params, tokenizer = found.config, found.params, found.tokenizer
    objective, meta = found.objective, found.meta
    assert isinstance(shape, BertConfig) and objective is not None
    saved, kind = meta["immutable"], objective.export_kind
    if not with_moments:
        model = Pretrained(shape, objective.exported(params), tokenizer, {"kind": kind})
        return Source(model, meta["step"], has_moments=True, notes=tuple(notes))
    if "freeze" in saved or len(named(objective.trained(params))) < len(named(params)):
        raise UserError(
            f"{path}: the run has frozen parameters and no moments of them, but a converted run "
            "needs all moments; convert it to Hugging Face's layout, and that into a run."
        )
    average = "ema_decay" in saved
    if average:
        notes.append("The run goes on from its weights; their moving average is left out.")
    optimizer = optimizer_with_moments(saved["optimizer"])
    target = jax.eval_shape(lambda: init_state(params, optimizer, average=average))
    with Checkpoints(path / CHECKPOINTS, read_only=True, log=notes.append) as checkpoints:
        restored = checkpoints.restore(target, step=meta["step"])
    assert restored is not None
    state = restored.state
    mu, nu = (optax.tree.get(state.opt_state, name) for name in ("mu", "nu"))
    model = Pretrained(shape, state.params, tokenizer, {"kind": kind})
    steps = (int(state.step), int(state.updates))
    return Source(model, *steps, True, mu, nu, tuple(notes), saved["optimizer"], objective.name)


def optimizer_with_moments(name: str) -> optax.GradientTransformation:
    """Returns an optimizer; raises `UserError` if it does not keep Adam's two moments."""
    # The state does not depend on the schedule.
    optimizer = make_optimizer(OptimizerConfig(name), optax.constant_schedule(0.0))
    state = optimizer.init({"kernel": jnp.zeros((1, 1))})
    if any(len(optax.tree.get_all_with_path(state, moment)) != 1 for moment in ("mu", "nu")):
        raise UserError(
            f"The optimizer {name} does not keep the two moments of Adam, which a converted run "
            "needs; convert to Hugging Face's layout and start a new run from that."
        )
    return optimizer
