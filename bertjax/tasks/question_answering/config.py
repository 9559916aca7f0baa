"""Options of question answering."""

import dataclasses
from typing import ClassVar

from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringConfig:
    """Find answers to questions in documents, or that there is none, as in SQuAD 1.1 and 2.0.

    The files are .json in SQuAD's format, or JSON Lines or TFDS data sets (tfds:squad) with a
    question a row. A document may have any number of windows, each of at
    most 384 tokens by default. The main metric is f1.
    """

    kind: ClassVar[str] = "question_answering"

    doc_stride: int = 128
    """Tokens from the beginning of a window to that of the next one, as in Google's run_squad.py.
    In Hugging Face's scripts the stride is the overlap of two windows."""
    max_query_length: int = 64
    """Maximum tokens of a question; a longer one is truncated."""
    max_answer_length: int = 30
    """Maximum tokens of an answer that the model gives."""
    drop_misaligned: bool = False
    """Leave out answers that are not at their answer_start, and questions without another one."""

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_query_length", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` is {getattr(self, name)}: give at least 1.")

    def check_fits(self, max_seq_length: int) -> None:
        """Raises a UserError if windows of `max_seq_length` tokens would skip document tokens."""
        room = max_seq_length - self.max_query_length - 3
        if room < 1:
            raise UserError(
                f"`max_query_length` {self.max_query_length} leaves no room for the document in "
                f"windows of `max_seq_length` {max_seq_length} tokens: lower it, or raise the "
                "other."
            )
        if self.doc_stride > room:
            raise UserError(
                f"`doc_stride` {self.doc_stride} is longer than the {room} document tokens that a "
                f"window of `max_seq_length` {max_seq_length} holds beside `max_query_length` "
                f"{self.max_query_length}: give at most {room}."
            )


@dataclasses.dataclass(frozen=True)
class QuestionFile:
    """How a file of questions is read."""

    drop_misaligned: bool = False
    """Leave out answers that are not at their answer_start, and questions without another one."""


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """The answers to a question."""

    top_k: int = 5
    """Number of answers to a question, the likeliest first."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"`top_k` is {self.top_k}: give at least 1.")
