"""The demo's baseline: TF-IDF and logistic regression by scikit-learn, of the extra `demo`."""

import importlib.util
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.tables import read_table

_STRENGTHS = (1.0, 10.0, 100.0)


def check_installed() -> None:
    """Raises a UserError if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "The demo compares BERT with TF-IDF by scikit-learn, which is not installed: "
            "pip install 'bertjax[demo]'."
        )


def tfidf_accuracy(
    train: epath.PathLike, dev: epath.PathLike, test: epath.PathLike
) -> dict[str, Any]:
    """Trains logistic regression over words and word pairs of files with columns text and label.

    Returns:
        test and dev: the accuracies; strength: the regularization C that is best on the dev rows;
        tried: {C: accuracy on the dev rows}.
    """
    check_installed()
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    splits = [read_table(path, ["text", "label"]).columns for path in (train, dev, test)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    rows = [words.fit_transform(splits[0]["text"])]
    rows += [words.transform(split["text"]) for split in splits[1:]]
    scores = {}
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
        model.fit(rows[0], splits[0]["label"])
        scores[strength] = [float(model.score(rows[at], splits[at]["label"])) for at in (1, 2)]
    best = max(scores, key=lambda strength: scores[strength][0])
    return {
        "test": scores[best][1],
        "dev": scores[best][0],
        "strength": best,
        "tried": {f"{strength:g}": on_dev for strength, (on_dev, _) in scores.items()},
    }
