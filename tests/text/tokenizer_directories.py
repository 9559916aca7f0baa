"""Directories with tokenizers as transformers 2 to 5, sentence-transformers, Google, NVIDIA, and
Japanese and Chinese groups write them.

`directories` makes them, as files by name. golden/make_directories.py keeps the ids that
transformers gives them.
"""

import json

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MARKERS = ("[E1]", "[/E1]", "<URL>", "covid", "Zürich", "new york", "東京")
_WORDS = """the cat sat on a new york un ##aff ##able ##s ete été covi ##d ##x cov ##id zur ##ich
zürich url e ##t ##e ##1 1 ##2 , . ! ' - [ ] / < > : 日 本 東 京 ##京 都 b ##b x ß ss"""
_CAPITALS = "The Cat New York URL Co ##vid Z ##ürich ##urich E ##T"

TEXTS = (
    "",
    "The cat sat on a cat.",
    "Unaffable, ÉTÉ - été cats! ß",
    "日本 b日 東京都 [b] a\u200bb\tc\u3000x",
    "[E1] Cat [/E1] sat[E1]x [e1] [ E1 ]",
    "covid COVID Covid covidx xcovid a covid's",
    "New York new york newyork new  york in Zürich, zürich ZURICH Zu\u0308rich",
    "see <URL>, <url> or a<URL>b . <S> [unused1]",
    "##s cat ##京 \x00a\x07\ufffd",
    "x" * 101 + " " + "unable" * 16 + " " + "unable" * 17,
)
INPUTS = (*((text,) for text in TEXTS), ("the cat", "sat [E1] on"), ("", "a"))


def _vocabulary(layout, cased, more):
    words = [*_WORDS.split(), *(_CAPITALS.split() if cased else ()), *more]
    unused = [f"[unused{number}]" for number in range(4)]
    if layout == "google":
        return ["[PAD]", *unused, *SPECIALS[1:], *words]
    if layout == "chinese":  # as Google's chinese_L-12_H-768_A-12
        return ["[PAD]", *unused, *SPECIALS[1:], "<S>", "<T>", *words]
    return [*SPECIALS, *words] if layout == "plain" else [*words, *SPECIALS]


def _lines(tokens, end="\n"):
    return (end.join(tokens) + end).encode()


def _json(fields):
    return json.dumps(fields, indent=1).encode()


def _token(content, **flags):
    defaults = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **defaults, "special": True, **flags}


def _decoder(tokens, *more):
    """Returns added_tokens_decoder: the special tokens, and `more` at their ids or at the end."""
    ids = {token: number for number, token in enumerate(tokens)}
    entries = [*map(_token, SPECIALS), *more]
    for entry in entries:
        ids.setdefault(entry["content"], len(ids))
    entries.sort(key=lambda entry: ids[entry["content"]])
    return {str(ids[entry["content"]]): entry for entry in entries}


def _template(tokens):
    piece = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]")}
    first = [piece["[CLS]"], {"Sequence": {"id": "A", "type_id": 0}}, piece["[SEP]"]]
    second = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    special = {n: {"id": n, "ids": [tokens.index(n)], "tokens": [n]} for n in ("[CLS]", "[SEP]")}
    fields = {"single": first, "pair": [*first, *second], "special_tokens": special}
    return {"type": "TemplateProcessing", **fields}


def _exported(tokens, lowercase, *more, strip_accents=None, year=2023, **changes):
    """Returns a tokenizer.json; in 2020 the model has no type."""
    decoder = _decoder(tokens, *more)
    model = {
        **({"type": "WordPiece"} if year > 2020 else {}),
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: number for number, token in enumerate(tokens)},
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }
    fields = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": int(number), **entry} for number, entry in decoder.items()],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(tokens),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    }
    return {**fields, **changes}


_BY_HAND = {name.strip("[]").lower() + "_token": name for name in SPECIALS}


def _settings(style, lower, tokens, *more):
    """Returns tokenizer_config.json as a group or version writes it."""
    case = {"do_lower_case": lower}
    if style == "2":
        return {**case, "max_len": 512, "init_inputs": []}
    if style == "3":
        return {**case, **_BY_HAND, "tokenize_chinese_chars": True, "strip_accents": None}
    four = {
        **case,
        **_BY_HAND,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "never_split": None,
        "do_basic_tokenize": True,
        "name_or_path": "somebody/model",
        "special_tokens_map_file": "/root/.cache/special_tokens_map.json",
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 512,
    }
    if style == "4":
        return four
    if style == "4.34":
        return {**four, "added_tokens_decoder": _decoder(tokens, *more)}
    five = {"backend": "tokenizers", "is_local": False, **four}
    return {**five, "extra_special_tokens": [e["content"] for e in more if e["special"]]}


