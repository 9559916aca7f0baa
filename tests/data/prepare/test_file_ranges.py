"""Tests of file ranges: together they hold the documents of the whole source, each once."""

import gzip
import json

from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjax.data.prepare import file_ranges
from bertjax.text import corpus, tfds_source


def documents_of(ranges):
    return [document for each in ranges for document in file_ranges.read_range(each, "en")]


def test_the_ranges_of_a_file_make_up_the_file(make_corpus, tmp_path):
    corpus = make_corpus(12)
    text = (corpus / "00.txt").read_text()
    rows = [json.dumps({"text": " ".join(t.split("\n"))}) for t in text.split("\n\n")]
    variants = {
        "lf.txt": text,
        "crlf.txt": text.replace("\n", "\r\n"),
        "bom.txt": "\ufeff" + text,
        "gaps.txt": text.replace("\n\n", "\n\n\n \n\n"),
        "lines.jsonl": "\n".join(rows),
        "one.txt": text.replace("\n\n", "\n"),
    }
    for name, data in variants.items():
        path = epath.Path(tmp_path / name)
        path.write_bytes(data.encode())
        size = path.stat().length
        (whole,) = file_ranges.cut([path], [size], size)
        expected = documents_of(whole)
        for range_bytes in (size - 1, 700, 97):
            pieces = file_ranges.cut([path], [size], range_bytes)
            assert len(pieces) == -(-size // range_bytes)
            assert [document for piece in pieces for document in documents_of(piece)] == expected


def test_a_range_of_text_may_begin_with_an_object(tmp_path):
    path = epath.Path(tmp_path / "a.txt")
    path.write_text('One.\n\n{"text": "two"}\n')
    pieces = file_ranges.cut([path], [path.stat().length], 7)
    documents = [document for piece in pieces for document in documents_of(piece)]
    assert documents == [("One.",), ('{"text": "two"}',)]


def test_small_files_share_a_token_file():
    paths = [epath.Path(f"{n}.txt") for n in range(7)]
    pieces = file_ranges.cut(paths, [10, 20, 80, 5, 100, 250, 1], 100)
    assert [[(p.number, p.start, p.stop) for p in piece] for piece in pieces] == [
        [(0, 0, None), (1, 0, None)],
        [(2, 0, None), (3, 0, None)],
        [(4, 0, None)],
        [(5, 0, 100)],
        [(5, 100, 200)],
        [(5, 200, None)],
        [(6, 0, None)],
    ]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text("ab\n\r ", max_size=150),
    range_bytes=st.integers(1, 60),
    read_bytes=st.integers(3, 40),
    name=st.sampled_from(["a.txt", "a.jsonl"]),
    done=st.sets(st.integers(0, 20)),
)
def test_the_ranges_of_a_compressed_file_are_those_of_the_plain_one(
    tmp_path, monkeypatch, text, range_bytes, read_bytes, name, done
):
    """They do not depend on boundaries, nor on which ranges are skipped because they are done."""
    monkeypatch.setattr(file_ranges, "_READ_BYTES", read_bytes)
    if name == "a.jsonl":
        text = "\n".join(json.dumps({"text": line}) for line in text.split("\n"))
    data = text.encode()
    plain, packed = epath.Path(tmp_path / name), epath.Path(tmp_path / f"{name}.gz")
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    pieces = [file_ranges.cut([path], [len(data)], range_bytes) for path in (plain, packed)]
    for (one,), (other,) in zip(*pieces, strict=True):
        assert (one.start, one.stop) == (other.start, other.stop)
    (group,) = file_ranges.groups(pieces[1])
    assert [each for numbers in file_ranges.groups(pieces[0]) for each in numbers] == group
    with file_ranges.open_window(pieces[1]) as window:
        for number, ((one,), (other,)) in enumerate(zip(*pieces, strict=True)):
            if number not in done:
                found = list(file_ranges.read_range(other, "en", window))
                assert found == list(file_ranges.read_range(one, "en"))


def test_the_ranges_of_a_data_set_make_up_the_data_set(store_tfds, make_corpus, tmp_path):
    texts = (make_corpus(100) / "00.txt").read_text().split("\n\n")
    data_dir = tmp_path / "tfds"
    store_tfds(data_dir, {"train": texts}, name="novels")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    split = tfds_source.find("tfds:novels", "text", data_dir)
    expected = list(corpus.read_documents(rows))
    for range_bytes in (10_000_000, 20_000, 1_000, 1):
        pieces = file_ranges.cut([split], [sum(map(len, texts))], range_bytes)
        assert len(file_ranges.groups(pieces)) == len(pieces) <= 100
        assert [document for piece in pieces for document in documents_of(piece)] == expected
    assert len(pieces) == 100
