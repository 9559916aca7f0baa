"""Preparing other segments than next-sentence pairs, and several lengths at once."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from bertjax.data import shards
from bertjax.data.mixture import TrainStream
from bertjax.data.pairs import Pair
from bertjax.data.prepare import example_writer, publish, token_store
from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.run import PrepareConfig
from bertjax.data.stream import HeldOutBatches, ShardReader
from bertjax.errors import UserError


@pytest.fixture
def config(vocabulary, tmp_path):
    def make(corpus, output="out", **fields):
        fields = {"processes": 1, "max_seq_length": 64, "held_out": 0.1, **fields}
        return PrepareConfig((str(corpus),), str(vocabulary), str(tmp_path / output), **fields)

    return make


def rows_of(directory, split):
    reader = ShardReader(directory, split)
    return reader.rows(np.arange(len(reader)))


def sentences_of(corpus):
    """{ids of a sentence: (document, place)} of a corpus of `make_corpus`."""
    found = {}
    texts = [path.read_text() for path in sorted(Path(corpus).glob("*.txt"))]
    documents = [document for text in texts for document in text.strip().split("\n\n")]
    for number, document in enumerate(documents):
        for place, line in enumerate(document.split("\n")):
            found[tuple(int(word[1:]) + 5 for word in line.split())] = (number, place)
    return found


def test_single_sequences_are_the_text_once_a_pass(config, make_corpus, log, differing):
    corpus = make_corpus(60, files=3)
    cfg = config(corpus, segments="single", dupe_factor=1, short_seq_prob=0.2)
    manifest = prepare.prepare(cfg, log)
    assert (manifest.segments, manifest.label_1_share, manifest.majority) == ("single", None, None)
    assert manifest.unigram_entropy > 0
    assert "next sentence" not in log.text and "padding" in log.text
    written = []
    for split in shards.SPLITS:
        batch = rows_of(cfg.output, split)
        assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
        lengths = batch["attention_mask"].sum(1)
        assert not batch["token_type_ids"].any()
        assert (batch["input_ids"][:, 0] == manifest.cls_id).all()
        assert (batch["input_ids"] == manifest.sep_id).sum(1).max() == 1
        for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True):
            assert ids[length - 1] == manifest.sep_id and set(ids[length:]) <= {0}
            written += ids[1 : length - 1]
        if split == "train":
            assert manifest.padding == pytest.approx(1 - lengths.mean() / 64, abs=1e-6)
    text = [token for sentence in sentences_of(corpus) for token in sentence]
    assert sorted(written) == sorted(text)
    prepare.prepare(dataclasses.replace(cfg, output=cfg.output + "-2", processes=2), log)
    assert differing(cfg.output, cfg.output + "-2") == []


def test_segments_are_in_order_or_swapped(config, make_corpus, log):
    corpus = make_corpus(60)
    cfg = config(corpus, segments="sentence_order", max_seq_length=128)
    manifest = prepare.prepare(cfg, log)
    known = sentences_of(corpus)
    starts = {ids[:2]: place for ids, place in known.items()}
    batch = rows_of(cfg.output, "train")
    assert manifest.label_1_share == pytest.approx(batch["next_sentence_label"].mean(), abs=1e-6)
    assert 0.3 < manifest.label_1_share < 0.7 and "in the wrong order" in log.text
    checked = [0, 0]
    for ids, mask, types, label in zip(*batch.values(), strict=True):
        end, middle = int(mask.sum()), int(((types == 0) & (mask == 1)).sum())
        a = starts.get(tuple(ids[1:3].tolist()))
        b = starts.get(tuple(ids[middle : middle + 2].tolist()))
        if a and b and end < 128:  # neither was cut at its front
            assert a[0] == b[0] and (a[1] > b[1]) == label
            checked[label] += 1
    assert min(checked) > 10


def test_the_order_of_sentences_needs_documents_of_two(config, tmp_path, log):
    corpus = tmp_path / "blank.txt"
    corpus.write_text("\n\n".join(f"w{i} w{i + 1}" for i in range(30)))
    cfg = config(corpus, segments="sentence_order")
    with pytest.raises(UserError, match="one sentence, and none has an order"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()
    prepare.prepare(dataclasses.replace(cfg, segments="single"), log)


def test_one_document_is_enough_for_single_sequences(config, tmp_path, log):
    corpus = tmp_path / "one.txt"
    corpus.write_text("w1 w2\nw3 w4\n")
    with pytest.raises(UserError, match="only one document, and training and held-out need 1"):
        prepare.prepare(config(corpus, segments="single"), log)
    manifest = prepare.prepare(config(corpus, segments="single", held_out=0), log)
    assert rows_of(config(corpus).output, "train")["input_ids"][0, :6].tolist() == [
        *(2, 6, 7, 8, 9),
        3,
    ]
    assert manifest.examples("train") == 2  # one a pass
    with pytest.raises(UserError, match="one document; half of all pairs"):
        prepare.prepare(config(corpus, "next_sentence", held_out=0), log)


def test_other_segments_are_refused_where_shards_are(config, make_corpus, log):
    corpus = make_corpus(20)
    prepare.prepare(config(corpus), log)
    with pytest.raises(UserError, match="segments: next_sentence there, single now"):
        prepare.prepare(config(corpus, segments="single"), log)
    with pytest.raises(UserError, match="give one of next_sentence, single, sentence_order"):
        config(corpus, segments="rtd")


def test_a_manifest_with_unknown_segments_is_refused(config, make_corpus, log):
    cfg = config(make_corpus(20))
    manifest = prepare.prepare(cfg, log)
    path = Path(cfg.output) / shards.MANIFEST
    fields = json.loads(path.read_text())
    assert fields["segments"] == manifest.segments == "next_sentence"
    for wrong in ("rtd", 3, None):
        path.write_text(json.dumps({**fields, "segments": wrong}))
        with pytest.raises(UserError, match="its segments can't be right"):
            shards.read_manifest(cfg.output)


def test_the_segments_are_part_of_what_training_depends_on(make_data, some_pairs):
    hashes = {
        shards.read_manifest(make_data(some_pairs(9), segments=segments, name=segments)).hash
        for segments in ("next_sentence", "sentence_order", "single")
    }
    assert len(hashes) == 3


def test_records_of_other_segments_are_damage(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(9), segments="single"), "train")
    with pytest.raises(UserError, match=r"record 0: damaged \(an example of other segments\)"):
        reader.rows(np.array([0]))
    single = [Pair(np.array([7, 8]), np.array([], int), False)]
    reader = ShardReader(make_data(single, name="single"), "train")
    with pytest.raises(UserError, match="other segments"):
        reader.rows(np.array([0]))


def test_single_rows_by_hand_in_batches(make_data):
    none = np.array([], int)
    singles = [Pair(np.arange(10, 10 + n), none, False) for n in (1, 14, 3)]
    directory = make_data(singles, singles, segments="single", max_seq_length=16)
    reader = ShardReader(directory, "train")
    rows = reader.rows(np.array([1, 0]))
    assert rows["input_ids"].tolist() == [[2, *range(10, 24), 3], [2, 10, 3] + [0] * 13]
    assert rows["attention_mask"].sum(1).tolist() == [16, 3]
    stream = TrainStream.of(reader, seed=0, batch_size=3)
    assert sorted(stream.rows(0, np.arange(3))["attention_mask"].sum(1)) == [3, 5, 16]
    batch = HeldOutBatches(ShardReader(directory, "held_out"), batch_size=2).rows(1, np.arange(2))
    assert batch["example_weight"].tolist() == [1, 0]
    longer = [Pair(np.arange(10, 25), none, False)]
    directory = make_data(longer, segments="single", max_seq_length=16, name="longer")
    with pytest.raises(UserError, match="longer than max_seq_length"):
        ShardReader(directory, "train").rows(np.array([0]))


@pytest.mark.parametrize("segments", ["next_sentence", "single"])
def test_several_lengths_are_what_each_alone_is(
    config, make_corpus, log, differing, monkeypatch, segments
):
    corpus = make_corpus(60, files=2)
    cfg = config(corpus, "both", max_seq_length=(32, 96), segments=segments)
    calls = []
    tokenize = token_store.tokenize
    monkeypatch.setattr(
        token_store, "tokenize", lambda *args: calls.append(args) or tokenize(*args)
    )
    manifest = prepare.prepare(cfg, log)
    both = Path(cfg.output)
    assert len(calls) == 1 and manifest == shards.read_manifest(both / "32")
    assert sorted(path.name for path in both.iterdir()) == ["32", "96"]
    for length in (32, 96):
        alone = dataclasses.replace(cfg, output=f"{cfg.output}-{length}", max_seq_length=length)
        prepare.prepare(alone, log)
        assert differing(both / str(length), alone.output) == []
    log.lines.clear()
    assert prepare.prepare(cfg, log) == manifest
    assert len(log.lines) == 2 and all("already prepared" in line for line in log.lines)
    # Another length later: the finished ones stay as they are.
    before = {path: path.stat().st_mtime_ns for path in both.rglob("*") if path.is_file()}
    prepare.prepare(dataclasses.replace(cfg, max_seq_length=(32, 48, 96)), log)
    assert shards.read_manifest(both / "48").max_seq_length == 48
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in both.rglob("*") if path.is_file()}.items()
    )


def test_several_lengths_stopped_anywhere_end_with_the_same_bytes(
    config, make_corpus, log, differing, monkeypatch
):
    corpus = make_corpus(40)
    straight = config(corpus, "straight", max_seq_length=(32, 64))
    prepare.prepare(straight, log)
    # Two lengths of two splits, and two directories to publish: stopped before each.
    for name, module, count in (("write_unit", example_writer, 4), ("publish", publish, 2)):
        for stop_at in range(count):
            cfg = dataclasses.replace(straight, output=f"{straight.output}-{name}-{stop_at}")
            calls = itertools.count()
            original = getattr(module, name)

            def stopping(*arguments, original=original, calls=calls, stop_at=stop_at):
                if next(calls) == stop_at:
                    raise ZeroDivisionError
                return original(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, stopping)
                with pytest.raises(ZeroDivisionError):
                    prepare.prepare(cfg, log)
            prepare.prepare(cfg, log)
            assert differing(straight.output, cfg.output) == []


def test_lengths_that_make_no_sense(config, make_corpus, log):
    corpus = make_corpus(20)
    for lengths, says in (
        ((), "one length"),
        ((32, 32), "different ones"),
        ((64, 4), "is 4: give 5"),
    ):
        with pytest.raises(UserError, match=says):
            config(corpus, max_seq_length=lengths)
    prepare.prepare(config(corpus), log)
    with pytest.raises(UserError, match=r"already holds shards of other .*\(max_seq_length\)"):
        prepare.prepare(config(corpus, max_seq_length=(32, 64)), log)
    prepare.prepare(config(corpus, "two", max_seq_length=(32, 64)), log)
    with pytest.raises(UserError, match=r"two/32 already holds .*\(seed: 12345 there, 9 now\)"):
        prepare.prepare(config(corpus, "two", max_seq_length=(32, 64), seed=9), log)