def directories():
    """Yields (name, files), where files are bytes by name."""
    yield from _plain()
    yield from _by_version()
    yield from _added()
    yield from _other_rules()


def _plain():
    """vocab.txt, as Google, editors and NVIDIA leave it, with what little says the case."""
    for layout in ("google", "plain", "end", "chinese"):
        for cased in (False, True):
            tokens = _vocabulary(layout, cased, ())
            for name, data in (
                ("lf", _lines(tokens)),
                ("crlf", _lines(tokens, "\r\n")),
                ("no end", _lines(tokens)[:-1]),
                ("mark", b"\xef\xbb\xbf" + _lines(tokens)),
                ("spaces", _lines([t + " " * (i % 3) for i, t in enumerate(tokens)])),
                ("tabs", _lines([t + "\t" for t in tokens])),
            ):
                for lower in (not cased, cased):
                    files = {
                        "vocab.txt": data,
                        "tokenizer_config.json": _json({"do_lower_case": lower}),
                    }
                    yield f"vocab.txt {layout} cased={cased} {name} lower={lower}", files
            if not cased:
                yield f"vocab.txt {layout} alone", {"vocab.txt": _lines(tokens)}
    tokens = _vocabulary("google", False, ("<URL>", "[URL]"))
    yield "vocab.txt with a token of capitals alone", {"vocab.txt": _lines(tokens)}


def _by_version():
    """Every version's settings beside a vocab.txt, a tokenizer.json or both."""
    for cased in (False, True):
        tokens = _vocabulary("google", cased, ())
        for style in ("2", "3", "4", "4.34", "5"):
            for strips in (None, True, False):
                settings = {**_settings(style, not cased, tokens), "strip_accents": strips}
                files = {"tokenizer_config.json": _json(settings)}
                exported = _exported(tokens, not cased, strip_accents=strips)
                name = f"transformers {style} cased={cased} strip_accents={strips}"
                if style != "5":
                    yield f"{name} vocab.txt", {**files, "vocab.txt": _lines(tokens)}
                if style >= "4":
                    files["tokenizer.json"] = _json(exported)
                    yield f"{name} tokenizer.json", files
                if style.startswith("4"):
                    both = {**files, "vocab.txt": _lines(tokens)}
                    yield f"{name} both", both
                    both = {**both, "special_tokens_map.json": _json(_BY_HAND)}
                    yield f"{name} both and map", both
    tokens = _vocabulary("google", False, ())
    vocabulary = {"vocab.txt": _lines(tokens)}
    old = {"tokenizer.json": _json(_exported(tokens, True, year=2020))}
    lower = {"tokenizer_config.json": _json({"do_lower_case": True})}
    yield "2020 alone", old
    yield "2020 with settings", {**old, **lower}
    yield "2020 with vocab.txt", {**old, **vocabulary}
    yield "2020 with both", {**old, **vocabulary, **lower}
    pieces = {"type": "BertProcessing", "sep": ["[SEP]", tokens.index("[SEP]")]}
    pieces["cls"] = ["[CLS]", tokens.index("[CLS]")]
    yield (
        "BertProcessing",
        {"tokenizer.json": _json(_exported(tokens, True, post_processor=pieces))},
    )
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    exported = _exported(tokens, True, truncation=cut, padding=pad)
    yield (
        "sentence-transformers",
        {
            **vocabulary,
            "tokenizer.json": _json(exported),
            "tokenizer_config.json": _json(_settings("4.34", True, tokens)),
            "special_tokens_map.json": _json({k: _token(v) for k, v in _BY_HAND.items()}),
            "sentence_bert_config.json": _json({"max_seq_length": 128, "do_lower_case": False}),
            "modules.json": b"[]",
        },
    )
    for lowercase, strips in ((True, None), (False, None), (True, False), (False, True)):
        exported = {"tokenizer.json": _json(_exported(tokens, lowercase, strip_accents=strips))}
        name = f"lowercase={lowercase} strip_accents={strips} of tokenizer.json"
        for kind, files in (("alone", exported), ("and vocab.txt", {**exported, **vocabulary})):
            yield f"{name} {kind}", files
            yield f"{name} {kind} with do_lower_case", {**files, **lower}
    for name in ("BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"):
        settings = {"tokenizer_class": name, "do_lower_case": False}
        yield f"class {name}", {**vocabulary, "tokenizer_config.json": _json(settings)}
    for name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        settings = {"tokenizer_class": name, **_BY_HAND}
        files = {"tokenizer.json": _json(_exported(tokens, True, strip_accents=False))}
        yield f"class {name}", {**files, "tokenizer_config.json": _json(settings)}
    for name in ("BertTokenizer", "BertJapaneseTokenizer"):
        config = {"model_type": "bert", "tokenizer_class": name}
        yield f"config.json of {name}", {**vocabulary, **lower, "config.json": _json(config)}


