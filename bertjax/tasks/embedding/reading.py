"""Files of pairs, scored pairs and triplets -> a `Task`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.model.flops import first_token_flops, task_flops
from bertjax.tasks.batches import gather
from bertjax.tasks.embedding.config import EmbeddingConfig
from bertjax.tasks.embedding.features import TextRows, tokenize_rows
from bertjax.tasks.embedding.losses import Vectors, loss_of, normalizers_fn
from bertjax.tasks.embedding.metrics import cosines, pair_metrics
from bertjax.tasks.metrics import regression_metrics
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.report_tables import MAX_ROWS, ReportTable, examples
from bertjax.tasks.tables import Table, as_number, read_table, shorten
from bertjax.tasks.task import (
    Baseline,
    Head,
    Outputs,
    Scores,
    Task,
    TaskFiles,
    TrainedModel,
    data_hash,
)


def read(options: EmbeddingConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of texts.

    Raises:
        UserError: something is wrong with a file; the sentence names the line. Or the model makes
            its vectors in a way that is not trained, or is smaller than `embedding_sizes`.
    """
    pooling, lowercase = _pooling(options, files.model)
    _check_sizes(options, files.model)
    tables, rows = _read_files(options, files, lowercase)
    train, dev, *test = rows
    files.log(_summary(options, train, dev, files.max_seq_length))
    for line in overlaps(files.paths, [_pairs(table) for table in tables]):
        files.log(line)
    has_scores, sizes = options.score_column is not None, options.embedding_sizes

    def scores(features: TextRows, outputs: Outputs) -> Scores:
        given = features.scores if has_scores else None
        return pair_metrics(gather(outputs), given, features.text_ids, sizes)

    def report_tables(outputs: Outputs) -> list[ReportTable]:
        return _largest_errors(cosines(gather(outputs)), dev, tables[1])

    metrics = ("spearman", "pearson", "loss") if has_scores else ("mrr", "accuracy")
    shorter = [f"{metrics[0]}_{size}" for size in sizes]
    compares_rows = options.trained_loss == "in_batch_negatives" and not options.negative_columns
    return Task(
        _head(options, pooling),
        train,
        dev,
        test[0] if test else None,
        data_hash(tables[0].columns),
        data_hash(tables[1].columns),
        metric=metrics[0],
        metrics=(*metrics, *shorter),
        scores=scores,
        immutable={"pooling": pooling},
        export=lambda _: _export(options),
        baseline=_word_overlap(tables[1], dev) if has_scores else None,
        test_baseline=_word_overlap(tables[2], test[0]) if has_scores and test else None,
        train_metrics=() if options.trained_loss == "cosine" else ("accuracy",),
        dev_metrics=(*metrics[1:], *shorter),
        report_tables=report_tables if has_scores else None,
        sequence_lengths=train.texts.lengths,
        min_batch_rows=2 if compares_rows else 1,
        vectors={"pooling": pooling, "normalize": options.normalize, "lowercase": lowercase},
    )


def _read_files(
    options: EmbeddingConfig, files: TaskFiles, lowercase: bool
) -> tuple[list[Table], list[TextRows]]:
    """Reads the columns of all files before the first is tokenized."""
    of_train = options.score_column if options.trained_loss == "cosine" else None
    asked = [(options.train_texts, of_train), *2 * [(options.dev_texts, options.score_column)]]
    tables, scores, rows = [], [], []
    for path, (texts, score) in zip(files.paths, asked, strict=False):
        tables.append(read_texts(path, texts, score, options.column_names))
        scores.append(read_scores(tables[-1], score, options.score_range))
    for table, given, (texts, _) in zip(tables, scores, asked, strict=False):
        columns = [table.columns[name] for name in texts]
        how: dict[str, Any] = {"lowercase": lowercase, "scores": given}
        rows.append(tokenize_rows(columns, files.tokenizer, files.max_seq_length, **how))
    return tables, rows


def _head(options: EmbeddingConfig, pooling: str) -> Head:
    vectors = Vectors(pooling, options.normalize)
    return Head(
        "encoder",
        0,
        loss_of(options),
        normalizers_fn,
        forward=vectors,
        flops=first_token_flops if pooling == "cls" else task_flops,
        outputs_fn=vectors,
    )


