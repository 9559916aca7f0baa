"""Files of sources and targets."""

import json

import pytest

from bertjax.errors import UserError
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.pairs import read_pairs

PAIRS = [("ein Hund", "a dog"), ("zwei Hunde", "two dogs")]


def write(path, text):
    path.write_text(text)
    return path


def test_tables_and_parallel_files_hold_the_same_pairs(tmp_path):
    write(tmp_path / "a.tsv", "target\tsource\n" + "".join(f"{t}\t{s}\n" for s, t in PAIRS))
    write(tmp_path / "a.csv", "".join(f'"{s}",{t}\n' for s, t in PAIRS))
    rows = [{"translation": {"de": source, "en": target}} for source, target in PAIRS]
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for number, suffix in enumerate(("de", "en")):
        # The last line needs no end, and a line may end as in Windows.
        write(tmp_path / f"a.{suffix}", "\r\n".join(pair[number] for pair in PAIRS))
    languages = {"source_column": "de", "target_column": "en"}
    nested = {"source_column": "translation.de", "target_column": "translation.en"}
    for name, options, places in (
        ("a.tsv", {}, ["a.tsv:2", "a.tsv:3"]),
        ("a.csv", {**languages, "column_names": ("de", "en")}, ["a.csv:1", "a.csv:2"]),
        ("a.jsonl", nested, ["a.jsonl:1", "a.jsonl:2"]),
        ("a", languages, ["a.en:1", "a.en:2"]),
    ):
        pairs = read_pairs(tmp_path / name, Seq2SeqConfig(**options))
        assert list(zip(pairs.sources, pairs.targets, strict=True)) == PAIRS
        assert pairs.places == [str(tmp_path / place) for place in places]
        assert len(pairs) == 2


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a.tsv": "source\ttarget\nx\ty\nx\t \n"}, r"a.tsv:3: the target is empty; write it, or"),
        ({"a.tsv": "source\ttarget\n\ty\n"}, r"a.tsv:2: the source is empty"),
        ({"a.tsv": "source\tlabel\nx\ty\n"}, r"a.tsv:1: no column 'target'; the columns are 'sou"),
        ({"a.jsonl": '{"source": "x"}\n'}, r"a.jsonl:1: no column 'target'"),
        (
            {"a.jsonl": '{"source": "x", "target": ["y"]}\n'},
            r"a.jsonl:1: column 'target' holds a l",
        ),
        (
            {"a.source": "x\nx\n", "a.target": "y\n"},
            r"a.source has 2 lines and \S*a.target 1: para",
        ),
        ({"a.source": "x\n\nx\n", "a.target": "y\ny\ny\n"}, r"a.source:2: the source is empty"),
        ({"a.source": "x\nx\n", "a.target": "y\n\n"}, r"a.target:2: the target is empty"),
        ({"a.source": "x\n"}, r"a: is neither a .tsv, .csv or .jsonl file nor .*a.target does not"),
        ({}, r"a: is neither a .tsv, .csv or .jsonl file nor .*a.source does not exist"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, files, sentence):
    for name, text in files.items():
        write(tmp_path / name, text)
    name = next((name for name in files if not name.endswith((".source", ".target"))), "a")
    with pytest.raises(UserError, match=sentence):
        read_pairs(tmp_path / name, Seq2SeqConfig())
