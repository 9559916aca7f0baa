"""Finds the model in a directory and reads its tokenizer, or says what the directory lacks."""

import difflib

from etils import epath

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import hub, sentence_transformers
from bertjax.interop.weights import FLAX_WEIGHTS, TORCH_WEIGHTS, WEIGHTS, find_weights, some
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

CONFIG = "config.json"
_FORMATS = f"{WEIGHTS}, {FLAX_WEIGHTS} or {TORCH_WEIGHTS}"


def config_file(directory: epath.Path) -> epath.Path | None:
    """Returns config.json or, in directories older than transformers, bert_config.json."""
    names = (CONFIG, "bert_config.json")
    return next((directory / name for name in names if (directory / name).is_file()), None)


def find_export(path: epath.PathLike) -> epath.Path:
    """Returns the directory with the weights: `path` itself, or the export/ of a run directory.

    Raises `UserError` if neither holds a model.
    """
    path = epath.Path(path)
    if not path.exists():
        near = difflib.get_close_matches(str(path), hub.OLD_NAMES, 1, 0.8)
        raise UserError(
            f"{path}: no such directory; give a run directory, an export, a model in Hugging "
            "Face's layout, or a name on the hub (owner/name, if no directory is named owner)"
            + (f": did you mean {near[0]}?" if near else ".")
        )
    for directory in (path, path / "export", sentence_transformers.encoder_directory(path)):
        if config_file(directory) and find_weights(directory):
            return directory
    if any(any(path.glob(f"{above}checkpoints")) for above in ("", "*/", "*/*/")):
        raise UserError(
            f"{path}: a run that has saved neither a checkpoint nor export/; run its command again "
            "until it has, or give the directory of another run."
        )
    raise UserError(f"{path}: {_what_is_missing(path)}.")


def _what_is_missing(path: epath.Path) -> str:
    """Says why a path holds no model that can be read, and what to do."""
    if not path.is_dir():
        return "is a file; give the directory of a model"
    if weights := find_weights(path):
        return f"holds {weights.name} without {CONFIG}; put the one of these weights beside them"
    suffixes = (".h5", ".ot", ".onnx", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack")
    others = sorted(
        file.name for file in path.iterdir() if file.suffix in suffixes and file.is_file()
    )
    if "tf_model.h5" in others:
        return (
            f"holds tf_model.h5, which bertjax does not read; download {WEIGHTS}, or load it with "
            "transformers 4 (BertModel.from_pretrained with from_tf=True) and save it again"
        )
    if others:
        return f"holds {some(others)}, which bertjax does not read; give {_FORMATS}"
    if config_file(path):
        return f"holds no weights; download {_FORMATS} too"
    return f"holds no {CONFIG} with {WEIGHTS}; give a directory that does"


def read_tokenizer(config: BertConfig, directory: epath.Path) -> Tokenizer:
    """Reads the tokenizer of a model. Raises `UserError` if there is none or it has other ids."""
    tokenizer = load_tokenizer(directory)
    check_vocabulary(tokenizer, config, directory)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, where: object) -> None:
    """Raises `UserError` if a tokenizer has more tokens than the model."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} tokens and the model only "
            f"{config.vocab_size}; put the tokenizer that the model was trained with beside it."
        )
