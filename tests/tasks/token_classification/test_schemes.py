"""Schemes of tags: each is read, written and told from the others."""

import pytest

from bertjax.tasks.token_classification import schemes
from bertjax.tasks.token_classification.schemes import Entity

ENTITIES = [Entity(0, 1, "PER"), Entity(1, 3, "PER"), Entity(4, 7, "geo-loc")]
WRITTEN = {
    "iob1": "I-PER B-PER I-PER O I-geo-loc I-geo-loc I-geo-loc",
    "iob2": "B-PER B-PER I-PER O B-geo-loc I-geo-loc I-geo-loc",
    "iobes": "S-PER B-PER E-PER O B-geo-loc I-geo-loc E-geo-loc",
    "bilou": "U-PER B-PER L-PER O B-geo-loc I-geo-loc L-geo-loc",
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_a_scheme_is_written_and_read(scheme):
    tags = WRITTEN[scheme].split()
    assert schemes.write_tags(ENTITIES, 7, scheme) == tags
    assert schemes.find_entities(tags) == ENTITIES
    assert not schemes.misfits(tags, scheme)
    others = [each for each in WRITTEN if each != scheme]
    assert all(schemes.misfits(WRITTEN[other].split(), scheme) for other in others)


def test_tags_that_no_scheme_allows_are_read_as_conlleval_reads_them():
    def read(tags):
        return [tuple(each) for each in schemes.find_entities(tags.split())]

    assert read("O I-A I-B E-B I-B S-B I-B") == [
        (1, 2, "A"),
        (2, 4, "B"),
        (4, 5, "B"),
        (5, 6, "B"),
        (6, 7, "B"),
    ]
    assert read("E-A E-A B-A O") == [(0, 1, "A"), (1, 2, "A"), (2, 3, "A")]
    assert read("B I O B") == [(0, 2, "_"), (3, 4, "_")]
    assert read("B-A M-A E-A") == [(0, 3, "A")]
    assert read("") == []


def test_bare_letters_have_a_scheme_and_other_words_have_none():
    assert schemes.has_scheme(["O", "B", "I"]) and schemes.has_scheme(["O", "B-PER", "[PAD]"])
    assert not schemes.has_scheme(["NN", "O", "S", "-LRB-"]) and not schemes.has_scheme(["O"])


def test_letters_permit_schemes():
    def permitted(*tags, scheme="detect"):
        return schemes.permitted_schemes(tags, scheme)

    assert permitted("O", "B-A", "I-A") == (["iob2", "iob1", "iobes", "bilou"], None)
    assert permitted("I-A", "S-A", "M-A") == (["iobes"], None)
    assert permitted("U-A", "B-A", "E-A") == ([], "E-A")
    assert permitted("B-A", "PERSON") == ([], "PERSON")
    assert permitted("B-A", "L-A", scheme="iob2") == ([], "L-A")