_KINDS = {
    "special": {},
    "special normalized": {"normalized": True},
    "special single_word": {"single_word": True},
    "special stripping": {"lstrip": True, "rstrip": True},
    "word": {"special": False, "normalized": True},
    "word exact": {"special": False},
    "word single_word": {"special": False, "normalized": True, "single_word": True},
}


def _added():
    """Added tokens of every kind, in the vocabulary and after it, by every file that names them."""
    for there in (True, False):
        for lower in (True, False):
            tokens = _vocabulary("google", not lower, MARKERS if there else ())
            vocabulary = {"vocab.txt": _lines(tokens)}
            where = f"{'in' if there else 'after'} the vocabulary lower={lower}"
            for kind, flags in _KINDS.items():
                more = [_token(content, **flags) for content in MARKERS]
                settings = {"tokenizer_config.json": _json(_settings("4.34", lower, tokens, *more))}
                exported = {"tokenizer.json": _json(_exported(tokens, lower, *more))}
                name = f"added {kind} {where}"
                yield f"{name} decoder", {**vocabulary, **settings}
                yield f"{name} decoder and tokenizer.json", {**vocabulary, **settings, **exported}
                plain = {"tokenizer_config.json": _json({"do_lower_case": lower})}
                yield f"{name} tokenizer.json", {**exported, **plain}
            files = {**vocabulary, "tokenizer_config.json": _json({"do_lower_case": lower})}
            ids = {entry["content"]: int(n) for n, entry in _decoder(tokens, *more).items()}
            ids = _json({content: ids[content] for content in MARKERS})
            for key in ("additional_special_tokens", "extra_special_tokens"):
                named = {"strings": list(MARKERS)}
                if key == "additional_special_tokens":  # transformers can't read the others
                    named["objects"] = [_token(c, normalized=True) for c in MARKERS]
                for form, value in named.items():
                    name = f"{key} as {form} {where}"
                    names = {"special_tokens_map.json": _json({**_BY_HAND, key: value})}
                    yield f"{name} in the map", {**files, **names}
                    yield (
                        f"{name} in the map with ids",
                        {**files, **names, "added_tokens.json": ids},
                    )
                    if form == "strings":
                        settings = _json({"do_lower_case": lower, key: value})
                        yield (
                            f"{name} in the settings",
                            {**files, "tokenizer_config.json": settings},
                        )
            yield f"added_tokens.json {where}", {**files, "added_tokens.json": ids}
            named = {"image_token": "[E1]", "bos_token": "<URL>"}
            settings = _json({"do_lower_case": lower, **named})
            yield f"named tokens {where}", {**files, "tokenizer_config.json": settings}


def _other_rules():
    """Tokenizers whose text is cut by other rules than BERT's."""
    tokens = _vocabulary("plain", False, ())
    vocabulary = {"vocab.txt": _lines(tokens)}
    for name, fields in {
        "Japanese by class": {"tokenizer_class": "BertJapaneseTokenizer"},
        "Japanese by settings": {"word_tokenizer_type": "mecab"},
        "Japanese characters": {"subword_tokenizer_type": "character"},
        "RoFormer": {"tokenizer_class": "RoFormerTokenizer"},
        "no Chinese characters": {"tokenize_chinese_chars": False},
        "no basic tokenizer": {"do_basic_tokenize": False},
        "never split": {"never_split": ["<S>"]},
        "split specials": {"split_special_tokens": True, "additional_special_tokens": ["[E1]"]},
        "custom code": {"auto_map": {"AutoTokenizer": ["tokens.MyTokenizer", None]}},
        "other special tokens": {"cls_token": "<s>"},
    }.items():
        settings = {"do_lower_case": False, **fields}
        yield f"refused: {name}", {**vocabulary, "tokenizer_config.json": _json(settings)}
