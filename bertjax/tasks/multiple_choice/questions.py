"""Questions with choices, from files and lines, and the right ones among the choices."""

import dataclasses
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks import tables
from bertjax.tasks.multiple_choice.config import AnswerForm, ChoiceColumns, MultipleChoiceConfig

MIN_CHOICES = 2
_FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)
_BLANK = re.compile(r"(?<!\w)_+(?!\w)")  # what a choice fills in, as in RACE


class Question(NamedTuple):
    """A question with its choices."""

    context: str
    """A text that the question is about, or ""."""
    question: str
    """The question; "" if the choices go on with the context."""
    choices: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str]]:
        """Returns the two texts that a model reads of each choice.

        They are question and choice, or with a context those of Hugging Face's
        `utils_multiple_choice.py`: context, and question with choice.
        """
        if not self.context:
            return [(self.question, choice) for choice in self.choices]
        return [(self.context, self._completed(choice)) for choice in self.choices]

    def _completed(self, choice: str) -> str:
        if _BLANK.search(self.question):
            return _BLANK.sub(lambda _: choice, self.question)
        return f"{self.question} {choice}".strip()


@dataclasses.dataclass(frozen=True)
class Answered:
    """The questions of a file, and their right choices."""

    questions: list[Question]
    answers: np.ndarray
    """int32 [N]: the right choice of each question."""
    form: AnswerForm
    """How the file writes answers."""
    left_out: int
    """Number of rows that are left out."""

    def __len__(self) -> int:
        return len(self.questions)


def read_questions(path: epath.PathLike, options: MultipleChoiceConfig) -> Answered:
    """Reads a labeled file.

    Raises:
        UserError: something is wrong with the file; the sentence names the line.
    """
    columns = {**options.fields_by_column(), options.answer_column: "answer_column"}
    context = (options.context_column,) if options.context_column else ()
    table = tables.read_table(
        path,
        columns,
        column_names=options.column_names,
        may_be_lists=True,
        may_be_null={*context, *options.choice_columns},
    )
    rows = range(len(table))
    questions = [
        parse_question(
            {name: values[row] for name, values in table.columns.items()},
            options,
            table.where(row),
        )
        for row in rows
    ]
    given = [text.strip() for text in table.columns[options.answer_column]]
    form = options.answer_form or _find_form(table, options.answer_column, given, questions)
    answers = [_answer(form, *each) for each in zip(given, questions, strict=True)]
    kept = [
        row
        for row in rows
        if len(questions[row].choices) >= MIN_CHOICES and answers[row] is not None
    ]
    if not options.drop_incomplete and len(kept) < len(table):
        row = min(set(rows) - set(kept))
        _refuse(table.where(row), given[row], questions[row], form)
    if not kept:
        raise UserError(f"{table.path}: no row has two choices and an answer among them.")
    for row in kept:
        count, wanted = len(questions[row].choices), options.num_choices
        if wanted is not None and count != wanted:
            raise UserError(
                f"{table.where(row)}: choices in this row: {count}, and `num_choices` is {wanted}; "
                "repair the row, or leave out `num_choices`."
            )
    return Answered(
        [questions[row] for row in kept],
        np.array([answers[row] for row in kept], np.int32),
        form,
        len(table) - len(kept),
    )


def parse_question(fields: Mapping[str, Any], columns: ChoiceColumns, where: str) -> Question:
    """Returns the question of a row, or of the object of a line.

    It may have fewer than two choices.

    Args:
        fields: its values; a list may be JSON text.
        columns: their names.
        where: its name in errors.

    Raises:
        UserError: there is neither a question nor a context, or a choice is no text.
    """
    context = _text(fields, columns.context_column, where) if columns.context_column else ""
    question = _text(fields, columns.question_column, where)
    if not context and not question:
        raise UserError(f"{where}: column {columns.question_column!r} is empty; write a question.")
    if columns.choice_columns:
        given = [_text(fields, name, where) for name in columns.choice_columns]
        while given and not given[-1]:
            given.pop()
    else:
        given = _listed(_value(fields, columns.choices_column), columns.choices_column, where)
    if "" in given:
        raise UserError(
            f"{where}: choice {given.index('') + 1} of {len(given)} is empty; write it, or remove "
            "it and the row's other choices after it."
        )
    return Question(context, question, tuple(given))


