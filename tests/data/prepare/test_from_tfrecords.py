"""Tests of converting TFRecords: the same examples, no leak between splits, the same bytes."""

import dataclasses
import json
import random
import shlex
from pathlib import Path

import numpy as np
import pytest

from bertjax import cli
from bertjax.data import shards
from bertjax.data.audit.report import read_report
from bertjax.data.prepare import estimate, from_tfrecords, inspection
from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.inspection import AuditConfig
from bertjax.data.prepare.run import PrepareConfig
from bertjax.data.prepare.workers import Workers
from bertjax.errors import UserError

LENGTH, PREDICTIONS = 32, 5


@pytest.fixture(scope="session")
def google(load_helper):
    return load_helper("data/google_examples.py")


@pytest.fixture
def old(google, load_helper, tmp_path):
    """Writes files of masked examples into a directory; returns it and the pairs of each file.

    Each pair occurs `copies` times with other masks, anywhere in the files.
    """
    writer = load_helper("interop/bundle_writer.py")
    vocabulary = google.Vocabulary(1005, 2, 3, 4)

    def make(count=60, *, files=3, copies=2, length=LENGTH, name="old"):
        directory = tmp_path / name
        directory.mkdir()
        rng = random.Random(5)
        pairs = [
            (
                *([rng.randint(5, 1004) for _ in range(rng.randint(1, 14))] for _ in "ab"),
                rng.random() < 0.5,
            )
            for _ in range(count)
        ] * copies
        rng.shuffle(pairs)
        held = [pairs[number::files] for number in range(files)]
        for number, rows in enumerate(held):
            records = [
                google.serialized(
                    google.example(*row, vocabulary, length, PREDICTIONS, rng), writer
                )
                for row in rows
            ]
            path = directory / f"part.tfrecord-{number:05d}-of-{files:05d}"
            path.write_bytes(b"".join(google.framed(record, writer) for record in records))
        return directory, held

    return make


@pytest.fixture
def config(vocabulary, tmp_path):
    def make(source, output="out", **fields):
        return PrepareConfig(
            **{
                "input": (str(source),),
                "tokenizer": str(vocabulary),
                "output": str(tmp_path / output),
                "processes": 1,
                "held_out": 0.2,
                **fields,
            }
        )

    return make


def examples(directory, split):
    """Returns (A, B, is_random) of a split, in the order of the shards."""
    found = []
    for file in shards.read_manifest(directory).files[split]:
        reader = shards.open_records(Path(directory) / file.name)
        for number in range(file.examples):
            reader.seek(number)
            pair = shards.decode_pair(reader.read())
            found.append((pair.a.tolist(), pair.b.tolist(), pair.is_random))
    return found


def test_the_examples_are_the_same_and_copies_stay_in_one_split(old, config, log, monkeypatch):
    monkeypatch.setattr(shards, "EXAMPLES_PER_FILE", 13)
    monkeypatch.setattr(from_tfrecords, "_COUNTED_AT_ONCE", 50)
    directory, files = old()
    cfg = config(directory)
    manifest = prepare.prepare(cfg, log)
    train, held_out = (examples(cfg.output, split) for split in shards.SPLITS)
    rows = [row for file in files for row in file]
    assert sorted(train + held_out) == sorted(rows)
    texts = [{(tuple(a), tuple(b)) for a, b, _ in split} for split in (train, held_out)]
    assert not texts[0] & texts[1]
    assert [row for row in rows if row in train] == train  # in the order of the files
    assert 6 < len(held_out) < 48
    assert max(file.examples for file in manifest.files["train"]) == 13

    assert (manifest.max_seq_length, manifest.segments) == (LENGTH, "next_sentence")
    assert manifest.tokens == sum(len(a) + len(b) for a, b, _ in rows)
    assert (manifest.dupe_factor, manifest.documents, manifest.sentences, manifest.words) == (
        0,
    ) * 4
    assert [file.name for file in manifest.corpus] == sorted(p.name for p in directory.iterdir())
    assert manifest.label_1_share == pytest.approx(np.mean([row[2] for row in train]), abs=1e-6)
    full = np.mean([len(a) + len(b) + 3 for a, b, _ in train]) / LENGTH
    assert manifest.padding == pytest.approx(1 - full, abs=1e-6)
    counts = np.ones(1005)
    counts[[0, 2, 3, 4]] = 0
    np.add.at(counts, [token for a, b, _ in train for token in a + b], 1)
    ids = [token for a, b, _ in held_out for token in a + b]
    entropy = -np.log(counts[ids] / counts.sum()).mean()
    assert manifest.unigram_entropy == pytest.approx(entropy, abs=1e-5)
    assert "60 of 120 examples repeat the A and B of another" in log.text
    assert "do not say which document an example is from" in log.text
    assert f"{manifest.tokens:,} tokens (" in log.text and "documents" not in log.lines[-1]

    log.lines.clear()
    assert prepare.prepare(cfg, log) == manifest
    assert "already prepared" in log.text
    with pytest.raises(UserError, match=r"other text or settings \(seed: 12345 there, 7 now\)"):
        prepare.prepare(dataclasses.replace(cfg, seed=7), log)


