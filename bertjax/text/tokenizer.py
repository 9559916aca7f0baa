"""One `Tokenizer` protocol over WordPiece and SentencePiece: load, train, save."""

import array
import dataclasses
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import location, output_directory, write_atomically
from bertjax.text import corpus, sentencepiece, tokenizer_files, wordpiece
from bertjax.text.pieces import SETTINGS_FILE, SPECIALS, Encoding, Kind, Surface

__all__ = ["Encoding", "Tokenizer", "TokenizerConfig", "load_tokenizer", "train_tokenizer"]

_TRAINING_FILE = "training.json"
_SAMPLE_SEED = 12345


class Tokenizer(Protocol):
    """What every vocabulary can do; `bertjax.text.pieces` documents each method."""

    kind: Kind
    lowercase: bool
    sha256: str
    """Of the vocabulary, its special ids and its normalisation, however it was stored."""
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    def encode(
        self,
        text: str,
        pair: str | None = None,
        max_length: int | None = None,
        *,
        parse_mask: bool = False,
    ) -> Encoding:
        """[CLS] text [SEP] (pair [SEP]), cut at the end of the longer one, with offsets."""
        ...

    def batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int = 128,
        *,
        pad_to: int | None = None,
        parse_mask: bool = False,
    ) -> dict[str, np.ndarray]:
        """input_ids, attention_mask, token_type_ids of a batch: [B, T] int32, padded."""
        ...

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """The ids of many sentences without special tokens, int32, quickly."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """The text of one row of ids."""
        ...

    def token(self, token_id: int) -> str:
        """The vocabulary's entry of an id."""
        ...

    def surface(self, token_id: int) -> Surface | None:
        """The text that a token stands for; None for one that no text gives."""
        ...

    def special(self) -> np.ndarray:
        """bool[V]: [PAD], [CLS], [SEP], [MASK]; not [UNK], which Google masks too."""
        ...

    def word_starts(self) -> np.ndarray:
        """bool[V]: tokens that begin a word, and the special ones."""
        ...

    def files(self, *, export: bool) -> dict[str, bytes]:
        """The vocabulary and its settings as files by their names, the vocabulary last.

        Args:
            export: with all that transformers needs to make the same ids.

        Raises:
            UserError: export, and transformers can't make them; the sentence says why.
        """
        ...

    def save(self, directory: epath.PathLike, *, export: bool = False) -> None:
        """Writes `files` into a directory."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Train a vocabulary on text: the tokens that a BERT will read and write. The first step."""

    input: tuple[str, ...]
    """Text files (.txt: a sentence a line; .jsonl: {"text": ...} a line, other keys are ignored;
    also as .gz, .bz2, .xz, .zst), directories, patterns, and tfds:NAME[/CONFIG][:VERSION][:SPLIT],
    a data set of TFDS that lies here as array_record."""
    output: str
    """Directory for the tokenizer."""
    kind: Kind = "sentencepiece"
    """sentencepiece (for any language) or wordpiece (BERT's own kind)."""
    vocab_size: int = 8192
    """Tokens in the vocabulary, the five special ones included."""
    lowercase: bool = True
    """Uncased: lower-case all text."""
    strip_accents: bool | None = None
    """Take accents and other marks off all letters. None: WordPiece exactly when lower-casing, as
    BERT does; SentencePiece never."""
    model_type: sentencepiece.ModelType = "unigram"
    """SentencePiece: unigram (the likeliest pieces of a word) or bpe (merged in a fixed order)."""
    character_coverage: float = 0.9995
    """SentencePiece: share of the text's characters that get a token; rarer ones become [UNK]."""
    max_sentences: int = 2_000_000
    """Train on at most so many sentences, drawn evenly from the whole corpus; memory grows with
    them, not with the corpus."""
    language: str = "en"
    """Language whose rules split the texts of .jsonl files and data sets into sentences."""
    text_feature: str = "text"
    """What is read of the examples of a TFDS data set."""
    tfds_data_dir: str | None = None
    """Where TFDS data sets lie; left out: TFDS_DATA_DIR, or ~/tensorflow_datasets."""

    def __post_init__(self) -> None:
        if self.vocab_size <= len(SPECIALS):
            raise UserError(f"vocab_size is {self.vocab_size}: give at least a few hundred.")
        if not 0.9 <= self.character_coverage <= 1.0:
            raise UserError(
                f"character_coverage is {self.character_coverage}: give a share from 0.9 to 1.0."
            )
        if self.kind == "wordpiece" and self.model_type != "unigram":
            raise UserError(f"model_type is {self.model_type!r}: only SentencePiece has several.")
        if self.max_sentences < 1:
            raise UserError(f"max_sentences is {self.max_sentences}: give at least 1.")


