"""Tests of `prepare` with compressed files and TFDS data sets: the shards of plain text."""

import bz2
import dataclasses
import functools
import gzip
import json
import lzma
from pathlib import Path

import pytest

from bertjax.data import shards
from bertjax.data.prepare import example_writer, file_ranges, survey
from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.run import PrepareConfig
from bertjax.errors import UserError
from bertjax.text import compressed
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": functools.partial(lzma.compress, preset=0),
}


@pytest.fixture
def config(vocabulary, tmp_path):
    """Makes a configuration for a corpus, with other fields by name."""

    def make(source, output="out", **fields):
        names = {"tokenizer": str(vocabulary), "output": str(tmp_path / output), "processes": 1}
        return PrepareConfig((str(source),), **{**names, "block_mib": 1, **fields})

    return make


@pytest.fixture
def packed(make_corpus, tmp_path):
    """Two directories with a corpus of several ranges, plain and compressed."""
    plain = make_corpus(650, sentences=(10, 40), files=2)
    (plain / "small.txt").write_text("w1 w2.\nw3\n\nw4\n")
    directory = tmp_path / "packed"
    directory.mkdir()
    for path, suffix in zip(sorted(plain.iterdir()), COMPRESS, strict=True):
        (directory / f"{path.name}{suffix}").write_bytes(COMPRESS[suffix](path.read_bytes()))
    return plain, directory


def stop_in_pass_2(cfg, log, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(example_writer, "write_unit", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(cfg, log)


@pytest.mark.parametrize("processes", [1, 2])
def test_compressed_text_gives_the_shards_of_the_plain_one(
    config, packed, log, differing, processes
):
    plain, directory = packed
    configs = config(plain, "one"), config(directory, "other", processes=processes)
    first, second = (prepare.prepare(each, log) for each in configs)
    assert first.blocks >= 2 and len(list(Path(configs[0].output).glob("*"))) > 4
    assert differing(configs[0].output, configs[1].output) == ["manifest.json"]
    for one, other in zip(first.corpus, second.corpus, strict=True):
        assert other == dataclasses.replace(one, name=other.name)
        assert other.name == one.name + Path(other.name).suffix
    assert dataclasses.replace(second, corpus=first.corpus) == first


def test_a_compressed_file_is_read_once_for_its_missing_token_files(
    config, packed, log, differing, monkeypatch
):
    _, directory = packed
    straight, cfg = config(directory, "straight"), config(directory, "stopped")
    prepare.prepare(straight, log)
    stop_in_pass_2(cfg, log, monkeypatch)
    segments = sorted((Path(cfg.output) / ".building/pass1").glob("*.tokens"))
    assert len(segments) > 5
    kept = segments[1].stat().st_mtime_ns
    for segment in (segments[0], segments[2], segments[5]):
        segment.unlink()
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr(
            file_ranges, "Window", lambda path: opened.append(path) or compressed.Window(path)
        )
        prepare.prepare(cfg, log)
    assert len(opened) == len(set(opened)) <= 2
    assert not segments[1].exists() or segments[1].stat().st_mtime_ns == kept
    assert differing(straight.output, cfg.output) == []


def test_another_text_under_an_unfinished_run_is_refused_however_it_is_packed(
    config, packed, log, monkeypatch
):
    _, directory = packed
    cfg = config(directory)
    stop_in_pass_2(cfg, log, monkeypatch)
    path = directory / "00.txt.gz"
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text.replace(b"w1 ", b"w2 ", 1)))
    with pytest.raises(UserError, match=r"unfinished run with other text or settings \(corpus\)"):
        prepare.prepare(cfg, log)
    path.write_bytes(gzip.compress(text, 1))  # other bytes of the same text
    prepare.prepare(cfg, log)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_truncated_archive_is_found_before_anything_is_written(config, packed, log, processes):
    _, directory = packed
    path = directory / "01.txt.bz2"
    path.write_bytes(path.read_bytes()[:-5])
    cfg = config(directory, processes=processes)
    with pytest.raises(
        UserError, match=r"/01\.txt\.bz2:\d+: the compressed text is truncated here"
    ):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()


