import bz2
import csv
import gzip
import io
import json

import hypothesis
import hypothesis.strategies as st
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.tables import MAX_FIELD, check_text, read_table


def write(directory, name, content):
    path = epath.Path(directory) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, columns=("text", "label"), **options):
    with pytest.raises(UserError) as caught:
        read_table(path, columns, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_tsv_is_read_with_quoting_off(tmp_path):
    path = write(tmp_path, "a.tsv", 'label\ttext\n1\t"half a quote\n0\tsay ""no""\n')
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": ['"half a quote', 'say ""no""'], "label": ["1", "0"]}
    assert table.where(1) == f"{path}:3"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("A.TSV", 'text\tlabel\na, "b"\tc\n'),
        ("A.CSV", 'text,label\n"a, ""b""",c\n'),
        ("A.JSONL", '{"text": "a, \\"b\\"", "label": "c"}\n'),
    ],
)
def test_suffixes_may_be_capitals(tmp_path, name, text):
    table = read_table(write(tmp_path, name, text), ["text", "label"])
    assert table.columns == {"text": ['a, "b"'], "label": ["c"]}


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_byte_order_mark_crlf_and_blank_lines(tmp_path, name):
    separator = "\t" if name.endswith("tsv") else ","
    rows = [
        separator.join(row) for row in (("text", "label"), ("one", "a"), ("", ""), ("two", "b"))
    ]
    rows[2] = ""
    table = read_table(
        write(tmp_path, name, b"\xef\xbb\xbf" + "\r\n".join(rows).encode()), ["text", "label"]
    )
    assert table.columns == {"text": ["one", "two"], "label": ["a", "b"]}
    assert table.lines == [2, 4]


def test_line_separators_that_are_no_newline_stay_in_the_text(tmp_path):
    text = "a\u2028b\x85c\x0bd"
    for name, content in (("a.tsv", f"text\n{text}\n"), ("a.jsonl", json.dumps({"text": text}))):
        assert read_table(write(tmp_path, name, content), ["text"]).columns["text"] == [text]


def test_csv_quotes_commas_newlines_and_the_lines_rows_begin_at(tmp_path):
    content = 'text,label\n"a, b",x\n"two\nlines, ""quoted""\r\nthree",y\nplain,z\n'
    table = read_table(write(tmp_path, "a.csv", content), ["text", "label"])
    assert table.columns["text"] == ["a, b", 'two\nlines, "quoted"\r\nthree', "plain"]
    assert table.lines == [2, 3, 6]


def test_jsonl_keeps_the_digits_of_numbers(tmp_path):
    rows = '{"text": "a", "label": 1, "extra": [1]}\n\n{"label": 1.0, "text": "b"}\n'
    rows += '{"label": true, "text": "c"}\n'
    table = read_table(write(tmp_path, "a.jsonl", rows), ["text", "label"])
    assert table.columns["label"] == ["1", "1.0", "true"]
    assert table.lines == [1, 3, 4]


def test_names_for_a_file_without_header(tmp_path):
    path = write(tmp_path, "a.tsv", "good\t1\nbad\t0\n")
    table = read_table(path, ["label"], column_names=["text", "label"])
    assert table.columns == {"label": ["1", "0"]}
    assert table.lines == [1, 2]
    assert "`column_names`: no column 'labl'" in refusal(
        path, ["labl"], column_names=["text", "label"]
    )
    assert f"{path}:1: fields in this row: 2, in `column_names`: 3" in refusal(
        path, column_names=["text", "label", "more"]
    )
    jsonl = write(tmp_path, "a.jsonl", '{"text": "a"}')
    assert "leave out `column_names`" in refusal(jsonl, ["text"], column_names=["text"])


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ("text\tlabel\ngood\t1\nbad\t0\n", "text label"),
        ("Text\tLabel\ngood\tx\nbad\ty\n", "text label"),
        ("sentence\tgold\ngood\t1\nbad\t0\n", "text label"),
        ("sentence\tgold\tscore\na\tb\t0.5\nc\td\t1e3\n", "text more label"),
    ],
)
def test_a_header_is_not_taken_for_data(tmp_path, rows, names):
    path = write(tmp_path, "a.tsv", rows)
    sentence = refusal(path, column_names=names.split())
    assert (
        sentence.startswith(f"{path}:1: is a header (") and "leave out `column_names`" in sentence
    )


@pytest.mark.parametrize("rows", ["good\tx\nbad\ty\n", "text\t1\nb\t0\n", "a\tlabel\nb\t0\n"])
def test_data_is_not_taken_for_a_header(tmp_path, rows):
    names = ["text", "label"]
    table = read_table(write(tmp_path, "a.tsv", rows), names, column_names=names)
    assert len(table) == 2