def load_tokenizer(
    path: epath.PathLike,
    *,
    kind: Kind | None = None,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
) -> Tokenizer:
    """Loads a vocabulary from its directory (vocab.txt, spm.model or tokenizer.json) or from the
    file itself.

    A WordPiece vocabulary lower-cases as its tokenizer_config.json says (do_lower_case,
    strip_accents); without one, as its tokenizer.json says, or for a vocab.txt exactly when no
    token has an upper-case letter. A SentencePiece model carries its own normalisation.

    A tokenizer.json (of the `tokenizers` library, as transformers saves it) is read where there is
    neither of the others; beside a vocab.txt it has to hold the same vocabulary.

    Args:
        path: directory or file.
        kind: refuse a vocabulary of the other kind; None takes either.
        lowercase: overrides do_lower_case of a WordPiece vocabulary.
        strip_accents: overrides its strip_accents.

    Raises:
        UserError: nothing there, the other kind, a damaged file, a token twice, a special token
            missing, or a setting that would give other ids than BERT's rules do.
    """
    path = location(path)
    file = _vocabulary_file(path, kind)
    data = file.read_bytes()
    if file.suffix == ".json":
        if kind == "sentencepiece":
            raise UserError(f"{file} is not a SentencePiece model: give a .model file.")
        return _wordpiece(file, None, lowercase, strip_accents)
    is_text = _is_text(data)
    model = None if is_text else sentencepiece.parse(data)
    if model is not None:
        if kind == "wordpiece" or file.name == wordpiece.FILE:
            raise UserError(
                f"{file} is a SentencePiece model, not a WordPiece vocabulary (one token a line): "
                f"name it {sentencepiece.FILE} and load it as sentencepiece."
            )
        return sentencepiece.SentencePieceTokenizer(data, sentencepiece.special_ids(model, file))
    if kind == "sentencepiece" or file.suffix == ".model":
        found = "one token a line, as WordPiece" if is_text else "damaged, or something else"
        raise UserError(f"{file} is not a SentencePiece model but {found}: give a .model file.")
    if not is_text:
        raise UserError(
            f"{file}: neither a WordPiece vocabulary in UTF-8 nor a SentencePiece model."
        )
    return _wordpiece(file, wordpiece.parse(data, file), lowercase, strip_accents)


def train_tokenizer(config: TokenizerConfig, log: Callable[[str], None]) -> Tokenizer:
    """Trains a vocabulary and saves it into `config.output`; the vocabulary file comes last.

    [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4. The same sentences and settings give the same
    vocabulary, byte for byte. Run again on a finished directory, it returns what is there.

    Args:
        config: what to train, from what, to where.
        log: is given one line at a time about what happens.

    Raises:
        UserError: bad input, a vocabulary size that the text can't fill, or an output directory
            that holds another tokenizer or can't be written.
    """
    output = output_directory(config.output)
    # Of an output inside the input, what an earlier run wrote is no text.
    sources = corpus.expand_inputs(
        config.input,
        leave_out=[output / wordpiece.FILE],
        text_feature=config.text_feature,
        tfds_data_dir=config.tfds_data_dir,
    )
    sample = _sample(_sentences(sources, config.language), config.max_sentences)
    if not sample:
        raise UserError(
            f"{', '.join(map(str, sources[:3]))}{' ...' if len(sources) > 3 else ''}: no text in "
            f"{'it' if len(sources) == 1 else 'them'}; a vocabulary needs some."
        )
    facts = {
        "kind": config.kind,
        "vocab_size": config.vocab_size,
        "lowercase": config.lowercase,
        "character_coverage": config.character_coverage,
        "sentences": len(sample),
        "sentences_sha256": _digest(sample),
    }
    for name, default in (("strip_accents", None), ("model_type", "unigram")):
        if (value := getattr(config, name)) != default:  # records of before have neither
            facts[name] = value
    if existing := _existing(output, facts):
        log(f"{output} already holds this tokenizer; nothing to do.")
        return existing
    log(f"Training a {config.kind} vocabulary of {config.vocab_size} on {len(sample)} sentences.")
    tokenizer = _train(sample, config)
    write_atomically(output / _TRAINING_FILE, json.dumps(facts, indent=2).encode() + b"\n")
    tokenizer.save(output)
    log(f"Saved {output}: {tokenizer.vocab_size} tokens.")
    return tokenizer


