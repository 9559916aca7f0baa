"""Sequence classification and regression, on one text or a pair: features, labels, metrics."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks import batches
from bertjax.tasks.tables import Table

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

MAX_LABEL = 200
"""Longest label in characters: more than that is a text in the label's column."""
MAX_LABELS = 10_000
"""Most labels a classifier may have: more than that is no column of labels."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Token ids of every row, with [CLS] and [SEP], unpadded, and the labels."""

    input_ids: list[np.ndarray]
    """int32 [length] for every row."""
    token_type_ids: list[np.ndarray]
    """int32 [length] for every row."""
    labels: np.ndarray
    """int32 [N] (index into the labels), float32 [N] (regression), or int32 [N, C], 1 for every
    label that a row has (several labels)."""
    pad_id: int
    """What a batch is padded with."""
    weights: np.ndarray | None = None
    """float32 [N]: how much each row weighs in training; None: all the same."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row, [CLS] and [SEP] included."""
        return np.array([len(ids) for ids in self.input_ids], np.int64)

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Rows padded to `width` tokens, ready for the model.

        Args:
            indices: rows to take; -1 stands for a row that pads the batch: row 0 with weight 0.
            width: T; at least the longest of these rows.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, T]; label [B] or [B, C];
            example_weight float32 [B], 0 for the padding rows.
        """
        rows = np.maximum(indices, 0)
        batch = batches.padded(self.input_ids, self.token_type_ids, indices, width, self.pad_id)
        if self.weights is not None:
            batch["example_weight"] = batch["example_weight"] * self.weights[rows]
        return {**batch, "label": self.labels[rows]}


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: "Tokenizer",
    max_length: int,
    labels: np.ndarray | None = None,
    *,
    parse_mask: bool = False,
) -> Examples:
    """Turns texts, or pairs of texts, into `Examples`; longer ones are cut at their end.

    Args:
        texts: N texts.
        pairs: None, or the second text of every pair.
        tokenizer: gives the ids.
        max_length: most tokens of a row, [CLS] and [SEP] included.
        labels: [N]; zeros where there are none (prediction).
        parse_mask: "[MASK]" in a text is the mask token.
    """
    input_ids: list[np.ndarray] = []
    token_type_ids: list[np.ndarray] = []
    for begin in range(0, len(texts), 256):
        chunk = slice(begin, begin + 256)
        second = None if pairs is None else list(pairs[chunk])
        rows = tokenizer.batch(
            list(texts[chunk]), second, max_length=max_length, parse_mask=parse_mask
        )
        for ids, types, length in zip(
            rows["input_ids"], rows["token_type_ids"], rows["attention_mask"].sum(1), strict=True
        ):
            # Copies: a view would keep the whole padded chunk alive.
            input_ids.append(ids[:length].copy())
            token_type_ids.append(types[:length].copy())
    if labels is None:
        labels = np.zeros(len(texts), np.int32)
    return Examples(input_ids, token_type_ids, labels, tokenizer.pad_id)


def find_labels(table: Table, column: str) -> tuple[str, ...]:
    """The labels of a training file, in order: as numbers if all of them are, else by name.

    Raises:
        UserError: an empty or overlong label, fewer than two labels, or too many to be labels.
    """
    names = set()
    for row, value in enumerate(table.columns[column]):
        name = value.strip()
        if not name:
            raise UserError(f"{table.where(row)}: the label is empty; write one or drop the row.")
        if len(name) > MAX_LABEL:
            raise UserError(
                f"{table.where(row)}: the label has {len(name):,} characters (at most {MAX_LABEL});"
                f" is {column!r} the label's column?"
            )
        names.add(name)
    if len(names) < 2:
        raise UserError(
            f"{table.path}: every row has the label {names.pop()!r}; a classifier needs two "
            "different labels."
        )
    if len(names) > MAX_LABELS:
        raise UserError(
            f"{table.path}: column {column!r} has {len(names):,} different labels (at most "
            f"{MAX_LABELS:,}); for numbers to predict use --regression."
        )
    return tuple(sorted(names, key=label_order(names)))


def label_order(names: set[str]) -> Any:
    """The key that sorts labels: as numbers if all of them are, else by name."""
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        return lambda name: (int(name), name)  # "01" beside "1", and neither is the other
    return lambda name: name


def read_labels(table: Table, column: str, labels: Sequence[str] | None) -> np.ndarray:
    """`label_ids` [N] int32; `target_values` [N] float32 where there are no labels (regression)."""
    return target_values(table, column) if labels is None else label_ids(table, column, labels)


def label_ids(table: Table, column: str, labels: Sequence[str]) -> np.ndarray:
    """int32 [N]: the place of every row's label among `labels`.

    Raises:
        UserError: a label that isn't there.
    """
    place = {name: index for index, name in enumerate(labels)}
    ids = np.zeros(len(table), np.int32)
    for row, value in enumerate(table.columns[column]):
        name = value.strip()
        if name not in place:
            raise unseen_label(name, labels, table.where(row))
        ids[row] = place[name]
    return ids


def unseen_label(name: str, labels: Sequence[str], where: str) -> UserError:
    """What to say of a label that isn't among `labels`."""
    shown = name if len(name) <= 40 else name[:40] + "..."
    known = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    return UserError(
        f"{where}: label {shown!r} was not seen in training (those are {known}); correct it, or "
        "add rows with it to the training file."
    )