@pytest.mark.parametrize(
    "name", ["part-00000", "rows.ndjson", "rows.jsonlines", "rows.txt", "x.gz"]
)
def test_json_lines_by_another_name(tmp_path, name):
    text = b'{"text": "a", "label": 1}\n{"label": 2, "text": "b"}\n'
    path = write(tmp_path, name, gzip.compress(text) if name == "x.gz" else text)
    assert read_table(path, ["label"]).columns == {"label": ["1", "2"]}


@pytest.mark.parametrize(
    ("name", "pack"), [("a.csv.gz", gzip.compress), ("a.CSV.bz2", bz2.compress)]
)
def test_tables_may_be_compressed(tmp_path, name, pack):
    path = write(tmp_path, name, pack(b"\xef\xbb\xbf" + b'text,label\n"a, b",x\n'))
    assert read_table(path, ["text", "label"]).columns == {"text": ["a, b"], "label": ["x"]}


def test_a_missing_column_names_the_field_to_set(tmp_path):
    path = write(tmp_path, "a.csv", "sentence,label\na,1\n")
    assert "name one of them with `text_column` or, if a TSV" in refusal(
        path, {"text": "text_column"}
    )
    path = write(tmp_path, "a.jsonl", '{"a": {"b": "x"}}\n')
    assert "one of them with `text_column` or" in refusal(path, {"a.c": "text_column"})