def require_choices(question: Question, where: str) -> Question:
    """Returns a question that has at least two choices, or raises a UserError."""
    if len(question.choices) < MIN_CHOICES:
        raise UserError(
            f"{where}: choices: {len(question.choices)}; write at least {MIN_CHOICES}, or leave "
            "the question out."
        )
    return question


def _value(fields: Mapping[str, Any], name: str) -> Any:
    """Returns a field; the name a.b is the field b of the object a, as in `read_table`."""
    outer, _, inner = name.partition(".")
    if name not in fields and isinstance(fields.get(outer), Mapping):
        return _value(fields[outer], inner)
    return fields.get(name)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = _value(fields, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} is no text; write a string.")
    return tables.check_text(value, where).strip()


def _listed(value: Any, name: str, where: str) -> list[str]:
    if isinstance(value, str):
        value = tables.read_json(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(
            f"{where}: {name!r} holds no list of choices; write a JSON list of texts, or name the "
            "columns of the choices in `choice_columns`."
        )
    texts: list[Any] = [each.get("text") if isinstance(each, Mapping) else each for each in value]
    if wrong := [each for each in texts if not isinstance(each, str)]:
        raise UserError(
            f"{where}: a choice is {json.dumps(wrong[0])[:40]}, which is no text; write a string."
        )
    return [tables.check_text(text, where).strip() for text in texts]


def _answer(form: AnswerForm, text: str, question: Question) -> int | None:
    """Returns the choice that a text names, or None."""
    choices = question.choices
    if form == "text":
        return choices.index(text) if choices.count(text) == 1 else None
    letter = len(text) == 1 and form == "from_1" and text.upper() in string.ascii_uppercase
    number = tables.as_number(text)
    if letter:
        index = string.ascii_uppercase.index(text.upper())
    elif number is not None and number.is_integer():
        index = int(number) - (form == "from_1")
    else:
        return None
    return index if 0 <= index < len(choices) else None


def _find_form(
    table: tables.Table, column: str, given: Sequence[str], questions: Sequence[Question]
) -> AnswerForm:
    """Returns the form that gives most rows an answer.

    Raises:
        UserError: two forms do, and give other answers.
    """
    found: dict[AnswerForm, list[int | None]] = {
        form: [_answer(form, *each) for each in zip(given, questions, strict=True)]
        for form in _FORMS
    }
    hits: dict[AnswerForm, int] = {
        form: sum(each is not None for each in answers) for form, answers in found.items()
    }
    forms: list[AnswerForm] = [form for form, count in hits.items() if count == max(hits.values())]
    if max(hits.values()) and any(found[form] != found[forms[0]] for form in forms):
        raise UserError(
            f"{table.path}: the answers in column {column!r}, such as {tables.shorten(given[0])}, "
            f"can be read as {' and as '.join(forms)}; set `answer_form` to one of these."
        )
    return forms[0]


def _refuse(where: str, answer: str, question: Question, form: AnswerForm) -> None:
    require_choices(question, f"{where} (or set `drop_incomplete`)")
    names = {
        "from_0": f"a number from 0 to {len(question.choices) - 1}",
        "from_1": f"a number from 1 to {len(question.choices)}, or a letter from A to "
        f"{string.ascii_uppercase[len(question.choices) - 1 : len(question.choices)] or 'Z'}",
        "text": "the text of exactly one of them",
    }
    raise UserError(
        f"{where}: the answer {tables.shorten(answer)} is none of the {len(question.choices)} "
        f"choices; write {names[form]}, set `answer_form` if the file writes answers in another "
        "form, or set `drop_incomplete` to leave out such rows."
    )
