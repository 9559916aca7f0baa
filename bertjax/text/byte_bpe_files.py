"""Reads byte-level BPE: a tokenizer.json, or the vocab.json and merges.txt of RoBERTa."""

import json
from typing import Any

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.files import reading
from bertjax.text.byte_bpe import ROBERTA_CLASS, ByteBpeTokenizer
from bertjax.text.tokenizer_base import SETTINGS_FILE, SPECIALS

FILE, MERGES = "vocab.json", "merges.txt"

_ROBERTA = dict(zip(SPECIALS, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))
_ROBERTA_CLASSES = (ROBERTA_CLASS, f"{ROBERTA_CLASS}Fast")
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def is_byte_bpe(file: epath.Path) -> bool:
    """Whether a JSON file holds byte-level BPE: a vocab.json, or such a tokenizer.json."""
    if file.name == FILE:
        return True
    fields = read_json_object(file)
    model, rules = fields.get("model"), json.dumps(fields.get("pre_tokenizer"))
    return isinstance(model, dict) and model.get("type") == "BPE" and '"ByteLevel"' in rules


def read(file: epath.Path) -> ByteBpeTokenizer:
    """Reads a tokenizer.json, or a vocab.json with the merges.txt beside it.

    Raises:
        UserError: the file is damaged, ids have gaps, a special token is missing, or the settings
            name a class of transformers that makes other ids or other pairs.
    """
    settings_file = file.parent / SETTINGS_FILE
    settings = read_json_object(settings_file) if settings_file.is_file() else {}
    name = settings.get("tokenizer_class")
    if name not in (*_ROBERTA_CLASSES, *_GENERIC_CLASSES, None):
        raise UserError(
            f"{settings_file}: tokenizer_class is {name!r}, which may give other ids with this "
            f"vocabulary; of byte-level BPE, only {ROBERTA_CLASS} and {_GENERIC_CLASSES[0]} are "
            "supported."
        )
    if file.name == FILE:
        fields = _of_roberta(file)
    else:
        fields = read_json_object(file)
    _check(fields, file)
    if name in _ROBERTA_CLASSES and fields["pre_tokenizer"].get("type") == "ByteLevel":
        prefix = bool(settings.get("add_prefix_space"))  # these settings override tokenizer.json
        fields["pre_tokenizer"] = {**fields["pre_tokenizer"], "add_prefix_space": prefix}
    names = _names(settings, fields, file)
    if name in _ROBERTA_CLASSES or file.name == FILE:
        fields["post_processor"] = _roberta_processor(fields, names)
    return _make(fields, names, file)


def _make(fields: dict[str, Any], names: dict[str, str], file: epath.Path) -> ByteBpeTokenizer:
    separators, second_type = _pair(fields.get("post_processor"), names, file)
    definition = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    try:
        return ByteBpeTokenizer(definition, names, separators, second_type)
    except Exception as error:
        if type(error) is not Exception:  # the library raises no narrower one
            raise
        raise UserError(f"{file}: not a tokenizer ({error}); save it again.") from None


def _of_roberta(file: epath.Path) -> dict[str, Any]:
    """Returns the tokenizer.json of a vocab.json and the merges.txt beside it."""
    if not (merges := file.parent / MERGES).is_file():
        raise UserError(f"{merges}: no such file; put the one of {file.name} there.")
    with reading(merges):
        lines = merges.read_text().split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise UserError(f"{merges}: {' '.join(wrong)!r:.100} is not two tokens; save it again.")
    options = {"dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model = {"type": "BPE", "vocab": read_json_object(file), "merges": pairs, **options}
    rules = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**rules, "use_regex": True},
        "decoder": {**rules, "add_prefix_space": True, "use_regex": True},
        "model": model,
    }


