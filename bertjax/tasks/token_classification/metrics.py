"""Metrics of tags: precision, recall and F1 of entities, and accuracy of words."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bertjax.tasks.metrics import classification_metrics
from bertjax.tasks.report_tables import MAX_ROWS, ReportTable, examples
from bertjax.tasks.task import Outputs, Scores
from bertjax.tasks.token_classification.features import Windows
from bertjax.tasks.token_classification.schemes import (
    find_entities,
    has_scheme,
    join_tag,
    split_tag,
)

_MOST_TAGS = 40  # rows of a confusion table


@dataclasses.dataclass
class Counts:
    """Numbers of entities."""

    correct: int = 0
    predicted: int = 0
    true: int = 0

    def scores(self) -> tuple[float, float, float]:
        """Returns precision, recall and F1 from 0 to 1; a ratio without entities is 0."""
        precision = self.correct / self.predicted if self.predicted else 0.0
        recall = self.correct / self.true if self.true else 0.0
        total = precision + recall
        return precision, recall, 2 * precision * recall / total if total else 0.0


def count_entities(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, Counts]:
    """Counts the entities of sentences by type, as conlleval and seqeval's default mode.

    Args:
        true: the tags of each sentence, in any scheme.
        predicted: the predicted tags of the same words.

    Returns:
        Types in alphabetic order. An entity is correct if its words and its type are.
    """
    counts: dict[str, Counts] = collections.defaultdict(Counts)
    for wanted, given in zip(true, predicted, strict=True):
        gold, found = set(find_entities(wanted)), set(find_entities(given))
        for entities, field in ((gold & found, "correct"), (found, "predicted"), (gold, "true")):
            for entity in entities:
                own = counts[entity.label]
                setattr(own, field, getattr(own, field) + 1)
    return dict(sorted(counts.items()))


def entity_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Scores:
    """Returns f1, precision and recall over all entities, and PER_f1 ... of each type PER."""
    counts = count_entities(true, predicted)
    columns = zip(*(dataclasses.astuple(each) for each in counts.values()), strict=True)
    total = Counts(*map(sum, columns))
    scores = {}
    for prefix, each in (("", total), *((f"{label}_", own) for label, own in counts.items())):
        precision, recall, f1 = each.scores()
        scores |= {f"{prefix}f1": f1, f"{prefix}precision": precision, f"{prefix}recall": recall}
    return scores


def tag_scores(windows: Windows, outputs: Outputs, labels: Sequence[str]) -> Scores:
    """Computes the metrics of sentences with tags.

    Args:
        windows: the sentences.
        outputs: row numbers [n] and logits [n, T, C].
        labels: the tag of each output.

    Returns:
        With a scheme, the `entity_scores`, and the accuracy of the words; without one accuracy,
        macro_f1 and mcc. The loss, the mean cross-entropy of the words in nats, is left out if the
        model lacks a tag of the file, as one with tags of another scheme does.
    """
    logits = windows.word_logits(outputs)
    found = list(windows.by_sentence(predicted_tags(logits, labels)))
    scores = scores_of_tags(windows.tags, found, labels)
    true = words_of(windows.tags)
    if {*true} <= {*labels}:
        scores["loss"] = classification_metrics(logits, _numbers(true, labels))["loss"]
    return scores


def scores_of_tags(
    true: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]
) -> Scores:
    """Returns the metrics of `tag_scores` that need no logits, of predicted tags `found`."""
    wanted, given = words_of(true), words_of(found)
    if not has_scheme(labels):
        one_hot = np.eye(len(labels), dtype=np.float32)[_numbers(given, labels)]
        scores = classification_metrics(one_hot, _numbers(wanted, labels))
        return {name: scores[name] for name in ("accuracy", "macro_f1", "mcc")}
    right = sum(canonical(tag) == other for tag, other in zip(given, wanted, strict=True))
    return {**entity_scores(true, found), "accuracy": right / len(wanted)}


def _numbers(tags: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[tag] for tag in tags])


def words_of(sentences: Iterable[Iterable[str]]) -> list[str]:
    """Returns the tags, or the words, of all sentences."""
    return [each for sentence in sentences for each in sentence]


def predicted_tags(logits: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Returns the likeliest tag of each word for logits [W, C]."""
    return [labels[int(number)] for number in logits.argmax(-1)]


