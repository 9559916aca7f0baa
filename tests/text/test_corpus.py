import bz2
import gzip
import json
import os

import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjax.errors import UserError
from bertjax.text import corpus


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return epath.Path(path)


def read(path):
    return list(corpus.read_documents(path))


def refused(path):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# .txt


def test_blank_lines_part_documents(tmp_path):
    path = write(tmp_path / "a.txt", "\n\nOne.\n Two. \n\n \t\n\nThree.\n")
    assert read(path) == [("One.", "Two."), ("Three.",)]


def test_a_sentence_is_found_by_its_beginning(tmp_path):
    path = write(tmp_path / "a.txt", "\n  One two.\n\nThree.\nOne two.\n")
    assert corpus.find_line(path, "One t") == 2
    assert corpus.find_line(path, "absent") is None
    rows = '{"text": "A b."}\n\n{"text": "C\\n d. \\u0045 f."}\n'
    path = write(tmp_path / "a.jsonl", rows)
    assert corpus.find_line(path, "C d.") == corpus.find_line(path, "E f") == 3


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path, end, bom, last):
    text = ("Über\nzwei\n\ndrei" + last).replace("\n", end)
    documents = read(write(tmp_path / "a.txt", bom + text.encode()))
    assert documents == [("Über", "zwei"), ("drei",)]


def test_characters_that_only_look_like_line_ends_stay_in_their_sentence(tmp_path):
    path = write(tmp_path / "a.txt", "a\u2028b\x0bc\x85d\n\ne\n")
    assert read(path) == [("a\u2028b\x0bc\x85d",), ("e",)]


def test_an_empty_file_holds_no_document(tmp_path):
    assert read(write(tmp_path / "a.txt", b"")) == []
    assert read(write(tmp_path / "b.txt", b"\xef\xbb\xbf\n \n")) == []
    assert read(write(tmp_path / "c.jsonl", b"")) == []


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    path = write(tmp_path / "a.txt", b"fine\ncaf\xe9\n")
    assert refused(path).startswith(f"{path}:2: not UTF-8 (byte 0xe9 at byte 4 of the line)")
    path = write(tmp_path / "b.txt", "Hallo\n".encode("utf-16"))
    assert f"{path}:1: not UTF-8" in refused(path)


def test_surrogates_in_utf8_are_refused(tmp_path):
    assert ":1: not UTF-8" in refused(write(tmp_path / "a.txt", b"\xed\xa0\x80\n"))


def test_nul_is_named_with_its_line(tmp_path):
    path = write(tmp_path / "a.txt", b"a\n\nb\0c\n")
    assert f"{path}:3: contains a NUL character" in refused(path)


def test_documents_before_a_fault_are_given_first(tmp_path):
    documents = corpus.read_documents(write(tmp_path / "a.txt", b"one\n\ntwo\n\n\xff\n"))
    assert next(documents) == ("one",)
    assert next(documents) == ("two",)
    with pytest.raises(UserError):
        next(documents)


def test_a_line_of_ten_megabytes_is_one_sentence(tmp_path):
    path = write(tmp_path / "a.txt", b"x" * 10_000_000 + b"\nshort\n")
    assert [len(sentence) for sentence in read(path)[0]] == [10_000_000, 5]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_over_the_limit_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 1 << 20)
    pack = gzip.compress if name.endswith(".gz") else bytes
    line = b"x" * ((1 << 20) - 1) + b"\n"
    assert len(read(write(tmp_path / name, pack(line + line)))[0]) == 2
    path = write(tmp_path / name, pack(line + b"y" + line))
    assert f"{path}:2: longer than 1 MiB; split it into documents" in refused(path)


def test_a_missing_file_is_a_users_error(tmp_path):
    assert "can't be read" in refused(tmp_path / "no.txt")


def test_reading_streams(tmp_path):
    # The documents are generated: the first needs nothing of the second.
    path = write(tmp_path / "a.txt", "one\n\n" + "two\n\n" * 100_000)
    documents = corpus.read_documents(path)
    assert next(documents) == ("one",)
    documents.close()


# .jsonl