def test_a_null_is_empty_in_the_column_that_may_have_one(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": null}\n')
    assert read_table(path, ["text", "label"], may_be_null={"label"}).columns["label"] == [""]
    assert "column 'label' holds null" in refusal(path)


def test_rows_of_a_tfds_data_set(tmp_path, store_tfds, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    store_tfds(
        tmp_path, {"train": ["a", "é"], "test": ["c"]}, name="pairs", features=("one", "two")
    )
    table = read_table("tfds:pairs", ["two", "number"])
    assert table.columns == {"two": ["a", "é"], "number": ["0", "1"]}
    assert table.where(1) == "tfds:pairs:1.0.0:train:1"
    assert read_table("tfds:pairs:test", ["one"]).columns == {"one": ["c"]}
    sentence = refusal("tfds:pairs", {"text": "text_column"})
    assert sentence.startswith("tfds:pairs:1.0.0:train:0: no column 'text'; the columns are ")
    assert "leave out `column_names`" in refusal("tfds:pairs", ["one"], column_names=["one"])


def test_a_missing_column_names_those_present_and_the_nearest(tmp_path):
    path = write(tmp_path, "a.tsv", "Sentence\tgold_label\nx\ty\n")
    sentence = refusal(path, ["sentense"])
    assert f"{path}:1: no column 'sentense'; the columns are 'Sentence', 'gold_label'" in sentence
    assert "did you mean 'Sentence'?" in sentence
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "lable": 1}\n')
    sentence = refusal(path)
    assert f"{path}:2: no column 'label'; the columns are 'text', 'lable'" in sentence
    assert "did you mean 'lable'?" in sentence
    path = write(tmp_path, "b.csv", "text,text,label\na,b,c\n")
    assert f"{path}:1: two columns are named 'text'" in refusal(path)


def test_a_row_with_other_fields_than_the_header(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na\t1\nb\n")
    assert f"{path}:3: fields in this row: 1, in {path}:1: 2" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_an_empty_file(tmp_path, content):
    path = write(tmp_path, "a.tsv", content)
    assert f"{path}: is empty" in refusal(path)


def test_a_file_with_nothing_but_a_header(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\n")
    assert f"{path}: has a header and no rows" in refusal(path)


def test_what_is_no_file_of_rows(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.tsv")
    assert "can't tell the format" in refusal(write(tmp_path, "a.xlsx", "PK"))
    (tmp_path / "folder.csv").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.csv")


def test_bytes_that_are_not_text(tmp_path):
    path = write(tmp_path, "a.tsv", b"text\tlabel\na\t1\nb\xff\t1\n")
    assert f"{path}:3: byte 0xff is not UTF-8" in refusal(path)
    path = write(tmp_path, "b.tsv", b"text\tlabel\na\0\t1\n")
    assert f"{path}:2: holds a NUL byte" in refusal(path)
    path = write(tmp_path, "c.csv", "text,label\na,1\n".encode("utf-16"))
    assert f"{path}:1: begins as UTF-16 does" in refusal(path)


def test_quotes_gone_wrong(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\nfine,1\n"never closed,1\nmore,2\n')
    assert f"{path}:3: a quote that opens in the row beginning here is never closed" in refusal(
        path
    )
    path = write(tmp_path, "b.csv", 'text,label\nfine,1\n"one,1\ntwo,"x"\n')
    assert f"{path}:3: a quote closes in the middle of a field" in refusal(path)
    path = write(tmp_path, "c.csv", 'text,label\n"' + "words " * 40_000 + '",1\n')
    assert f"{path}:2: a field has more than 131,072 characters" in refusal(path)


HOSTILE_JSON = {
    "nested": ("[" * 100_000, "nested too deeply"),
    "nested object": ('{"text":' * 100_000, "nested too deeply"),
    "not a number": ('{"text": "a", "label": NaN}', "NaN is no JSON value"),
    "infinity": ('{"text": "a", "label": -Infinity}', "-Infinity is no JSON value"),
    "cut": ('{"text": "a", ', "not JSON"),
    "array": ('["a", 1]', "holds no JSON object"),
    "null": ('{"text": null, "label": 1}', "column 'text' holds null"),
    "list": ('{"text": ["a"], "label": 1}', "column 'text' holds a list"),
    "surrogate": ('{"text": "\\ud83d", "label": 1}', "half of a surrogate pair"),
    "escaped NUL": ('{"text": "a\\u0000", "label": 1}', "NUL"),
    "10 MB": ('{"text": "' + "a" * 10_000_000 + '"}', "characters"),
    "long value": ('{"text": "' + "a" * (MAX_FIELD + 1) + '"}', "131,073 characters"),
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_by_line(tmp_path, name):
    content, reason = HOSTILE_JSON[name]
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n' + content + "\n")
    sentence = refusal(path)
    assert sentence.startswith(f"{path}:2: ") and reason in sentence
    assert len(sentence) < 400


def test_a_number_of_5000_digits_is_text_like_any_other(tmp_path):
    digits = "1" * 5000
    path = write(tmp_path, "a.jsonl", f'{{"text": "a", "label": {digits}}}')
    assert read_table(path, ["label"]).columns["label"] == [digits]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_10_mb_line(tmp_path, name):
    separator = "\t" if name.endswith("tsv") else ","
    row = "a" * 10_000_000 + separator + "1"
    path = write(tmp_path, name, f"text{separator}label\nfine{separator}1\n{row}\n")
    sentence = refusal(path)
    assert sentence.startswith(f"{path}:3: ") and "characters" in sentence
    assert len(sentence) < 400


def test_check_text_gives_the_text_back():
    assert check_text("naïve 🙂", "here") == "naïve 🙂"
    with pytest.raises(UserError, match=r"^here: holds half of a surrogate"):
        check_text("a\udc80", "here")


fields = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@hypothesis.given(st.lists(st.tuples(fields, fields), min_size=1, max_size=8))
@hypothesis.settings(deadline=None, max_examples=50)
def test_csv_written_by_the_csv_module_comes_back(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("csv"), "a.csv", buffer.getvalue())
    table = read_table(path, ["text", "label"])
    assert list(zip(*table.columns.values(), strict=True)) == rows


@hypothesis.given(st.binary(max_size=200), st.sampled_from(["a.tsv", "a.csv", "a.jsonl"]))
@hypothesis.settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, content, name):
    path = write(tmp_path_factory.mktemp("any"), name, content)
    try:
        table = read_table(path, ["text"], column_names=None)
    except UserError as error:
        assert str(error).startswith(str(path))
    else:
        assert len(table.columns["text"]) == len(table) > 0


GLUE = {
    "CoLA/train.tsv": (["text", "label"], ["source", "label", "note", "text"], 8551),
    "MRPC/train.tsv": (["#1 String", "#2 String", "Quality"], None, 3668),
    "MRPC/dev.tsv": (["#1 String", "#2 String", "Quality"], None, 408),
    "RTE/train.tsv": (["sentence1", "sentence2", "label"], None, 2490),
    "SST-2/train.tsv": (["sentence", "label"], None, 67349),
    "SST-2/dev.tsv": (["sentence", "label"], None, 872),
    "STS-B/train.tsv": (["sentence1", "sentence2", "score"], None, 5749),
    "WNLI/train.tsv": (["sentence1", "sentence2", "label"], None, 635),
}


@pytest.mark.data
@pytest.mark.parametrize("name", GLUE)
def test_glues_own_files(data_dir, name):
    columns, names, rows = GLUE[name]
    table = read_table(data_dir / "glue" / name, columns, column_names=names)
    assert len(table) == rows and table.lines == list(range(1 + (names is None), rows + 2))[:rows]
    assert len(set(table.columns[columns[-1]])) <= 2 or "STS" in name
