"""Lines for a terminal: control characters never reach it, whatever file or text has them."""

import logging
import os

import pytest

from bertjax import cli
from bertjax.terminal import Complaints, printable

ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\r"


def test_text_and_ends_of_lines_stay():
    for text in ("", "plain", "one\n\ttwo", "Über 東京 \u3000\xa0 ±", "a\u0301"):
        assert printable(text) == text


@pytest.mark.parametrize("character", [*map(chr, [0, 7, 8, 13, 27, 127, 0x9B, 0x2028, 0x202E])])
def test_control_characters_become_escapes(character):
    shown = printable(f"a{character}b")
    assert shown.isprintable() and shown[0] == "a" and shown[-1] == "b"
    assert shown[1:-1].encode().decode("unicode_escape") == character


def test_halves_of_characters_can_be_printed():
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"
    printable("\ud800").encode()


def is_clean(text):
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_names_of_files_and_texts_reach_no_terminal(tmp_path, capsys):
    text = tmp_path / f"{ESCAPE}.txt"
    text.write_text("\n".join(f"{ESCAPE} same sentence." for _ in range(40)))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsame\n")
    flags = ["--tokenizer", str(tmp_path / "vocab.txt"), "--max-seq-length", "16"]
    for words in (
        ["prepare", "--audit", "--input", str(text), *flags],
        ["prepare", "--input", str(text), *flags, "--output", str(tmp_path / f"out{ESCAPE}")],
        ["evaluate", str(tmp_path / f"model{ESCAPE}"), "dev.csv"],
        [f"verb{ESCAPE}"],
        ["report", str(tmp_path / f"run{ESCAPE}")],
    ):
        cli.run(words)
        out, err = capsys.readouterr()
        assert is_clean(out) and is_clean(err)
        assert "\\x1b" in out + err


def test_log_records_are_cleaned_and_look_like_other_complaints(capsys):
    record = logging.LogRecord("bertjax", logging.WARNING, "", 0, "%s: a token", (ESCAPE,), None)
    Complaints().emit(record)
    assert capsys.readouterr() == ("", f"bertjax: {printable(ESCAPE)}: a token\n")
