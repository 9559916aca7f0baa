"""`Tokenizer`, the base class of all kinds: special tokens, pairs, truncation, padding, saving."""

import abc
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import write_atomically

Kind = Literal["sentencepiece", "wordpiece", "bpe"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens. A trained vocabulary gives them ids 0 to 4 in this order."""

SETTINGS_FILE = "tokenizer_config.json"


class Encoding(NamedTuple):
    """One encoded text or pair of texts, with its special tokens."""

    ids: list[int]
    """[CLS] text [SEP], then pair [SEP] if there is a pair."""
    token_type_ids: list[int]
    """0 for [CLS] text [SEP], 1 for pair [SEP]."""
    offsets: list[tuple[int, int]]
    """For each token, the index of its first character in the original text (or pair) and one past
    its last; (0, 0) for added special tokens."""


class Surface(NamedTuple):
    """The text that a token stands for, and where in a word it can stand."""

    text: str  # the token without the marker of its kind ("##" or "▁")
    begins: bool  # whether the token can begin a word
    continues: bool  # whether it can follow other characters without a space; punctuation does both


def truncated_lengths(first: int, second: int, budget: int) -> tuple[int, int]:
    """Returns how many tokens of each text to keep so that a pair fits `budget`.

    The result equals dropping the last token of the longer text, of the second on a tie, until the
    pair fits (`_truncate_seq_pair` in google-research/bert's run_classifier.py).
    """
    if first + second <= budget:
        return first, second
    half = budget // 2
    if first <= budget - half:
        return first, budget - first
    if second <= half:
        return budget - second, second
    return budget - half, half


class Tokenizer(abc.ABC):
    """A vocabulary with its rules: text to ids and back."""

    kind: Kind
    lowercase: bool
    sha256: str  # of the vocabulary, its special ids and its normalization, however they are stored

    def __init__(self, tokens: list[str], special_ids: dict[str, int]) -> None:
        self._tokens = tokens
        self.vocab_size = len(tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            special_ids[name] for name in SPECIALS
        )
        self.separators = (self.sep_id,)  # the ids between the two texts of a pair
        self.second_type = 1  # the token type of the second text of a pair
        # [UNK] counts as text: Google masks it too.
        self._special = (self.pad_id, self.cls_id, self.sep_id, self.mask_id)

    def __repr__(self) -> str:
        return f"<{self.kind} tokenizer, {self.vocab_size} tokens, sha256 {self.sha256[:12]}>"

    # Each kind defines these.

    @abc.abstractmethod
    def _encode_many(self, texts: list[str]) -> list[list[int]]: ...

    @abc.abstractmethod
    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...

    @abc.abstractmethod
    def _join(self, ids: list[int]) -> str: ...

    @abc.abstractmethod
    def _continues_word(self) -> np.ndarray: ...

    @abc.abstractmethod
    def _surface(self, token_id: int) -> Surface | None: ...

    def _after_mask(  # noqa: B027 - WordPiece has nothing to do here
        self, ids: list[int], offsets: list[tuple[int, int]], text: str
    ) -> None:
        """Corrects, in place, the tokens of a text that follows [MASK]."""

    def _before_mask(self, text: str) -> str:
        """Returns a text without what [MASK] takes of it, if it stands before one."""
        return text

    @abc.abstractmethod
    def files(self, *, export: bool) -> dict[str, bytes]:
        """Returns the vocabulary and its settings as files by name, the vocabulary last.

        Args:
            export: adds everything that transformers needs to produce the same ids.

        Raises:
            UserError: `export` is set and transformers cannot produce the same ids.
        """

    # All kinds share these.

    def encode(
        self,
        text: str,
        pair: str | None = None,
        max_length: int | None = None,
        *,
        parse_mask: bool = False,
    ) -> Encoding:
        """Encodes a text, or a pair of texts, with special tokens and offsets.

        Args:
            text: any text; an empty one gives [CLS] [SEP].
            pair: the second text of a pair.
            max_length: the maximum number of tokens, special ones included. The longer text is
                truncated at its end.
            parse_mask: replaces a literal "[MASK]" in a text by the mask token. Without it, no text
                can produce a special token: "[SEP]" becomes punctuation and letters.

        Raises:
            UserError: `max_length` cannot hold the special tokens, or a text contains a lone
                surrogate.
        """
        first, first_offsets = self._plain(text, parse_mask)
        second, second_offsets = ([], []) if pair is None else self._plain(pair, parse_mask)
        if max_length is not None:
            budget = self._budget(max_length, pair is not None)
            keep, keep_pair = truncated_lengths(len(first), len(second), budget)
            first, second = first[:keep], second[:keep_pair]
            first_offsets, second_offsets = first_offsets[:keep], second_offsets[:keep_pair]
        ids = [self.cls_id, *first, self.sep_id]
        offsets = [(0, 0), *first_offsets, (0, 0)]
        types = [0] * len(ids)
        if pair is not None:
            ids += [*self.separators[1:], *second, self.sep_id]
            offsets += [*[(0, 0)] * len(self.separators[1:]), *second_offsets, (0, 0)]
            types += [self.second_type] * (len(ids) - len(types))
        return Encoding(ids, types, offsets)

    def batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int = 128,
        *,
        pad_to: int | None = None,
        parse_mask: bool = False,
    ) -> dict[str, np.ndarray]:
        """Encodes texts, or pairs of texts, as the rows of one batch for `bertjax.encode`.

        Args:
            texts: B texts.
            pairs: their B second texts.
            max_length: the maximum number of tokens in a row. The longer text is truncated.
            pad_to: the length T of the batch; by default, the length of the longest row.
            parse_mask: as in `encode`.

        Returns:
            input_ids, attention_mask (0 for padding) and token_type_ids: [B, T] int32.

        Raises:
            UserError: `texts` is one string, `texts` and `pairs` differ in number, a row is longer
                than `pad_to`, or `encode` would refuse a text.
        """
        for name, value in (("texts", texts), ("pairs", pairs)):
            if isinstance(value, str):
                raise UserError(f"{name} is one string: give a list of strings.")
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"{len(texts)} texts but {len(pairs)} pairs: give one pair per text.")
        firsts = self._plain_many(texts, parse_mask)
        seconds = [[]] * len(firsts) if pairs is None else self._plain_many(pairs, parse_mask)
        budget = self._budget(max_length, pairs is not None)
        rows = []
        for first, second in zip(firsts, seconds, strict=True):
            keep, keep_pair = truncated_lengths(len(first), len(second), budget)
            end = [*self.separators[1:], *second[:keep_pair], self.sep_id]
            end = [] if pairs is None else end
            rows.append(([self.cls_id, *first[:keep], self.sep_id], end))
        return self._pad(rows, pad_to)

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "do_not_truncate"] = False,
        max_length: int | None = None,
        return_tensors: Literal["np"] | None = None,
    ) -> dict[str, np.ndarray]:
        """Encodes texts with the arguments of Hugging Face's tokenizers; see `batch`.

        The result is always one batch of arrays, also for a single string, and "[SEP]" in a text
        is punctuation and letters.

        Args:
            text: one text or B texts.
            text_pair: the second text, or B of them.
            padding: True or "longest" pads to the longest row, "max_length" to `max_length`. False
                needs rows of one length.
            truncation: True or "longest_first" truncates the longer text to `max_length`.
            max_length: the maximum number of tokens in a row, special ones included.
            return_tensors: "np" changes nothing.

        Returns:
            input_ids, token_type_ids and attention_mask: [B, T] int32.

        Raises:
            UserError: the arguments contradict each other or have another value, the rows differ
                in length without `padding`, or `batch` would refuse the texts.
        """
        for name, value, known in (
            ("padding", padding, (True, False, "longest", "max_length", "do_not_pad")),
            ("truncation", truncation, (True, False, "longest_first", "do_not_truncate")),
            ("return_tensors", return_tensors, (None, "np")),
        ):
            if value not in known:
                shown = ", ".join(map(repr, known))
                raise UserError(f"{name} is {value!r}: give one of {shown}.")
        cuts, fixed = truncation in (True, "longest_first"), padding == "max_length"
        if max_length is None and (cuts or fixed):
            raise UserError("truncation and padding to max_length need `max_length`: give it.")
        if isinstance(text, str) != isinstance(text_pair, str) and text_pair is not None:
            raise UserError("text and text_pair must be two strings, or two lists of strings.")
        texts = [text] if isinstance(text, str) else text
        pairs = [text_pair] if isinstance(text_pair, str) else text_pair
        limit = max_length if cuts and max_length is not None else sys.maxsize
        batch = self.batch(texts, pairs, limit, pad_to=max_length if fixed else None)
        if padding in (False, "do_not_pad") and not batch["attention_mask"].all():
            raise UserError("The rows differ in length, so they need padding: give padding=True.")
        return batch

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of many sentences without special tokens: one int32 array each."""
        return [np.asarray(ids, np.int32) for ids in self._encode_many(list(sentences))]

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of the words of a text without special tokens: one int32 array each."""
        return self.encode_sentences(words)

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = True) -> str:
        """Returns the text of one row of ids, as closely as the vocabulary preserves it.

        Args:
            ids: one row of token ids.
            skip_special: leaves out [PAD], [CLS], [SEP] and [MASK]. [UNK] stays visible.

        Raises:
            IndexError: an id is not in the vocabulary.
        """
        texts: list[str] = []
        run: list[int] = []
        for number in map(int, ids):
            token = self.token(number)  # refuses ids outside the vocabulary
            if number not in self._special:
                run.append(number)
            elif not skip_special:
                texts += [self._join(run), token]
                run = []
        texts.append(self._join(run))
        return " ".join(filter(None, texts))

    def token(self, token_id: int) -> str:
        """Returns the vocabulary's entry of an id, for example "##ing" or "▁the".

        Raises:
            IndexError: the id is not in the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._tokens[token_id]

    def surface(self, token_id: int) -> Surface | None:
        """Returns the text of a token.

        The result is None for a token that no text produces: a special token, an unused entry, or
        "##," where commas are words of their own.

        Raises:
            IndexError: the id is not in the vocabulary.
        """
        self.token(token_id)  # refuses ids outside the vocabulary
        return None if token_id in (self.unk_id, *self._special) else self._surface(token_id)

    def special(self) -> np.ndarray:
        """Returns bool[V]: True for [PAD], [CLS], [SEP] and [MASK]. [UNK] counts as text."""
        table = np.zeros(self.vocab_size, bool)
        table[[*self._special]] = True
        return table

    def word_starts(self) -> np.ndarray:
        """Returns bool[V]: True for tokens that begin a word and for special tokens."""
        return ~self._continues_word() | self.special()

    def settled(self) -> "Tokenizer":
        """Returns the tokenizer as one whose options nobody guessed."""
        return self

    def save(self, directory: epath.PathLike, *, export: bool = False) -> None:
        """Writes `files` into a directory, the vocabulary last."""
        directory = epath.Path(directory)
        for name, data in self.files(export=export).items():
            write_atomically(directory / name, data)

    def _plain(self, text: str, parse_mask: bool) -> tuple[list[int], list[tuple[int, int]]]:
        if not parse_mask or "[MASK]" not in text:
            return self._encode_one(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        parts = text.split("[MASK]")
        for number, between in enumerate(parts):
            if number:
                ids.append(self.mask_id)
                offsets.append((start - len("[MASK]"), start))
            last = number == len(parts) - 1
            new_ids, new_offsets = self._encode_one(between if last else self._before_mask(between))
            if number:
                self._after_mask(new_ids, new_offsets, between)
            ids += new_ids
            offsets += [(begin + start, end + start) for begin, end in new_offsets]
            start += len(between) + len("[MASK]")
        return ids, offsets

    def _plain_many(self, texts: Sequence[str], parse_mask: bool) -> list[list[int]]:
        if parse_mask:
            return [self._plain(text, True)[0] for text in texts]
        return self._encode_many(list(texts))

    def _budget(self, max_length: int, has_pair: bool) -> int:
        specials = 2 + has_pair * len(self.separators)
        if max_length < specials:
            raise UserError(
                f"max_length {max_length} can't hold the {specials} special tokens: raise it."
            )
        return max_length - specials

    def _pad(
        self, rows: list[tuple[list[int], list[int]]], pad_to: int | None
    ) -> dict[str, np.ndarray]:
        """Pads rows, given as the ids of type 0 and of type 1."""
        longest = max((len(first) + len(second) for first, second in rows), default=0)
        length = longest if pad_to is None else pad_to
        if longest > length:
            raise UserError(f"pad_to {length} is shorter than a row of {longest} tokens: raise it.")
        ids = np.full((len(rows), length), self.pad_id, np.int32)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for number, (first, second) in enumerate(rows):
            end = len(first) + len(second)
            ids[number, :end] = first + second
            mask[number, :end] = 1
            types[number, len(first) : end] = self.second_type
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@contextlib.contextmanager
def refusing_surrogates(texts: Sequence[str]) -> Iterator[None]:
    """Raises a UserError if the block fails because a text contains a lone surrogate.

    UTF-8 cannot encode such a text, for which the libraries raise various exceptions.
    """
    try:
        yield
    except (RuntimeError, TypeError, UnicodeEncodeError):
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"A text contains a lone surrogate ({text[error.start]!a}) at character "
                    f"{error.start}, which is half a character: decode the original bytes as UTF-8."
                ) from None
        raise