def test_the_same_bytes_for_any_number_of_processes_and_after_a_stop(
    old, config, log, monkeypatch, differing
):
    directory, _ = old()
    straight = prepare.prepare(config(directory, "straight"), log)
    prepare.prepare(config(directory, "two", processes=2), log)
    assert differing(config(directory, "straight").output, config(directory, "two").output) == []

    cfg, whole, done = config(directory, "stopped"), from_tfrecords.convert_file, []

    def stop_at_the_last(marker, *arguments):
        done.append(Path(marker).stem)
        if len(done) == 3:
            raise ZeroDivisionError
        whole(marker, *arguments)

    monkeypatch.setattr(from_tfrecords, "convert_file", stop_at_the_last)
    with pytest.raises(ZeroDivisionError):
        prepare.prepare(cfg, log)
    log.lines.clear()
    assert prepare.prepare(cfg, log) == straight
    assert done == ["00000", "00001", "00002", "00002"]
    assert log.lines[0].startswith("Continuing the run that was stopped")
    assert differing(config(directory, "straight").output, cfg.output) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dupe_factor": 10}, "`dupe_factor` is 10, but"),
        ({"short_seq_prob": 0.5}, "leave `short_seq_prob` out"),
        ({"segments": "single"}, "`segments` is single, but"),
        ({"block_mib": 1}, "`block_mib` is 1"),
        ({"language": "de"}, "`language` is de"),
        ({"max_seq_length": 64}, "`max_seq_length` is 64, but .* have 32: leave"),
        ({"max_seq_length": (32, 64)}, r"`max_seq_length` is \(32, 64\), but"),
        ({"held_out": 0.001}, "`held_out` 0.001 holds out 0 of 4 records"),
        ({"held_out": 0.999}, "`held_out` 0.999 holds out 4 of 4 records"),
    ],
)
def test_settings_of_text_are_refused(old, config, log, fields, says):
    directory, _ = old(2)
    cfg = config(directory, **fields)
    with pytest.raises(UserError, match=says) as caught:
        prepare.prepare(cfg, log)
    assert "\n" not in str(caught.value)
    assert not Path(cfg.output).exists()
    given = {"max_seq_length": LENGTH, "held_out": 0, "output": cfg.output}
    assert prepare.prepare(config(directory, **given), log).examples("held_out") == 0


def test_an_estimate_needs_text(old, config, log):
    directory, _ = old(2)
    with pytest.raises(UserError, match=r"TFRecord file with .*: `estimate` needs text"):
        estimate.estimate(config(directory), log)