def test_json_lines_are_split_into_sentences(tmp_path):
    rows = [
        {"text": "Dr. Lee came. She left.\n\nThen it rained.", "title": "Rain"},
        {"text": "Hm."},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == [("Dr. Lee came.", "She left.", "Then it rained."), ("Hm.",)]


def test_json_lines_may_begin_with_a_bom_end_with_crlf_and_have_other_keys(tmp_path):
    data = b'\xef\xbb\xbf{"text": "A b.", "title": 3, "id": 7}\r\n\r\n{"text": "C \\ud83d\\ude00."}'
    documents = read(write(tmp_path / "a.json", data))
    assert documents == [("A b.",), ("C 😀.",)]


def test_a_text_without_a_word_gives_no_document(tmp_path):
    assert read(write(tmp_path / "a.jsonl", '{"text": " \\n\\t"}\n')) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ('{"text": "a"} x', "not JSON"),
        ('{"text": "unclosed', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": ' * 100_000, "nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "a number too long"),
        ("[]", "not a JSON object"),
        ("NaN", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"txt": "a"}', 'has no "text"'),
        ('{"text": NaN}', '"text" is float'),
        ('{"text": null}', '"text" is NoneType'),
        ('{"text": ["a"]}', '"text" is list'),
        ('{"text": "a\\u0000b"}', "NUL"),
        ('{"text": "half \\ud83d of it"}', "half a character"),
    ],
)
def test_a_bad_json_line_is_named_with_its_place(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", '{"text": "Fine."}\n\n' + line + "\n")
    message = refused(path)
    assert message.startswith(f"{path}:3: ") and reason in message


def test_nan_beside_the_text_is_accepted(tmp_path):
    assert len(read(write(tmp_path / "a.jsonl", '{"text": "A b.", "score": NaN}'))) == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.floats(), st.text()),
            lambda inner: st.dictionaries(st.sampled_from(["text", "title", "x"]), inner),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    name=st.sampled_from(["f.txt", "f.jsonl"]),
)
def test_no_bytes_crash_a_reader(tmp_path, data, name):
    path = write(tmp_path / name, data)
    try:
        documents = read(path)
    except UserError as error:
        assert str(error).startswith(f"{path}:")
        return
    for document in documents:
        assert document
        for sentence in document:
            assert sentence.strip() == sentence != ""
            sentence.encode()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    documents=st.lists(
        st.lists(
            st.text(
                st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=20
            ).filter(lambda line: line.strip() == line),
            min_size=1,
            max_size=5,
        ),
        max_size=5,
    )
)
def test_written_text_is_read_back(tmp_path, documents):
    text = "\n\n".join("\n".join(document) for document in documents)
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf" + text.encode())
    assert [list(document) for document in read(path)] == documents


# WikiExtractor's files


EXTRACTED = {"id": "12", "revid": "34", "url": "https://en.wikipedia.org/wiki?curid=12"}


def test_the_json_of_wikiextractor_is_read(tmp_path):
    rows = [
        {**EXTRACTED, "title": "Rain", "text": "Rain is water. It falls.\nHistory.\nIt rained."},
        {**EXTRACTED, "title": "Nothing", "text": ""},
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "AA").mkdir()
    write(tmp_path / "AA/wiki_00", data)
    write(tmp_path / "AA/wiki_01.bz2", bz2.compress(data))
    write(tmp_path / "AA/wiki_99", b"")
    write(tmp_path / "AA/wiki_table", b"no such name")
    paths = corpus.expand_inputs([str(tmp_path)])
    assert [path.name for path in paths] == ["wiki_00", "wiki_01.bz2", "wiki_99"]
    expected = [("Rain is water.", "It falls.", "History.", "It rained.")]
    assert [read(path) for path in paths] == [expected, expected, []]


def test_the_doc_format_of_wikiextractor_is_refused(tmp_path):
    text = '<doc id="12" url="https://..." title="Rain">\nRain\n\nRain is water.\n\n</doc>\n'
    for name in ("wiki_00", "a.txt"):
        assert ":1: WikiExtractor's <doc> format is not supported; run it with --json" in refused(
            write(tmp_path / name, text)
        )
    assert read(write(tmp_path / "b.txt", "w1\n" + text))[0][1] == text.split("\n")[0]


@pytest.mark.parametrize(
    "name", ["part-00000", "a.ndjson", "a.jsonlines", "a.txt", "RC_2015-01.bz2"]
)
def test_json_lines_are_known_by_their_first_line(tmp_path, name):
    data = b'\xef\xbb\xbf\n { "text" : "One. Two."}\n{"text": "Three."}\n'
    path = write(tmp_path / name, bz2.compress(data) if name.endswith("bz2") else data)
    assert read(path) == [("One.", "Two."), ("Three.",)]


@pytest.mark.parametrize("text", ["{One} two.\n", '{"One", he said.\n', "[1]\n", '"text": 1\n'])
def test_other_lines_with_braces_are_text(tmp_path, text):
    assert read(write(tmp_path / "a.txt", text)) == [(text.strip(),)]


def test_a_directory_stands_for_the_parts_that_spark_writes(tmp_path):
    for name in ("part-00001", "part-00000.gz", "_SUCCESS", "part-a", "rows.ndjson"):
        write(tmp_path / name, b"")
    found = [path.name for path in corpus.expand_inputs([str(tmp_path)])]
    assert found == ["part-00000.gz", "part-00001", "rows.ndjson"]


def test_a_wiki_00_in_another_format_is_text(tmp_path):
    assert read(write(tmp_path / "wiki_00", "One.\nTwo.\n\nThree.")) == [
        ("One.", "Two."),
        ("Three.",),
    ]


# expand_inputs