def label_weights(
    weights: Literal["balanced"] | Mapping[str, float], labels: Sequence[str], ids: np.ndarray
) -> np.ndarray:
    """float32 [C]: how much a row of each label weighs.

    Args:
        weights: labels with their weights, those left out have 1; or balanced: N / (C * rows of
            the label), as scikit-learn's class_weight.
        labels: the names.
        ids: int [N]: the label of every training row.

    Raises:
        UserError: a label that isn't there, a weight that isn't above 0, or none at all.
    """
    if weights == "balanced":
        counts = np.bincount(ids, minlength=len(labels))
        return (len(ids) / (len(labels) * counts)).astype(np.float32)
    assert not isinstance(weights, str), weights
    if not weights:
        raise UserError("class_weights is empty: give labels with their weights, or leave it out.")
    known = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    for name, weight in weights.items():
        if name not in labels:
            raise UserError(f"class_weights has {name!r}, which is no label; those are {known}.")
        if not 0 < weight < math.inf:
            raise UserError(f"class_weights gives {name!r} {weight}: give a number above 0.")
    return np.array([weights.get(name, 1.0) for name in labels], np.float32)


def target_values(table: Table, column: str) -> np.ndarray:
    """float32 [N]: the numbers to predict.

    Raises:
        UserError: a value that is no finite number.
    """
    values = np.zeros(len(table), np.float32)
    for row, text in enumerate(table.columns[column]):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= float(np.finfo(np.float32).max):
            shown = text if len(text) <= 40 else text[:40] + "..."
            raise UserError(
                f"{table.where(row)}: {shown!r} in column {column!r} is no finite number, which "
                "regression needs; correct it or drop the row."
            )
        values[row] = value
    return values


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of a task over all its examples, GLUE's among them.

    Args:
        logits: [N, C], or [N, 1] for regression.
        labels: int [N], or float [N] for regression.

    Returns:
        accuracy, macro_f1, mcc (Matthews' correlation), loss (cross-entropy, nats) and, of two
        labels, f1 of the second; or pearson, spearman, loss (mean squared error). A correlation
        with a constant is 0.
    """
    if np.issubdtype(labels.dtype, np.floating):
        predicted, labels = logits[:, 0].astype(np.float64), labels.astype(np.float64)
        return {
            "pearson": _correlation(predicted, labels),
            "spearman": _correlation(_ranks(predicted), _ranks(labels)),
            "loss": float(np.mean((predicted - labels) ** 2)),
        }
    classes = logits.shape[1]
    # confusion [true label, predicted label]
    confusion = np.zeros((classes, classes), np.float64)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    hits, true, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    # F1 = 2 hits / (true + said); a label neither there nor predicted doesn't count.
    present = (true + said) > 0
    f1 = 2 * hits / np.maximum(true + said, 1)
    result = {
        "accuracy": float(hits.sum() / confusion.sum()),
        "macro_f1": float(f1[present].mean()),
        "mcc": _matthews(hits, true, said),
        "loss": _cross_entropy(logits.astype(np.float64), labels),
    }
    if classes == 2:
        result["f1"] = float(f1[1])
    return result


def scores(
    examples: Examples,
    outputs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]] = metrics,
) -> dict[str, float]:
    """The metrics of a model's outputs.

    Args:
        examples: N rows with their labels.
        outputs: row numbers [n] and their logits [n, C], until every row has come.
        metrics: of logits and labels.
    """
    rows, logits = zip(*outputs, strict=True)
    order = np.argsort(np.concatenate(rows))
    return metrics(np.concatenate(logits)[order], examples.labels)


def metric_names(labels: int) -> tuple[str, ...]:
    """What `metrics` gives for so many labels (0: regression), the main one first."""
    if not labels:
        return ("spearman", "pearson", "loss")
    return ("accuracy", "macro_f1", "mcc", "loss", *(("f1",) if labels == 2 else ()))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    picked = shifted[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - picked))


def _matthews(hits: np.ndarray, true: np.ndarray, said: np.ndarray) -> float:
    """Matthews' correlation of any number of labels (Gorodkin 2004, R_K)."""
    total = true.sum()
    covariance = hits.sum() * total - true @ said
    spread = math.sqrt((total**2 - said @ said) * (total**2 - true @ true))
    return float(covariance / spread) if spread else 0.0


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse.reshape(-1)] if len(unique) else values
