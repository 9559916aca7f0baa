"""`convert`: moves a BERT from one layout into another, bit for bit."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import tyro
from etils import epath

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.convert import reference, verify
from bertjax.convert.source import Source, read_source
from bertjax.convert.to_run import write_run
from bertjax.errors import UserError, refuse_unknown
from bertjax.files import filling, location, output_directory, write_atomically
from bertjax.interop import google, hub, vocabulary
from bertjax.interop.huggingface import save_pretrained
from bertjax.interop.run_checkpoints import KIND, is_pretraining_run, is_unfinished
from bertjax.objectives.options import ObjectiveName
from bertjax.objectives.table import DEFAULT_OBJECTIVE, OBJECTIVES
from bertjax.rundir.workdir import write_config
from bertjax.text.tokenizer import Tokenizer, load_tokenizer
from bertjax.train.optimizer import OPTIMIZERS

CERTIFICATE = "certificate.json"
"""File of the certificate that `verify` makes."""


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert a BERT into Hugging Face's layout, a run that `bertjax pretrain` continues, or a TF1
    checkpoint.

    A run has Adam's moments and the number of steps done, if `source` has them. The first command
    that continues the run chooses data, order, seed, batch size, masking and initialization.
    """

    source: tyro.conf.Positional[str]
    """A TF1 checkpoint with the names of google-research/bert (its directory with bert_config.json
    and vocab.txt, or the path of its files), a model in Hugging Face's layout, a run directory, or
    a name on the hub."""
    dest: tyro.conf.Positional[str]
    """Directory to make. It must be absent or empty."""
    to: Literal["huggingface", "run", "tf1"] = "huggingface"
    """huggingface: config.json, model.safetensors and the tokenizer. run: a run directory. tf1:
    bert_model.ckpt, bert_config.json and vocab.txt, from which google-research/bert goes on."""
    hidden_act: Literal["gelu", "gelu_new", "gelu_tanh", "relu"] | None = None
    """Activation in place of the source's. "gelu" in Google's JSON means erf in their code of 2018
    and tanh (gelu_new) in their code from February 2019 on."""
    verify: bool = False
    """Compare the outputs first, with transformers if it is installed, else with the statistics in
    parity.json beside `source`. If they differ, the cause is reported and nothing is written.
    Otherwise `dest` gets certificate.json and, with an unchanged vocabulary, parity.json."""
    add_words: str | None = None
    """File of words, one per line, that get tokens of their own in a WordPiece vocabulary. Unused
    slots are taken first. A new token starts as the mean of its old pieces."""
    vocabulary: str | None = None
    """Tokenizer (a directory, vocab.txt, spm.model or tokenizer.json) whose vocabulary replaces the
    model's. Tokens of both keep their rows; others start as the mean of their old pieces."""
    optimizer: str | None = None
    """Name of the optimizer that a run continues with. Default: that of a source run, else
    adamw_google."""
    seed: int = 0
    """Seed that draws the heads which a run needs and `source` lacks."""
    objective: ObjectiveName | None = None
    """Objective that a run continues with; it decides which heads the run has. Default: that of a
    source run, else next-sentence prediction."""

    def __post_init__(self) -> None:
        if self.add_words and self.vocabulary:
            raise UserError(
                "`add_words` changes the model's vocabulary and `vocabulary` replaces it: give one "
                "of the two."
            )
        for name in ("optimizer", "objective"):
            if self.to != "run" and getattr(self, name) is not None:
                raise UserError(f"`{name}` is for a run: set `to` run, or leave it out.")


@dataclasses.dataclass(frozen=True)
class ConvertResult:
    """The model or run that was written."""

    dest: epath.Path
    model: BertConfig | EncoderDecoderConfig
    """The model's shape."""
    step: int
    """Number of steps done by a run; 0 otherwise."""
    moments: bool
    """Whether a run has the source's moments."""
    kind: str
    """The model's heads, a key of `bertjax.model.heads.TASK_PARTS`."""
    optimizer: str = ""
    """Optimizer that a run continues with."""
    objective: str = ""
    """Objective that a run continues with."""


