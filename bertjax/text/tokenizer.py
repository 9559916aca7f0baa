"""Loads a vocabulary of any kind: `load_tokenizer`."""

import json
import logging
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import check_downloaded, location, reading
from bertjax.text import added_tokens, byte_bpe_files, sentencepiece, tokenizer_files, wordpiece
from bertjax.text.tokenizer_base import SETTINGS_FILE, Encoding, Kind, Tokenizer

__all__ = ["Encoding", "Tokenizer", "load_tokenizer"]

TOKENIZER_FILES = (
    *("vocab.txt", "spm.model", "tokenizer.json", "vocab.json", "merges.txt"),
    "tokenizer_config.json",
    *("added_tokens.json", "special_tokens_map.json"),
)
"""Names of the files that hold a tokenizer."""

_CASING = {"lowercase": "do_lower_case", "strip_accents": "strip_accents"}


def load_tokenizer(
    path: epath.PathLike,
    *,
    kind: Kind | None = None,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
) -> Tokenizer:
    """Loads a vocab.txt, spm.model, tokenizer.json, vocab.json with merges.txt, or a directory.

    The casing of a WordPiece vocabulary comes from its tokenizer_config.json (do_lower_case,
    strip_accents) or else from its tokenizer.json. Without either, a vocabulary is taken as uncased
    if at most one token in 100 has an upper-case letter, and a warning of the logger "bertjax" says
    so. A SentencePiece model contains its own normalization.

    A tokenizer.json (of the `tokenizers` library, as saved by transformers) is the vocabulary if
    there is no other; beside a vocab.txt it must hold the same vocabulary. Tokens that transformers
    adds to a WordPiece vocabulary are found in text, as there.

    Args:
        path: a directory or a file.
        kind: refuses a vocabulary of another kind. None accepts all.
        lowercase: overrides do_lower_case of a WordPiece vocabulary.
        strip_accents: overrides its strip_accents.

    Raises:
        UserError: no vocabulary, another kind, a damaged file, a duplicate token, a missing
            special token, or a setting that would give other ids than the kind's rules.
    """
    path = location(path)
    file = _vocabulary_file(path, kind)
    with reading(file):
        data = file.read_bytes()
    check_downloaded(data, file)
    if file.suffix == ".json" and byte_bpe_files.is_byte_bpe(file):
        if kind not in (None, "bpe"):
            raise UserError(f"{file} is a byte-level BPE vocabulary, not the requested {kind}.")
        return byte_bpe_files.read(file)
    if file.suffix == ".json":
        if kind == "sentencepiece":
            raise UserError(f"{file} is not a SentencePiece model: give a .model file.")
        return _wordpiece(file, None, lowercase, strip_accents)
    try:
        is_text = "\0" not in data.decode()
    except UnicodeDecodeError:
        is_text = False
    model = None if is_text else sentencepiece.parse(data)
    if model is not None:
        if kind == "wordpiece" or file.name == wordpiece.FILE:
            raise UserError(
                f"{file} is a SentencePiece model, not a WordPiece vocabulary (one token per "
                f"line): name it {sentencepiece.FILE} and load it as sentencepiece."
            )
        return sentencepiece.SentencePieceTokenizer(data, sentencepiece.special_ids(model, file))
    if kind == "sentencepiece" or file.suffix == ".model":
        found = "has one token per line, as WordPiece" if is_text else "is damaged or another file"
        raise UserError(f"{file} is not a SentencePiece model: it {found}; give a .model file.")
    if not is_text:
        wanted = "a WordPiece vocabulary in UTF-8 nor a SentencePiece model"
        raise UserError(f"{file}: neither {wanted}.")
    return _wordpiece(file, wordpiece.parse(data, file), lowercase, strip_accents)


