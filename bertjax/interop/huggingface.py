"""Reads and writes Hugging Face's layout: config.json, model.safetensors, tokenizer files."""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from typing import Any

from etils import epath

from bertjax.config import BertConfig, EncoderDecoderConfig, read_json_object
from bertjax.errors import UserError
from bertjax.files import location, output_directory, temporary_directory, writing
from bertjax.interop import (
    checksums,
    classes,
    encoder_decoder,
    families,
    google,
    hub,
    run_checkpoints,
    sentence_transformers,
)
from bertjax.interop.encoder_decoder import DECODER_TOKENIZER, GENERATION
from bertjax.interop.model_directory import CONFIG, config_file, find_export, read_tokenizer
from bertjax.interop.pretrained import Pretrained, Unread
from bertjax.interop.sentence_transformers import MODULES
from bertjax.interop.tensors import (
    read_params,
    read_sentence_scorer,
    read_shapes,
    without_prefix,
    write_params,
)
from bertjax.interop.weights import HEAD_WEIGHTS, WEIGHTS, Weights, find_weights, read_weights
from bertjax.model.heads import TASK_PARTS, task_parts
from bertjax.text.tokenizer import TOKENIZER_FILES

_LOGGER = logging.getLogger("bertjax")

_MODEL_TYPES = ("bert", *families.FAMILIES, families.OWN, encoder_decoder.MODEL_TYPE)


def save_pretrained(
    path: epath.PathLike, model: Pretrained, *, own_layout: bool = False
) -> epath.Path:
    """Writes config.json, model.safetensors and the tokenizer's files; returns the directory.

    The weights are those of Hugging Face's class for the model's kind: heads of other kinds are
    not written. A pooler is written if the class reads it or is a plain encoder. The head of
    sentence_extraction, which has no class, has a file of its own, bertjax_head.safetensors.

    An encoder-decoder also gets generation_config.json and, if what it writes has a vocabulary of
    its own, the directory decoder_tokenizer. Shared weights are written for the encoder and for
    the decoder, and zeros for a pooler that the encoder lacks, because Hugging Face's class has
    one that nothing reads.

    A model that transformers has no class for is refused or, with `own_layout`, written with the
    model_type "bertjax", which `from_pretrained` reads.

    All files are written or none. A new directory is moved into place when it is complete. An
    existing directory gets the files one by one, config.json last, because nothing reads the
    directory without it. bertjax_sha256.json keeps digests of the small files, and
    `from_pretrained` compares them where it is there.

    Raises:
        UserError: the kind is unknown, the model lacks one of its heads, or transformers has no
            class for it; a weight is not finite; the path can't be written, is a file or lies under
            one; transformers can't make the tokenizer's ids.
    """
    path = epath.Path(path)
    params = _params_of_kind(path, model)
    if isinstance(model.config, BertConfig):
        families.check(model.config, model.tokenizer, path)
        if not own_layout:
            families.check_written(model.config, model.kind, path)
    with writing(path):
        path = output_directory(path)
        with temporary_directory(path) as temporary:
            model.tokenizer.save(temporary, export=True)
            if isinstance(model.config, EncoderDecoderConfig):
                _write_decoder_files(temporary, model, model.config)
            if scorer := params.pop("sentence_scorer", None):
                write_params(temporary / HEAD_WEIGHTS, {"sentence_scorer": scorer})
            write_params(temporary / WEIGHTS, params, functools.partial(_layout, model))
            (temporary / CONFIG).write_text(json.dumps(_config_json(model), indent=2) + "\n")
            modules = model.sentence_modules
            for name, data in modules.files.items() if modules else ():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(data)
            checksums.write(temporary)
            _put_in_place(temporary, path)
    return path


def from_pretrained(
    path: epath.PathLike, *, log: Callable[[str], None] = _LOGGER.warning
) -> Pretrained:
    """Reads an export or a run of bertjax, a model in Hugging Face's layout, or a TF1 checkpoint.

    Weights are model.safetensors, flax_model.msgpack or pytorch_model.bin (which is not unpickled),
    or several files with an index. A DistilBERT, a RoBERTa and a ModernBERT become models of
    `BertConfig` that compute the same outputs; the last two are written as what they were.

    Args:
        path: a directory (for a run directory, its export/ is read; for a run that has not ended,
            or was continued since, its newest intact checkpoint), or a model's name on the hub,
            "owner/name" or "owner/name@revision", or bert-base-uncased and its like; see
            `bertjax.interop.hub`.
        log: receives a sentence about each choice that was made, and about what was left out.

    Raises:
        UserError: the path is absent, holds another kind of model, or has damaged files.
    """
    return _read(path, log)


def open_pretrained(
    path: epath.PathLike, *, log: Callable[[str], None] = _LOGGER.warning
) -> Pretrained:
    """Does as `from_pretrained`, but leaves the weights of a BERT to the first use of `params`.

    Mistakes elsewhere are so told before hundreds of megabytes are read. Weights whose file does
    not tell their shapes are read at once.
    """
    return _read(path, log, at_once=False)


