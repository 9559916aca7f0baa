"""Pairs have Google's distribution, against a plain reimplementation of Google's algorithm."""

import random

import numpy as np
import pytest

from bertjax.data.pairs import FlatDocuments, offsets_of, pair_spans


def flat(documents):
    """Lists of sentences, which are arrays of ids, as `FlatDocuments`."""
    sentences = [sentence for document in documents for sentence in document]
    return FlatDocuments(
        np.concatenate(sentences),
        offsets_of([len(sentence) for sentence in sentences]),
        offsets_of([len(document) for document in documents]),
    )


def make_pairs(documents, **options):
    """The (A, B, is_random) of `pair_spans`, as arrays of ids."""
    documents = flat(documents)
    return [
        (documents.ids[a_start:a_stop], documents.ids[b_start:b_stop], bool(is_random))
        for a_start, a_stop, b_start, b_stop, is_random in zip(
            *pair_spans(documents, **options), strict=True
        )
    ]


@pytest.fixture(scope="module")
def google(load_helper):
    """Google's algorithm, one token after another."""
    return load_helper("data/google_pairs.py")


def random_documents(count, sentences, words, seed):
    """Documents in which every token is another number, so that a token tells where it is from."""
    rng = random.Random(seed)
    documents, token = [], 0
    for _ in range(count):
        document = []
        for _ in range(rng.randint(*sentences)):
            length = rng.randint(*words)
            document.append(np.arange(token, token + length))
            token += length
        documents.append(document)
    return documents


def document_of(documents):
    """token -> document."""
    owner = {}
    for number, document in enumerate(documents):
        for sentence in document:
            owner.update(dict.fromkeys(sentence.tolist(), number))
    return owner


def statistics(pairs, documents):
    """Statistics to compare: lengths, labels, pairs per document, positions of truncation."""
    owner = document_of(documents)
    starts = {int(sentence[0]) for document in documents for sentence in document}
    per_document = np.zeros(len(documents))
    rows = []
    for a, b, is_random in pairs:
        per_document[owner[int(a[0])]] += 1
        rows.append((len(a), len(b), is_random, int(a[0]) in starts, int(b[0]) in starts))
    return np.array(rows, float), per_document


# Usual text; long sentences (truncation, chunks of one sentence); short documents (chunks that end
# with the document); targets that are often short.
SETTINGS = {
    "usual": ({"count": 20, "sentences": (5, 40), "words": (3, 40)}, 128, 0.1),
    "long sentences": ({"count": 20, "sentences": (2, 30), "words": (10, 90)}, 64, 0.1),
    "short documents": ({"count": 60, "sentences": (1, 4), "words": (2, 12)}, 64, 0.1),
    "short targets": ({"count": 20, "sentences": (10, 30), "words": (1, 20)}, 96, 0.9),
}
ROUNDS = 120


@pytest.mark.parametrize("name", SETTINGS)
def test_distribution_is_googles(name, google):
    shape, max_seq_length, short_seq_prob = SETTINGS[name]
    documents = random_documents(seed=1, **shape)
    plain = [[sentence.tolist() for sentence in document] for document in documents]
    ours, theirs, ours_each, theirs_each = [], [], [], []
    rng, plain_rng = np.random.default_rng(2), random.Random(3)
    for _ in range(ROUNDS):
        pairs = make_pairs(
            documents, max_seq_length=max_seq_length, short_seq_prob=short_seq_prob, rng=rng
        )
        rows, each = statistics(pairs, documents)
        ours.append(rows)
        ours_each.append(each)
        pairs = google.create_pairs(plain, max_seq_length, short_seq_prob, 1, plain_rng)
        rows, each = statistics(pairs, documents)
        theirs.append(rows)
        theirs_each.append(each)
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    ours_each, theirs_each = np.stack(ours_each), np.stack(theirs_each)

    # Pairs of a document are not independent: the deviation of a mean comes from the rounds.
    for column, label in enumerate(("A", "B", "random", "A whole", "B whole")):
        for power in (1, 2):
            difference = (ours[:, column] ** power).mean() - (theirs[:, column] ** power).mean()
            error = np.hypot(
                *((rows[:, column] ** power).std() / np.sqrt(len(rows)) for rows in (ours, theirs))
            )
            # Four of the error for independent pairs, 20% more for dependent ones.
            assert abs(difference) < 4.8 * error + 1e-12, (label, power, difference, error)
    # The whole shape of the lengths: Kolmogorov-Smirnov, level 0.0001.
    for column in (0, 1):
        grid = np.arange(max_seq_length)
        ours_cdf = np.searchsorted(np.sort(ours[:, column]), grid, side="right") / len(ours)
        theirs_cdf = np.searchsorted(np.sort(theirs[:, column]), grid, side="right") / len(theirs)
        bound = 2.23 * np.sqrt(1 / len(ours) + 1 / len(theirs))
        assert np.abs(ours_cdf - theirs_cdf).max() < bound
    # Pairs a document, mean and spread: the spread would shrink if targets were drawn per chunk.
    error = np.hypot(ours_each.std(0), theirs_each.std(0)) / np.sqrt(ROUNDS)
    assert (np.abs(ours_each.mean(0) - theirs_each.mean(0)) < 4.5 * error + 1e-12).all()
    spread = np.mean(ours_each.std(0)) / np.mean(theirs_each.std(0))
    assert 0.9 < spread < 1.1
    # Pairs a round: the spread would grow if one target were drawn for all documents. The deviation
    # of a spread of 120 values is 6.5% of it, of a ratio of two 9%.
    assert 0.6 < ours_each.sum(1).std() / theirs_each.sum(1).std() < 1.6


