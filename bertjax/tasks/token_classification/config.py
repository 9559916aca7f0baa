"""Options of token classification."""

import dataclasses
from typing import ClassVar, Literal, get_args

from bertjax.errors import UserError, refuse_unknown
from bertjax.tasks.token_classification.schemes import Scheme


@dataclasses.dataclass(frozen=True)
class TokenClassificationConfig:
    """Tag each word of a sentence: named entities, chunks or parts of speech.

    The files are CoNLL columns with a word a line, or .jsonl with the lists tokens and tags, or
    with a text and its entities (start, end, label). Sentences of more than 128 tokens (by default)
    have several windows. The main metric is f1 of entities, or accuracy for tags without a scheme.
    """

    kind: ClassVar[str] = "token_classification"

    token_column: str | None = None
    """Column of the words: a name, or a number from 1. Default: the first one; "tokens" in .jsonl.
    """
    tag_column: str | None = None
    """Column of the tags: a name, or a number from 1. Default: the last one; "tags" in .jsonl."""
    column_names: tuple[str, ...] = ()
    """Names of all columns, for files of columns without a header."""
    tag_names: tuple[str, ...] = ()
    """Names of tags that are numbers, from 0, as in Hugging Face's data sets."""
    scheme: Scheme = "detect"
    """Scheme of the tags. io: a tag is the type of its entity. none: tags are learned as they are.
    """
    label_all_pieces: bool = False
    """Train on all pieces of a word, as `label_all_tokens` in Hugging Face's run_ner.py. The tag of
    a word is that of its first piece."""
    document_context: bool = False
    """Fill each row with the sentences before and after it in its document, which -DOCSTART- lines
    begin; without any, a file is one document."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weights of tags, as B-PER, in the training loss; other tags have weight 1. balanced: all tags
    weigh the same in total. Metrics of dev and test rows are not weighted."""

    def __post_init__(self) -> None:
        refuse_unknown("scheme", self.scheme, get_args(Scheme))
        if isinstance(self.class_weights, str):
            refuse_unknown("class_weights", self.class_weights, ("balanced",))
        if len(set(self.tag_names)) < len(self.tag_names):
            raise UserError("`tag_names` has a name twice: give each tag its own.")


@dataclasses.dataclass(frozen=True)
class TaggedFileOptions:
    """How a file with tags is read. Default: as in training."""

    token_column: str | None = None
    """Column of the words: a name, or a number from 1."""
    tag_column: str | None = None
    """Column of the tags: a name, or a number from 1."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, for files of columns without a header."""
    tag_names: tuple[str, ...] | None = None
    """Names of tags that are numbers, from 0."""
    scheme: Scheme | None = None
    """Scheme of the tags. io: a tag is the type of its entity. none: tags are taken as they are."""

    def __post_init__(self) -> None:
        if self.scheme is not None:
            refuse_unknown("scheme", self.scheme, get_args(Scheme))


@dataclasses.dataclass(frozen=True)
class WordOptions:
    """How lines are read: as raw text, or as {"text": ...} or {"tokens": [...]} in JSON."""

    pre_split: bool = False
    """A line is words with spaces between, and the answer has a tag for each of them."""
