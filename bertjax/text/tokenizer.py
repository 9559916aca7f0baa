"""Loads a vocabulary of either kind: `load_tokenizer`."""

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.text import sentencepiece, tokenizer_files, wordpiece
from bertjax.text.tokenizer_base import SETTINGS_FILE, Encoding, Kind, Tokenizer

__all__ = ["Encoding", "Tokenizer", "load_tokenizer"]


def load_tokenizer(
    path: epath.PathLike,
    *,
    kind: Kind | None = None,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
) -> Tokenizer:
    """Loads a vocabulary from a file or a directory with vocab.txt, spm.model or tokenizer.json.

    The casing of a WordPiece vocabulary comes from its tokenizer_config.json (do_lower_case,
    strip_accents) or, without one, from its tokenizer.json. A vocab.txt alone is uncased exactly
    when none of its tokens has an upper-case letter. A SentencePiece model contains its own
    normalization.

    A tokenizer.json (of the `tokenizers` library, as saved by transformers) is the vocabulary if
    there is no other; beside a vocab.txt it must hold the same vocabulary.

    Args:
        path: a directory or a file.
        kind: refuses a vocabulary of the other kind. None accepts both.
        lowercase: overrides do_lower_case of a WordPiece vocabulary.
        strip_accents: overrides its strip_accents.

    Raises:
        UserError: no vocabulary, the other kind, a damaged file, a duplicate token, a missing
            special token, or a setting that would give other ids than BERT's rules.
    """
    path = location(path)
    file = _vocabulary_file(path, kind)
    data = file.read_bytes()
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
        found = {"wordpiece": exported}
    if not found:
        names = (wordpiece.FILE, sentencepiece.FILE, tokenizer_files.EXPORTED)
        raise UserError(f"{path}: holds neither {' nor '.join(names)}.")
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
    if tokens is not None and exported.is_file():
        tokenizer_files.check_same(tokens, exported)
    generic = tokenizer_files.is_generic(settings)
    if generic and not exported.is_file():
        raise UserError(
            f"{settings_file}: tokenizer_class is {settings['tokenizer_class']!r}, which needs a "
            f"{tokenizer_files.EXPORTED} beside it, and there is none; copy it there."
        )
    if tokens is None or generic:
        rules = tokenizer_files.read_exported(exported)
    else:
        cased = any(map(wordpiece.is_cased, tokens))
        rules = tokenizer_files.Exported(tokens, not cased, None)
    tokenizer_files.check_added(rules.tokens, settings, settings_file)
    lower, strips = rules.lowercase, rules.strip_accents
    if not generic:  # transformers lets the settings override tokenizer.json
        lower = settings.get("do_lower_case", lower)
        strips = settings.get("strip_accents", strips)
    return wordpiece.WordPieceTokenizer(
        rules.tokens,
        lower if lowercase is None else lowercase,
        strips if strip_accents is None else strip_accents,
    )