def convert(config: ConvertConfig, log: Callable[[str], None]) -> ConvertResult:
    """Reads a model and writes it in another layout. A failure leaves nothing behind.

    Raises:
        UserError: the source can't be read, the outputs differ from the reference, or the
            destination is not empty.
    """
    dest = output_directory(config.dest)
    if dest.exists() and any(dest.iterdir()):
        raise UserError(
            f"{dest}: is not empty, and convert overwrites nothing; name another directory, or "
            "remove that one."
        )
    # Mistakes are told before the model is read.
    if config.optimizer is not None:
        refuse_unknown("`optimizer`", config.optimizer, OPTIMIZERS)
    words = _read_words(config.add_words) if config.add_words else []
    tokenizer = load_tokenizer(config.vocabulary) if config.vocabulary else None
    if (name := hub.parse_name(config.source)) is not None:
        directory, downloaded = hub.download(name)
        log(f"Downloaded {downloaded}.")
        config = dataclasses.replace(config, source=str(directory))
    to_run = config.to == "run"
    moments = config.to != "huggingface"
    source = read_source(config.source, with_moments=moments, hidden_act=config.hidden_act)
    log(f"Read {config.source}: {source}.")
    for note in source.notes:
        log(note)
    certificate = _verified(config, source, log) if config.verify else None
    source = _with_other_words(source, words, tokenizer, log)
    with filling(dest) as directory:
        if certificate is not None:
            write_atomically(directory / CERTIFICATE, certificate.to_json().encode() + b"\n")
            if not (config.add_words or config.vocabulary):
                reference.write_golden(directory / reference.GOLDEN, certificate.reference)
        if to_run:
            result = _write_run(config, source, directory, log)
        elif config.to == "tf1":
            result = _write_tf1(config, source, directory, log)
        else:
            result = ConvertResult(dest, source.model.config, 0, False, source.model.kind)
            save_pretrained(directory, source.model)
    if to_run:
        whose = "the source's" if result.moments else "fresh"
        log(f"Wrote {dest}: a run at step {result.step:,}, with {whose} Adam moments.")
    elif config.to == "tf1":
        step = f"at step {result.step:,}" if result.step else "without a step"
        moments = "with" if result.moments else "without"
        log(f"Wrote {dest}: a TF1 checkpoint {step}, {moments} Adam moments.")
        return result
    else:
        if source.has_moments:
            log("Hugging Face's layout has no place for Adam's moments: they are left out.")
        log(f"Wrote {dest}: config.json, model.safetensors and the tokenizer.")
    if result.step:
        log(
            f"{result.step:,} of the steps that the next command gives are done; the learning rate "
            "follows its schedule from there."
        )
    return result


def _write_run(
    config: ConvertConfig, source: Source, directory: epath.Path, log: Callable[[str], None]
) -> ConvertResult:
    shape = source.model.bert_config("a pre-training run")
    model, added = vocabulary.fill_rows(source.model)
    if added:
        log(f"The model has {added:,} rows beyond its vocabulary, which gets as many [unused...].")
        source = dataclasses.replace(source, model=model)
    objective = OBJECTIVES[config.objective or source.objective or DEFAULT_OBJECTIVE.name]
    if objective.needs_teacher:
        raise UserError(
            f"The objective {objective.name} trains a new model: give the source as `teacher` to "
            "`bertjax pretrain`, or choose another `objective`."
        )
    optimizer = config.optimizer or source.optimizer or "adamw_google"
    written = write_run(directory, source, objective, optimizer, config.seed, log)
    write_config(directory, KIND, dataclasses.asdict(config))
    dest, kind = epath.Path(config.dest), objective.export_kind
    step, moments = written.step or 0, written.mu is not None
    return ConvertResult(dest, shape, step, moments, kind, optimizer, objective.name)


def _write_tf1(
    config: ConvertConfig, source: Source, directory: epath.Path, log: Callable[[str], None]
) -> ConvertResult:
    model = source.model
    shape = model.bert_config("a TF1 checkpoint")
    shape.check_classic("A TF1 checkpoint")
    if model.tokenizer.kind != "wordpiece":
        raise UserError(
            f"{config.source}: has a {model.tokenizer.kind} vocabulary, which google-research/bert "
            "can't read; convert a model with WordPiece."
        )
    model.tokenizer.save(directory)
    moments, step = {"mu": source.mu, "nu": source.nu}, source.updates
    for note in google.write_checkpoint(directory, shape, model.params, step=step, **moments):
        log(note)
    return ConvertResult(
        epath.Path(config.dest), shape, step or 0, source.mu is not None, model.kind
    )


def _verified(
    config: ConvertConfig, source: Source, log: Callable[[str], None]
) -> verify.Certificate:
    place = location(config.source)
    if is_pretraining_run(place) or is_unfinished(place):
        raise UserError(
            f"{config.source}: is a run, and no other implementation has its weights; convert it "
            "to Hugging Face's layout first, and set `verify` when you convert that."
        )
    certificate = verify.verify(source.model, config.source, log)
    if not certificate.agrees:
        raise UserError(f"{config.source}: not converted. {certificate.verdict()}")
    log(certificate.verdict())
    return certificate


def _with_other_words(
    source: Source, words: list[str], tokenizer: Tokenizer | None, log: Callable[[str], None]
) -> Source:
    moments = [] if source.mu is None else [source.mu, source.nu]
    if tokenizer is not None:
        changed = vocabulary.swap_vocabulary(source.model, tokenizer, moments)
    elif words:
        changed = vocabulary.add_words(source.model, words, moments)
    else:
        return source
    log(changed.report)
    mu, nu = changed.moments or (None, None)
    return dataclasses.replace(source, model=changed.model, mu=mu, nu=nu)


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
    if not (words := [word for line in lines if (word := line.strip())]):
        raise UserError(f"{file}: holds no words; write one a line.")
    return words
