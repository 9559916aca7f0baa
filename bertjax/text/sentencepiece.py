"""SentencePiece vocabularies (unigram language model or BPE), by the `sentencepiece` library."""

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
from bertjax.text import pieces, sentencepiece_export
from bertjax.text.pieces import SETTINGS_FILE, SPECIALS, Kind, PieceTokenizer, Surface
from bertjax.text.tokenizer_files import EXPORTED

ModelType = Literal["unigram", "bpe"]

FILE = "spm.model"
FILES = (FILE, "spiece.model", "tokenizer.model")
"""Names by which a model is found in a directory, ours first."""

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
"""What makes SPECIALS the first pieces of a trained model, by the names of the library."""

_SPACE = "▁"  # a word's leading space in a piece: U+2581
# What the normalisation makes a space of, beside what Python calls one (all of Unicode was tried).
_BLANKS = "\u061c\u200b\u200c\u200e\u200f\u2581\ufeff\ufffd"
# Names that other models (ALBERT's, for one) give to BERT's special tokens.
_ALIASES = {
    "[PAD]": "<pad>",
    "[UNK]": "<unk>",
    "[CLS]": "<cls>",
    "[SEP]": "<sep>",
    "[MASK]": "<mask>",
}
# The sums of training, and so the model's bytes, depend on its number of threads: a constant,
# never the machine's.
_TRAINING_THREADS = 16
_CHUNK_CHARACTERS = 4000