def _read(path: epath.PathLike, log: Callable[[str], None], *, at_once: bool = True) -> Pretrained:
    source = None
    if (name := hub.parse_name(path)) is not None:
        if not str(path).startswith(name.repository):
            log(f"{path} is read as {name}, its name on the hub.")
        path, source = hub.download(name)
    path = location(path)
    if google.is_checkpoint(path):
        return from_google(google.read_checkpoint(path, moments=False))
    if run_checkpoints.is_unfinished(path):
        return _read_checkpoint(path, log)
    root, path = path, find_export(path)
    checksums.check(path)
    where = str(path / CONFIG)
    fields = _read_config(config_file(path) or path / CONFIG)
    if fields.get("model_type") == encoder_decoder.MODEL_TYPE:
        return dataclasses.replace(_read_encoder_decoder(path, fields, log), source=source)
    family = families.FAMILIES.get(str(fields.get("model_type")))
    config = BertConfig.from_dict(fields, where=where)
    place = root if (root / MODULES).is_file() else path
    modules = sentence_transformers.read_modules(place, config.hidden_size)
    head = path / HEAD_WEIGHTS

    def read() -> dict[str, Any]:
        # No variable holds the tensors, so each is freed as soon as its parameter is made.
        params = read_params(_read_bert(path, family, config, fields, log), config, log)
        return params | (read_sentence_scorer(read_weights(head), config) if head.exists() else {})

    file, shapes = find_weights(path), None
    if not (at_once or family or head.exists()):
        shapes = file and read_shapes(file, config)
    params = shapes or read()
    tokenizer = read_tokenizer(config, path)
    task = classes.read_task(fields, params, config, where)
    families.check(config, tokenizer, path)
    more = {"source": source, "sentence_modules": modules}
    if shapes:
        return Unread(config, (shapes, read), tokenizer, task, **more)
    return Pretrained(config, params, tokenizer, task, **more)


def recorded_task(path: epath.PathLike) -> dict[str, Any] | None:
    """Returns the task that fine-tuning records, without reading weights.

    A run of pre-training that has not ended has no more than a "kind". None for any other model.
    Raises `UserError` if the path holds no model.
    """
    if hub.parse_name(path) is not None or google.is_checkpoint(location(path)):
        return None
    if run_checkpoints.is_unfinished(location(path)):
        return run_checkpoints.recorded_task(location(path)) or {"kind": "encoder"}
    directory = find_export(location(path))
    config = config_file(directory) or directory / CONFIG
    task = classes.own_task(_read_config(config), str(config))
    return task if task and "task" in task else None


def _read_checkpoint(path: epath.Path, log: Callable[[str], None]) -> Pretrained:
    found = run_checkpoints.read_run(path, log, functools.partial(from_pretrained, log=log))
    older = ", which is newer than export/," if find_weights(path / "export") else ""
    log(f"{path}: the run has not ended; the model of {found.place}{older} is read.")
    params = found.objective.exported(found.params) if found.objective else found.params
    decoder = found.decoder_tokenizer
    modules = sentence_transformers.recorded_modules(found.task, found.config)
    return Pretrained(
        found.config, params, found.tokenizer, found.task, decoder, sentence_modules=modules
    )


def _read_bert(
    path: epath.Path,
    family: families.Family | None,
    config: BertConfig,
    fields: dict[str, Any],
    log: Callable[[str], None],
) -> Weights:
    weights = read_weights(find_weights(path) or path / WEIGHTS)
    if family is None:
        return without_prefix(weights, log)
    weights = without_prefix(weights, log, (family.base,))
    names = fields.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else "BertForMaskedLM"
    return family.bert_weights(weights, config, architecture)


def _read_encoder_decoder(
    path: epath.Path, fields: dict[str, Any], log: Callable[[str], None]
) -> Pretrained:
    where = str(path / CONFIG)
    task = classes.own_task(fields, where) or {}
    if not task:
        task["kind"] = encoder_decoder.KIND
        if generation := encoder_decoder.read_generation(path / GENERATION, log):
            task["generation"] = generation
    config = encoder_decoder.read_config(fields, task.get(encoder_decoder.SHARE), where)
    tied = bool(fields.get("tie_encoder_decoder"))
    params, config = encoder_decoder.read_params(
        read_weights(find_weights(path) or path / WEIGHTS), config, tied=tied
    )
    tokenizer, decoder_tokenizer = read_tokenizer(config.encoder, path), None
    if (path / DECODER_TOKENIZER).is_dir():
        decoder_tokenizer = read_tokenizer(config.decoder, path / DECODER_TOKENIZER)
    elif (ours := config.encoder.vocab_size) != (theirs := config.decoder.vocab_size):
        raise UserError(
            f"{path}: the encoder has {ours} tokens and the decoder {theirs}, and there is no "
            f"{DECODER_TOKENIZER}; put the decoder's tokenizer into a directory of that name."
        )
    encoder_decoder.check_special_ids(path, fields, decoder_tokenizer or tokenizer)
    task[encoder_decoder.SHARE] = config.share
    return Pretrained(config, params, tokenizer, task, decoder_tokenizer)


