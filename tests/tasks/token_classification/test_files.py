"""Files of sentences with tags: every format, and mistakes by their lines."""

import json

import pytest

from bertjax.errors import UserError
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.tasks.token_classification.files import read_tagged
from bertjax.tasks.token_classification.reading import check_labels, find_labels


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it."""

    def write_and_read(text, name="a.conll", **options):
        rows = text if isinstance(text, str) else "".join(json.dumps(row) + "\n" for row in text)
        (tmp_path / name).write_text(rows)
        return read_tagged(tmp_path / name, TokenClassificationConfig(**options))

    return write_and_read


@pytest.fixture
def refusal(read):
    def error(*arguments, **options):
        with pytest.raises(UserError) as caught:
            read(*arguments, **options)
        return str(caught.value).split("/")[-1]

    return error


CONLL03 = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

-DOCSTART- -X- -X- O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
Smith NNP I-NP B-PER
"""


def test_columns_documents_and_iob1(read):
    tagged = read(CONLL03)
    assert tagged.words == [("EU", "rejects", "German", "call"), ("Peter", "Blackburn", "Smith")]
    assert tagged.tags == [("B-ORG", "O", "B-MISC", "O"), ("B-PER", "I-PER", "B-PER")]
    assert tagged.scheme == "iob1" and not tagged.misfits and tagged.documents == [1, 2]
    assert tagged.where(1, 2).endswith("a.conll:12")


def test_a_column_has_a_number_a_name_or_the_name_of_a_header(read):
    by_number = read(CONLL03, tag_column="2")
    names = ("word", "pos", "chunk", "ner")
    by_name = read(CONLL03, tag_column="pos", column_names=names)
    by_header = read("word pos chunk ner\n\n" + CONLL03, tag_column="pos")
    wanted = [("NNP", "VBZ", "JJ", "NN"), ("NNP", "NNP", "NNP")]
    assert by_number.tags == by_name.tags == by_header.tags == wanted
    assert by_number.scheme == "none" and by_header.words == by_number.words
    assert read("O\tEU\nB-X\tUN\n", token_column="2", tag_column="1").words == [("EU", "UN")]


def test_tabs_keep_spaces_and_comments_are_counted(read):
    text = "\ufeff# id 1 domain=en\nNew York\tB-LOC\r\n#\tO\r\n# O\tO\r\n\r\n# x\n\tO\n \tO\n"
    tagged = read(text)
    assert tagged.words == [("New York", "#", "# O"), ("", "")] and tagged.comments == 2


@pytest.mark.parametrize(
    ("tags", "scheme", "converted"),
    [
        ("B-A E-A S-A O", "iobes", "B-A I-A B-A O"),
        ("B-A L-A U-A O", "bilou", "B-A I-A B-A O"),
        ("B-A M-A E-A S-B", "iobes", "B-A I-A I-A B-B"),
        ("I-A I-A B-A O", "iob1", "B-A I-A B-A O"),
        ("B-A I-A B-A O", "iob2", "B-A I-A B-A O"),
        ("B I B O", "iob2", "B I B O"),
        ("N V O S", "none", "N V O S"),
    ],
)
def test_schemes_are_detected_and_converted(read, tags, scheme, converted):
    text = "".join(f"w {tag}\n" for tag in tags.split())
    for options in ({}, {"scheme": scheme}):
        tagged = read(text, **options)
        assert (tagged.scheme, tagged.misfits) == (scheme, 0)
        assert tagged.tags == [tuple(converted.split())]


def test_types_alone_are_a_scheme_by_name(read):
    tagged = read("a PER\nb PER\nc O\nd LOC\n", scheme="io")
    assert tagged.tags == [("B-PER", "I-PER", "O", "B-LOC")]


def test_tags_that_break_the_rules_are_counted_or_refused(read, refusal):
    text = "a B-A\nb I-B\nc I-B\nd O\ne B-A\n"
    tagged = read(text)
    assert (tagged.scheme, tagged.misfits) == ("iob2", 1)
    assert tagged.tags == [("B-A", "B-B", "I-B", "O", "B-A")]
    error = refusal(text, scheme="iob2")
    assert error.startswith("a.conll:2: the tag 'I-B' breaks the rules of iob2 after 'B-A'")
    assert "a.conll:1: the tag 'B-A' breaks the rules of iob1 after the beginning" in refusal(
        text, scheme="iob1"
    )


def test_tags_of_no_scheme_are_named_with_what_was_seen(refusal):
    error = refusal("a B-PER\nb O\nc PERSON\n")
    assert error.startswith("a.conll:3: the tag 'PERSON' does not fit") and "'B-PER'" in error
    error = refusal("a B-A\nb L-A\nc S-A\n")
    assert error.startswith("a.conll:3: the tag 'S-A' does not fit the scheme of IOB1")
    assert "does not fit the scheme iob2" in refusal("a B-A\nb E-A\n", scheme="iob2")