@pytest.fixture
def tree(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.jsonl", "sub/deep/d.TXT", ".hidden/e.txt", "sub/.f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n")
    (tmp_path / "sub/config.json").write_text("{}")
    (tmp_path / "sub/notes.md").write_text("x")
    return tmp_path


def names(tree, *patterns):
    found = corpus.expand_inputs([str(tree / pattern) for pattern in patterns])
    assert all(isinstance(path, epath.Path) for path in found)
    return [path.relative_to(tree).as_posix() for path in found]


def test_a_directory_gives_its_text_files_sorted(tree):
    assert names(tree, "") == ["a.txt", "b.txt", "sub/c.jsonl", "sub/deep/d.TXT"]


def test_compressed_files_are_named_by_their_content(tree):
    (tree / "sub/a.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    (tree / "sub/b.JSONL.BZ2").write_bytes(bz2.compress(b'{"text": "One is. Two are."}'))
    (tree / "sub/notes.md.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tree / "sub/a.tar.gz").write_bytes(b"")
    found = names(tree, "")
    assert found[2:4] == ["sub/a.txt.gz", "sub/b.JSONL.BZ2"] and len(found) == 6
    assert names(tree, "sub/notes.md.gz") == ["sub/notes.md.gz"]  # a file given by its name
    assert read(tree / "sub/a.txt.gz") == [("one",), ("two",)]
    assert read(tree / "sub/b.JSONL.BZ2") == [("One is.", "Two are.")]
    assert read(tree / "sub/notes.md.gz") == [("one", "two")]


def test_patterns_and_files_of_any_name(tree):
    assert names(tree, "*.txt") == ["a.txt", "b.txt"]
    assert names(tree, "*/c.json?") == ["sub/c.jsonl"]
    assert names(tree, "sub/notes.md") == ["sub/notes.md"]
    assert names(tree, "sub/d*") == ["sub/deep/d.TXT"]  # a directory that a pattern matches


def test_left_out_files_do_not_match(tree):
    others = [epath.Path(tree / "a.txt"), epath.Path(tree / "sub/deep/d.TXT")]
    found = corpus.expand_inputs([str(tree)], leave_out=others)
    assert [path.name for path in found] == ["b.txt", "c.jsonl"]
    with pytest.raises(UserError, match="nothing matches"):
        corpus.expand_inputs([str(tree / "a.*")], leave_out=others)


def test_each_file_comes_once(tree):
    assert names(tree, "sub", "b.txt", "*.txt", "b.txt") == [
        "a.txt", "b.txt", "sub/c.jsonl", "sub/deep/d.TXT",
    ]  # fmt: skip


def test_a_name_with_wildcard_characters_is_a_file_first(tree):
    (tree / "[x].txt").write_text("x\n")
    assert names(tree, "[x].txt") == ["[x].txt"]


def test_relative_patterns(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [str(path) for path in corpus.expand_inputs(["*.txt"])] == ["a.txt", "b.txt"]
    assert [str(path) for path in corpus.expand_inputs(["sub/*.jsonl"])] == ["sub/c.jsonl"]


@pytest.mark.parametrize("pattern", ["no.txt", "*.csv", "no/*.txt", "sub/.f"])
def test_a_pattern_without_matches_is_named(tree, pattern):
    with pytest.raises(UserError, match="nothing matches") as caught:
        corpus.expand_inputs([str(tree / "a.txt"), str(tree / pattern)])
    assert str(caught.value).startswith(str(tree / pattern))


def test_recursive_patterns_are_refused_with_advice(tree):
    with pytest.raises(UserError, match="a directory stands for"):
        names(tree, "**/d.TXT")


def test_links_to_directories_above_are_read_once_and_pipes_are_refused(tmp_path):
    (tmp_path / "text").mkdir()
    write(tmp_path / "text/a.txt", "One.\n")
    (tmp_path / "text/loop").symlink_to(tmp_path / "text")
    (tmp_path / "text/up").symlink_to(tmp_path)
    found = list(corpus.files_in(epath.Path(tmp_path / "text")))
    assert [path.name for path in found] == ["a.txt"]
    os.mkfifo(tmp_path / "pipe.txt")
    assert "pipe.txt: is a pipe and no regular file" in refused(epath.Path(tmp_path / "pipe.txt"))


def test_no_input_and_an_empty_directory_are_refused(tmp_path):
    with pytest.raises(UserError, match="No input"):
        corpus.expand_inputs([])
    with pytest.raises(UserError, match="nothing matches"):
        corpus.expand_inputs([str(tmp_path)])


@pytest.mark.data
def test_the_declaration_of_human_rights_in_every_language(data_dir):
    paths = corpus.expand_inputs([str(data_dir / "udhr")])
    assert len(paths) > 300
    for path in paths:
        documents = list(corpus.read_documents(path))
        assert bool(documents) == bool(path.read_text().strip()), path


def test_columns_of_json_lines_are_documents_of_their_own(tmp_path):
    row = {"translation": {"de": "Ein Hund.", "en": "A dog. It runs."}, "title": "Dogs", "n": 3}
    path = write(tmp_path / "a.jsonl", json.dumps(row) + "\n")

    def read_columns(*names):
        return list(corpus.read_documents(path, fields=names))

    pair = [("Ein Hund.",), ("A dog.", "It runs.")]
    assert read_columns("translation.de", "translation.en") == pair
    assert read_columns("title") == [("Dogs",)]
    for name, said in (("translation.fr", "has no"), ("title.x", "has no"), ("n", "is int")):
        with pytest.raises(UserError, match=f"a.jsonl:1: .*{said}"):
            read_columns(name)