def test_a_mix_of_text_and_tfrecords_is_refused(old, config, log, tmp_path, vocabulary):
    directory, _ = old(5)
    (directory / "text.txt").write_text("w1 w2\n\nw3\n")
    sentence = r"part\.tfrecord-0000.-of-00003 is a TFRecord file, .*text\.txt is text"
    with pytest.raises(UserError, match=sentence):
        prepare.prepare(config(directory), log)
    with pytest.raises(UserError, match=sentence):
        prepare.prepare(config(directory / "*"), log)
    (directory / "text.txt").rename(directory / "text.txt.gz")
    with pytest.raises(UserError, match=r"text\.txt\.gz is text"):
        prepare.prepare(config(directory), log)
    (directory / "text.txt.gz").rename(directory / "text.txt")
    # The vocabulary itself does not count as text.
    (directory / "text.txt").rename(tmp_path / "text.txt")
    (directory / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    cfg = config(directory, tokenizer=str(directory / "vocab.txt"))
    assert len(prepare.prepare(cfg, log).corpus) == 3


def test_bad_files_are_named_and_leave_nothing(old, config, log, vocabulary):
    directory, _ = old()
    last = sorted(directory.iterdir())[-1]
    whole = last.read_bytes()
    cfg = config(directory)
    last.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"-00002-of-00003, record 40: damaged \(the file ends"):
        prepare.prepare(dataclasses.replace(cfg, processes=2), log)
    assert not Path(cfg.output).exists()
    other, _ = old(2, length=LENGTH + 1, name="other")
    last.write_bytes(next(other.iterdir()).read_bytes())
    with pytest.raises(UserError, match=r"-00002-of-00003, record 1: its input_ids has 33"):
        prepare.prepare(cfg, log)
    last.write_bytes(whole)
    tokens = (vocabulary / "vocab.txt").read_text().split()
    (vocabulary / "vocab.txt").write_text("\n".join(tokens[:400]))
    with pytest.raises(UserError, match=r"record \d+: has the id \d+, but the voc.* has 400"):
        prepare.prepare(cfg, log)
    for file in directory.iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no record in it, nor in any other input"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()


def test_pretrain_refuses_tfrecords_and_names_the_command(old, capsys, tmp_path, vocabulary):
    directory, files = old(40)
    for data in (directory, directory / "*.tfrecord*", next(directory.iterdir())):
        run = ["pretrain", "--data", str(data), "--workdir", str(tmp_path / "run")]
        assert cli.run(run) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"bertjax: {data}: TFRecords, where shards are needed; ")
        command = shlex.split(said.split("`")[1])
        assert command[command.index("--input") + 1] == str(data)
    assert not (tmp_path / "run").exists()
    changed = {"vocab.txt": str(vocabulary / "vocab.txt"), "shards": str(tmp_path / "shards")}
    assert cli.run([changed.get(word, word) for word in command[1:]]) == 0
    found = [row for split in shards.SPLITS for row in examples(tmp_path / "shards", split)]
    assert sorted(found) in [sorted(rows) for rows in files]
    assert "Next: bertjax pretrain --data" in capsys.readouterr().out


def test_remote_files_and_a_remote_output(old, config, log, remote, differing):
    directory, _ = old()
    local = config(directory)
    prepare.prepare(local, log)
    (remote[1] / "old").mkdir()
    for file in directory.iterdir():
        (remote[1] / "old" / file.name).write_bytes(file.read_bytes())
    prepare.prepare(config("gs://bucket/old", output="far"), log)
    far = dataclasses.replace(local, input=("gs://bucket/old",), output="gs://bucket/out")
    prepare.prepare(far, log)
    assert differing(local.output, remote[1] / "out") == []


def test_workers_load_neither_jax_nor_tensorflow(old, vocabulary, tmp_path):
    directory, _ = old(4, files=1)
    files = (str(tmp_path / "00000.json"), str(next(directory.iterdir())), str(vocabulary))
    task = (*files, LENGTH, 0.0, 1)
    with Workers(2) as workers:
        workers.run(from_tfrecords.convert_file, [task])
        modules = set(workers.run(eval, [("set(__import__('sys').modules)",)] * 4)[0])
    assert sum(json.loads((tmp_path / "00000.json").read_text())["train"]["lengths"]) == 8
    assert not modules & {"jax", "jaxlib", "grain", "flax", "tensorflow", "torch", "orbax"}


def test_the_audit_reads_the_examples(old, config, log):
    directory, files = old()
    cfg = config(directory, held_out=0)
    prepare.prepare(cfg, log)
    report = read_report(Path(cfg.output))
    labels = [is_random for file in files for _, _, is_random in file]
    assert report.numbers["label_1"]["train"] == pytest.approx(np.mean(labels), abs=1e-6)
    assert "sentences" not in report.numbers
    log.lines.clear()
    asked = AuditConfig(audit=(str(directory),), tokenizer=cfg.tokenizer, held_out=0)
    assert inspection.audit_data(asked, log) == [report]
    assert f"examples: train {len(labels):,}" in log.text
