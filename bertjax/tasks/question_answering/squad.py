"""Questions of SQuAD, versions 1.1 and 2.0, in its own format and in that of Hugging Face."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks import tables
from bertjax.tasks.task import data_hash
from bertjax.text import tfds_source

_SHOWN = 20
"""Misaligned answers that an error names."""


class Answer(NamedTuple):
    """A correct answer."""

    text: str
    """The text of the document."""
    start: int
    """Its first character in the document."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question on a document."""

    id: str
    """Its unique name."""
    question: str
    """The text of the question."""
    context: str
    """The document."""
    answers: tuple[Answer, ...] = ()
    """Its correct answers; empty if it has none or they are unknown."""
    where: str = ""
    """Its name in errors."""


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of a file, in order."""

    path: epath.Path
    """The file."""
    questions: tuple[Question, ...]
    """At least one."""
    has_unanswerable: bool
    """Whether some questions have no answer (version 2.0)."""
    sha256: str
    """SHA-256 of the questions, regardless of the layout of the file."""
    misaligned: int = 0
    """Number of answers that are left out."""

    def __len__(self) -> int:
        return len(self.questions)


def read_squad(path: epath.PathLike, *, drop_misaligned: bool = False) -> Questions:
    """Reads a file in SQuAD's format, or rows of questions as Hugging Face and TFDS have them.

    Rows have id, question, context and answers: {"text": [...], "answer_start": [...]}. They are
    lines of JSON, the list "data" of a .json file, or a data set tfds:NAME[/CONFIG][:SPLIT]. The
    file has version 2.0 if its `version` says so or a question has no answer.

    Args:
        path: the file or the data set.
        drop_misaligned: whether to leave out answers that are not at their answer_start, and
            questions that have no others.

    Raises:
        UserError: the file does not exist or has another format, an id is not unique, or answers
            are not at their answer_start; the sentence names the questions.
    """
    source, data = _read(path)
    questions: dict[str, Question] = {}
    misaligned: list[str] = []
    for entry, context, where in _entries(source, data):
        question, faults = _question(entry, context, where)
        misaligned += faults
        if faults and not question.answers:
            continue
        if question.id in questions:
            raise UserError(
                f"{question.where}: two questions have this id; give each question its own."
            )
        questions[question.id] = question
    if misaligned and not drop_misaligned:
        _refuse_misaligned(source, misaligned)
    if not questions:
        raise UserError(f"{source}: holds no question; give a file in the format of SQuAD.")
    version_2 = re.fullmatch(r"v?2(\.\d{1,2})*", str(data.get("version", "")))
    rows = [dataclasses.astuple(each)[:4] for each in questions.values()]
    return Questions(
        epath.Path(source),
        tuple(questions.values()),
        version_2 is not None or not all(each.answers for each in questions.values()),
        data_hash(rows),
        len(misaligned),
    )


def _refuse_misaligned(source: str, misaligned: Sequence[str]) -> NoReturn:
    shown = "; ".join(each.removeprefix(f"{source}: ") for each in misaligned[:_SHOWN])
    more = f"; and {len(misaligned) - _SHOWN:,} more" if len(misaligned) > _SHOWN else ""
    answers = "an answer is" if len(misaligned) == 1 else f"{len(misaligned):,} answers are"
    raise UserError(
        f"{source}: {answers} not at answer_start: {shown}{more}. Correct answer_start or the "
        "text, or set `drop_misaligned` to leave such answers out."
    )


def _read(path: epath.PathLike) -> tuple[str, dict[str, Any]]:
    """Returns the name of a source and an object with its "data"."""
    if str(path).startswith(tfds_source.PREFIX):
        name, rows = tfds_source.rows(str(path))
        return name, {"data": list(rows)}
    path = location(path)
    text = tables.read_text(path, "SQuAD's .json")
    try:
        data = json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply; give a SQuAD file.") from None
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        lines = [tables.read_json(each) for each in text.split("\n") if each.strip()]
        if not all(isinstance(each, dict) for each in lines):
            raise UserError(
                f"{path}{line}: not JSON ({reason}); give a file in the format of SQuAD."
            ) from None
        data = {"data": lines}
    if isinstance(data, dict) and "question" in data:  # a single line
        data = {"data": [data]}
    if not isinstance(data, dict) or "data" not in data:
        raise UserError(
            f'{path}: no file in the format of SQuAD, an object {{"data": [article, ...]}}; '
            "rows of texts and labels are for another `task`."
        )
    return str(path), data


def _entries(source: str, data: dict[str, Any]) -> Iterator[tuple[Any, str, str]]:
    """Yields (question, its context, place of the context) in order."""
    for number, article in enumerate(_list(data, "data", source), start=1):
        if isinstance(article, dict) and "question" in article:
            where = f"{source}: row {number}"
            yield article, _text(article, "context", where, max_length=None), where
            continue
        place = f"{source}: article {number}"
        title = article.get("title") if isinstance(article, dict) else None
        place += f" ({title!r})" if isinstance(title, str) and title else ""
        for index, paragraph in enumerate(_list(article, "paragraphs", place), start=1):
            where = f"{place}, paragraph {index}"
            context = _text(paragraph, "context", where, max_length=None)
            for entry in _list(paragraph, "qas", where):
                yield entry, context, where


def _question(entry: Any, context: str, where: str) -> tuple[Question, list[str]]:
    """Returns a question with the answers that are at their places, and what is wrong with the
    others."""
    name = entry.get("id") if isinstance(entry, dict) else None
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: one of its qas has no id; give every question a text as its id.")
    where = f"{where}, question {name!r}"
    tables.check_text(name, where)
    question = _text(entry, "question", where)
    given = _answers(entry, where)
    impossible = entry.get("is_impossible", not given)
    if not isinstance(impossible, bool) or impossible != (not given):
        raise UserError(
            f"{where}: is_impossible is {json.dumps(impossible)} and it has {len(given)} "
            "answers; correct one of the two."
        )
    answers, faults = [], []
    for text, start in given:
        fault = _misalignment(text, start, context)
        if fault is None:
            answers.append(Answer(text, start))
        else:
            faults.append(f"{where}: {fault}")
    return Question(name, question, context, tuple(answers), where), faults


def _answers(entry: dict[str, Any], where: str) -> list[tuple[str, int]]:
    """Returns (text, answer_start) of each answer, in SQuAD's or in Hugging Face's form."""
    found = entry.get("answers")
    if "answers" not in entry and entry.get("is_impossible") is True:
        found = []
    if isinstance(found, dict):
        names = ("text", "answer_start")
        columns = [_list(found, name, f"{where}, its answers") for name in names]
        if len(columns[0]) != len(columns[1]):
            raise UserError(
                f"{where}: has answers of {len(columns[0])} texts and "
                f"{len(columns[1])} answer_starts; correct one of the two."
            )
        found = [dict(zip(names, pair, strict=True)) for pair in zip(*columns, strict=True)]
    if not isinstance(found, list):
        keys = ", ".join(map(tables.shorten, list(entry)[:12]))
        raise UserError(
            f"{where}: has no list 'answers' (it has {keys}); write one, empty if the document has "
            "no answer."
        )
    pairs = []
    for answer in found:
        text = _text(answer, "text", f"{where}, its answer")
        start = answer.get("answer_start")
        if not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{where}: answer_start is {start!r}; write the number of a character.")
        pairs.append((text, start))
    return pairs


def _misalignment(text: str, start: int, context: str) -> str | None:
    """Returns what is wrong with the place of an answer, or None."""
    if start >= 0 and context[start : start + len(text)] == text:
        return None
    found = context[max(start, 0) : max(start, 0) + len(text)]
    elsewhere = context.find(text)
    there = "nowhere in its context" if elsewhere < 0 else f"at character {elsewhere}"
    return (
        f"at {start} stands {tables.shorten(found)}, but the answer is {tables.shorten(text)}, "
        f"which is found {there}"
    )


def _list(value: Any, name: str, where: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{where}: has no list {name!r}; give a file in the format of SQuAD.")
    return found


def _text(value: Any, name: str, where: str, max_length: int | None = tables.MAX_FIELD) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str) or not found.strip():
        what = "is empty" if isinstance(found, str) else "is missing or no text"
        raise UserError(f"{where}: {name!r} {what}; write one, or leave the question out.")
    return tables.check_text(found, where, max_length=max_length)
