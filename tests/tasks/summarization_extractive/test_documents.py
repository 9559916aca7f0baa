"""Documents from files: sentences, labels and summaries, and what is wrong with them."""

import json

import pytest

from bertjax.errors import UserError
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.summarization_extractive.documents import (
    Document,
    parse_sentences,
    read_documents,
)

LISTED = ["The cat sat.", "A dog  ran.", "Rain fell. It was wet."]


def read(path, text, **options):
    path.write_text(text)
    return read_documents(path, ExtractiveSummarizationConfig(**options))


def test_lists_of_sentences_are_taken_as_they_are_and_text_is_split(tmp_path):
    summary = ["Rain fell.", "It was wet."]
    rows = [
        {"document": LISTED, "summary": summary},
        {"document": " ".join(LISTED), "summary": " ".join(summary)},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    listed, split = read(tmp_path / "a.jsonl", text)
    assert listed.sentences == ("The cat sat.", "A dog ran.", "Rain fell. It was wet.")
    assert split.sentences == ("The cat sat.", "A dog ran.", "Rain fell.", "It was wet.")
    assert listed.labels == (2,) and split.labels == (2, 3)
    assert listed.summary == split.summary == "Rain fell.\nIt was wet."


def test_labels_are_given_in_any_of_the_formats(tmp_path):
    options = {"label_column": "picked", "document_column": "text"}
    wanted = Document(("A cat.", "B dog.", "C fox."), (0, 2), "A cat.\nC fox.")
    text = "".join(
        json.dumps({"text": "A cat. B dog. C fox.", "picked": each}) + "\n"
        for each in ([2, 0], "0 2", "[0, 2]")
    )
    assert read(tmp_path / "a.jsonl", text, **options) == (wanted,) * 3
    text = 'picked\ttext\n0 2\t["A cat.", "B dog.", "C fox."]\n'
    assert read(tmp_path / "a.tsv", text, **options) == (wanted,)
    text = '"[0,2]",A cat. B dog. C fox.\n'
    names = {"column_names": ("picked", "text")}
    assert read(tmp_path / "a.csv", text, **options, **names) == (wanted,)


def test_the_language_splits_sentences():
    text = "Er kam z. B. am 3. Mai. Es regnete."
    assert len(parse_sentences(text, "x", "de")) == 2 < len(parse_sentences(text, "x", "fr"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document": "", "summary": "a"}, "the document is empty"),
        ({"document": [], "summary": "a"}, "the document is empty"),
        ({"document": "a", "summary": "  "}, "the summary is empty"),
        ({"document": "a", "summary": "..."}, "the summary '...' has no word that ROUGE can count"),
        ({"document": ["a", " "], "summary": "a"}, r"sentence 1 of the document \(from 0\) is emp"),
        ({"document": ["a", ["b"]], "summary": "a"}, r"sentence 1 of the document \(from 0\) is n"),
        ({"document": ["a\0"], "summary": "a"}, "holds a NUL character"),
        ({"document": "a"}, "no column 'summary'"),
        ({"document": {"a": 1}, "summary": "a"}, "column 'document' holds an object"),
    ],
)
def test_mistakes_name_their_line(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"a.jsonl:2: {message}"):
        read(tmp_path / "a.jsonl", f'{{"document": "a", "summary": "a"}}\n{json.dumps(row)}')


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "label '2' names no sentence of the document, which has the sentences 0 to 1"),
        (["x"], "label 'x' names no sentence"),
        (-1, "label '-1' names no sentence"),
        (0.5, "label '0.5' names no sentence"),
        ("9" * 5000, "label '9999.*' names no sentence"),
        ([], "there is no label"),
    ],
)
def test_labels_that_name_no_sentence(tmp_path, labels, message):
    row = json.dumps({"document": ["a", "b"], "labels": labels})
    with pytest.raises(UserError, match=rf"a.jsonl:1: {message}"):
        read(tmp_path / "a.jsonl", row, label_column="labels")