def test_a_fault_deep_in_a_compressed_file_is_named_by_its_line(config, packed, log):
    plain, directory = packed
    lines = (plain / "00.txt").read_bytes().split(b"\n")
    lines[6_011] += b"\xff"
    (directory / "00.txt.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    cfg = config(directory)
    with pytest.raises(UserError, match=r"/packed/00\.txt\.gz:6012: not UTF-8"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()


# Data sets of TFDS


@pytest.fixture
def novels(store_tfds, make_corpus, tmp_path):
    """The directory of a data set of several ranges, its texts, and the same as JSON Lines."""
    directory = make_corpus(250, sentences=(10, 40))
    (path,) = directory.iterdir()
    texts = [text.replace("\n", ".\n\n") for text in path.read_text().strip().split("\n\n")]
    data_dir = tmp_path / "tfds"
    store_tfds(data_dir, {"train": texts, "test": texts[:3]}, name="novels")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return data_dir, texts, rows


def test_a_data_set_gives_the_same_bytes_for_any_number_of_processes(
    config, novels, log, differing, monkeypatch
):
    data_dir, texts, rows = novels
    monkeypatch.setattr(survey, "_EXAMPLES_PER_CALL", 100)
    options = {"tfds_data_dir": str(data_dir)}
    configs = [config("tfds:novels", f"p{n}", processes=n, **options) for n in (1, 2)]
    manifests = [prepare.prepare(each, log) for each in configs]
    assert differing(configs[0].output, configs[1].output) == []
    manifest = shards.read_manifest(configs[0].output)
    assert manifest == manifests[0]
    assert manifest.documents == 250
    (file,) = manifest.corpus
    assert file.name == "tfds:novels:1.0.0:train" and file.bytes == sum(map(len, texts))
    plain = prepare.prepare(config(rows, "rows"), log)
    assert (plain.sentences, plain.tokens) == (manifest.sentences, manifest.tokens)


def test_another_data_set_under_an_unfinished_run_is_refused(
    config, store_tfds, log, tmp_path, monkeypatch
):
    texts = [f"w{n} w1. w2 w{n}." for n in range(50)]
    cfg = config("tfds:tiny", tfds_data_dir=str(tmp_path / "one"))
    store_tfds(tmp_path / "one", {"train": texts})
    # The same characters with another boundary between texts.
    moved = [texts[0] + " w7.", *texts[1:]], [texts[0], "w7. " + texts[1], *texts[2:]]
    store_tfds(tmp_path / "two", {"train": moved[0]})
    store_tfds(tmp_path / "three", {"train": moved[1]})
    stop_in_pass_2(cfg, log, monkeypatch)
    for directory in ("two", "three"):
        other = dataclasses.replace(cfg, tfds_data_dir=str(tmp_path / directory))
        with pytest.raises(UserError, match=r"unfinished run with other .*\(corpus\)"):
            prepare.prepare(other, log)
    assert prepare.prepare(cfg, log).documents == 50


def test_a_bad_example_leaves_nothing(config, store_tfds, log, tmp_path):
    store_tfds(tmp_path / "tfds", {"train": ["w1. w2.", b"w3\xff", "w4."]})
    cfg = config("tfds:tiny", tfds_data_dir=str(tmp_path / "tfds"))
    with pytest.raises(UserError, match=r"tfds:tiny:1\.0\.0:train: example 1: not UTF-8"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()


def test_a_data_set_and_its_texts_give_the_same_vocabulary(store_tfds, log, tmp_path):
    texts = [f"The {word} of {word} and rain. Snow {word}." for word in ("sun", "moon", "star")] * 9
    store_tfds(tmp_path / "tfds", {"train": texts}, features=("body",))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    fields = {"kind": "wordpiece", "vocab_size": 50}
    tfds = {"text_feature": "body", "tfds_data_dir": str(tmp_path / "tfds")}
    inputs = ("tfds:tiny",), (str(tmp_path / "a.jsonl"),)
    outputs = [str(tmp_path / name) for name in ("one", "two")]
    for names, output, more in zip(inputs, outputs, (tfds, {}), strict=True):
        train_tokenizer(TokenizerConfig(names, output, **fields, **more), log)
    one, two = (json.loads(Path(name, "training.json").read_text()) for name in outputs)
    assert one["sentences_sha256"] == two["sentences_sha256"]