def canonical(tag: str) -> str:
    """Returns a tag in the letters of IOB2: S and U are B, and E, L and M are I."""
    letter, label = split_tag(tag)
    return "O" if letter == "O" else join_tag({"S": "B", "E": "I"}.get(letter, letter), label)


def report_tables(windows: Windows, outputs: Outputs, labels: Sequence[str]) -> list[ReportTable]:
    """Returns the scores of each type, the tags that are confused, and sentences with errors."""
    found = predicted_tags(windows.word_logits(outputs), labels)
    sentences = list(windows.by_sentence(found))
    scheme = has_scheme(labels)
    tables = [_by_type(windows.tags, sentences)] if scheme else []
    names = [split_tag(tag)[1] if tag != "O" else "O" for tag in words_of(windows.tags)]
    given = [split_tag(tag)[1] if tag != "O" else "O" for tag in found]
    pairs = (names, given) if scheme else (words_of(windows.tags), found)
    return [*tables, _confusion(*pairs), *_errors(windows, sentences, scheme)]


def _by_type(true: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> ReportTable:
    rows = [
        [label, counts.true, counts.predicted, *counts.scores()]
        for label, counts in count_entities(true, found).items()
    ]
    columns = ["type", "entities", "predicted", "precision", "recall", "f1"]
    return ReportTable("Entities of the dev rows by type", columns, rows, given=2)


def _confusion(true: Sequence[str], found: Sequence[str]) -> ReportTable:
    """Counts words; the most common tags have a row and a column, and the others share one."""
    pairs = collections.Counter(zip(true, found, strict=True))
    sizes = collections.Counter(true) + collections.Counter(found)
    names = [name for name, _ in sizes.most_common(_MOST_TAGS)]
    rest = ["other"] if len(sizes) > len(names) else []
    table = {name: dict.fromkeys([*names, *rest], 0) for name in [*names, *rest]}
    for (one, other), count in pairs.items():
        row = table[one if one in names else "other"]
        row[other if other in names else "other"] += count
    rows = [[name, *row.values()] for name, row in table.items()]
    return ReportTable("Words of the dev rows: tag, and predicted tag", ["tag", *table], rows, 1)


def _errors(
    windows: Windows, found: Sequence[Sequence[str]], scheme: bool
) -> Iterator[ReportTable]:
    """Yields a table of the first sentences with an error, if there are any."""
    wrong = []
    for words, true, given in zip(windows.sentences, windows.tags, found, strict=True):
        answers = [_shown(words, each, scheme) for each in (true, given)]
        if answers[0] != answers[1]:
            wrong.append((" ".join(words), *answers))
        if len(wrong) == MAX_ROWS:
            break
    if wrong:
        texts, wanted, answers = map(list, zip(*wrong, strict=True))
        title = "Dev rows with errors"
        yield examples(title, {"words": texts, "reference": wanted}, {"predicted": answers})


def _shown(words: Sequence[str], tags: Sequence[str], scheme: bool) -> str:
    if not scheme:
        return " ".join(tags)
    return ", ".join(
        f"{' '.join(words[each.first : each.end])} ({each.label})" for each in find_entities(tags)
    )


def majority_tags(train: tuple[Sequence[str], Sequence[str]], words: Sequence[str]) -> list[str]:
    """Returns for each word the tag that it has most often in training.

    Args:
        train: the words of training, and their tags. A word that it lacks has its commonest tag.
        words: the words to tag.
    """
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for word, tag in zip(*train, strict=True):
        counts[word][tag] += 1
    best = {word: own.most_common(1)[0][0] for word, own in counts.items()}
    commonest = collections.Counter(train[1]).most_common(1)[0][0]
    return [best.get(word, commonest) for word in words]
