"""ROUGE of picked sentences beside Lead-k and the oracle, and metrics of the labels."""

import functools
from collections.abc import Sequence

import numpy as np

from bertjax.tasks.report_tables import MAX_ROWS, ReportTable, examples
from bertjax.tasks.rouge import RougeTokenization, rouge_scores
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.summarization_extractive.documents import Document
from bertjax.tasks.summarization_extractive.features import Windows
from bertjax.tasks.summarization_extractive.selection import lead, pick
from bertjax.tasks.task import Outputs, Scores

Picks = Sequence[Sequence[int]]
"""Indices of the sentences that are picked from each document."""


def scores(windows: Windows, outputs: Outputs, options: ExtractiveSummarizationConfig) -> Scores:
    """Computes the metrics of windows with labels.

    Args:
        windows: N windows.
        outputs: row numbers [n] and logits [n, S].
        options: how many sentences to pick, and how.

    Returns:
        rouge1, rouge2, rougeL and rougeLsum of the picked sentences, in percent; the same of the
        first sentences (lead_rouge1, ...) and of the labeled ones (oracle_rouge1, ...); f1 and
        accuracy, from 0 to 1: whether a sentence is picked, against the labels; loss.
    """
    documents = windows.documents
    logits = windows.by_document(outputs)
    picks = [
        pick_sentences(document, each, options)
        for document, each in zip(documents, logits, strict=True)
    ]
    return {
        **rouge(documents, picks, options.tokenize),
        **rules(windows, options.sentences, options.tokenize),
        **_label_scores(documents, picks),
        "loss": _loss(documents, logits),
    }


def report_tables(
    windows: Windows, outputs: Outputs, options: ExtractiveSummarizationConfig
) -> list[ReportTable]:
    """Returns the documents, their summaries and the picked sentences side by side."""
    first, logits = windows.documents[:MAX_ROWS], windows.by_document(outputs)
    picks = [
        pick_sentences(document, each, options)
        for document, each in zip(first, logits, strict=False)
    ]
    given = {
        "document": ["\n".join(document.sentences) for document in first],
        "reference": [document.summary for document in first],
    }
    return [examples("Examples of the dev rows", given, {"picked": _texts(first, picks)})]


def pick_sentences(
    document: Document, logits: np.ndarray, options: ExtractiveSummarizationConfig
) -> tuple[int, ...]:
    """Picks the sentences of a document by logits [S]."""
    return pick(
        logits, document.sentences, options.sentences, trigram_blocking=options.trigram_blocking
    )


@functools.lru_cache(maxsize=4)
def rules(windows: Windows, limit: int, tokenize: RougeTokenization) -> Scores:
    """Computes ROUGE of Lead-k and of the oracle, which no training changes.

    Returns:
        lead_rouge1, ..., of the first `limit` sentences; oracle_rouge1, ..., of the labeled ones.
    """
    documents = windows.documents
    picks = {
        "lead": [lead(document.sentences, limit) for document in documents],
        "oracle": [document.labels for document in documents],
    }
    return {
        f"{name}_{metric}": value
        for name, each in picks.items()
        for metric, value in rouge(documents, each, tokenize).items()
    }


def rouge(documents: Sequence[Document], picks: Picks, tokenize: RougeTokenization) -> Scores:
    """Computes ROUGE of the picked sentences against the summaries, in percent."""
    summaries = [document.summary for document in documents]
    return rouge_scores(_texts(documents, picks), summaries, tokenize=tokenize)


def _texts(documents: Sequence[Document], picks: Picks) -> list[str]:
    """Returns the picked sentences, a line each."""
    return [
        "\n".join(document.sentences[index] for index in own)
        for document, own in zip(documents, picks, strict=True)
    ]


def _label_scores(documents: Sequence[Document], picks: Picks) -> Scores:
    """F1 and accuracy over the sentences of all documents."""
    both = sum(len({*own} & {*each.labels}) for each, own in zip(documents, picks, strict=True))
    either = sum(len(own) for own in picks) + sum(len(each.labels) for each in documents)
    sentences = sum(len(each.sentences) for each in documents)
    return {"f1": 2 * both / max(1, either), "accuracy": 1 - (either - 2 * both) / sentences}


def _loss(documents: Sequence[Document], logits: Sequence[np.ndarray]) -> float:
    """Mean binary cross-entropy over the sentences of all documents."""
    signs = [-np.ones(len(document.sentences)) for document in documents]
    for own, document in zip(signs, documents, strict=True):
        own[list(document.labels)] = 1
    return float(np.logaddexp(0, -np.concatenate(signs) * np.concatenate(logits)).mean())
