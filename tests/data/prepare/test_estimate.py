"""Tests of the estimate against what preparing takes, and of the check of the disk."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from bertjax import files
from bertjax.data import shards
from bertjax.data.prepare import estimate, sample
from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.run import PrepareConfig
from bertjax.errors import UserError


@pytest.fixture
def config(vocabulary, tmp_path):
    """Makes a configuration for a corpus, with other fields by name."""

    def make(corpus, **fields):
        fields = {"processes": 1, "output": str(tmp_path / "out"), **fields}
        return PrepareConfig((str(corpus),), str(vocabulary), **fields)

    return make


def truth(config, log):
    """Prepares; returns the manifest of each length and the bytes of its shards."""
    prepare.prepare(config, log)
    directories = config.directories(files.location(config.output))
    manifests = {length: shards.read_manifest(each) for length, each in directories.items()}
    sizes = {
        length: sum(file.bytes for split in shards.SPLITS for file in manifest.files[split])
        for length, manifest in manifests.items()
    }
    return manifests, sizes


@pytest.mark.parametrize("segments", ["next_sentence", "single", "sentence_order"])
def test_a_text_that_is_small_is_counted(config, make_corpus, log, segments):
    corpus = make_corpus(1500, files=3)
    cfg = config(corpus, segments=segments, max_seq_length=(64, 128), held_out=0.1)
    found = estimate.estimate(cfg, log)
    assert not Path(cfg.output).exists()
    manifests, sizes = truth(cfg, log)
    made = manifests[64]
    assert found.text_bytes == found.sampled_bytes == sum(file.bytes for file in made.corpus)
    for name in ("documents", "sentences", "words", "tokens"):
        assert getattr(found, name) == (getattr(made, name), 0), name
    for length, manifest in manifests.items():
        mine = found.examples[length]
        # Pairs are random, and so are the held-out documents: 150 of 1,500, standard deviation 12.
        assert mine.train.value == pytest.approx(manifest.examples("train"), rel=0.04)
        assert mine.held_out.value == pytest.approx(manifest.examples("held_out"), rel=0.3)
        whole = mine.train.value / cfg.dupe_factor + mine.held_out.value
        made_of_all = manifest.examples("train") / cfg.dupe_factor + manifest.examples("held_out")
        assert whole == pytest.approx(made_of_all, rel=0.02)
        # The three files consist of whole blocks of 64 KiB.
        blocks = 3 << 16
        assert mine.shard_bytes.value == pytest.approx(sizes[length], rel=0.05, abs=blocks)


def test_a_sample_of_a_text(config, make_corpus, log, monkeypatch):
    """Samples a sixth of files whose sentences grow longer."""
    corpus = make_corpus(700, name="all")
    for number in range(1, 4):
        path = make_corpus(500, words=(4, 20 * number), seed=number, name=f"more{number}")
        shutil.move(path / "00.txt", corpus / f"{number:02d}.txt")
    (corpus / "empty.txt").write_text("")
    monkeypatch.setattr(sample, "EXCERPT_BYTES", 4096)
    cfg = config(corpus, max_seq_length=128, held_out=0.05, dupe_factor=1)
    found = estimate.estimate(cfg, log)
    assert found.excerpts == 64
    assert 0.08 < found.sampled_bytes / found.text_bytes < 0.25
    table = log.text
    manifests, sizes = truth(cfg, log)
    made = manifests[128]
    examples = found.examples[128]
    pairs = [
        (found.documents, made.documents),
        (found.sentences, made.sentences),
        (found.tokens, made.tokens),
        (examples.train, made.examples("train")),
        (examples.held_out, made.examples("held_out")),
        (examples.shard_bytes, sizes[128]),
    ]
    for number, (quantity, true) in enumerate(pairs):
        assert 0 < quantity.error < 0.25 * quantity.value, number
        assert abs(quantity.value - true) < 4 * quantity.error, number
    assert found.tokens.value == pytest.approx(made.tokens, rel=0.01)
    assert examples.train.value == pytest.approx(made.examples("train"), rel=0.05)
    assert examples.shard_bytes.value == pytest.approx(sizes[128], rel=0.05)
    for words in ("64 excerpts", "5 files", "±", "at the peak", "1 process"):
        assert words in table, words


def test_the_peak_is_that_of_the_disk(config, make_corpus, log, monkeypatch):
    cfg = config(make_corpus(1500), max_seq_length=(64, 128))
    measured = []

    def publish(*arguments):
        if not measured:
            files = [path for path in Path(cfg.output).rglob("*.*") if path.is_file()]
            measured.append(sum(file.stat().st_size for file in files))
        return published(*arguments)

    published = prepare.publish.publish
    monkeypatch.setattr(prepare.publish, "publish", publish)
    prepare.prepare(cfg, log)
    assert estimate.estimate(cfg, log).peak_bytes.value == pytest.approx(measured[0], rel=0.05)


def test_prepare_refuses_a_configuration_with_estimate(config, make_corpus, tmp_path, log):
    cfg = config(make_corpus(5), output=str(tmp_path / "out"), estimate=True)
    with pytest.raises(ValueError, match="writes nothing"):
        prepare.prepare(cfg, log)
    assert not (tmp_path / "out").exists()


def test_a_text_of_one_document_is_refused(config, tmp_path, log):
    """Samples little of a long text without blank lines."""
    path = tmp_path / "text.txt"
    path.write_text("w1 w2 w3 w4 w5 w6 w7.\n" * 200_000)
    with pytest.raises(UserError, match=r"text\.txt \(a sample of it\).*but one document.*blank"):
        estimate.estimate(config(path), log)
    found = estimate.estimate(config(path, segments="single"), log)
    assert found.sampled_bytes < 1.3 * (1 << 20)
    assert found.tokens.value == pytest.approx(200_000 * 8, rel=0.001)


@pytest.mark.parametrize("text", ["", "\n\n", "w1 w2.\n"])
def test_too_little_text(config, tmp_path, log, text):
    path = tmp_path / "text.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"text\.txt \(a sample of it\): (no text|one sentence)"):
        estimate.estimate(config(path), log)


def test_json_lines_of_any_length(config, tmp_path, log, monkeypatch):
    monkeypatch.setattr(sample, "EXCERPT_BYTES", 1000)
    monkeypatch.setattr(sample, "_MAX_SEARCH_BYTES", 2000)
    lines = [json.dumps({"text": f"w{i % 1000}. w7 w8."}) for i in range(2000)]
    lines[50] = json.dumps({"text": "w1 w2. " * 10_000})  # longer than is read of a document
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(lines) + "\n")
    found = estimate.estimate(config(path), log)
    rest = path.stat().st_size - len(lines[50])
    assert found.sampled_bytes < rest
    assert found.documents.value == pytest.approx(2000, abs=4 * found.documents.error)
    path.write_text("\n".join([*lines[51:1900], *["{}"] * 5000, *lines[1900:]]))
    with pytest.raises(UserError, match=r'text\.jsonl:(18[5-9]|19|[2-6]\d)\d+: has no "text"'):
        estimate.estimate(config(path), log)


def test_times_are_in_proportion(config, make_corpus, log, monkeypatch):
    monkeypatch.setattr(sample, "EXCERPT_BYTES", 4096)
    cfg = config(make_corpus(300))
    paths = cfg.sources()
    sizes = [path.stat().length for path in paths]
    tokenizer = estimate.load_tokenizer(cfg.tokenizer)
    ticks = iter(range(1000))  # a second passes between two calls
    found = estimate.of_text(cfg, tokenizer, paths, sizes, clock=lambda: float(next(ticks)))
    # Each excerpt takes a second, and its documents have about its bytes.
    assert found.tokenizing.seconds == pytest.approx(sum(sizes) / 4096, rel=0.3)
    sampled = found.examples[128].train.value * found.sampled_bytes / found.text_bytes / 2
    assert found.examples[128].drawing.seconds == pytest.approx(
        (found.examples[128].train.value + found.examples[128].held_out.value) / sampled, rel=0.1
    )
    several = estimate.Pass(12.0, 3)
    assert [several.with_processes(n) for n in (1, 2, 8)] == [12.0, 6.0, 4.0]


def test_a_disk_without_room_is_refused_before_anything_is_made(
    config, make_corpus, log, monkeypatch, tmp_path
):
    cfg = config(make_corpus(1500))
    need = estimate.estimate(cfg, log).peak_bytes.value
    free = [int(0.9 * need)]
    monkeypatch.setattr(estimate, "free_bytes", lambda path: free[0])
    with pytest.raises(UserError, match=r"out: .* MB are free there and preparing needs about"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()

    # A run that was stopped in the middle needs room for the rest only.
    free[0] = int(1.1 * need)
    monkeypatch.setattr(prepare.publish, "make_manifest", lambda *_: exit())
    with pytest.raises(SystemExit):
        prepare.prepare(cfg, log)
    monkeypatch.undo()
    monkeypatch.setattr(estimate, "free_bytes", lambda path: int(0.1 * need))
    assert prepare.prepare(cfg, log).examples("train")


def test_documents_longer_than_an_excerpt_do_not_fill_the_disk(config, tmp_path, log, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("\n".join("w1 w2 w3 w4.\n" * 1000 for _ in range(3)))
    monkeypatch.setattr(sample, "EXCERPT_BYTES", 100)
    monkeypatch.setattr(sample, "_MAX_SEARCH_BYTES", 1000)
    cfg = config(path, held_out=0.0)
    with pytest.raises(UserError, match="one document"):
        estimate.estimate(cfg, log)
    monkeypatch.setattr(estimate, "free_bytes", lambda path: 10_000_000)
    assert prepare.prepare(cfg, log).documents == 3


def test_free_bytes(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "yet") == pytest.approx(
        shutil.disk_usage(tmp_path).free, rel=0.1
    )
    assert files.free_bytes("gs://bucket/shards") is None


def test_nothing_is_known_of_an_object_store(config, make_corpus):
    cfg = config(make_corpus(5), output="gs://bucket/shards")
    estimate.refuse_full_disk(cfg, None, [], [], [])


@pytest.mark.data
def test_novels(data_dir, tmp_path, log):
    with tarfile.open(data_dir / "pretrain" / "novels.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    cfg = PrepareConfig(
        (str(tmp_path / "train"),),
        str(data_dir / "vocab" / "bert-base-uncased-vocab.txt"),
        str(tmp_path / "out"),
        max_seq_length=(128, 512),
        processes=min(2, os.cpu_count() or 1),
    )
    found = estimate.estimate(cfg, log)
    manifests, sizes = truth(cfg, log)
    assert found.tokens.value == pytest.approx(manifests[128].tokens, rel=0.02)
    for length, manifest in manifests.items():
        mine = found.examples[length]
        assert mine.train.value == pytest.approx(manifest.examples("train"), rel=0.03)
        assert mine.shard_bytes.value == pytest.approx(sizes[length], rel=0.05)
