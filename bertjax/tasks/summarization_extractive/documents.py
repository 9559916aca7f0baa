"""Documents as sentences, with the sentences to pick from them, from files and lines."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks import tables
from bertjax.tasks.rouge import split_words
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.summarization_extractive.selection import greedy_labels
from bertjax.text.sentences import split_sentences


class Document(NamedTuple):
    """The sentences of a document."""

    sentences: tuple[str, ...]
    """At least one, each on one line."""
    labels: tuple[int, ...] = ()
    """Ascending indices of the sentences to pick; few documents have none."""
    summary: str = ""
    """What ROUGE compares with, one sentence per line."""


def read_documents(
    path: epath.PathLike, options: ExtractiveSummarizationConfig
) -> tuple[Document, ...]:
    """Reads documents with summaries or with labels.

    Raises:
        UserError: something is wrong with the file, a document or a summary is empty, or a label
            names no sentence; the sentence names the line.
    """
    target = options.label_column or options.summary_column
    field = "label_column" if options.label_column else "summary_column"
    columns = {options.document_column: "document_column", target: field}
    table = tables.read_table(path, columns, column_names=options.column_names, may_be_lists=True)
    documents = []
    for row, (text, wanted) in enumerate(
        zip(*(table.columns[name] for name in columns), strict=True)
    ):
        where = table.where(row)
        sentences = parse_sentences(text, where, options.language)
        if options.label_column:
            labels = _parse_labels(wanted, len(sentences), where)
            summary = [sentences[label] for label in labels]
        else:
            summary = parse_sentences(wanted, where, options.language, "summary")
            labels = greedy_labels(sentences, summary, options.sentences, options.tokenize)
        if not split_words("\n".join(summary), options.tokenize):
            raise UserError(
                f"{where}: the summary {tables.shorten(' '.join(summary))} has no word that ROUGE "
                "can count; write one, or drop the row."
            )
        documents.append(Document(sentences, labels, "\n".join(summary)))
    return tuple(documents)


def parse_sentences(
    value: str | Sequence[str], where: str, language: str, what: str = "document"
) -> tuple[str, ...]:
    """Returns the sentences of a list as they are, and splits running text.

    Args:
        value: sentences, JSON that is a list of sentences, or running text.
        where: its place in errors.
        language: code of the language whose rules split text.
        what: its name in errors.

    Raises:
        UserError: there is no sentence, one is empty, or a tokenizer can't read it.
    """
    if isinstance(value, str):
        listed = tables.read_json(value)
        value = listed if isinstance(listed, list) else split_sentences(value, language)
    if not value:
        raise UserError(f"{where}: the {what} is empty; write one, or leave it out.")
    for number, sentence in enumerate(value):
        if not isinstance(sentence, str) or not sentence.strip():
            problem = "is empty" if isinstance(sentence, str) else "is no text"
            raise UserError(
                f"{where}: sentence {number} of the {what} (from 0) {problem}; write one, or leave "
                "it out."
            )
        tables.check_text(sentence, where)
    return tuple(" ".join(sentence.split()) for sentence in value)


def _parse_labels(text: str, count: int, where: str) -> tuple[int, ...]:
    labels = set()
    for number in re.findall(r'[^\s,"\[\]]+', text):
        if not number.isdecimal() or len(number) > 9 or int(number) >= count:
            raise UserError(
                f"{where}: label {tables.shorten(number)} names no sentence of the document, which "
                f"has the sentences 0 to {count - 1}; correct it."
            )
        labels.add(int(number))
    if not labels:
        raise UserError(f"{where}: there is no label; name a sentence, or drop the row.")
    return tuple(sorted(labels))
