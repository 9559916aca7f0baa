"""Google's pairing of sentences, token by token, as its create_pretraining_data.py does it.

What `bertjax.data.pairs` is held to, in its distribution and in its speed: pure Python, sequential,
the whole corpus in memory. Masking is left out.
"""

import random

Documents = list[list[list[int]]]
Pair = tuple[list[int], list[int], bool]


def create_pairs(
    documents: Documents,
    max_seq_length: int,
    short_seq_prob: float,
    dupe_factor: int,
    rng: random.Random,
) -> list[Pair]:
    """The pairs of all documents, shuffled, as `create_training_instances`.

    Args:
        documents: lists of sentences, which are lists of token ids; none is empty.
        max_seq_length: of an example with its three special tokens.
        short_seq_prob: share of documents with a shorter target.
        dupe_factor: passes over the documents.
        rng: the only source of randomness.

    Returns:
        (ids of A, ids of B, whether B is random).
    """
    documents = list(documents)
    rng.shuffle(documents)
    pairs: list[Pair] = []
    for _ in range(dupe_factor):
        for number in range(len(documents)):
            pairs.extend(
                create_pairs_of_document(documents, number, max_seq_length, short_seq_prob, rng)
            )
    rng.shuffle(pairs)
    return pairs


def create_pairs_of_document(
    documents: Documents,
    number: int,
    max_seq_length: int,
    short_seq_prob: float,
    rng: random.Random,
) -> list[Pair]:
    """The pairs of one document, as `create_instances_from_document`."""
    document = documents[number]
    limit = max_seq_length - 3
    target = limit
    if rng.random() < short_seq_prob:
        target = rng.randint(2, limit)
    pairs: list[Pair] = []
    chunk: list[list[int]] = []
    length, i = 0, 0
    while i < len(document):
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            a: list[int] = []
            for sentence in chunk[:a_end]:
                a.extend(sentence)
            b: list[int] = []
            is_random = len(chunk) == 1 or rng.random() < 0.5
            if is_random:
                other = number
                for _ in range(10):
                    other = rng.randint(0, len(documents) - 1)
                    if other != number:
                        break
                start = rng.randint(0, len(documents[other]) - 1)
                for sentence in documents[other][start:]:
                    b.extend(sentence)
                    if len(b) >= target - len(a):
                        break
                i -= len(chunk) - a_end  # the unused sentences go back
            else:
                for sentence in chunk[a_end:]:
                    b.extend(sentence)
            truncate_pair(a, b, limit, rng)
            pairs.append((a, b, is_random))
            chunk, length = [], 0
        i += 1
    return pairs


def truncate_pair(a: list[int], b: list[int], limit: int, rng: random.Random) -> None:
    """Drops tokens in place until both have at most `limit`, as `truncate_seq_pair`."""
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
