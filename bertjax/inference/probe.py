"""A linear probe: a linear model on the vectors of a frozen model (extra demo)."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.inference.config import ProbeConfig
from bertjax.inference.embed import check_layers, embed, noted_modules
from bertjax.interop.huggingface import Pretrained, open_pretrained
from bertjax.tasks import tables
from bertjax.tasks.labels import find_labels, label_ids, read_labeled, target_values
from bertjax.tasks.metrics import classification_metrics, regression_metrics
from bertjax.tasks.overlap import overlaps

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_MOST_FOLDS = 5
_LOGGER = logging.getLogger("bertjax")


class Probe(NamedTuple):
    """A fitted linear model and its outputs on other rows."""

    outputs: np.ndarray
    """float64: logits [N, C], or for regression values [N, 1]."""
    strength: float
    """The chosen C of logistic regression, or alpha of ridge regression."""
    tried: dict[float, float]
    """Cross-validated accuracy or mean squared error of each strength."""


def probe(
    config: ProbeConfig,
    model: Pretrained | None = None,
    *,
    note: Callable[[str], None] = _LOGGER.warning,
) -> dict[str, Any]:
    """Fits a linear probe to the training rows and scores it on the dev rows.

    Args:
        config: what to fit.
        model: the loaded `config.model`.
        note: receives a sentence about dev rows that are training rows too, and about the files of
            a model of sentence-transformers, which are followed as by `embed`.

    Returns:
        examples and train_examples; the metrics of `tasks.metrics` on the dev rows; layer,
        layer_weights and pooling, or modules; C or alpha; and tried, the cross-validated score of
        each.

    Raises:
        UserError: scikit-learn is missing, something is wrong with a file, a label has too few
            training rows to be cross-validated, or the model has no such layer or pooling.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "A probe needs scikit-learn, which is not installed: pip install 'bertjax[demo]'."
        )
    train, dev = (read_labeled(path, config) for path in (config.train, config.dev))
    column, labels, metrics = config.label_column, None, regression_metrics
    if config.regression:
        train_labels, dev_labels = (target_values(table, column) for table in (train, dev))
    else:
        labels, metrics = find_labels(train, column), classification_metrics
        train_labels, dev_labels = (label_ids(table, column, labels) for table in (train, dev))
    folds = _folds(train, train_labels, labels)
    texts = [_texts(config, table) for table in (train, dev)]
    model = open_pretrained(config.model) if model is None else model
    ways = {name: getattr(config, name) for name in ("layer", "pooling", "layer_weights")}
    layers, modules = check_layers(model, **ways), noted_modules(model, note, **ways)
    for line in overlaps((config.train, config.dev), texts):
        note(line)
    train_vectors, dev_vectors = (
        embed(model, each, **ways, batch_size=config.batch_size) for each in texts
    )
    fitted = fit_probe(train_vectors, train_labels, dev_vectors, folds=folds, seed=config.seed)
    return {
        "examples": len(dev),
        "train_examples": len(train),
        **metrics(fitted.outputs, dev_labels),
        **({"modules": str(modules)} if modules else _described(config, layers)),
        "alpha" if config.regression else "C": fitted.strength,
        "tried": {f"{strength:g}": score for strength, score in fitted.tried.items()},
    }


def fit_probe(
    vectors: np.ndarray, labels: np.ndarray, others: np.ndarray, *, folds: int, seed: int
) -> Probe:
    """Fits to some rows and computes the outputs of others, which choose nothing.

    Each fold standardizes by the rows that it is fitted to. The strictest of equally good strengths
    is chosen.

    Args:
        vectors: float [N, D], the rows to fit to.
        labels: int [N], each of 0 .. C-1 at least once; for regression float [N].
        others: float [M, D], the other rows.
        folds: folds of the cross-validation, at least 2.
        seed: seed that shuffles the rows.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    is_regression = np.issubdtype(labels.dtype, np.floating)
    if is_regression:
        # scikit-learn takes the first of equal scores, so the strictest comes first.
        linear, name, strengths = Ridge(), "ridge__alpha", [1 / s for s in _STRENGTHS]
        parts, scoring = KFold(folds, shuffle=True, random_state=seed), "neg_mean_squared_error"
    else:
        linear, name = LogisticRegression(max_iter=2000, tol=1e-3), "logisticregression__C"
        strengths, scoring = list(_STRENGTHS), "accuracy"
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), linear)
    search = GridSearchCV(pipeline, {name: strengths}, scoring=scoring, cv=parts)
    search.fit(vectors.astype(np.float64), labels)
    answer = search.predict if is_regression else search.decision_function
    outputs = np.asarray(answer(others.astype(np.float64)))
    if is_regression:
        outputs = outputs[:, None]
    elif outputs.ndim == 1:  # for two labels, the logit of the second against the first
        outputs = np.stack([np.zeros_like(outputs), outputs], axis=1)
    scores = search.cv_results_["mean_test_score"] * (-1 if is_regression else 1)
    tried = dict(zip(strengths, map(float, scores), strict=True))
    return Probe(outputs, search.best_params_[name], tried)


def _folds(table: tables.Table, labels: np.ndarray, names: tuple[str, ...] | None) -> int:
    """Folds of the cross-validation; each has a row of every label."""
    counts = np.bincount(labels) if names is not None else np.array([len(table)])
    rarest = int(counts.argmin())
    if counts[rarest] < 2:
        of = f" of the label {names[rarest]!r}" if names is not None else ""
        raise UserError(
            f"{table.path}: has a single row{of}, and cross-validation needs at least two: add "
            "rows" + (", or drop the label." if names is not None else ".")
        )
    return min(_MOST_FOLDS, int(counts[rarest]))


def _texts(config: ProbeConfig, table: tables.Table) -> list[Any]:
    texts: list[Any] = table.columns[config.text_column]
    if config.pair_column:
        texts = list(zip(texts, table.columns[config.pair_column], strict=True))
    return texts


def _described(config: ProbeConfig, layers: tuple[int, ...]) -> dict[str, Any]:
    return {
        "layer": list(layers),
        "layer_weights": config.layer_weights and list(config.layer_weights),
        "pooling": config.pooling or "mean",
    }
