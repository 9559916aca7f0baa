"""Options of multiple choice."""

import dataclasses
from typing import ClassVar, Literal, get_args

from bertjax.errors import UserError, refuse_unknown

AnswerForm = Literal["from_0", "from_1", "text"]


@dataclasses.dataclass(frozen=True)
class ChoiceColumns:
    """Columns of a question: keys in lines that are JSON objects."""

    question_column: str = "question"
    """Column of the question, or of the beginning of a sentence that the choices end."""
    context_column: str | None = None
    """Column of a text that the question is about. Each choice is then read after its question, or
    in place of a _ in it, and else alone."""
    choices_column: str = "choices"
    """Column of the choices: a JSON list of texts, or of objects with a text."""
    choice_columns: tuple[str, ...] = ()
    """Columns of the choices, one each, instead of a list. The last ones may be empty."""

    def fields_by_column(self) -> dict[str, str]:
        """Returns the columns to read, and the field that names each."""
        context = {self.context_column: "context_column"} if self.context_column else {}
        choices = dict.fromkeys(self.choice_columns, "choice_columns")
        return {
            **context,
            self.question_column: "question_column",
            **(choices or {self.choices_column: "choices_column"}),
        }


@dataclasses.dataclass(frozen=True)
class MultipleChoiceConfig(ChoiceColumns):
    """Choose among the answers to each question, as in SWAG, HellaSwag, ARC, CODAH and RACE.

    The files are .tsv, .csv or .jsonl, or TFDS data sets. Rows may have different numbers of
    choices. A choice has at most 128 tokens by default, with its question and context. The main
    metric is accuracy.
    """

    kind: ClassVar[str] = "multiple_choice"

    answer_column: str = "answer"
    """Column of the right choice."""
    answer_form: AnswerForm | None = None
    """How it is written. from_0: 0, 1, ... from_1: 1, 2, ... or A, B, ... text: as the choice.
    Default: the form that fits all training rows."""
    num_choices: int | None = None
    """Number of choices that every row must have. Default: any number from 2."""
    drop_incomplete: bool = False
    """Leave out rows with fewer than two choices, or whose answer is none of them."""
    column_names: tuple[str, ...] = ()
    """Names of all columns, for TSV and CSV files without a header."""

    def __post_init__(self) -> None:
        if self.answer_form is not None:
            refuse_unknown("answer_form", self.answer_form, get_args(AnswerForm))
        if self.num_choices is not None and self.num_choices < 2:
            raise UserError(f"`num_choices` is {self.num_choices}: give at least 2.")
        if len(self.choice_columns) == 1:
            raise UserError(
                "`choice_columns` has one column: name one for each choice, or name the column of "
                "a list in `choices_column`."
            )

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return [*self.fields_by_column(), self.answer_column]


@dataclasses.dataclass(frozen=True)
class ChoiceEvaluation:
    """Columns of a labeled file. Default: those of training."""

    question_column: str | None = None
    """Column of the question."""
    context_column: str | None = None
    """Column of a text that the question is about."""
    choices_column: str | None = None
    """Column of the choices as a list."""
    choice_columns: tuple[str, ...] | None = None
    """Columns of the choices, one each."""
    answer_column: str | None = None
    """Column of the right choice."""
    answer_form: AnswerForm | None = None
    """How it is written. from_0: 0, 1, ... from_1: 1, 2, ... or A, B, ... text: as the choice."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, for a file without a header."""
    drop_incomplete: bool = False
    """Leave out rows with fewer than two choices, or whose answer is none of them."""