class SentencePieceTokenizer(PieceTokenizer):
    """A SentencePiece model, by the `sentencepiece` library; its normalisation lies in the model.

    Args:
        model: the bytes of a .model file.
        special_ids: id of every name in SPECIALS.
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
        """The ids of many sentences, without special tokens: one int32 array for each."""
        texts = list(sentences)
        try:
            return self._library.encode(texts, return_type="numpy", num_threads=1)
        except pieces.LIBRARY_REFUSALS:
            pieces.refuse_surrogates(texts)
            raise

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        try:
            return self._library.encode(texts, num_threads=1)
        except pieces.LIBRARY_REFUSALS:
            pieces.refuse_surrogates(texts)
            raise

    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        try:
            item = self._library.encode_as_offset_mapping(text)
        except pieces.LIBRARY_REFUSALS:
            pieces.refuse_surrogates([text])
            raise
        offsets = []
        for piece, (start, end) in zip(item["pieces"], item["offsets"], strict=True):
            if piece.startswith(_SPACE):  # the space is part of the piece, not of the word
                while start < end and (text[start].isspace() or text[start] in _BLANKS):
                    start += 1
            if start == end and piece.strip(_SPACE):
                end = min(start + 1, len(text))  # a part of one character, as of the ligature in
                # "ﬁne", which normalises to two: the library gives the last part the whole of it
            offsets.append((start, end))
        return item["ids"], offsets

    def _after_mask(self, ids: list[int], offsets: list[tuple[int, int]], text: str) -> None:
        # "[MASK]." must not become "[MASK] .": the library puts a space before every text.
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
        """See `Tokenizer.files`."""
        settings = {"tokenizer_type": "sentencepiece", "do_lower_case": self.lowercase}
        exported = {}
        if export:
            text = sentencepiece_export.tokenizer_json(
                self._model, self._special_ids, self._library.normalize
            )
            exported = {EXPORTED: text.encode()}
            settings |= sentencepiece_export.settings(self._tokens, self._special_ids)
        return {
            SETTINGS_FILE: json.dumps(settings, indent=2).encode() + b"\n",
            **exported,
            FILE: self._model,
        }


def train(
    sentences: list[str],
    vocab_size: int,
    lowercase: bool,
    character_coverage: float,
    *,
    strip_accents: bool = False,
    model_type: ModelType = "unigram",
) -> SentencePieceTokenizer:
    """Trains a vocabulary of at most `vocab_size` tokens, fewer if the text holds no more.

    The same sentences give the same model, byte for byte (with `strip_accents`, by the same Python,
    whose Unicode it is).

    Raises:
        UserError: vocab_size can't hold the text's characters, or the text holds nothing.
    """
    import sentencepiece

    model = io.BytesIO()
    rules = {"normalization_rule_name": _rule_name(lowercase)}
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        if strip_accents:
            table = epath.Path(directory) / "rules.tsv"
            table.write_text(_rules_without_accents(lowercase))
            rules = {"normalization_rule_tsv": str(table)}
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(part for sentence in sentences for part in _chunks(sentence)),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                # Without the limit the library returns what it can: so we know the largest size.
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                max_sentence_length=8 * _CHUNK_CHARACTERS,
                num_threads=_TRAINING_THREADS,
                minloglevel=2,
                **rules,
                **SPECIAL_PIECES,
            )
        except RuntimeError as error:
            if match := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
                raise UserError(
                    f"vocab_size {vocab_size} is too small: the text's characters alone need "
                    f"{match[1]}; raise it, or lower character_coverage."
                ) from None
            if "sentences_.empty()" in str(error):
                raise UserError(
                    "The text holds nothing that a vocabulary could be made of."
                ) from None
            raise
    return SentencePieceTokenizer(
        model.getvalue(), {name: number for number, name in enumerate(SPECIALS)}
    )


def _rule_name(lowercase: bool) -> str:
    return "nmt_nfkc_cf" if lowercase else "nmt_nfkc"


def _rules_without_accents(lowercase: bool) -> str:
    """The library's normalisation, and no accents: its rules as a table that training reads.

    Marks go as BERT takes them off (category Mn of Unicode's canonical decomposition). Each rule is
    of one character: a letter in several that are no marks (Korean in its parts) stays as it is.
    """
    import sentencepiece

    library = sentencepiece.SentencePieceNormalizer(
        rule_name=_rule_name(lowercase),
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=False,
    )
    # No character of the planes from 4 on has a rule or is a mark, but for those of plane 14.
    planes = (range(1, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xF0000))
    characters = [chr(code) for plane in planes for code in plane]
    lines = []
    for character, normal in zip(characters, library.normalize(characters), strict=True):
        bare = _without_marks(normal)
        if bare != normal:
            bare = library.normalize(bare)  # of U+0130, a capital with its dot, the small letter
        if bare != character:
            lines.append("\t".join(" ".join(f"{ord(c):04X}" for c in t) for t in (character, bare)))
    return "\n".join(lines) + "\n"


def _without_marks(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    bare = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    return text if bare == parts else unicodedata.normalize("NFC", bare)


def _chunks(sentence: str) -> Iterator[str]:
    """Cuts at spaces what is too long for a sentence: the library would drop it without a word."""
    while len(sentence) > _CHUNK_CHARACTERS:
        cut = sentence.rfind(" ", 1, _CHUNK_CHARACTERS)
        cut = _CHUNK_CHARACTERS if cut < 0 else cut
        yield sentence[:cut]
        sentence = sentence[cut:]
    yield sentence


def parse(data: bytes) -> Any:
    """The library's processor of a model's bytes, or None where they are no model."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        return None
    return model if model.get_piece_size() else None


def special_ids(model: Any, file: epath.Path) -> dict[str, int]:
    """Where the special tokens are in a model, by our names for them.

    Raises:
        UserError: the model lacks some.
    """
    tokens = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    ids, missing = {}, []
    for name in SPECIALS:
        known = [token for token in (name, _ALIASES[name]) if token in tokens]
        if known:
            ids[name] = tokens[known[0]]
        else:
            missing.append(name)
    if missing:
        raise UserError(
            f"{file}: has no {', '.join(missing)}; BERT needs {' '.join(SPECIALS)}: train the "
            "model with them (bertjax tokenizer train does)."
        )
    return ids
