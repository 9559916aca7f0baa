"""Mistakes in the words of a command, as sentences: what is missing, and values of a wrong kind."""

import dataclasses
import difflib
import itertools
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from bertjax.errors import UserError
from bertjax.flags import fields_of, has, nested_in

if TYPE_CHECKING:
    from tyro.constructors import StructFieldSpec

EXAMPLES = {
    "tokenizer train": "--input corpus/*.txt --output tokenizer",
    "prepare": "--input corpus/*.txt --tokenizer tokenizer --output shards",
    "pretrain": "--data shards --workdir runs/mine",
    "plan": "recipe.py --topology v5e:2x4",
    "convert": "runs/mine exported",
    "finetune": "--model runs/mine --train train.csv --dev dev.csv --workdir runs/task",
    "glue": "glue_data --model runs/mine --workdir runs/glue",
    "evaluate": "runs/task test.csv",
    "predict": "runs/task lines.txt",
    "embed": "runs/mine lines.txt --output vectors.npy",
    "search": "texts.txt queries.txt --model runs/mine",
    "probe": "runs/mine --train train.csv --dev dev.csv",
    "report": "runs/mine runs/other",
    "completion": "bash",
}
"""A command of every verb that needs something, without its first words."""

_ABSENT = object()
"""Stands for a value that is needed and not given."""

_KINDS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "INT ...": "whole numbers",
    "FLOAT ...": "numbers",
}


class Refused(Exception):
    """Carries a `UserError` through tyro, which prints a ValueError of a configuration itself."""


def refusing(make: Callable[..., Any], *words: str, **values: Any) -> Any:
    """Calls a function, whose `UserError` becomes `Refused`."""
    try:
        return make(*words, **values)
    except UserError as error:
        raise Refused(error) from error


def first_sentence(text: str) -> str:
    """Returns a text up to the end of its first sentence."""
    return text.split(". ")[0].rstrip(".")


class Command(NamedTuple):
    """The words of a command, whose mistakes are told."""

    verb: str
    words: list[str]
    """The words after the verb, with the groups of their flags."""

    def check_flags(self, kind: type) -> None:
        """Raises `UserError` if a flag that takes a value ends the command or precedes a flag."""
        needy = {name for _, name, hint in fields_of(kind) if _needs_value(hint)}
        for word, following in itertools.pairwise([*self.words, "--"]):
            if word in needy and following.startswith("--"):
                raise UserError(f"{word} has no value: write one after it.{self._help()}")

    def check_rest(self, rest: Sequence[str]) -> None:
        """Raises `UserError` if a word belongs to nothing."""
        if rest:
            raise UserError(f"{rest[0]!r} is one word too many: leave it out.{self._help()}")

    def check_values(self, fields: Sequence["StructFieldSpec"], values: dict[str, Any]) -> None:
        """Raises `Refused` if a field that needs a value has none."""
        missing = [field for field in fields if values.get(field.name) is _ABSENT]
        if not missing:
            return
        told = []
        for field in missing:
            text = field.helptext() if callable(field.helptext) else field.helptext
            told.append(f"`{field.name}` ({first_sentence(text or field.name)})")
        raise Refused(
            UserError(
                f"{self.verb} needs {' and '.join(told)}, as in "
                f"`bertjax {self.verb} {EXAMPLES[self.verb]}`.{self._help()}"
            )
        )

    def checked(self, field: "StructFieldSpec", metavar: str | None) -> "StructFieldSpec":
        """Returns a field that says what is wrong with its value, or that it has none."""
        from tyro import MISSING, MISSING_NONPROP
        from tyro.conf import Positional
        from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo

        if metavar is None or nested_in(field.type) is not None:
            return field
        spec: Any = ConstructorRegistry.get_primitive_spec(
            PrimitiveTypeInfo.make(field.type, set())
        )
        name = field.name.upper() if has(field.type, Positional) else None

        def read(words: list[str]) -> Any:
            if spec.choices and words[0] not in spec.choices:
                known = metavar[1:-1].split(",")  # in their own order
                near = difflib.get_close_matches(words[0], known, 1)
                asked = f"; did you mean {near[0]}?" if near else "."
                self._refuse(name, words, f"one of {', '.join(known)}{asked}")
            try:
                return spec.instance_from_str(words)
            except (AssertionError, ValueError):  # as tyro's own rules refuse words
                return self._refuse(name, words, f"{_KINDS.get(metavar, metavar)}.")

        rule = dataclasses.replace(
            spec,
            instance_from_str=read,
            choices=None,
            is_instance=lambda value: value is _ABSENT or spec.is_instance(value),
        )
        if field.default is not MISSING and field.default is not MISSING_NONPROP:
            return dataclasses.replace(field, type=Annotated[field.type, rule])
        markers = getattr(field.type, "__metadata__", ())
        # tyro warns of defaults of another type. To ask whether they are Any, it imports typeguard.
        hint = Annotated[object, *markers, rule]
        return dataclasses.replace(field, type=hint, default=_ABSENT)

    def _refuse(self, name: str | None, words: list[str], wanted: str) -> typing.NoReturn:
        flag = name or self._flag_before(words)
        raise Refused(UserError(f"{flag} is {' '.join(words)!r}: give {wanted}"))

    def _flag_before(self, values: list[str]) -> str:
        """Returns the flag that has these values."""
        name = ""
        for at, word in enumerate(self.words):
            given, _, value = word.partition("=")
            if word.startswith("--"):
                name = given
            if values in ([value], self.words[at : at + len(values)]):
                break
        return name

    def _help(self) -> str:
        return f" `bertjax {self.verb} --help` explains the options."


def _needs_value(hint: Any) -> bool:
    """Returns whether a flag with this hint is followed by at least one word."""
    if hint is bool or nested_in(hint) is not None:
        return False
    return not {tuple, dict, Sequence} & set(_origins(hint))


def _origins(hint: Any) -> list[Any]:
    return [
        typing.get_origin(hint),
        *(one for each in typing.get_args(hint) for one in _origins(each)),
    ]
