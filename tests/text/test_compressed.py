"""Tests of compressed text: it is read in full, and any damage is an error."""

import bz2
import functools
import gzip
import io
import lzma
import sys
import tracemalloc

import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjax.errors import UserError
from bertjax.text import compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="the extra zst brings it")

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": functools.partial(lzma.compress, preset=0),
    ".zst": zstd.compress,
}
QUICK = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
suffixes = pytest.mark.parametrize("suffix", compressed.SUFFIXES)


def read(path, size=-1):
    with compressed.open_text(epath.Path(path)) as file:
        return b"".join(iter(lambda: file.read(size), b""))


def refused(path):
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message and message.endswith(".")
    return message


def lines(count):
    """Returns text that compresses about as well as prose."""
    return b"".join(b"%d the line with the square of it, %d\n" % (n, n * n) for n in range(count))


@suffixes
@QUICK
@given(
    members=st.lists(st.binary(max_size=2000), min_size=1, max_size=5),
    padding=st.integers(0, 9),
    buffer=st.integers(1, 300),
    chunk=st.integers(1, 300),
    size=st.integers(1, 300),
)
def test_any_members_cut_in_any_way_are_read_whole(
    tmp_path_factory, monkeypatch, suffix, members, padding, buffer, chunk, size
):
    path = tmp_path_factory.mktemp("members") / f"a{suffix}"
    zeros = bytes(padding)
    path.write_bytes(b"".join(COMPRESS[suffix](member) + zeros for member in members))
    with monkeypatch.context() as patch:
        patch.setattr(compressed, "_BUFFER_BYTES", buffer)
        patch.setattr(compressed, "_READ_BYTES", chunk)
        assert read(path, size) == b"".join(members)
        with compressed.open_text(epath.Path(path)) as file:
            assert list(file) == list(io.BytesIO(b"".join(members)))


@suffixes
def test_truncation_is_an_error_except_between_two_members(tmp_path, suffix):
    texts = [lines(12), lines(8)]
    members = [COMPRESS[suffix](text) for text in texts]
    whole = b"".join(members)
    path = tmp_path / f"a{suffix}"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length == len(members[0]):
            assert read(path) == texts[0]
        else:
            assert ("truncated" if length else "is empty") in refused(path)


@suffixes
@QUICK
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path_factory, suffix, place, bit):
    # Python's readers of .bz2 and .xz may silently stop at damage in the second member. A frame of
    # .zst has a checksum only on request; the program zstd requests one.
    text = lines(200)
    compress = COMPRESS[suffix]
    options = {zstd.CompressionParameter.checksum_flag: 1}
    second = compress(text, options=options) if suffix == ".zst" else compress(text)
    data = bytearray(second)
    data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / f"a{suffix}"
    path.write_bytes(compress(text) + data)
    try:
        found = read(path)
    except UserError as error:
        assert str(error).startswith(f"{path}:")
        return
    assert found == 2 * text


@suffixes
def test_garbage_after_the_last_member_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\ntwo\n") + b"and some more")
    assert refused(path).startswith(f"{path}:3: can't be decompressed from here on (")


@suffixes
def test_the_line_that_is_reached_is_named(tmp_path, suffix):
    text = lines(20_000)
    data = COMPRESS[suffix](text)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data + data[: len(data) // 2])
    given = 0
    with pytest.raises(UserError) as caught, compressed.open_text(epath.Path(path)) as file:
        for _ in file:
            given += 1
    number = int(str(caught.value).removeprefix(f"{path}:").split(":")[0])
    # Buffered lines are not returned; a block is decoded as a whole or not at all.
    assert given < number and 20_000 < number < 40_000


@suffixes
def test_memory_does_not_grow_with_the_expanded_size(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](bytes(50_000_000)))
    tracemalloc.start()
    with compressed.open_text(epath.Path(path)) as file:
        while file.read(1 << 16):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000  # includes the decoder's window, as far as Python counts it


def test_an_archive_that_needs_too_much_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(lines(10)))
    monkeypatch.setattr(compressed, "_MAX_MEMORY", 1 << 16)
    assert ":1: can't be decompressed from here on (Memory usage limit" in refused(path)


def test_plain_files_are_as_they_are(tmp_path):
    path = epath.Path(tmp_path / "a.txt")
    path.write_bytes(b"\x1f\x8bnot really")
    assert read(path) == b"\x1f\x8bnot really"
    names = [compressed.text_name(epath.Path(name)) for name in ("a.txt.GZ", "b.txt", "w_00.bz2")]
    assert names == ["a.txt", "b.txt", "w_00"]
    with pytest.raises(UserError, match="can't be read"):
        compressed.open_text(epath.Path(tmp_path / "no.gz"))


def test_zst_without_its_package_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.zst"
    path.write_bytes(zstd.compress(b"text"))
    name = "compression" if sys.version_info >= (3, 14) else "backports"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[zst\]'"):
        read(path)


def test_a_window_seeks_back_within_what_it_holds(tmp_path):
    path = epath.Path(tmp_path / "a.gz")
    path.write_bytes(gzip.compress(bytes(range(100))))
    with compressed.Window(path) as window:
        window.seek(40)
        assert window.read(3) == bytes((40, 41, 42)) and window.tell() == 43
        window.forget(20)
        window.seek(20)
        assert window.read(2) == bytes((20, 21))
        with pytest.raises(ValueError, match="forgotten"):
            window.seek(19)
        window.forget(90)
        window.seek(95)
        assert window.read(50) == bytes(range(95, 100)) and window.read(1) == b""
        window.forget(500)
