"""Files in SQuAD's format, versions 1.1 and 2.0."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks import tables


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

    def __len__(self) -> int:
        return len(self.questions)


def read_squad(path: epath.PathLike) -> Questions:
    """Reads a file in SQuAD's format.

    It has version 2.0 if its `version` says so or a question has no answer.

    Raises:
        UserError: the file does not exist or has another format, an id is not unique, or an answer
            is not at its answer_start; the sentence names the question.
    """
    path = location(path)
    data = _read_json(path)
    questions: dict[str, Question] = {}
    for number, article in enumerate(_list(data, "data", str(path)), start=1):
        place = f"{path}: article {number}"
        title = article.get("title") if isinstance(article, dict) else None
        place += f" ({title!r})" if isinstance(title, str) and title else ""
        for index, paragraph in enumerate(_list(article, "paragraphs", place), start=1):
            where = f"{place}, paragraph {index}"
            context = _text(paragraph, "context", where, max_length=None)
            for entry in _list(paragraph, "qas", where):
                question = _question(entry, context, where)
                if question.id in questions:
                    raise UserError(
                        f"{question.where}: two questions have this id; give each question its own."
                    )
                questions[question.id] = question
    if not questions:
        raise UserError(f"{path}: holds no question; give a file in the format of SQuAD.")
    unanswerable = str(data.get("version", "")).lstrip("v").startswith("2")
    rows = [dataclasses.astuple(each)[:4] for each in questions.values()]
    return Questions(
        path,
        tuple(questions.values()),
        unanswerable or not all(each.answers for each in questions.values()),
        hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    )


def _read_json(path: epath.Path) -> dict[str, Any]:
    text = tables.read_text(path, (".json",), "SQuAD's .json")
    try:
        data = json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply; give a SQuAD file.") from None
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(
            f"{path}{line}: not JSON ({reason}); give a file in the format of SQuAD."
        ) from None
    if not isinstance(data, dict) or "data" not in data:
        raise UserError(
            f'{path}: no file in the format of SQuAD, an object {{"data": [article, ...]}}; '
            "rows of texts and labels are for another `task`."
        )
    return data


def _question(entry: Any, context: str, where: str) -> Question:
    name = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: one of its qas has no id; give every question a text as its id.")
    where = f"{where}, question {name!r}"
    tables.check_text(name, where)
    question = _text(entry, "question", where)
    answers = tuple(
        _answer(answer, context, where) for answer in _list(entry, "answers", where, default=[])
    )
    impossible = entry.get("is_impossible", not answers)
    if not isinstance(impossible, bool) or impossible != (not answers):
        raise UserError(
            f"{where}: is_impossible is {json.dumps(impossible)} and it has {len(answers)} "
            "answers; correct one of the two."
        )
    return Question(name, question, context, answers, where)


def _answer(answer: Any, context: str, where: str) -> Answer:
    text = _text(answer, "text", f"{where}, its answer")
    start = answer.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool):
        raise UserError(f"{where}: answer_start is {start!r}; write the number of a character.")
    if start < 0 or context[start : start + len(text)] != text:
        found = context[max(start, 0) : max(start, 0) + len(text)]
        elsewhere = context.find(text)
        there = "nowhere in its context" if elsewhere < 0 else f"at character {elsewhere}"
        raise UserError(
            f"{where}: at answer_start {start} stands {tables.shorten(found)}, but the answer is "
            f"{tables.shorten(text)}, which is found {there}; correct answer_start or the text."
        )
    return Answer(text, start)


def _list(value: Any, name: str, where: str, default: list[Any] | None = None) -> list[Any]:
    found = value.get(name, default) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{where}: has no list {name!r}; give a file in the format of SQuAD.")
    return found


def _text(value: Any, name: str, where: str, max_length: int | None = tables.MAX_FIELD) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str) or not found.strip():
        what = "is empty" if isinstance(found, str) else "is missing or no text"
        raise UserError(f"{where}: {name!r} {what}; write one, or leave the question out.")
    return tables.check_text(found, where, max_length=max_length)