def test_lists_of_tokens_and_tags(read, refusal):
    rows = [{"tokens": ["a", "b"], "tags": ["B-A", "O"]}, {"tokens": ["c"], "tags": ["O"]}]
    tagged = read(rows, "a.jsonl")
    assert tagged.words == [("a", "b"), ("c",)] and tagged.where(1, 0).endswith("a.jsonl:2")
    numbers = [{"tokens": ["a", "b"], "ner_tags": [1, 0]}]
    names = {"tag_column": "ner_tags", "tag_names": ("O", "B-A")}
    assert read(numbers, "a.jsonl", **names).tags == [("B-A", "O")]
    assert read(numbers, "a.jsonl", tag_column="ner_tags").tags == [("1", "0")]

    def error(row, **options):
        return refusal([rows[0], row], "a.jsonl", **options)

    assert error({"tokens": ["a"], "tags": ["O", "O"]}).startswith(
        "a.jsonl:2: has 1 words and 2 tags"
    )
    assert "a.jsonl:2: has no words" in error({"tokens": [], "tags": []})
    assert "a.jsonl:2: column 'tags' is no list" in error({"tokens": ["a"], "tags": "O"})
    assert "a.jsonl:2: column 'tags' is no list" in error({"tokens": ["a"], "tags": [["O"]]})
    assert "a.jsonl:2: holds a NUL" in error({"tokens": ["a\0"], "tags": ["O"]})
    assert "a.jsonl:2: no column 'tags'" in error({"tokens": ["a"], "ner": ["O"]})
    assert "the tag '7' is no number from 0 to 1" in refusal(
        [{"tokens": ["a"], "tags": [7]}], "a.jsonl", tag_names=("O", "B-A")
    )


def entities_row(text, *entities):
    names = ("start", "end", "label")
    return {"text": text, "entities": [dict(zip(names, each, strict=True)) for each in entities]}


def test_spans_of_characters(read):
    row = entities_row("Obama's trip to New York.", (16, 24, "LOC"), (0, 5, "PER"))
    inside = entities_row("Obamas trip", (0, 5, "PER"))
    tagged = read([row, inside], "a.jsonl")
    assert tagged.words[0] == ("Obama", "'", "s", "trip", "to", "New", "York", ".")
    assert tagged.tags[0] == ("B-PER", "O", "O", "O", "O", "B-LOC", "I-LOC", "O")
    assert tagged.tags[1] == ("B-PER", "O") and tagged.widened == 1
    assert (tagged.scheme, tagged.splitting) == ("entities", "punctuation")


def test_spans_that_are_wrong(refusal):
    def error(*entities, text="Obama went"):
        return refusal([entities_row("A b", (0, 1, "X")), entities_row(text, *entities)], "a.jsonl")

    assert error((0, 50, "PER")).startswith(
        "a.jsonl:2: an entity goes from 0 to 50, and the text has 10 characters"
    )
    assert "goes from 3 to 3" in error((3, 3, "PER"))
    assert "a.jsonl:2: the entity from 5 to 6 has no characters but spaces" in error((5, 6, "A"))
    assert "have the word 'Obama' in common" in error((0, 5, "A"), (2, 8, "B"))
    assert "a.jsonl:2: the text is empty" in error(text=" ")
    for wrong in ((-1, 2, "A"), ("x", 2, "A"), (0, 2, ""), (0, 2, None), (0.5, 2, "A")):
        assert "a.jsonl:2: entities must be a list of" in error(wrong)
    assert "entities must be a list of" in refusal([{"text": "a", "entities": [3]}], "a.jsonl")
    assert "entities must be a list of" in refusal([{"text": "a", "entities": "x"}], "a.jsonl")


def test_columns_that_are_wrong(refusal):
    assert refusal("a B-A\nb\n").startswith("a.conll:2: has 1 columns, and the first line of the ")
    assert "a.conll:1: has the one column 'word'" in refusal("word\n")
    assert "a.conll:2: has no tag" in refusal("a\tO\tO\nb\t\tO\n", tag_column="2")
    assert "`tag_column` is 7; give a number from 1 to 2" in refusal("a O\n", tag_column="7")
    assert "a.conll:1: no column 'ner'" in refusal("a O\n", tag_column="ner")
    assert "`column_names` names 3" in refusal("a O\n", column_names=("a", "b", "c"))
    assert "are the same column" in refusal("a O\n", tag_column="1")
    assert "has no words" in refusal("-DOCSTART- O\n\n")
    assert "has a header and no words" in refusal("word ner\n", tag_column="ner")
    assert "is a .csv file" in refusal("a,O\n", "a.csv")
    assert "leave out `column_names`" in refusal(
        [{"tokens": ["a"], "tags": ["O"]}], "a.jsonl", column_names=("a", "b")
    )


def test_labels_are_those_of_training(read):
    train = read("a B-B\nb O\nc B-A\n")
    labels = find_labels(train)
    assert labels == ("O", "B-A", "I-A", "B-B", "I-B")
    check_labels(read("a B-A\nb I-A\n"), labels)
    check_labels(read("a O\nb O\n"), labels)
    for text, line in (("a O\nb B-C\n", "a.conll:2: the tag 'B-C'"), ("a PER\n", "1: the tag 'P")):
        with pytest.raises(UserError, match=f"{line}.* was not seen in training"):
            check_labels(read(text), labels)
    assert find_labels(read("a NN\nb VB\nc NN\n")) == ("NN", "VB")
    with pytest.raises(UserError, match="all words have the tag 'O'"):
        find_labels(read("a O\nb O\n"))
    with pytest.raises(UserError, match="has 10,001 different tags"):
        find_labels(read("".join(f"w t{at}\n" for at in range(10_001))))


@pytest.mark.data
def test_real_corpora(data_dir):
    found = {}
    for path in sorted((data_dir / "ner").rglob("*.conll*")):
        tagged = read_tagged(path, TokenClassificationConfig())
        found[path.name] = (len(tagged), tagged.scheme, tagged.misfits, tagged.documents[-1])
    assert found["wikigold.conll.txt"] == (1696, "iob1", 0, 144)
    assert found["wnut17train.conll"] == (3394, "iob2", 0, 0)
    assert found["f.conll"] == (2000, "iob2", 0, 0)