def from_google(checkpoint: google.GoogleCheckpoint) -> Pretrained:
    """Returns the model of a TF1 checkpoint, with the vocabulary beside it.

    Raises `UserError` if the vocabulary is absent or larger than the model's.
    """
    tokenizer = read_tokenizer(checkpoint.config, checkpoint.prefix.parent)
    # Google's only classifier is that of run_classifier.py.
    fields = {"architectures": [classes.ARCHITECTURES["sequence_classification"]]}
    task = classes.read_task(fields, checkpoint.params, checkpoint.config, str(checkpoint.prefix))
    return Pretrained(checkpoint.config, checkpoint.params, tokenizer, task)


def _params_of_kind(path: epath.Path, model: Pretrained) -> dict[str, Any]:
    """Returns the subtrees that Hugging Face's class has: transformers reads no others."""
    kind = model.kind
    if kind not in TASK_PARTS:
        raise UserError(f"{path}: not written, because {classes.unknown_task(kind)}.")
    is_pair = isinstance(model.config, EncoderDecoderConfig)
    if (kind == encoder_decoder.KIND) != is_pair:
        reason = f"the task is {kind!r} and the configuration a {type(model.config).__name__}"
        raise UserError(f"{path}: not written, because {reason}; give those of one model.")
    parts = ("encoder",) if is_pair else ("embeddings", "encoder")
    parts = (*parts, *task_parts(kind, model.config))
    if kind == "encoder" and "pooler" in model.params:
        parts = (*parts, "pooler")
    if missing := [part for part in parts if part not in model.params]:
        reason = f"the task {kind!r} needs the part {missing[0]}, which the model lacks"
        raise UserError(f"{path}: not written, because {reason}; add it, or name another task.")
    if isinstance(model.config, EncoderDecoderConfig):
        return encoder_decoder.parameters_to_write(path, model.params, model.config)
    return {part: model.params[part] for part in parts}


def _write_decoder_files(
    directory: epath.Path, model: Pretrained, config: EncoderDecoderConfig
) -> None:
    tokenizer = model.decoder_tokenizer or model.tokenizer
    same = config.encoder.vocab_size == config.decoder.vocab_size
    if not same or tokenizer.sha256 != model.tokenizer.sha256:
        (directory / DECODER_TOKENIZER).mkdir()
        tokenizer.save(directory / DECODER_TOKENIZER, export=True)
    options = (model.task or {}).get("generation")
    fields = encoder_decoder.generation_json(options, tokenizer)
    (directory / GENERATION).write_text(json.dumps(fields, indent=2) + "\n")


def _layout(model: Pretrained, tensors: dict[str, Any]) -> dict[str, Any]:
    """Gives the tensors of a model the names that Hugging Face's class has."""
    if isinstance(model.config, EncoderDecoderConfig):
        return tensors
    return families.layout(model.config, model.tokenizer, model.kind).tensors(tensors, model.kind)


def _config_json(model: Pretrained) -> dict[str, Any]:
    kind, config, task, prefix = model.kind, model.config, model.task, "Bert"
    if isinstance(config, EncoderDecoderConfig):
        tokenizer = model.decoder_tokenizer or model.tokenizer
        reader = families.bert_json(config.encoder, model.tokenizer)
        writer = families.bert_json(config.decoder, tokenizer)
        fields = encoder_decoder.config_json(reader, writer, config.share, tokenizer)
        task = {**(task or {"kind": kind}), encoder_decoder.SHARE: config.share}
    else:
        prefix, fields, _ = families.layout(config, model.tokenizer, kind)
    return {**fields, **classes.task_json(kind, task, model.params, prefix)}


def _put_in_place(temporary: epath.Path, path: epath.Path) -> None:
    # An object store renames a directory by copying its files one by one, in any order.
    if not path.exists() and "://" not in str(path):
        temporary.rename(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    others = (*sentence_transformers.FILES, *TOKENIZER_FILES)
    for name in (CONFIG, GENERATION, HEAD_WEIGHTS, checksums.FILE, *others):
        (path / name).unlink(missing_ok=True)
    (path / DECODER_TOKENIZER).rmtree(missing_ok=True)
    for file in sorted(temporary.iterdir(), key=lambda file: (file.name == CONFIG, file.name)):
        if file.is_dir():
            _put_in_place(file, path / file.name)
        else:
            file.replace(path / file.name)


def _read_config(path: epath.Path) -> dict[str, Any]:
    fields = read_json_object(path)
    encoders = "encoders, which attend to the whole text,"
    positions = (
        "absolute",
        *(("rotary", "none") if fields.get("model_type") == families.OWN else ()),
    )
    for name, known, shown in (
        ("model_type", _MODEL_TYPES, f"{', '.join(map(repr, _MODEL_TYPES))}"),
        ("position_embedding_type", positions, "'absolute'"),
        ("is_decoder", (False,), encoders),
        ("add_cross_attention", (False,), encoders),
    ):
        if fields.get(name) not in (*known, None):
            raise UserError(f"{path}: {name} is {fields[name]!r}; only {shown} can be read.")
    if family := families.FAMILIES.get(str(fields.get("model_type"))):
        return {**family.bert_fields(fields, str(path)), "model_type": fields["model_type"]}
    return fields