@pytest.mark.parametrize("name", SETTINGS)
def test_means_over_seeds_are_googles(name, google):
    shape, max_seq_length, short_seq_prob = SETTINGS[name]
    documents = random_documents(seed=5, **shape)
    plain = [[sentence.tolist() for sentence in document] for document in documents]
    owner = document_of(documents)

    def means(pairs):
        """NSP rate, lengths of A and B, share of pairs from one document."""
        rows = [(r, len(a), len(b), owner[int(a[0])] == owner[int(b[0])]) for a, b, r in pairs]
        return np.mean(rows, axis=0)

    def ours(seed):
        pairs = []
        rng = np.random.default_rng(seed)
        for _ in range(3):
            pairs += make_pairs(
                documents, max_seq_length=max_seq_length, short_seq_prob=short_seq_prob, rng=rng
            )
        return means(pairs)

    def theirs(seed):
        rng = random.Random(seed)
        return means(google.create_pairs(plain, max_seq_length, short_seq_prob, 3, rng))

    # The seeds are independent: their deviation is that of their means.
    first, second = (np.stack([side(seed) for seed in range(30)]) for side in (ours, theirs))
    error = np.hypot(first.std(0, ddof=1), second.std(0, ddof=1)) / np.sqrt(30)
    assert (error > 0).all()
    assert (np.abs(first.mean(0) - second.mean(0)) < 4 * error).all()


def test_every_pair_is_what_its_label_says():
    documents = random_documents(12, (1, 20), (1, 30), seed=4)
    owner = document_of(documents)
    last = {int(sentence[-1]) for document in documents for sentence in document}
    seen_random = seen_next = 0
    for seed in range(20):
        for a, b, is_random in make_pairs(
            documents, max_seq_length=48, short_seq_prob=0.2, rng=np.random.default_rng(seed)
        ):
            assert len(a) >= 1 and len(b) >= 1 and len(a) + len(b) <= 45
            # Contiguous, inside one document.
            assert (np.diff(a) == 1).all() and (np.diff(b) == 1).all()
            assert owner[int(a[0])] == owner[int(a[-1])] and owner[int(b[0])] == owner[int(b[-1])]
            if is_random:
                seen_random += 1
                assert owner[int(a[0])] != owner[int(b[0])]
            else:
                seen_next += 1
                assert owner[int(a[0])] == owner[int(b[0])] and b[0] > a[-1]
                if len(a) + len(b) < 45:  # nothing was dropped
                    assert b[0] == a[-1] + 1 and int(a[-1]) in last
    assert seen_random > 100 and seen_next > 100


def test_every_sentence_begins_an_a_or_lies_in_a_pair():
    # Unused sentences go back: no token of a document is lost while nothing is truncated.
    documents = random_documents(6, (5, 30), (1, 5), seed=6)
    pairs = make_pairs(
        documents, max_seq_length=200, short_seq_prob=0.0, rng=np.random.default_rng(7)
    )
    used = set()
    for a, b, is_random in pairs:
        assert len(a) + len(b) < 197
        used.update(a.tolist())
        if not is_random:
            used.update(b.tolist())
    assert used == set(document_of(documents))


def test_truncation_keeps_what_dropping_one_by_one_keeps():
    # Two documents of one sentence each: every pair is (whole sentence, other sentence), cut.
    for first in range(1, 30):
        for second in range(1, 30):
            documents = [[np.arange(first)], [np.arange(100, 100 + second)]]
            pairs = make_pairs(
                documents, max_seq_length=19, short_seq_prob=0.0, rng=np.random.default_rng(first)
            )
            for (a, b, _), (a_length, b_length) in zip(
                pairs, ((first, second), (second, first)), strict=True
            ):
                while a_length + b_length > 16:
                    if a_length > b_length:
                        a_length -= 1
                    else:
                        b_length -= 1
                assert (len(a), len(b)) == (a_length, b_length)


def test_same_generator_same_pairs_another_another():
    documents = random_documents(5, (5, 20), (1, 20), seed=8)

    def tokens(seed):
        pairs = make_pairs(
            documents, max_seq_length=64, short_seq_prob=0.1, rng=np.random.default_rng(seed)
        )
        return [(a.tolist(), b.tolist(), is_random) for a, b, is_random in pairs]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_shortest_sequence_and_refusals():
    documents = random_documents(4, (1, 5), (1, 9), seed=9)
    rng = np.random.default_rng(0)
    pairs = make_pairs(documents, max_seq_length=5, short_seq_prob=0.5, rng=rng)
    assert all(len(a) == len(b) == 1 for a, b, _ in pairs)
    with pytest.raises(ValueError, match="at least 5"):
        make_pairs(documents, max_seq_length=4, short_seq_prob=0.5, rng=rng)
    with pytest.raises(ValueError, match="two documents"):
        make_pairs(documents[:1], max_seq_length=9, short_seq_prob=0.5, rng=rng)
