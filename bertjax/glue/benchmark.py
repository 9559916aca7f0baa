"""The tasks of GLUE: their files, columns, metrics, and what the leaderboard takes for each."""

from collections.abc import Sequence
from typing import NamedTuple

from bertjax.errors import UserError

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")


class TestFile(NamedTuple):
    """A file without labels, whose predictions are a file of the submission."""

    name: str
    """Name of the submission's file, without .tsv."""
    file: str
    """Path below the folder of the task, as in the official download."""
    rows: int
    """Rows of the official file."""
    split: str = "test"
    """Split of TFDS."""
    config: str | None = None
    """Config of TFDS, if it is not that of the task."""


class GlueTask(NamedTuple):
    """A task of GLUE (Wang et al. 2018)."""

    name: str
    """Name and folder in the official download."""
    text: str
    """Column of the text."""
    pair: str | None
    """Column of the second text."""
    label: str
    """Column of the label."""
    labels: tuple[str, ...]
    """Labels of the files, in the order of TFDS; none for a number."""
    metrics: tuple[str, ...]
    """The leaderboard's metrics, the main one first."""
    tests: tuple[TestFile, ...]
    """Test files."""
    default: str
    """Prediction of every row for which there is no model."""
    tfds: tuple[str, ...]
    """Config of TFDS, and its columns of text and second text."""
    names: tuple[str, ...] | None = None
    """Names of the labels in TFDS, if they are others."""
    columns: tuple[str, ...] = ()
    """Names of all columns of train.tsv and dev.tsv, if they have no header."""
    dev: str = "dev.tsv"
    """File to evaluate on."""
    second_dev: str | None = None
    """Another one, on which the same model is evaluated."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits of TFDS: train, dev and, if there is one, second dev."""


def _test(name: str, rows: int) -> tuple[TestFile, ...]:
    return (TestFile(name, "test.tsv", rows),)


TASKS = {
    task.name: task
    for task in (
        GlueTask(
            "CoLA",
            *("sentence", None, "label", ("0", "1"), ("mcc",), _test("CoLA", 1063), "0"),
            tfds=("cola", "sentence"),
            names=("unacceptable", "acceptable"),
            columns=("source", "label", "star", "sentence"),
        ),
        GlueTask(
            "SST-2",
            *("sentence", None, "label", ("0", "1"), ("accuracy",), _test("SST-2", 1821), "0"),
            tfds=("sst2", "sentence"),
            names=("negative", "positive"),
        ),
        GlueTask(
            "MRPC",
            *("#1 String", "#2 String", "Quality", ("0", "1"), ("f1", "accuracy")),
            *(_test("MRPC", 1725), "0"),
            tfds=("mrpc", "sentence1", "sentence2"),
            names=("not_equivalent", "equivalent"),
        ),
        GlueTask(
            "STS-B",
            *("sentence1", "sentence2", "score", (), ("spearman", "pearson")),
            *(_test("STS-B", 1379), "0.000"),
            tfds=("stsb", "sentence1", "sentence2"),
        ),
        GlueTask(
            "QQP",
            *("question1", "question2", "is_duplicate", ("0", "1"), ("f1", "accuracy")),
            *(_test("QQP", 390965), "0"),
            tfds=("qqp", "question1", "question2"),
            names=("not_duplicate", "duplicate"),
        ),
        GlueTask(
            "MNLI",
            *("sentence1", "sentence2", "gold_label", NLI, ("accuracy",)),
            (
                TestFile("MNLI-m", "test_matched.tsv", 9796, "test_matched"),
                TestFile("MNLI-mm", "test_mismatched.tsv", 9847, "test_mismatched"),
                TestFile("AX", "../diagnostic/diagnostic.tsv", 1104, "test", "ax"),
            ),
            "entailment",
            tfds=("mnli", "premise", "hypothesis"),
            dev="dev_matched.tsv",
            second_dev="dev_mismatched.tsv",
            splits=("train", "validation_matched", "validation_mismatched"),
        ),
        GlueTask(
            "QNLI",
            *("question", "sentence", "label", ENTAILMENT, ("accuracy",)),
            *(_test("QNLI", 5463), "entailment"),
            tfds=("qnli", "question", "sentence"),
        ),
        GlueTask(
            "RTE",
            *("sentence1", "sentence2", "label", ENTAILMENT, ("accuracy",)),
            *(_test("RTE", 3000), "entailment"),
            tfds=("rte", "sentence1", "sentence2"),
        ),
        GlueTask(
            "WNLI",
            *("sentence1", "sentence2", "label", ("0", "1"), ("accuracy",)),
            *(_test("WNLI", 146), "0"),
            tfds=("wnli", "sentence1", "sentence2"),
            names=("not_entailment", "entailment"),
        ),
    )
}
"""The nine tasks. The diagnostic set AX has no training rows: the model of MNLI answers it."""

STARTED = ("RTE", "MRPC", "STS-B")
"""Tasks that may start from the model of MNLI, as RoBERTa's did (Liu et al. 2019)."""


def chosen(names: Sequence[str]) -> list[GlueTask]:
    """Returns the tasks with these names, all without names.

    Raises:
        UserError: a name is unknown.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise UserError(f"`tasks` has {unknown[0]!r}: give some of {', '.join(TASKS)}.")
    return [task for name, task in TASKS.items() if not names or name in names]
