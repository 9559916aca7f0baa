"""Files of sentences with tags -> a `Task`."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from bertjax.errors import UserError
from bertjax.tasks import tables
from bertjax.tasks.labels import MAX_LABELS, label_weights
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.task import Baseline, Head, Task, TaskFiles
from bertjax.tasks.token_classification import losses, metrics
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.tasks.token_classification.features import Windows, make_windows
from bertjax.tasks.token_classification.files import read_tagged
from bertjax.tasks.token_classification.metrics import words_of
from bertjax.tasks.token_classification.schemes import has_scheme, join_tag, split_tag
from bertjax.tasks.token_classification.tagged import Tagged

HEAD_NAME = "token_classification"

RECORDED = ("token_column", "tag_column", "tag_names", "scheme", "document_context")


def read(options: TokenClassificationConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of sentences with tags.

    Raises:
        UserError: something is wrong with a file; the sentence names the line.
    """
    tagged = [read_tagged(path, options) for path in files.paths]
    labels = find_labels(tagged[0])
    for each in tagged[1:]:
        check_labels(each, labels)
    train, dev, *test = [
        make_windows(
            each.words,
            files.tokenizer,
            files.max_seq_length,
            documents=each.documents if options.document_context else None,
            tags=each.tags,
            labels=labels,
            all_pieces=options.label_all_pieces,
        )
        for each in tagged
    ]
    if options.class_weights is not None:
        words = train.labels[train.first_tokens]
        weights = label_weights(options.class_weights, labels, words)
        train = dataclasses.replace(train, weights=train.weights * weights[train.labels])
    for line in _summary(options, labels, tagged, (train, dev, *test), files.max_seq_length):
        files.log(line)
    is_scheme = has_scheme(labels)
    chosen = ("f1", "precision", "recall") if is_scheme else ()
    fields = {name: getattr(options, name) for name in RECORDED}
    return Task(
        Head(
            HEAD_NAME,
            len(labels),
            losses.token_classification_loss,
            losses.token_classification_normalizers,
        ),
        train,
        dev,
        test[0] if test else None,
        tagged[0].sha256,
        tagged[1].sha256,
        metric="f1" if is_scheme else "accuracy",
        metrics=(*chosen, "accuracy", *(() if is_scheme else ("macro_f1", "mcc")), "loss"),
        scores=functools.partial(metrics.tag_scores, labels=labels),
        immutable={
            name: getattr(options, name)
            for name in ("label_all_pieces", "document_context", "class_weights")
        },
        export=lambda _: {**fields, "labels": list(labels), "splitting": tagged[0].splitting},
        labels=labels,
        report_tables=lambda outputs: metrics.report_tables(dev, outputs, labels),
        baseline=_baseline(tagged[0], dev, labels),
        test_baseline=_baseline(tagged[0], test[0], labels) if test else None,
        dev_metrics=("precision", "recall", "accuracy", "loss"),
    )


def find_labels(tagged: Tagged) -> tuple[str, ...]:
    """Returns the tags of a training file: O first; of each type B- and I-, whether or not it has
    both.

    Raises:
        UserError: there are fewer than two tags.
    """
    tags = {tag for sentence in tagged.tags for tag in sentence}
    if tagged.scheme != "none":
        types = {split_tag(tag)[1] for tag in tags - {"O"}}
        tags = {"O", *(join_tag(letter, label) for label in types for letter in "BI")}
    if len(tags) < 2:
        raise UserError(
            f"{tagged.path}: all words have the tag {tables.shorten(next(iter(tags)))}; give a "
            "file with two different tags, or name the column by `tag_column`."
        )
    if len(tags) > MAX_LABELS:
        raise UserError(
            f"{tagged.path}: has {len(tags):,} different tags (at most {MAX_LABELS:,}); name the "
            "column of the tags by `tag_column`."
        )
    return tuple(sorted(tags, key=lambda tag: (tag != "O", *reversed(tag.partition("-")))))


def check_labels(tagged: Tagged, labels: Sequence[str]) -> None:
    """Raises a UserError if a file has a type of entity, or a tag without a scheme, that no label
    has."""
    is_scheme = has_scheme(labels)
    known = {_name(label, is_scheme) for label in labels}
    for row, sentence in enumerate(tagged.tags):
        for word, tag in enumerate(sentence):
            if _name(tag, is_scheme) not in known:
                shown = ", ".join(map(tables.shorten, sorted(known)[:12]))
                raise UserError(
                    f"{tagged.where(row, word)}: the tag {tables.shorten(tag)} was not seen in "
                    f"training (which has {shown}{', ...' if len(known) > 12 else ''}); correct "
                    "it, or add sentences with it to the training file."
                )


def _name(tag: str, is_scheme: bool) -> str:
    """Returns the type of the entity of a tag, and any other tag as it is."""
    return split_tag(tag)[1] if is_scheme and tag != "O" and has_scheme([tag]) else tag


def _baseline(train: Tagged, scored: Windows, labels: Sequence[str]) -> Baseline:
    """The metrics of giving each word the tag that it has most often in training."""
    found = metrics.majority_tags(
        (words_of(train.words), words_of(train.tags)), words_of(scored.sentences)
    )
    scores = metrics.scores_of_tags(scored.tags, list(scored.by_sentence(found)), labels)
    return Baseline("majority", "the most common tag of each word", scores)


def _summary(
    options: TokenClassificationConfig,
    labels: Sequence[str],
    tagged: Sequence[Tagged],
    windows: Sequence[Windows],
    max_seq_length: int,
) -> Iterator[str]:
    train = tagged[0]
    scheme = "no scheme" if train.scheme == "none" else train.scheme
    yield (
        f"Training on {len(train):,} sentences of {len(words_of(train.words)):,} words with "
        f"{len(labels)} tags ({scheme}: {', '.join(labels[:9])}{', ...' * (len(labels) > 9)}), in "
        f"{len(windows[0]):,} windows of up to {max_seq_length} tokens; evaluating on "
        f"{len(tagged[1]):,} sentences."
    )
    for file, rows in zip(tagged, windows, strict=True):
        for count, what in (
            (file.misfits, f"tags break the rules of {file.scheme} and are read as conlleval does"),
            (file.comments, "comment lines, which begin with #, are left out"),
            (file.widened, "entities begin or end inside a word and get the whole word"),
            (rows.unreadable, "words have no token and are read as [UNK]"),
            (rows.split, f"sentences have several windows of {max_seq_length} tokens"),
        ):
            if count:
                yield f"{file.path}: {count:,} {what}."
        if options.document_context and file.documents[-1] == file.documents[0]:
            yield f"{file.path}: there is one document, as no -DOCSTART- line begins another."
    if train.scheme == "none" and "O" in labels:
        yield (
            "Warning: the tags have no scheme: set `scheme` io if each tag except O is the type of "
            "an entity."
        )
    if all(label.isdecimal() for label in labels):
        yield "Warning: the tags are numbers: name them by `tag_names`, so that entities are found."
    yield from overlaps([str(file.path) for file in tagged], [file.words for file in tagged])
