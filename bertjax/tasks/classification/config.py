"""Options of classification."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from bertjax.config import make_tuples
from bertjax.errors import UserError, refuse_unknown

_LongDocuments = Literal["truncate", "windows"]
WindowLogits = Literal["mean", "max"]


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Predict one label, several labels or a number for each text or pair of texts.

    The files are .tsv, .csv or .jsonl, or TFDS data sets such as tfds:glue/mrpc:train. A row has at
    most 128 tokens by default. The main metric is accuracy, micro_f1 with `multi_label`, or
    spearman with `regression`.
    """

    kind: ClassVar[str] = "classification"

    text_column: str = "text"
    """Column of the text."""
    pair_column: str | None = None
    """Column of the second text, for pairs."""
    label_column: str = "label"
    """Column of the label, of the number, or with `multi_label` of all labels of a text."""
    column_names: Sequence[str] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    drop_unlabeled: bool = False
    """Leave out rows without a label: with an empty value, nan, or - as in SNLI."""
    regression: bool = False
    """Predict a number instead of a label."""
    multi_label: bool = False
    """Predict any number of labels for a text. A text gets each label whose probability is at least
    0.5."""
    label_separator: str = "|"
    """Text between two labels in the label column with `multi_label`. An empty value is none."""
    long_documents: _LongDocuments = "truncate"
    """How to read a text that is longer than a row. truncate: drop its end. windows: read all of it
    in overlapping windows and pool their logits. In training each window has the label of its text,
    and the windows of a text weigh as much as one row."""
    window_overlap: int | None = None
    """Tokens that neighboring windows share. Default: a quarter of `max_seq_length`."""
    window_logits: WindowLogits = "mean"
    """How to pool the logits of the windows of a text."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weights of labels in the training loss, a weighted mean as in PyTorch's CrossEntropyLoss;
    other labels have weight 1. balanced: all labels weigh the same in total. Metrics of dev and
    test rows are not weighted."""

    def __post_init__(self) -> None:
        make_tuples(self)
        for name, choices in (("long_documents", _LongDocuments), ("window_logits", WindowLogits)):
            refuse_unknown(name, getattr(self, name), get_args(choices))
        if self.multi_label and self.regression:
            raise UserError("`regression` and `multi_label` exclude each other: give one of them.")
        if isinstance(self.class_weights, str):
            refuse_unknown("class_weights", self.class_weights, ("balanced",))
        if self.multi_label and self.drop_unlabeled:
            raise UserError(
                "`drop_unlabeled` is for one label per text: leave it out, as with `multi_label` "
                "an empty value means that a text has no label."
            )
        if self.class_weights is not None and (self.regression or self.multi_label):
            raise UserError(
                "`class_weights` needs exactly one label per text: leave it out with `regression` "
                "and `multi_label`."
            )
        if not self.label_separator:
            raise UserError("`label_separator` is empty: give the text between two labels.")
        if not self.multi_label and self.label_separator != "|":
            raise UserError("`label_separator` needs `multi_label`: give it too.")
        self._check_windows()

    def _check_windows(self) -> None:
        if not self.reads_windows:
            for name, default in (("window_overlap", None), ("window_logits", "mean")):
                if getattr(self, name) != default:
                    raise UserError(f"`{name}` needs `long_documents` windows: give it too.")
        elif self.pair_column:
            raise UserError(
                "`long_documents` windows reads one text per row: leave out `pair_column`."
            )
        elif self.window_overlap is not None and self.window_overlap < 0:
            raise UserError(f"`window_overlap` is {self.window_overlap}: give at least 0.")

    @property
    def reads_windows(self) -> bool:
        """Whether a text may have several rows."""
        return self.long_documents == "windows"

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        pair = [self.pair_column] if self.pair_column else []
        return [self.text_column, *pair, self.label_column]

    def immutable(self) -> dict[str, Any]:
        """Returns the options that decide what is learned, beside those of the columns."""
        names = ("regression", "multi_label", "class_weights")
        windows = ("long_documents", "window_overlap", "window_logits")
        return {name: getattr(self, name) for name in (*names, *windows)}

    def overlap(self, max_seq_length: int) -> int:
        """Returns the tokens that windows of at most `max_seq_length` tokens share.

        Raises:
            UserError: a window would begin no later than the one before.
        """
        overlap = max_seq_length // 4 if self.window_overlap is None else self.window_overlap
        if overlap >= max_seq_length - 2:
            raise UserError(
                f"`window_overlap` {overlap} leaves nothing new in a window, which holds "
                f"{max_seq_length - 2} tokens of a text: give less than {max_seq_length - 2}."
            )
        return overlap


@dataclasses.dataclass(frozen=True)
class LineOptions:
    """How lines are read: as a text, two texts with a tab between, or a JSON object."""

    pair: bool = False
    """A line is a pair of texts, with a tab between them or as a JSON object of both."""
    text_column: str = "text"
    """Key of the text in lines that are JSON objects."""
    pair_column: str = "pair"
    """Key of the second text in lines that are JSON objects."""


@dataclasses.dataclass(frozen=True)
class EvaluationColumns:
    """Columns of a labeled file. Default: those of training."""

    text_column: str | None = None
    """Column of the text. Default: as in training."""
    pair_column: str | None = None
    """Column of the second text. Default: as in training."""
    label_column: str | None = None
    """Column of the label. Default: as in training."""
    column_names: tuple[str, ...] | None = None
    """Names of all columns, for a file without a header."""
    drop_unlabeled: bool = False
    """Leave out rows without a label, if training did not already."""
