"""Makes tokenizer.json and tokenizer_config.json beside it with transformers 5.24, and prints the
ids that it gives: `python tests/text/golden/make_tokenizer.py`, in an environment that has it."""

import json
import pathlib
import tempfile

import transformers

WORDS = "the cat sat on a un ##aff ##able ##s ete été e ##t ##e 日 本 b ##b c 1 ##2 , . ! ' - [ ] :"
TEXTS = (
    "",
    "The cat sat on a cat.",
    "Unaffable, ÉTÉ - cats!",
    "日本 b日 [b] a\u200bb\tc",
    "12: the cat's ete; zzz",
)

directory = pathlib.Path(__file__).parent
with tempfile.TemporaryDirectory() as folder:
    vocabulary = pathlib.Path(folder, "vocab.txt")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary.write_text("\n".join([*specials, *WORDS.split()]) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(vocabulary), strip_accents=False)
    tokenizer.add_tokens(["[E1]", "[/E1]"], special_tokens=True)
    tokenizer.save_pretrained(directory)
    for text in TEXTS:
        print(json.dumps([text, tokenizer(text)["input_ids"]], ensure_ascii=False))
    print(tokenizer("the cat", "a cat")["input_ids"])
