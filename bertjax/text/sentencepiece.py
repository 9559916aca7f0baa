"""SentencePiece vocabularies, unigram or BPE, with the `sentencepiece` library."""

import hashlib
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.text import sentencepiece_export
from bertjax.text.tokenizer_base import (
    SETTINGS_FILE,
    SPECIALS,
    Kind,
    Surface,
    Tokenizer,
    refusing_surrogates,
)
from bertjax.text.tokenizer_files import EXPORTED

ModelType = Literal["unigram", "bpe"]

FILE = "spm.model"
FILES = (FILE, "spiece.model", "tokenizer.model")
"""The file names under which a model is found in a directory, ours first."""

# The library's training options that make SPECIALS the first pieces of a model.
SPECIAL_PIECES: dict[str, Any] = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": "[PAD]",
    "unk_piece": "[UNK]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "control_symbols": ["[MASK]"],
}
_SPACE = "▁"  # U+2581 marks the space before a word
# The characters of Unicode that normalization turns into a space and str.isspace() does not name.
_BLANKS = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
# The number of threads changes the floating-point sums of training and so the model's bytes.
# Therefore it is a constant, independent of the machine.
_TRAINING_THREADS = 16
_MAX_CHARACTERS = 4000


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, which contains its own normalization.

    `model` is the bytes of a .model file, `special_ids` the id of every name in SPECIALS.
    """

    kind: Kind = "sentencepiece"

    def __init__(self, model: bytes, special_ids: dict[str, int]) -> None:
        import sentencepiece

        self._library = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._library.get_piece_size()
        super().__init__([self._library.id_to_piece(i) for i in range(size)], special_ids)
        self._model = model
        self._special_ids = special_ids
        self._ids = {token: number for number, token in enumerate(self._tokens)}
        self.lowercase = "A" not in self._library.normalize("A")
        canonical = json.dumps(special_ids, sort_keys=True).encode() + b"\0" + model
        self.sha256 = hashlib.sha256(canonical).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self._model, self._special_ids)

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Encodes many sentences at once; see `Tokenizer.encode_sentences`."""
        texts = list(sentences)
        with refusing_surrogates(texts):
            return self._library.encode(texts, return_type="numpy", num_threads=1)

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        with refusing_surrogates(texts):
            return self._library.encode(texts, num_threads=1)

    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        with refusing_surrogates([text]):
            item = self._library.encode_as_offset_mapping(text)
        offsets = []
        for piece, (start, end) in zip(item["pieces"], item["offsets"], strict=True):
            if piece.startswith(_SPACE):  # the space belongs to the piece, not to the word
                while start < end and (text[start].isspace() or text[start] in _BLANKS):
                    start += 1
            # A piece may be part of one character: the ligature in "ﬁne" normalizes to two. The
            # library gives the last such piece the whole character and the others an empty span.
            if start == end and piece.strip(_SPACE):
                end = min(start + 1, len(text))
            offsets.append((start, end))
        return item["ids"], offsets

    def _after_mask(self, ids: list[int], offsets: list[tuple[int, int]], text: str) -> None:
        # The library prepends a space to every text, but "[MASK]." must not become "[MASK] .".
        if not ids or text[:1].isspace():
            return
        piece = self._tokens[ids[0]]
        if piece == _SPACE:
            del ids[0], offsets[0]
        elif piece.startswith(_SPACE) and piece[1:] in self._ids:
            ids[0] = self._ids[piece[1:]]

    def _join(self, ids: list[int]) -> str:
        return self._library.decode(ids)

    def _continues_word(self) -> np.ndarray:
        return np.array([not token.startswith(_SPACE) for token in self._tokens])

    def _surface(self, token_id: int) -> Surface | None:
        library, token = self._library, self._tokens[token_id]
        if any(no(token_id) for no in (library.is_control, library.is_unused, library.is_byte)):
            return None
        begins = token.startswith(_SPACE)
        return Surface(token.replace(_SPACE, " ").strip(), begins, not begins)

    def files(self, *, export: bool) -> dict[str, bytes]:
        """Returns the files of the vocabulary; see `Tokenizer.files`."""
        settings = {"tokenizer_type": "sentencepiece", "do_lower_case": self.lowercase}
        exported = {}
        if export:
            ids, normalize = self._special_ids, self._library.normalize
            text = sentencepiece_export.tokenizer_json(self._model, ids, normalize)
            exported = {EXPORTED: text.encode()}
            settings |= sentencepiece_export.settings(self._tokens, ids)
        data = json.dumps(settings, indent=2).encode() + b"\n"
        return {SETTINGS_FILE: data, **exported, FILE: self._model}