def _vocabulary_file(path: epath.Path, kind: Kind | None) -> epath.Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or directory; give a tokenizer's directory.")
    names = {"wordpiece": (wordpiece.FILE,), "sentencepiece": sentencepiece.FILES}
    found = {
        each: path / name
        for each, candidates in names.items()
        for name in reversed(candidates)
        if (path / name).is_file()
    }
    if not found and (exported := path / tokenizer_files.EXPORTED).is_file():
        found = {"bpe" if byte_bpe_files.is_byte_bpe(exported) else "wordpiece": exported}
    if not found and (pieces := path / byte_bpe_files.FILE).is_file():
        found = {"bpe": pieces}
    if not found:
        names = (wordpiece.FILE, sentencepiece.FILE, tokenizer_files.EXPORTED)
        raise UserError(
            f"{path}: holds neither {' nor '.join(names)}; give a tokenizer's directory."
        )
    if kind is not None and kind not in found:
        (other,) = found
        raise UserError(
            f"{path}: holds a {other} vocabulary ({found[other].name}), not the requested {kind}."
        )
    if kind is None and len(found) > 1:
        both = " and ".join(file.name for file in found.values())
        raise UserError(f"{path}: holds both {both}; give the path of one of these files.")
    return found[kind or next(iter(found))]


def _wordpiece(
    file: epath.Path, tokens: list[str] | None, lowercase: bool | None, strip_accents: bool | None
) -> wordpiece.WordPieceTokenizer:
    """Makes the tokenizer of a vocab.txt with these tokens or, for None, of a tokenizer.json."""
    settings_file = file.parent / SETTINGS_FILE
    settings = tokenizer_files.read_settings(settings_file)
    exported = file if tokens is None else file.parent / tokenizer_files.EXPORTED
    rules = None
    if tokens is not None and exported.is_file():
        rules = tokenizer_files.read_beside(tokens, exported)
    generic = tokenizer_files.is_generic(settings)
    if generic and not exported.is_file():
        raise UserError(
            f"{settings_file}: tokenizer_class is {settings['tokenizer_class']!r}, which needs a "
            f"{tokenizer_files.EXPORTED} beside it, and there is none; copy it there."
        )
    if tokens is None or generic:
        rules = tokenizer_files.read_exported(exported)
        tokens = rules.tokens
    said = {"lowercase": rules.lowercase, "strip_accents": rules.strip_accents} if rules else {}
    if not generic:  # transformers lets the settings override tokenizer.json
        said |= {ours: settings[name] for ours, name in _CASING.items() if name in settings}
        if rules:
            _warn_of_defaults(exported, settings, said)
    given = {"lowercase": lowercase, "strip_accents": strip_accents}
    said |= {name: value for name, value in given.items() if value is not None}
    guessed = "lowercase" not in said or (
        lowercase is None and bool(settings.get(wordpiece.GUESSED))
    )
    if guessed:
        said.setdefault("lowercase", not wordpiece.is_cased(tokens))
    sources = added_tokens.of_settings(settings, file.parent), rules.added if rules else []
    if rules and not generic and "added_tokens_decoder" in settings:
        added_tokens.check_same(*sources)  # versions of transformers read one or both
    added = added_tokens.place(tokens, *sources)
    if guessed:
        advice = f"write do_lower_case into {SETTINGS_FILE} beside it"
        if wordpiece.GUESSED in settings:
            advice = f"set do_lower_case in {SETTINGS_FILE}, and remove {wordpiece.GUESSED} there"
        logging.getLogger("bertjax").warning(
            "%s: nothing says whether the vocabulary is cased; it is taken as %s by the share of "
            "its tokens with capitals; %s.",
            *(file, "uncased" if said["lowercase"] else "cased", advice),
        )
    return wordpiece.WordPieceTokenizer(tokens, **said, added=added, guessed=guessed)


def _warn_of_defaults(exported: epath.Path, settings: dict[str, Any], said: dict[str, Any]) -> None:
    """Warns if a tokenizer.json decides the casing and transformers would not read it there."""
    defaults = {"lowercase": True, "strip_accents": None}
    theirs = {ours: settings.get(name, defaults[ours]) for ours, name in _CASING.items()}
    for casing in (said := {**said}), theirs:
        if casing["strip_accents"] is None:
            casing["strip_accents"] = casing["lowercase"]
    if said != theirs:
        logging.getLogger("bertjax").warning(
            "%s: its casing is followed (lowercase %s, strip_accents %s), but transformers reads "
            "do_lower_case and strip_accents of %s alone: write them there.",
            *(exported, *(json.dumps(said[name]) for name in _CASING), SETTINGS_FILE),
        )
