"""WordPiece, BERT's own kind of vocabulary, with the `tokenizers` library."""

import collections
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.text.added_tokens import AddedToken, decoder_of
from bertjax.text.encoding_cache import EncodingCache
from bertjax.text.tokenizer_base import (
    SETTINGS_FILE,
    SPECIALS,
    Kind,
    Surface,
    Tokenizer,
    refusing_surrogates,
)

FILE = "vocab.txt"

GUESSED = "do_lower_case_guessed"
"""Our entry of tokenizer_config.json: true if do_lower_case is a guess by the vocabulary."""

_CASED_SHARE = 0.01  # bert-base-cased 0.29, multilingual cased 0.16, Google's Chinese 0.0001

MAX_WORD_CHARACTERS = 100
"""Longer words become [UNK], as in Hugging Face. Google's code has 200."""

# A script with thousands of characters would otherwise fill the vocabulary.
_MAX_ALPHABET = 1000
_MAX_CACHED_CHUNKS = 500_000


class WordPieceTokenizer(Tokenizer):
    """BERT's WordPiece.

    It cleans the text, puts spaces around CJK characters, lowercases and strips accents if uncased,
    splits at punctuation, and matches the longest tokens greedily (`FullTokenizer` in
    google-research/bert's tokenization.py).

    `tokens` is the vocabulary in order of ids, special tokens included. If `strip_accents` is None,
    accents are removed exactly when `lowercase` is True. `added` tokens are found in text first;
    those that `tokens` lacks have the next ids. `guessed` is whether nothing said `lowercase`.
    """

    kind: Kind = "wordpiece"

    def __init__(
        self,
        tokens: list[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        added: tuple[AddedToken, ...] = (),
        guessed: bool = False,
    ) -> None:
        import tokenizers

        ids = {token: number for number, token in enumerate(tokens)}
        after = [token.content for token in added if token.content not in ids]
        super().__init__([*tokens, *after], {name: ids[name] for name in SPECIALS})
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self._arguments = (tokens, lowercase, strip_accents, added, guessed)
        self._library = _library(
            lowercase, strip_accents, vocab=ids, max_input_chars_per_word=MAX_WORD_CHARACTERS
        )
        self._library.add_tokens([tokenizers.AddedToken(**token._asdict()) for token in added])
        self._special += tuple(
            self._library.token_to_id(token.content) for token in added if token.special
        )
        # Where an added token may be in a text; "" matches every text.
        parts = ["" if token.normalized else re.escape(token.content) for token in added]
        self._added = re.compile("|".join(parts)) if parts else None
        self._cache = EncodingCache(self._encode_words, _MAX_CACHED_CHUNKS)
        self._decoder = tokenizers.decoders.WordPiece()
        strips = lowercase if strip_accents is None else strip_accents
        canonical: dict[str, Any] = {"lowercase": lowercase, "strip_accents": strips}
        canonical["tokens"] = tokens
        if added:
            canonical["added"] = added
        self.sha256 = hashlib.sha256(json.dumps(canonical).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return WordPieceTokenizer, self._arguments

    def with_tokens(self, tokens: list[str]) -> "WordPieceTokenizer":
        """Returns a tokenizer with the same rules and another vocabulary.

        `tokens` holds the added tokens too, which then are a part of the vocabulary.
        """
        return WordPieceTokenizer(tokens, *self._arguments[1:])

    def with_casing(self, lowercase: bool, strip_accents: bool | None) -> "WordPieceTokenizer":
        """Returns a tokenizer with the same vocabulary and other treatment of case and accents."""
        tokens, _, _, added, _ = self._arguments
        return WordPieceTokenizer(tokens, lowercase, strip_accents, added)

    def settled(self) -> "WordPieceTokenizer":
        """Returns the tokenizer without the mark that its case was guessed."""
        _, lowercase, strip_accents, *_ = self._arguments
        return self.with_casing(lowercase, strip_accents)

    def words(self, text: str) -> list[str]:
        """Returns the cleaned words of a text, before they are looked up in the vocabulary.

        Each punctuation mark and each CJK character is a word.

        Raises:
            UserError: the text contains a lone surrogate.
        """
        with refusing_surrogates([text]):
            clean = self._library.normalizer.normalize_str(text)
        return [word for word, _ in self._library.pre_tokenizer.pre_tokenize_str(clean)]

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Returns views of one array; see `Tokenizer.encode_sentences`."""
        whole: list[int] = []  # the texts with added tokens, whose words depend on what is around
        if self._added:
            whole = [i for i, text in enumerate(sentences) if self._added.search(text)]
        with refusing_surrogates(sentences):
            ids, offsets = self._cache.encode(sentences)
            encoded = self._encode_words([sentences[i] for i in whole])
        rows = [ids[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
        for number, row in zip(whole, encoded, strict=True):
            rows[number] = np.array(row, np.int32)
        return rows

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        return [ids.tolist() for ids in self.encode_sentences(texts)]

    def _encode_words(self, words: list[str]) -> list[list[int]]:
        return [item.ids for item in self._library.encode_batch_fast(words)]

    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        with refusing_surrogates([text]):
            item = self._library.encode(text)
        return item.ids, item.offsets

    def _join(self, ids: list[int]) -> str:
        return self._decoder.decode([self._tokens[number] for number in ids])

    def _continues_word(self) -> np.ndarray:
        return np.array([token.startswith("##") for token in self._tokens])

    def _surface(self, token_id: int) -> Surface | None:
        token = self._tokens[token_id]
        if self.words(token) == [token]:  # false for "##...", as "#" is punctuation
            return Surface(token, True, self.words("a" + token) == ["a", token])
        text = token.removeprefix("##")
        if text not in ("", token) and self.words("a" + text) == ["a" + text]:
            return Surface(text, False, True)
        return None

    def files(self, *, export: bool) -> dict[str, bytes]:
        """Returns files that transformers reads, whatever `export` is; see `Tokenizer.files`."""
        del export
        settings: dict[str, Any] = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": True,
        }
        tokens, _, _, added, guessed = self._arguments
        if guessed:
            settings[GUESSED] = True
        if added:
            settings["added_tokens_decoder"] = decoder_of(self._tokens, added)
        return {
            SETTINGS_FILE: json.dumps(settings, indent=2).encode() + b"\n",
            FILE: "".join(token + "\n" for token in tokens).encode(),
        }


def _library(lowercase: bool, strip_accents: bool | None, **model: Any) -> Any:
    """Returns the library's WordPiece with BERT's cleaning and splitting of text."""
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]", **model))
    library.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return library


def train(
    sentences: list[str], vocab_size: int, lowercase: bool, strip_accents: bool | None = None
) -> WordPieceTokenizer:
    """Trains a vocabulary of at most `vocab_size` tokens, fewer if the text has no more.

    The same sentences give the same vocabulary.
    """
    import tokenizers

    library = _library(lowercase, strip_accents)
    limit = max(1, min(_MAX_ALPHABET, (vocab_size - len(SPECIALS)) // 2))
    alphabet, continuing = _alphabet(library, sentences, limit)
    # The library numbers "##x" in the order of a randomly seeded hash table and breaks ties between
    # pairs by these numbers, so each run would give another vocabulary. As special tokens they get
    # fixed numbers first.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*SPECIALS, *("##" + character for character in continuing)],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    library.train_from_iterator(sentences, trainer)
    ids = library.get_vocab()
    return WordPieceTokenizer(sorted(ids, key=ids.__getitem__), lowercase, strip_accents)


def _alphabet(library: Any, sentences: list[str], limit: int) -> tuple[list[str], list[str]]:
    """Returns the `limit` most common characters, and those of them that continue a word."""
    chunks = collections.Counter(chunk for text in sentences for chunk in text.split(" "))
    counts: collections.Counter[str] = collections.Counter()
    continuing: set[str] = set()
    for chunk, count in chunks.items():
        clean = library.normalizer.normalize_str(chunk)
        for word, _ in library.pre_tokenizer.pre_tokenize_str(clean):
            continuing.update(word[1:])
            for character in word:
                counts[character] += count
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    return sorted(kept), sorted(continuing.intersection(kept))


def parse(data: bytes, file: epath.Path) -> list[str]:
    """Returns the tokens of a vocab.txt, valid UTF-8, in the order of their ids.

    Raises:
        UserError: an empty line, a duplicate token, or a missing special token.
    """
    # str.splitlines would split at U+2028 and others, which are tokens of real vocabularies.
    # Editors leave a mark at the start and spaces; Google's code strips these too.
    tokens = [line.strip(" \t\r") for line in data.decode("utf-8-sig").split("\n")]
    if tokens and not tokens[-1]:
        tokens.pop()
    first: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if not token:
            raise UserError(f"{file}:{number}: an empty line; a vocabulary has one token per line.")
        if token in first:
            raise UserError(
                f"{file}:{number}: {token!r} is already on line {first[token]}; a token has one id."
            )
        first[token] = number
    if missing := [name for name in SPECIALS if name not in first]:
        raise UserError(f"{file}: has no {', '.join(missing)}; is it a BERT vocabulary?")
    return tokens


def is_cased(tokens: list[str]) -> bool:
    """Whether more than one token in 100 has an upper-case letter. [URL] and <S> don't count."""
    words = [token for token in tokens if token[:1] + token[-1:] not in ("[]", "<>")]
    return sum(word != word.lower() for word in words) > _CASED_SHARE * len(tokens)
