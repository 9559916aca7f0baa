"""Random tags for the comparison with seqeval, and the script that writes its numbers.

    pip install seqeval==1.2.2
    python tests/tasks/token_classification/seqeval_cases.py

The script needs nothing of bertjax.
"""

import pathlib
import random

GOLDEN = pathlib.Path(__file__).with_name("seqeval.npz")
SEQUENCES = 10_000
SCHEMES = {"iob1": "BI", "iob2": "BI", "iobes": "BIES"}
TYPES = ("PER", "LOC", "geo-loc")


def sentence_tags(generator, scheme, length):
    """Tags of entities of 1 to 4 words, half of which touch the one before."""
    tags = []
    while len(tags) < length:
        if generator.random() < 0.5:
            tags += ["O"] * int(generator.random() * 3)
        label = TYPES[int(generator.random() * len(TYPES))]
        size = 1 + int(generator.random() * 4)
        letters = ["B", *"I" * (size - 1)]
        if scheme == "iobes":
            letters[-1] = "E" if size > 1 else "S"
        if scheme == "iob1" and not (tags and tags[-1].endswith(f"-{label}")):
            letters[0] = "I"
        tags += [f"{letter}-{label}" for letter in letters]
    return tags[:length]


def with_errors(generator, scheme, tags, rate):
    """Replaces some tags by any others."""
    every = ["O", *(f"{letter}-{label}" for letter in SCHEMES[scheme] for label in TYPES)]
    return [
        every[int(generator.random() * len(every))] if generator.random() < rate else tag
        for tag in tags
    ]


def pairs(scheme):
    """[true tags, predicted tags] of each sequence; a tenth of the true tags have errors too."""
    generator = random.Random(scheme)
    found = []
    for number in range(SEQUENCES):
        tags = sentence_tags(generator, scheme, 1 + int(generator.random() * 20))
        true = with_errors(generator, scheme, tags, 0.3) if number % 10 == 0 else tags
        found.append((true, with_errors(generator, scheme, tags, 0.2)))
    return found


def main():
    import numpy as np
    from seqeval.metrics import f1_score, precision_score, recall_score

    scores = (precision_score, recall_score, f1_score)
    arrays = {}
    for scheme in SCHEMES:
        every = pairs(scheme)
        arrays[scheme] = np.array(
            [[score([true], [found], zero_division=0) for score in scores] for true, found in every]
        )
        true, found = zip(*every, strict=True)
        whole = [score(true, found) for score in scores]
        types = np.array([score(true, found, average=None) for score in scores])
        arrays[f"{scheme}_corpus"] = np.concatenate([np.array(whole)[:, None], types], 1)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