def train(
    sentences: list[str],
    vocab_size: int,
    lowercase: bool,
    character_coverage: float,
    *,
    strip_accents: bool = False,
    model_type: ModelType = "unigram",
) -> SentencePieceTokenizer:
    """Trains a vocabulary of at most `vocab_size` tokens, fewer if the text has no more.

    The same sentences give the same model byte for byte. With `strip_accents` this holds for one
    version of Python, whose Unicode tables are used.

    Raises:
        UserError: `vocab_size` is below the number of characters, or the text is empty.
    """
    import sentencepiece

    model = io.BytesIO()
    texts = (piece for sentence in sentences for piece in _split_long(sentence))
    rules = {"normalization_rule_name": _rule_name(lowercase)}
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        if strip_accents:
            table = epath.Path(directory) / "rules.tsv"
            table.write_text(_rules_without_accents(lowercase))
            rules = {"normalization_rule_tsv": str(table)}
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=texts,
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                # With a soft limit the library returns the largest vocabulary that it can make, so
                # an error can name that size.
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                max_sentence_length=8 * _MAX_CHARACTERS,
                num_threads=_TRAINING_THREADS,
                minloglevel=2,
                **rules,
                **SPECIAL_PIECES,
            )
        except RuntimeError as error:
            if match := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
                raise UserError(
                    f"`vocab_size` {vocab_size} is too small: the text's characters alone need "
                    f"{match[1]}; raise it, or lower `character_coverage`."
                ) from None
            if "sentences_.empty()" in str(error):
                raise UserError("The text has no characters to make a vocabulary of.") from None
            raise
    ids = {name: number for number, name in enumerate(SPECIALS)}
    return SentencePieceTokenizer(model.getvalue(), ids)


def _rule_name(lowercase: bool) -> str:
    return "nmt_nfkc_cf" if lowercase else "nmt_nfkc"


def _rules_without_accents(lowercase: bool) -> str:
    """Returns a table of normalization rules: those of the library, and the removal of accents.

    Accents are removed as in BERT: category Mn of Unicode's canonical decomposition. Each rule maps
    one character, so letters spelled with several non-mark characters (decomposed Korean) stay.
    """
    import sentencepiece

    library = sentencepiece.SentencePieceNormalizer(
        rule_name=_rule_name(lowercase),
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=False,
    )
    # From plane 4 on, only plane 14 has characters with a rule, or marks.
    planes = (range(1, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xF0000))
    characters = [chr(code) for plane in planes for code in plane]
    lines = []
    for character, normal in zip(characters, library.normalize(characters), strict=True):
        bare = _without_marks(normal)
        if bare != normal:
            bare = library.normalize(bare)  # lowercases U+0130 (I with dot above) without its dot
        if bare != character:
            lines.append("\t".join(" ".join(f"{ord(c):04X}" for c in t) for t in (character, bare)))
    return "\n".join(lines) + "\n"


def _without_marks(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    bare = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
    return text if bare == decomposed else unicodedata.normalize("NFC", bare)


def _split_long(sentence: str) -> Iterator[str]:
    """Splits a long sentence at spaces: the library would silently drop it."""
    while len(sentence) > _MAX_CHARACTERS:
        cut = sentence.rfind(" ", 1, _MAX_CHARACTERS)
        cut = _MAX_CHARACTERS if cut < 0 else cut
        yield sentence[:cut]
        sentence = sentence[cut:]
    yield sentence


def parse(data: bytes) -> Any:
    """Returns the library's processor for the bytes of a model, None if they are not a model."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        return None
    return model if model.get_piece_size() else None


def special_ids(model: Any, file: epath.Path) -> dict[str, int]:
    """Returns the ids of the special tokens in a model, by their names in SPECIALS.

    Raises:
        UserError: the model lacks a special token.
    """
    tokens = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    # Other models name them differently: ALBERT's has <pad>.
    named = {name: tokens.get(name, tokens.get(f"<{name[1:-1].lower()}>")) for name in SPECIALS}
    ids = {name: number for name, number in named.items() if number is not None}
    if missing := [name for name in SPECIALS if name not in ids]:
        raise UserError(
            f"{file}: has no {', '.join(missing)}; BERT needs {' '.join(SPECIALS)}: train the "
            "model with them (bertjax tokenizer train does)."
        )
    return ids