def _check(fields: dict[str, Any], file: epath.Path) -> None:
    """Refuses ids that have gaps, and completes the entries of added tokens and merges."""
    vocabulary, merges = (fields["model"].get(name) for name in ("vocab", "merges"))
    added = fields.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not all(isinstance(each, dict) for each in added):
        raise UserError(f"{file}: its model holds no vocabulary; save the tokenizer again.")
    if isinstance(merges, list):  # older files have one string for each
        pairs = [each.split(" ") if isinstance(each, str) else each for each in merges]
        fields["model"] = {**fields["model"], "merges": pairs}
    ids: dict[Any, Any] = dict(vocabulary)
    ids |= {each.get("content"): each.get("id") for each in added}
    bad = next((token for token, number in ids.items() if type(number) is not int), None)
    if bad is not None:
        raise UserError(f"{file}: the id of {bad!r} is {ids[bad]!r}: write a whole number.")
    for wanted, number in enumerate(sorted(ids.values())):
        if number != wanted:
            raise UserError(
                f"{file}: no token has the id {wanted}; ids must count from 0 without gaps, so "
                "save the tokenizer again."
            )
    fields["added_tokens"] = [{**dict.fromkeys(_FLAGS, False), **each} for each in added]


def _names(settings: dict[str, Any], fields: dict[str, Any], file: epath.Path) -> dict[str, str]:
    """Returns the tokens that have the roles of SPECIALS, and adds them to the tokenizer."""
    map_file = file.parent / "special_tokens_map.json"
    named = {**(read_json_object(map_file) if map_file.is_file() else {}), **settings}
    added = {each["content"]: each["id"] for each in fields["added_tokens"]}
    ids = {**fields["model"]["vocab"], **added}
    defaults = _ROBERTA if "<s>" in ids else {name: name for name in SPECIALS}
    names = {}
    for role in SPECIALS:
        token = named.get(f"{role[1:-1].lower()}_token") or defaults[role]
        names[role] = token["content"] if isinstance(token, dict) else str(token)
        if names[role] not in ids:
            raise UserError(f"{file}: has no {names[role]}, which stands for {role}; add it.")
        if names[role] not in added:
            added[names[role]] = ids[names[role]]
            flags = {"lstrip": role == "[MASK]", "special": True}
            entry = {"id": ids[names[role]], "content": names[role]}
            fields["added_tokens"] += [{**entry, **dict.fromkeys(_FLAGS, False), **flags}]
    fields["added_tokens"].sort(key=lambda each: each["id"])
    return names


def _roberta_processor(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    ids = {**fields["model"]["vocab"]}
    ids |= {each["content"]: each["id"] for each in fields["added_tokens"]}
    ends = {
        key: [names[role], ids[names[role]]] for key, role in (("sep", "[SEP]"), ("cls", "[CLS]"))
    }
    prefix = bool(fields["pre_tokenizer"].get("add_prefix_space"))
    return {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": prefix}


def _pair(processor: Any, names: dict[str, str], file: epath.Path) -> tuple[int, int]:
    """Returns how many [SEP] stand between two texts, and the token type of the second."""
    processor = processor if isinstance(processor, dict) else {}
    cls, sep = names["[CLS]"], names["[SEP]"]
    ends = [(processor.get(key) or [None])[0] for key in ("cls", "sep")]
    known = {"RobertaProcessing": (2, 0), "BertProcessing": (1, 1)}
    if ends == [cls, sep] and (found := known.get(str(processor.get("type")))):
        return found
    single, pair = (_pieces(processor.get(key)) for key in ("single", "pair"))
    begin = [(cls, 0), ("A", 0), (sep, 0)]
    for second in (0, 1):
        for separators in (1, 2):
            end = [(sep, 0)] * (separators - 1) + [("B", second), (sep, second)]
            if single == begin and pair == begin + end:
                return separators, second
    raise UserError(
        f"{file}: its post_processor doesn't put {cls} before a text and {sep} after it and its "
        "pair, as those of RoBERTa and ModernBERT do; use a model with such a tokenizer."
    )


def _pieces(template: Any) -> list[tuple[Any, Any]] | None:
    """Returns (token or text, type) of each piece of a template."""
    if not isinstance(template, list):
        return None
    pieces = [next(iter(piece.values()), None) for piece in template if isinstance(piece, dict)]
    return [(p.get("id"), p.get("type_id")) for p in pieces if isinstance(p, dict)]
