"""Byte-level BPE, the vocabulary of RoBERTa and ModernBERT, with the `tokenizers` library."""

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.text.tokenizer_base import (
    SETTINGS_FILE,
    SPECIALS,
    Kind,
    Surface,
    Tokenizer,
    refusing_surrogates,
)

ROBERTA_CLASS = "RobertaTokenizer"


class ByteBpeTokenizer(Tokenizer):
    """Byte-level BPE with the rules of a tokenizer.json.

    A text keeps its spaces: a token within a text begins with the space before it. The tokens have
    the names in `names`, but each role is that of BERT: "[CLS]" stands for "<s>" in a RoBERTa.

    `definition` is the content of a tokenizer.json, and `names` maps every name in SPECIALS to the
    token that has its role there. `separators` is how many [SEP] stand between the texts of a pair,
    and `second_type` the token type of its second text.
    """

    kind: Kind = "bpe"

    def __init__(
        self, definition: str, names: dict[str, str], separators: int, second_type: int
    ) -> None:
        import tokenizers

        fields = json.loads(definition)
        added = fields.get("added_tokens") or []
        ids = {**fields["model"]["vocab"], **{each["content"]: each["id"] for each in added}}
        tokens = sorted(ids, key=ids.__getitem__)
        super().__init__(tokens, {name: ids[names[name]] for name in SPECIALS})
        self._arguments = (definition, names, separators, second_type)
        self.separators, self.second_type = (self.sep_id,) * separators, second_type
        roles = {*names.values()}
        others = [each for each in added if each["content"] not in roles]
        self._special += tuple(each["id"] for each in others if each["special"])
        self._strips = any(e["lstrip"] for e in added if e["content"] == names["[MASK]"])
        # No text gives one of the five tokens: they are in the vocabulary and not searched for.
        fields["model"]["vocab"] = ids
        fields |= {"added_tokens": others, "truncation": None, "padding": None}
        fields["post_processor"] = None
        self._adds_space = fields["pre_tokenizer"].get("add_prefix_space", False)
        self._library = tokenizers.Tokenizer.from_str(json.dumps(fields))
        self._library.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
        normalizer = self._library.normalizer
        self.lowercase = normalizer is not None and normalizer.normalize_str("A") == "a"
        canonical = [json.loads(definition), *self._arguments[1:]]
        self.sha256 = hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return ByteBpeTokenizer, self._arguments

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of words within a text: each has a space before it."""
        return self.encode_sentences([f" {word}" for word in words])

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        with refusing_surrogates(texts):
            return [item.ids for item in self._library.encode_batch_fast(texts)]

    def _encode_one(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        with refusing_surrogates([text]):
            item = self._library.encode(text)
        return item.ids, item.offsets

    @functools.cached_property
    def _within_text(self) -> Any:
        """The library for text that does not begin as if a space were before it."""
        import tokenizers

        fields = json.loads(self._library.to_str())
        fields["pre_tokenizer"]["add_prefix_space"] = False
        return tokenizers.Tokenizer.from_str(json.dumps(fields))

    def _after_mask(self, ids: list[int], offsets: list[tuple[int, int]], text: str) -> None:
        # Where every text gets a space, "[MASK]." must still not become "[MASK] .".
        if self._adds_space and not text[:1].isspace():
            item = self._within_text.encode(text)
            ids[:], offsets[:] = item.ids, item.offsets

    def _before_mask(self, text: str) -> str:
        return text.rstrip() if self._strips else text

    def _join(self, ids: list[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=False).strip(" ")

    def _continues_word(self) -> np.ndarray:
        texts = (self._library.decode([number]) for number in range(self.vocab_size))
        return np.array([not text[:1].isspace() for text in texts])

    def _surface(self, token_id: int) -> Surface | None:
        text = self._library.decode([token_id])
        if not text.strip() or "\ufffd" in text:  # a part of a character
            return None
        begins = text[0].isspace()
        return Surface(text.strip(), begins, not begins)

    def files(self, *, export: bool) -> dict[str, bytes]:
        """Returns files that transformers reads, whatever `export` is; see `Tokenizer.files`."""
        del export
        definition, names, *_ = self._arguments
        roberta = len(self.separators) == 2
        types = ["token_type_ids"] if self.second_type else []
        settings = {
            "tokenizer_class": ROBERTA_CLASS if roberta else "PreTrainedTokenizerFast",
            "add_prefix_space": self._adds_space,
            "model_input_names": ["input_ids", *types, "attention_mask"],
            **{f"{role[1:-1].lower()}_token": token for role, token in names.items()},
        }
        if roberta:
            settings |= {"bos_token": names["[CLS]"], "eos_token": names["[SEP]"]}
        data = json.dumps(settings, indent=2).encode() + b"\n"
        return {SETTINGS_FILE: data, "tokenizer.json": definition.encode()}


def train(
    sentences: list[str], vocab_size: int, lowercase: bool, strip_accents: bool
) -> ByteBpeTokenizer:
    """Trains a vocabulary of at most `vocab_size` tokens, fewer if the text has no more.

    The special tokens, then the 256 bytes come first. Text is brought into NFC, as for ModernBERT.
    A text begins as if a space were before it, so a word has the same tokens everywhere. A pair is
    that of BERT. The same sentences give the same vocabulary.

    Raises:
        UserError: `vocab_size` does not hold the bytes.
    """
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < (least := len(SPECIALS) + len(alphabet)):
        raise UserError(
            f"`vocab_size` is {vocab_size}: the special tokens and the bytes alone need {least}; "
            "give more."
        )
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = [normalizers.NFD(), normalizers.StripAccents()] * strip_accents
    steps += [normalizers.Lowercase()] * lowercase
    library.normalizer = normalizers.Sequence([*steps, normalizers.NFC()])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        special_tokens=[tokenizers.AddedToken(name, lstrip=name == "[MASK]") for name in SPECIALS],
        show_progress=False,
    )
    library.train_from_iterator(sentences, trainer)
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    definition = library.to_str(pretty=True) + "\n"
    return ByteBpeTokenizer(definition, {name: name for name in SPECIALS}, 1, second_type=1)