def _sentences(sources: Iterable[corpus.Source], language: str) -> Iterator[str]:
    for source in sources:
        for document in corpus.read_documents(source, language):
            yield from document


def _sample(sentences: Iterable[str], most: int) -> list[str]:
    """At most `most` of the sentences, each with the same chance, in their order (reservoir)."""
    generator = random.Random(_SAMPLE_SEED)
    kept: list[str] = []
    numbers = array.array("Q")
    for number, sentence in enumerate(sentences):
        if number < most:
            kept.append(sentence)
            numbers.append(number)
        elif (place := generator.randrange(number + 1)) < most:
            kept[place], numbers[place] = sentence, number
    return [kept[place] for place in np.argsort(numbers)]


def _digest(sentences: Sequence[str]) -> str:
    """SHA-256 of the sentences with a line feed between them, which are never joined in memory."""
    digest = hashlib.sha256(sentences[0].encode())
    for sentence in itertools.islice(sentences, 1, None):
        digest.update(b"\n" + sentence.encode())
    return digest.hexdigest()


def _existing(output: epath.Path, facts: dict[str, Any]) -> Tokenizer | None:
    names = (wordpiece.FILE, *sentencepiece.FILES, tokenizer_files.EXPORTED)
    if not any((output / name).exists() for name in names):
        return None
    record = output / _TRAINING_FILE
    try:
        same = record.exists() and json.loads(record.read_text()) == facts
    except ValueError:
        same = False
    if not same:
        raise UserError(
            f"{output} already holds a tokenizer of other text or settings: give another output "
            "directory, or delete that one."
        )
    return load_tokenizer(output)


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
        raise UserError(
            f"{path}: holds neither {wordpiece.FILE} nor {sentencepiece.FILE} nor "
            f"{tokenizer_files.EXPORTED}."
        )
    if kind is not None and kind not in found:
        (other,) = found
        raise UserError(
            f"{path}: {kind} was said, but it holds a {other} vocabulary ({found[other].name})."
        )
    if kind is None and len(found) > 1:
        both = " and ".join(file.name for file in found.values())
        raise UserError(f"{path}: holds both {both}; give the file that you mean.")
    return found[kind or next(iter(found))]


def _wordpiece(
    file: epath.Path,
    tokens: list[str] | None,
    lowercase: bool | None,
    strip_accents: bool | None,
) -> wordpiece.WordPieceTokenizer:
    """The tokenizer of a vocab.txt with these tokens, or of a tokenizer.json (None)."""
    settings_file = file.parent / SETTINGS_FILE
    settings = tokenizer_files.read_settings(settings_file)
    exported = file if tokens is None else file.parent / tokenizer_files.EXPORTED
    if tokens is not None and exported.is_file():
        tokenizer_files.check_same(tokens, exported)
    generic = tokenizer_files.is_generic(settings)
    if generic and not exported.is_file():
        raise UserError(
            f"{settings_file}: tokenizer_class is {settings['tokenizer_class']!r}, which does what "
            f"{tokenizer_files.EXPORTED} says, and there is none beside it; put it there."
        )
    if tokens is None or generic:
        rules = tokenizer_files.read_exported(exported)
    else:
        cased = any(map(wordpiece.is_cased, tokens))
        rules = tokenizer_files.Exported(tokens, not cased, None)
    tokenizer_files.check_added(rules.tokens, settings, settings_file)
    lower, strips = rules.lowercase, rules.strip_accents
    if not generic:  # as in transformers, where the settings' word is the last
        lower = settings.get("do_lower_case", lower)
        strips = settings.get("strip_accents", strips)
    return wordpiece.WordPieceTokenizer(
        rules.tokens,
        lower if lowercase is None else lowercase,
        strips if strip_accents is None else strip_accents,
    )


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _train(sample: list[str], config: TokenizerConfig) -> Tokenizer:
    size, lowercase, strips = config.vocab_size, config.lowercase, config.strip_accents
    if config.kind == "wordpiece":
        tokenizer = wordpiece.train(sample, size, lowercase, strips)
    else:
        tokenizer = sentencepiece.train(
            sample,
            size,
            lowercase,
            config.character_coverage,
            strip_accents=bool(strips),
            model_type=config.model_type,
        )
    if tokenizer.vocab_size < size:
        raise UserError(
            f"The text is too small for a vocabulary of {size}: it gives at most "
            f"{tokenizer.vocab_size} tokens; lower vocab_size to that, or give more text."
        )
    return tokenizer
