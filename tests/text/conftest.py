"""A small corpus for training vocabularies."""

import random

import pytest

TEXT = "the cat dog sat on a mat and walked over café naïve hills [brackets] (also) 12 365"
WORDS = TEXT.split()


def random_sentences(count, seed=0):
    generator = random.Random(seed)
    return [
        " ".join(generator.choices(WORDS, k=generator.randint(3, 12))).capitalize() + "."
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def make_sentences():
    """Returns `random_sentences`."""
    return random_sentences


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_text("\n".join(random_sentences(3000)) + "\n", encoding="utf-8")
    return path
