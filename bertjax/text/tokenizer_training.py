"""`bertjax tokenizer train`: trains a vocabulary on text."""

import array
import dataclasses
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import output_directory, write_atomically
from bertjax.text import byte_bpe, corpus, sentencepiece, tokenizer_files, wordpiece
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_base import SPECIALS, Kind, Tokenizer

_RECORD = "training.json"
_SAMPLE_SEED = 12345


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Train a vocabulary on text: the tokens that a BERT reads and writes. This is the first step
    of pre-training on your own text."""

    input: tuple[str, ...]
    """Text files, directories, patterns and TFDS data sets. A .txt file has one sentence per line,
    a .jsonl file {"text": ...} per line (other keys are ignored); either may be compressed as .gz,
    .bz2, .xz or .zst. A data set is named tfds:NAME[/CONFIG][:VERSION][:SPLIT] and must be stored
    locally as array_record."""
    output: str
    """Directory to write the tokenizer to."""
    kind: Kind = "sentencepiece"
    """Kind of vocabulary: sentencepiece works for any language; wordpiece is BERT's own; bpe is
    byte-level BPE as in RoBERTa and ModernBERT, which has no unknown characters."""
    vocab_size: int = 8192
    """Number of tokens in the vocabulary, including the five special tokens."""
    lowercase: bool = True
    """Lowercase all text (an uncased vocabulary)."""
    strip_accents: bool | None = None
    """Remove accents and other marks from all letters. By default, WordPiece removes them if
    `lowercase` is set, as BERT does; the others keep them."""
    model_type: sentencepiece.ModelType = "unigram"
    """Model of a SentencePiece vocabulary: unigram (the most likely pieces of a word) or bpe
    (merges in a fixed order)."""
    character_coverage: float = 0.9995
    """Share of the text's characters that a SentencePiece vocabulary covers; rarer characters
    become [UNK]."""
    max_sentences: int = 2_000_000
    """Maximum number of sentences to train on. A larger corpus is sampled uniformly, so memory does
    not grow with the corpus."""
    language: str = "en"
    """Language code whose rules split the texts of .jsonl files and data sets into sentences."""
    columns: tuple[str, ...] = ("text",)
    """Keys of the texts in .jsonl files, such as article and summary; translation.de is the key de
    of the object translation."""
    text_feature: str = "text"
    """Name of the text feature in a TFDS data set."""
    tfds_data_dir: str | None = None
    """Directory of TFDS data sets. Defaults to TFDS_DATA_DIR, then ~/tensorflow_datasets."""

    def __post_init__(self) -> None:
        if self.vocab_size <= len(SPECIALS):
            raise UserError(f"`vocab_size` is {self.vocab_size}: give at least a few hundred.")
        if not 0.9 <= self.character_coverage <= 1.0:
            share = self.character_coverage
            raise UserError(f"`character_coverage` is {share}: give a share from 0.9 to 1.0.")
        if self.kind != "sentencepiece" and self.model_type != "unigram":
            raise UserError(f"`model_type` {self.model_type!r} applies to SentencePiece only.")
        if self.max_sentences < 1:
            raise UserError(f"`max_sentences` is {self.max_sentences}: give at least 1.")


def train_tokenizer(config: TokenizerConfig, log: Callable[[str], None]) -> Tokenizer:
    """Trains a vocabulary and saves it into `config.output`, the vocabulary file last.

    [PAD] [UNK] [CLS] [SEP] [MASK] get ids 0 to 4. The same sentences and settings give the same
    vocabulary byte for byte. In a finished directory it returns the vocabulary that is there.

    Progress goes to `log`, one line at a time.

    Raises:
        UserError: bad input, a vocabulary size that the text cannot fill, or an output directory
            that holds another tokenizer or is not writable.
    """
    output = output_directory(config.output)
    # If the output lies inside the input, an earlier run's vocabulary is not text.
    sources = corpus.expand_inputs(
        config.input,
        leave_out=[output / wordpiece.FILE],
        text_feature=config.text_feature,
        tfds_data_dir=config.tfds_data_dir,
    )
    documents = (
        corpus.read_documents(source, config.language, config.columns) for source in sources
    )
    sentences = itertools.chain.from_iterable(itertools.chain.from_iterable(documents))
    sample = _sample(sentences, config.max_sentences)
    if not sample:
        names = f"{', '.join(map(str, sources[:3]))}{' ...' if len(sources) > 3 else ''}"
        raise UserError(f"{names}: no text found; give files with sentences in them.")
    names = ("kind", "vocab_size", "lowercase", "strip_accents", "model_type", "character_coverage")
    record = {name: getattr(config, name) for name in names}
    record |= {"sentences": len(sample), "sentences_sha256": _digest(sample)}
    if existing := _existing(output, record):
        log(f"{output} already holds this tokenizer; nothing to do.")
        return existing
    log(f"Training a {config.kind} vocabulary of {config.vocab_size} on {len(sample)} sentences.")
    tokenizer = _train(sample, config)
    write_atomically(output / _RECORD, json.dumps(record, indent=2).encode() + b"\n")
    tokenizer.save(output)
    log(f"Saved {output}: {tokenizer.vocab_size} tokens.")
    return tokenizer


def _sample(sentences: Iterable[str], max_sentences: int) -> list[str]:
    """Draws at most `max_sentences` uniformly (reservoir sampling); keeps their order."""
    generator = random.Random(_SAMPLE_SEED)
    kept: list[str] = []
    numbers = array.array("Q")
    for number, sentence in enumerate(sentences):
        if number < max_sentences:
            kept.append(sentence)
            numbers.append(number)
        elif (index := generator.randrange(number + 1)) < max_sentences:
            kept[index], numbers[index] = sentence, number
    return [kept[index] for index in np.argsort(numbers)]


def _digest(sentences: Sequence[str]) -> str:
    """Returns the SHA-256 of the sentences joined by line feeds, without joining them in memory."""
    digest = hashlib.sha256(sentences[0].encode())
    for sentence in itertools.islice(sentences, 1, None):
        digest.update(b"\n" + sentence.encode())
    return digest.hexdigest()


def _existing(output: epath.Path, record: dict[str, Any]) -> Tokenizer | None:
    """Returns the tokenizer in `output`, or None if there is none; refuses a different one."""
    names = (wordpiece.FILE, *sentencepiece.FILES, tokenizer_files.EXPORTED)
    if not any((output / name).exists() for name in names):
        return None
    file = output / _RECORD
    try:
        same = file.exists() and json.loads(file.read_text()) == record
    except ValueError:
        same = False
    if not same:
        raise UserError(
            f"{output} already holds a tokenizer made from other text or settings: give another "
            "`output`, or delete that directory."
        )
    return load_tokenizer(output)


def _train(sample: list[str], config: TokenizerConfig) -> Tokenizer:
    size = config.vocab_size
    if config.kind == "wordpiece":
        tokenizer = wordpiece.train(sample, size, config.lowercase, config.strip_accents)
    elif config.kind == "bpe":
        tokenizer = byte_bpe.train(sample, size, config.lowercase, bool(config.strip_accents))
    else:
        tokenizer = sentencepiece.train(
            *(sample, size, config.lowercase, config.character_coverage),
            strip_accents=bool(config.strip_accents),
            model_type=config.model_type,
        )
    if tokenizer.vocab_size < size:
        raise UserError(
            f"The text is too small for a vocabulary of {size}: it gives at most "
            f"{tokenizer.vocab_size} tokens; lower `vocab_size` to that, or give more text."
        )
    return tokenizer
