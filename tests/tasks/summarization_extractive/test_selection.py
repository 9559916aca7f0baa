"""Greedy labels beside PreSumm's own loop, and picks by scores."""

import random

import numpy as np

from bertjax.tasks.summarization_extractive.selection import greedy_labels, lead, pick


def presumms_selection(sentences, summary, size):
    """`greedy_selection` with `cal_rouge` of PreSumm's src/prepro/data_builder.py, on words."""

    def grams(n, words):
        return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}

    def f(found, wanted):
        both = len(found & wanted)
        precision = both / len(found) if found else 0.0
        recall = both / len(wanted) if wanted else 0.0
        return 2.0 * ((precision * recall) / (precision + recall + 1e-8))

    words = [each.split() for each in sentences]
    abstract = " ".join(summary).split()
    best, selected = 0.0, []
    for _ in range(size):
        current, chosen = best, -1
        for i in range(len(words)):
            if i in selected:
                continue
            unions = [set().union(*(grams(n, words[c]) for c in [*selected, i])) for n in (1, 2)]
            score = sum(f(unions[n - 1], grams(n, abstract)) for n in (1, 2))
            # Without 1e-8, as here, equal scores are equal.
            if score > current + 1e-7:
                current, chosen = score, i
        if chosen == -1:
            return tuple(sorted(selected))
        selected.append(chosen)
        best = current
    return tuple(sorted(selected))


def test_greedy_labels_are_presumms():
    generator = random.Random(0)
    found = set()
    for _ in range(200):
        draw = lambda: " ".join(generator.choices("abcdefgh", k=generator.randint(1, 6)))  # noqa: E731
        sentences = [draw() for _ in range(generator.randint(1, 9))]
        summary = [draw() for _ in range(generator.randint(1, 3))]
        labels = greedy_labels(sentences, summary, 3, "english")
        assert labels == presumms_selection(sentences, summary, 3)
        found.add(len(labels))
    assert found == {0, 1, 2, 3}


def test_greedy_labels_stop_where_rouge_falls():
    """Two sentences have all words of the summary; a third one only adds others."""
    sentences = ["x y", "The cat, sat!", "on the MAT", "the dog"]
    assert greedy_labels(sentences, ["the cat sat on the mat"], 3, "english") == (1, 2)
    assert greedy_labels(sentences, ["the cat sat on the mat"], 1, "english") in ((1,), (2,))
    assert greedy_labels(["猫が寝る", "犬"], ["猫は寝る"], 3, "characters") == (0,)


def test_picks_are_the_best_sentences_without_repeated_trigrams():
    sentences = ["a b c d", "x", "B, c D e", "y", "e f"]
    scores = np.array([3.0, 0.0, 2.0, 1.0, 1.0])
    # 2 repeats "b c d" of 0; 3 comes before 4, which has the same score.
    assert pick(scores, sentences, 2, trigram_blocking=True) == (0, 3)
    assert pick(scores, sentences, 2, trigram_blocking=False) == (0, 2)
    assert pick(scores, sentences, 9, trigram_blocking=True) == (0, 1, 3, 4)


def test_lead_takes_what_there_is():
    assert lead("abc", 2) == (0, 1) and lead("a", 3) == (0,)
