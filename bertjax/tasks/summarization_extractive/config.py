"""Options of extractive summarization."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, get_args

from bertjax.config import make_tuples
from bertjax.errors import UserError, refuse_unknown
from bertjax.tasks.rouge import RougeTokenization


@dataclasses.dataclass(frozen=True)
class ExtractiveSummarizationConfig:
    """Pick the sentences of a document that summarize it, as BERTSUM (Liu and Lapata 2019).

    The files are .jsonl, .csv or .tsv. A document may have any number of windows, each of at most
    512 tokens by default. The labels are the sentences that together have the best ROUGE against a
    written summary, unless a column names them. The main metric is rouge1.
    """

    kind: ClassVar[str] = "summarization_extractive"

    document_column: str = "document"
    """Column of the document: running text, or a JSON list of its sentences."""
    summary_column: str = "summary"
    """Column of the written summary: running text, or a JSON list of sentences."""
    label_column: str | None = None
    """Column of the numbers of the sentences to pick, from 0, instead of a summary: a JSON list, or
    numbers with spaces between. Their text is what ROUGE compares with."""
    column_names: Sequence[str] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    language: str = "en"
    """Language code whose rules split running text into sentences."""
    tokenize: RougeTokenization = "english"
    """How labels and ROUGE split texts: english (a-z and 0-9), words (of any script), or characters
    (of scripts without spaces). ROUGE also stems English words."""
    sentences: int = 3
    """Maximum sentences of a summary that is picked, and maximum labels of a document."""
    trigram_blocking: bool = True
    """Pick no sentence that has three consecutive words in common with a better one."""
    inter_sentence_layers: int = 2
    """Layers over the vectors of the sentences of a window; 0: each sentence is judged alone."""

    def __post_init__(self) -> None:
        make_tuples(self)
        refuse_unknown("tokenize", self.tokenize, get_args(RougeTokenization))
        if self.sentences < 1:
            raise UserError(f"`sentences` is {self.sentences}: give at least 1.")
        if self.inter_sentence_layers < 0:
            raise UserError(
                f"`inter_sentence_layers` is {self.inter_sentence_layers}: give at least 0."
            )


@dataclasses.dataclass(frozen=True)
class PickingOptions:
    """Which sentences are picked. Default: as in training.

    A line is a document as text, a JSON list of its sentences, or either as {"document": ...}.
    """

    sentences: int = ExtractiveSummarizationConfig.sentences
    """Maximum sentences of a summary."""
    trigram_blocking: bool = ExtractiveSummarizationConfig.trigram_blocking
    """Pick no sentence that has three consecutive words in common with a better one."""


@dataclasses.dataclass(frozen=True)
class ExtractiveEvaluation(PickingOptions):
    """How a file is read, and which sentences are picked. Default: as in training."""

    document_column: str | None = None
    """Column of the document."""
    summary_column: str | None = None
    """Column of the written summary."""
    label_column: str | None = None
    """Column of the numbers of the sentences to pick."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, for a file without a header."""
    tokenize: RougeTokenization | None = None
    """How ROUGE, and the labels of a summary, split texts: english (a-z and 0-9), words (of any
    script), or characters."""