def _pairs(table: Table) -> list[tuple[str, ...]]:
    """Returns the first two texts of each row, whose columns come first."""
    first, second, *_ = table.columns.values()
    return list(zip(first, second, strict=True))


def read_texts(
    path: Any, texts: Sequence[str], score: str | None, column_names: Sequence[str]
) -> Table:
    """Reads the columns of texts, which must not be empty, and of the score if there is one.

    Raises:
        UserError: see `read_table`; or a text is empty.
    """
    fields = {texts[0]: "text_column", texts[1]: "pair_column"}
    fields |= dict.fromkeys(texts[2:], "negative_columns")
    fields |= {score: "score_column"} if score else {}
    table = read_table(path, fields, column_names=column_names)
    for name in texts:
        for row, text in enumerate(table.columns[name]):
            if not text.strip():
                raise UserError(
                    f"{table.where(row)}: column {name!r} is empty; write a text, or remove the "
                    "row."
                )
    return table


def read_scores(table: Table, column: str | None, limits: tuple[float, float]) -> np.ndarray | None:
    """float32 [N]: the scores of a column, from 0 for the lower limit to 1 for the upper one.

    Raises:
        UserError: a score is no number, or outside of the limits.
    """
    if column is None:
        return None
    low, high = limits
    scores = np.zeros(len(table), np.float32)
    for row, text in enumerate(table.columns[column]):
        number = as_number(text)
        if number is None or not low <= number <= high:
            raise UserError(
                f"{table.where(row)}: {shorten(text)} in column {column!r} is no score from "
                f"{low:g} to {high:g}; correct it, or give the lowest and highest score of the "
                "file as `score_range`."
            )
        scores[row] = (number - low) / (high - low)
    return scores


def _pooling(options: EmbeddingConfig, model: TrainedModel) -> tuple[str, bool]:
    """Returns the pooling to train, and whether texts are lower-cased."""
    modules = model.sentence_modules
    if modules is None:
        return options.pooling or "mean", False
    if options.pooling is not None:
        return options.pooling, modules.lowercase
    if modules.only_pooling is None:
        raise UserError(
            f"The model makes its vectors with more than a pooling ({modules.unknown or modules}), "
            "which is not trained: give `pooling`, to train the encoder without it."
        )
    return modules.only_pooling, modules.lowercase


def _check_sizes(options: EmbeddingConfig, model: TrainedModel) -> None:
    whole = getattr(model.config, "hidden_size", 0)
    for size in options.embedding_sizes:
        if not 0 < size < whole:
            raise UserError(
                f"`embedding_sizes` has {size}, and the vectors of the model have {whole} numbers: "
                f"give sizes from 1 to {whole - 1}."
            )


def _summary(options: EmbeddingConfig, train: TextRows, dev: TextRows, length: int) -> str:
    full, total = int((train.texts.lengths == length).sum()), len(train.texts)
    kind = {2: "pairs", 3: "triplets"}.get(len(options.train_texts), "rows")
    return (
        f"Training on {len(train):,} {kind} with the loss {options.trained_loss}, evaluating on "
        f"{len(dev):,} pairs; {full:,} of {total:,} training texts fill all {length} tokens."
    )


def _word_overlap(table: Table, rows: TextRows) -> Baseline:
    """The similarity of two texts as the share of their words that both have."""
    words = [[set(text.lower().split()) for text in pair] for pair in _pairs(table)]
    shares = [len(first & second) / len(first | second) for first, second in words]
    scores = regression_metrics(np.array(shares)[:, None], rows.scores)
    return Baseline("overlap", "the share of common words", scores)


def _largest_errors(found: np.ndarray, rows: TextRows, table: Table) -> list[ReportTable]:
    order = np.argsort(-np.abs(found - rows.scores), kind="stable")[:MAX_ROWS].tolist()
    given = {name: [values[row] for row in order] for name, values in table.columns.items()}
    answers = {"cosine": [f"{found[row]:.3f}" for row in order]}
    return [examples("Largest errors on the dev rows", given, answers)]


def _export(options: EmbeddingConfig) -> dict[str, Any]:
    text, pair = options.dev_texts
    return {
        "text_column": text,
        "pair_column": pair,
        "score_column": options.score_column,
        "score_range": list(options.score_range),
        "embedding_sizes": list(options.embedding_sizes),
    }
