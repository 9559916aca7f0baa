"""Tests of `prepare`: equal bytes after any interruption, no leak, errors in one sentence."""

import dataclasses
import errno
import itertools
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from bertjax.data import shards
from bertjax.data.prepare import example_writer, file_ranges, splits, token_store, workers
from bertjax.data.prepare import run as prepare
from bertjax.data.prepare.run import PrepareConfig
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError
from bertjax.files import file_sha256

# A user's program that runs prepare on the JSON of its configuration.
PROGRAM = """
import json, resource, signal, sys
from bertjax.data.prepare import token_store
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.errors import Stopped, UserError

if __name__ == "__main__":
    fields, largest = json.loads(sys.argv[1]), int(sys.argv[2])
    # A shell ignores interrupts for background jobs, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        prepare(PrepareConfig(**{**fields, "input": tuple(fields["input"])}), print)
    except UserError as error:
        sys.exit(str(error))
    except Stopped as stopped:
        print(stopped)
        sys.exit(75)
"""


@pytest.fixture
def config(vocabulary, tmp_path):
    """Makes a configuration for a corpus, with other fields by name."""

    def make(corpus, output="out", **fields):
        return PrepareConfig(
            **{
                "input": (str(corpus),),
                "tokenizer": str(vocabulary),
                "output": str(tmp_path / output),
                "processes": 1,
                "max_seq_length": 64,
                "held_out": 0.1,
                **fields,
            }
        )

    return make


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Prepares without interruption, once for equal texts and settings; returns the output."""
    outputs = {}

    def make(config):
        (directory,) = config.input
        texts = tuple(path.read_bytes() for path in sorted(Path(directory).iterdir()))
        key = texts, dataclasses.replace(config, input=(), output="", tokenizer="", processes=1)
        if key not in outputs:
            outputs[key] = tmp_path_factory.mktemp("uninterrupted") / "out"
            alone = dataclasses.replace(config, output=str(outputs[key]), processes=1)
            prepare.prepare(alone, lambda line: None)
        return outputs[key]

    return make


@pytest.fixture
def start(tmp_path):
    """Starts the program; returns the process."""

    def run(config, *, largest_file=0, program=PROGRAM):
        path = tmp_path / "program.py"
        path.write_text(program)
        return subprocess.Popen(
            [
                sys.executable,
                str(path),
                json.dumps(dataclasses.asdict(config)),
                str(largest_file),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(prepare.__file__).parents[3])},
        )

    return run


def examples(directory, split):
    """Returns (A, B, is_random) of the examples of a split, A and B as ids."""
    reader = ShardReader(directory, split)
    rows = reader.rows(np.arange(len(reader)))
    found = []
    for ids, mask, types, label in zip(*rows.values(), strict=True):
        length = mask.sum()
        a_end = int((types == 0)[:length].sum())
        found.append((ids[1 : a_end - 1].tolist(), ids[a_end : length - 1].tolist(), int(label)))
    return found


def test_shards_hold_the_corpus(config, make_corpus, log, vocabulary):
    corpus = make_corpus(60, files=3)
    cfg = config(corpus, dupe_factor=3)
    manifest = prepare.prepare(cfg, log)
    output = Path(cfg.output)
    assert manifest == shards.read_manifest(output)

    lines = [line for file in sorted(corpus.iterdir()) for line in file.read_text().splitlines()]
    sentences = [[int(word[1:]) + 5 for word in line.split()] for line in lines if line]
    assert (manifest.documents, manifest.sentences) == (60, len(sentences))
    assert manifest.words == manifest.tokens == sum(map(len, sentences))
    assert [file.name for file in manifest.corpus] == ["00.txt", "01.txt", "02.txt"]
    for file in manifest.corpus:
        data = (corpus / file.name).read_bytes()
        assert file.bytes == len(data)
        assert file_sha256(prepare.epath.Path(corpus / file.name)) == file.sha256

    # Every sentence is in one split, and all of it is there unless it was truncated.
    where = {tuple(sentence[:2]): set() for sentence in sentences}
    starts = set(where)
    count, label, padding = {}, {}, {}
    for split in shards.SPLITS:
        found = examples(output, split)
        count[split], label[split] = len(found), np.mean([row[2] for row in found])
        padding[split] = 1 - np.mean([len(a) + len(b) + 3 for a, b, _ in found]) / 64
        assert len(found) == manifest.examples(split)
        for a, b, _ in found:
            for side in (a, b):
                for pair in itertools.pairwise(side):
                    if pair in starts:
                        where[pair].add(split)
    # Few pairs of random words look like the first two words of a sentence.
    both = sum(len(splits) == 2 for splits in where.values())
    assert both < 0.03 * len(where), both
    assert sum(bool(splits) for splits in where.values()) > 0.97 * len(where)
    assert manifest.padding == pytest.approx(padding["train"], abs=1e-6)
    assert manifest.label_1_share == pytest.approx(label["train"], abs=1e-6)
    majority = max(label["held_out"], 1 - label["held_out"])
    assert manifest.majority == pytest.approx(majority, abs=1e-6)

    assert (output / "tokenizer" / "vocab.txt").read_text().split() == (
        vocabulary / "vocab.txt"
    ).read_text().split()
    assert not (output / prepare.BUILDING).exists()
    assert "60 documents" in log.text and "words/s" in log.text and "padding" in log.text
    assert "held-out examples" in log.text and "random next sentences" in log.text


def _documents(directory, cfg):
    """Returns the hash and the ids of each document of a corpus."""
    hashes, texts = [], []
    for number, file in enumerate(sorted(Path(directory).iterdir())):
        for place, text in enumerate(file.read_text().strip().split("\n\n")):
            hashes.append(token_store._hashes(cfg.seed, (number, 0, place), 1)[0])
            texts.append([[int(w[1:]) + 5 for w in line.split()] for line in text.splitlines()])
    return hashes, texts


def test_held_out_documents_follow_their_hash_and_give_the_entropy(config, make_corpus, log):
    corpus = make_corpus(200, files=2)
    cfg = config(corpus, dupe_factor=2)
    manifest = prepare.prepare(cfg, log)
    hashes, texts = _documents(corpus, cfg)
    held = [text for value, text in zip(hashes, texts, strict=True) if value < 0.1 * 2**64]
    train = [text for value, text in zip(hashes, texts, strict=True) if value >= 0.1 * 2**64]
    assert 8 < len(held) < 35
    # All text of the held-out examples comes from the held-out documents.
    sentences = {tuple(sentence) for text in held for sentence in text}
    for a, b, _ in examples(cfg.output, "held_out"):
        for side in (a, b):
            assert any(_overlap(side, sentence) for sentence in sentences)

    counts = np.ones(1005)
    counts[[0, 2, 3, 4]] = 0  # special tokens; [UNK] counts as text
    np.add.at(counts, [token for text in train for sentence in text for token in sentence], 1)
    ids = [token for text in held for sentence in text for token in sentence]
    expected = -sum(math.log(counts[token] / counts.sum()) for token in ids) / len(ids)
    assert manifest.unigram_entropy == pytest.approx(expected, abs=1e-5)


def _overlap(side, sentence):
    text, part = " ".join(map(str, sentence)), " ".join(map(str, side))
    return (
        text in part
        or part in text
        or any(part.endswith(" ".join(map(str, sentence[:k]))) for k in range(2, len(sentence)))
        or any(part.startswith(" ".join(map(str, sentence[k:]))) for k in range(len(sentence) - 1))
    )


def test_the_same_bytes_for_any_number_of_processes(config, make_corpus, log, differing):
    # 3 MB in blocks of 1 MiB and ranges of 256 KiB: several of each, and one file in many ranges.
    corpus = make_corpus(900, sentences=(10, 40), files=1)
    (corpus / "small.txt").write_text("w1 w2.\nw3\n\nw4\n")
    configs = [config(corpus, f"p{n}", processes=n, block_mib=1) for n in (1, 2)]
    manifests = [prepare.prepare(each, log) for each in configs]
    assert manifests[0].blocks >= 2 and len(manifests[0].files["held_out"]) >= 2
    assert manifests[0].documents == 902
    for each in configs[1:]:
        assert differing(configs[0].output, each.output) == []
    other = prepare.prepare(config(corpus, "seed", block_mib=1, seed=1), log)
    assert other.hash != manifests[0].hash


def test_workers_never_load_jax(make_corpus, config, log):
    corpus = make_corpus(200, sentences=(10, 50))
    cfg = config(corpus, processes=2)
    tokenizer = cfg.tokenizer
    tokens = Path(cfg.output).parent / "a.tokens"
    marker = Path(cfg.output).parent / "train-00000.json"
    (file,) = corpus.iterdir()
    ranges = (file_ranges.FileRange(0, epath.Path(file), 0, None),)
    with workers.Workers(2) as pool:
        settings = {"seed": 1, "blocks": 1, "language": "en"}
        pool.run(token_store.tokenize, [([str(tokens)], [ranges], tokenizer, settings)])
        unit = splits.Unit("train", (0,), 0)
        arguments = (str(marker.parent), unit, (str(tokens),), tokenizer, cfg, 64, 0)
        pool.run(example_writer.write_unit, [arguments])
        modules = set(pool.run(eval, [("set(__import__('sys').modules)",)] * 4)[0])
    assert marker.exists() and "bertjax.data.prepare.workers" in modules
    assert not modules & {"jax", "jaxlib", "grain", "flax", "tensorflow", "torch", "orbax"}


def test_a_finished_directory_is_left_as_it_is(config, make_corpus, log, differing):
    corpus = make_corpus(20)
    cfg = config(corpus)
    manifest = prepare.prepare(cfg, log)
    before = {path: path.stat().st_mtime_ns for path in Path(cfg.output).rglob("*")}
    log.lines.clear()
    assert prepare.prepare(cfg, log) == manifest
    assert log.lines == [f"{cfg.output} is already prepared from this text with these settings."]
    assert before == {path: path.stat().st_mtime_ns for path in Path(cfg.output).rglob("*")}
    # The shards do not depend on the number of processes.
    assert prepare.prepare(dataclasses.replace(cfg, processes=2), log) == manifest

    for change, says in (
        ({"seed": 7}, "seed: 12345 there, 7 now"),
        ({"dupe_factor": 5, "max_seq_length": 32}, "max_seq_length: 64 there, 32 now; dupe_factor"),
    ):
        with pytest.raises(UserError, match=says):
            prepare.prepare(dataclasses.replace(cfg, **change), log)
    with (corpus / "00.txt").open("a") as file:
        file.write("\nw1 w2\n")
    with pytest.raises(UserError, match=r"already holds shards of other text or settings \(corpus"):
        prepare.prepare(cfg, log)


@pytest.mark.parametrize("name", ["vocabulary", "vocabulary/vocab.txt", "."])
def test_a_vocabulary_and_an_output_inside_the_input_are_not_read_as_text(
    config, make_corpus, log, vocabulary, name
):
    corpus = make_corpus(20)
    (corpus / name).parent.mkdir(exist_ok=True)
    inside = corpus / (name if name.endswith("vocab.txt") else f"{name}/vocab.txt")
    inside.parent.mkdir(exist_ok=True)
    inside.write_bytes((vocabulary / "vocab.txt").read_bytes())
    cfg = config(corpus, output="corpus/shards", tokenizer=str(corpus / name))
    manifest = prepare.prepare(cfg, log)
    assert [file.name for file in manifest.corpus] == ["00.txt"]
    assert prepare.prepare(cfg, log) == manifest


def _wait_for(process, pattern, directory):
    """Waits until a matching file exists or the process ends; returns whether the file exists."""
    while process.poll() is None:
        if any(directory.glob(pattern)):
            return True
        time.sleep(0.002)
    return any(directory.glob(pattern))


KILLS = {
    1: (
        ".building/settings.json",
        ".building/pass1/000002.tokens",
        ".building/pass2/*.array_record",
        ".building/pass2/train-00000.json",
        "held_out-*",
        "tokenizer",
    ),
    2: (".building/pass1/*.tokens", ".building/pass2/*.array_record", "tokenizer/vocab.txt"),
}


@pytest.mark.parametrize("processes", KILLS)
def test_killed_anywhere_it_finishes_with_the_same_bytes(
    config, make_corpus, log, differing, start, uninterrupted, processes
):
    corpus = make_corpus(500, sentences=(10, 40))
    cfg = config(corpus, "killed", block_mib=1, processes=processes)
    output = Path(cfg.output)
    killed = 0
    for pattern in KILLS[processes]:
        process = start(cfg)
        _wait_for(process, pattern, output)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= len(KILLS[processes]) - 1  # the last one may end too quickly
    log.lines.clear()
    prepare.prepare(dataclasses.replace(cfg, processes=1), log)
    assert differing(uninterrupted(cfg), output) == []
    assert log.lines[0].startswith("Continuing the run") or "already prepared" in log.text


def test_workers_end_with_their_parent(config, make_corpus, start):
    corpus = make_corpus(500, sentences=(10, 40))
    cfg = config(corpus, block_mib=1, processes=2)
    process = start(cfg)
    assert _wait_for(process, ".building/pass1/*.tokens", Path(cfg.output))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()]
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_the_same_command_finishes_after_a_signal(
    config, make_corpus, log, differing, start, uninterrupted, number, processes
):
    corpus = make_corpus(1000, sentences=(10, 40))
    cfg = config(corpus, "stopped", block_mib=1, processes=processes)
    process = start(cfg)
    assert _wait_for(process, ".building/pass1/*.tokens", Path(cfg.output))
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (75, "")
    assert f"stopped by {number.name}" in out
    assert not (Path(cfg.output) / "manifest.json").exists()
    prepare.prepare(dataclasses.replace(cfg, processes=1), log)
    assert differing(uninterrupted(cfg), cfg.output) == []


def test_signal_handlers_are_restored(config, make_corpus, log):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    prepare.prepare(config(make_corpus(20)), log)
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_an_unfinished_run_of_another_version_is_refused(config, make_corpus, log, monkeypatch):
    cfg = config(make_corpus(20))
    with monkeypatch.context() as patch:
        patch.setattr(example_writer, "write_unit", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(cfg, log)
    path = Path(cfg.output, prepare.BUILDING, "settings.json")
    settings = json.loads(path.read_text())
    settings["building_version"] -= 1
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"unfinished run with other .*building_version: 0 there"):
        prepare.prepare(cfg, log)
    assert path.exists()


def test_an_unfinished_run_with_other_settings_is_refused(config, make_corpus, log, monkeypatch):
    corpus = make_corpus(20)
    cfg = config(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(example_writer, "write_unit", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(cfg, log)
    with pytest.raises(UserError, match=r"unfinished run with other .*seed: 12345 there, 3 now"):
        prepare.prepare(dataclasses.replace(cfg, seed=3), log)
    prepare.prepare(cfg, log)


@pytest.mark.parametrize("largest", [1000, 30_000, 100_000])
def test_a_full_disk_is_reported_and_survived(
    config, make_corpus, log, differing, start, uninterrupted, largest
):
    # The limit on file sizes fails the tokenizer or a token file, a token file, or a shard.
    corpus = make_corpus(900, sentences=(3, 9))
    cfg = config(corpus)
    process = start(cfg, largest_file=largest)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.count("\n") == 1 and "Traceback" not in error, error
    assert "can't be written (File too large)" in error
    assert not (Path(cfg.output) / "manifest.json").exists()
    prepare.prepare(cfg, log)
    assert differing(uninterrupted(cfg), cfg.output) == []


# A program in which the worker of the last range dies once the other ranges are tokenized.
DYING = PROGRAM.replace(
    "\nif __name__",
    """
import os, time
from pathlib import Path

whole = token_store.tokenize

def tokenize(paths, group, vocabulary, options):
    path = Path(paths[0])
    if group[0][-1].stop is None:
        while len(list(path.parent.glob("*.tokens"))) < int(path.stem):
            time.sleep(0.01)
        os._exit(3)
    whole(paths, group, vocabulary, options)

token_store.tokenize = tokenize

if __name__""",
    1,
)


def test_a_dead_worker_is_reported_and_costs_only_its_own_work(
    config, make_corpus, log, differing, start, uninterrupted, monkeypatch
):
    corpus = make_corpus(500, sentences=(10, 40))
    cfg = config(corpus, block_mib=1, processes=2)
    process = start(cfg, program=DYING)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.count("\n")) == (1, 1), error
    assert "A worker process died" in error and "run the same command again to continue" in error
    finished = list((Path(cfg.output) / ".building" / "pass1").glob("*.tokens"))
    assert len(finished) >= 3
    again, whole = [], token_store.tokenize

    def tokenize(*arguments):
        again.append(arguments)
        whole(*arguments)

    monkeypatch.setattr(token_store, "tokenize", tokenize)
    prepare.prepare(dataclasses.replace(cfg, processes=1), log)
    assert len(again) == 1
    monkeypatch.undo()
    assert differing(uninterrupted(cfg), cfg.output) == []


def test_half_written_files_of_a_killed_run_are_removed(config, make_corpus, log, monkeypatch):
    cfg = config(make_corpus(20))
    building = Path(cfg.output) / ".building"
    with monkeypatch.context() as patch:
        patch.setattr(example_writer, "write_unit", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare(cfg, log)
    for room in (".", "pass1", "pass2", "tokenizer"):
        (building / room / ".shard.0123abcd.tmp").write_bytes(b"half")
    monkeypatch.setattr(example_writer, "write_unit", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare.prepare(cfg, log)
    assert list(building.rglob("*.tokens")) and not list(building.rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "nothing matches"),
        ({"a.txt": b""}, "no text"),
        ({"a.txt": b" \n\n \n"}, "no text"),
        ({"a.txt": b"w1 w2\n"}, "one sentence in all; a next-sentence pair needs two"),
        ({"a.txt": b"w1 w2\nw3\n"}, "2 sentences but one document"),
        ({"a.txt": b"w1\n\nw2\n\nw3\n"}, "only 3 documents, and training and held-out need 2"),
        ({"a.txt": b"w1\n\nw2\xff\n"}, r"a\.txt:3: not UTF-8"),
        ({"a.jsonl": b'{"text": "w1."}\n{"txt": 3}\n'}, r"a\.jsonl:2: has no \"text\""),
    ],
)
def test_bad_input(config, tmp_path, log, files, says):
    corpus = tmp_path / "bad"
    corpus.mkdir()
    for name, data in files.items():
        (corpus / name).write_bytes(data)
    cfg = config(corpus)
    with pytest.raises(UserError, match=says) as caught:
        prepare.prepare(cfg, log)
    assert "\n" not in str(caught.value)
    assert not (Path(cfg.output) / "manifest.json").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_input_deep_in_a_file_is_named_by_its_line(config, make_corpus, log, processes):
    corpus = make_corpus(500, sentences=(10, 40))
    path = corpus / "00.txt"
    lines = path.read_bytes().split(b"\n")
    lines[9_111] += b"\xff"
    path.write_bytes(b"\n".join(lines))
    cfg = config(corpus, block_mib=1, processes=processes)
    with pytest.raises(UserError, match=r"/corpus/00\.txt:9112: not UTF-8"):
        prepare.prepare(cfg, log)
    assert not Path(cfg.output).exists()  # nor has a worker written there after its removal


def test_few_documents_are_split_by_the_order_of_their_hashes(config, make_corpus, log):
    corpus = make_corpus(4)
    for held_out, expected in ((0.0001, 2), (0.9999, 2)):
        cfg = config(corpus, f"out{held_out}", held_out=held_out)
        assert prepare.prepare(cfg, log).examples("held_out") > 0
        hashes, texts = _documents(corpus, cfg)
        order = np.argsort(np.array(hashes, np.uint64))
        held = {token for i in order[:expected] for line in texts[i] for token in line}
        train = {token for i in order[expected:] for line in texts[i] for token in line}
        for split, tokens in (("held_out", held), ("train", train)):
            for a, b, _ in examples(cfg.output, split):
                assert set(a) | set(b) <= tokens


def test_without_held_out(config, make_corpus, log):
    manifest = prepare.prepare(config(make_corpus(2), held_out=0), log)
    assert manifest.examples("held_out") == 0 and manifest.files["held_out"] == ()
    assert manifest.unigram_entropy is None and manifest.majority is None
    assert manifest.examples("train") > 0


def test_a_remote_output_is_the_local_one(config, make_corpus, log, remote, differing):
    corpus = make_corpus(30)
    local = config(corpus)
    prepare.prepare(local, log)
    (remote[1] / "corpus").mkdir()
    for file in corpus.iterdir():
        (remote[1] / "corpus" / file.name).write_bytes(file.read_bytes())
    manifest = prepare.prepare(
        dataclasses.replace(local, input=("gs://bucket/corpus",), output="gs://bucket/out"), log
    )
    assert differing(local.output, remote[1] / "out") == []
    assert manifest == shards.read_manifest(local.output)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dupe_factor", 0),
        ("seed", -1),
        ("processes", -1),
        ("block_mib", 0),
        ("max_seq_length", 4),
        ("short_seq_prob", 1.5),
        ("held_out", 1.0),
    ],
)
def test_impossible_settings_are_refused(config, tmp_path, field, value):
    with pytest.raises(UserError, match=f"`{field}` is {value}: give"):
        config(tmp_path, **{field: value})


@pytest.mark.parametrize("output", ["mine", "mine/shards", "mine/far/shards"])
def test_an_output_at_or_under_a_file_is_refused(config, make_corpus, log, tmp_path, output):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"(mine: is|shards: lies under .*mine, which is) a file; "):
        prepare.prepare(config(make_corpus(5), output), log)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_directory_of_shards_is_not_an_input(config, make_corpus, log):
    cfg = config(make_corpus(5))
    prepare.prepare(cfg, log)
    with pytest.raises(UserError, match="out: nothing matches"):
        prepare.prepare(dataclasses.replace(cfg, input=(cfg.output,)), log)


def test_a_changed_vocabulary_file_is_read_again(config, make_corpus, vocabulary, log):
    cfg = config(make_corpus(20))
    first = prepare.prepare(cfg, log)
    shutil.rmtree(cfg.output)
    file = vocabulary / "vocab.txt"
    specials, words = file.read_text().split("\n")[:5], file.read_text().split("\n")[5:]
    file.write_text("\n".join([*specials, *reversed(words)]))
    second = prepare.prepare(cfg, log)
    assert (first.tokens, first.examples("train")) == (second.tokens, second.examples("train"))
    assert first.files["train"][0].sha256 != second.files["train"][0].sha256


@pytest.mark.parametrize("processes", [1, 2])
def test_a_guess_of_the_case_is_told_once(
    config, make_corpus, vocabulary, tmp_path, capfd, processes
):
    (tmp_path / "bare").mkdir()
    bare = shutil.copy(vocabulary / "vocab.txt", tmp_path / "bare")
    logging.getLogger("bertjax").addHandler(handler := logging.StreamHandler(sys.stderr))
    try:
        wanted = config(make_corpus(12), tokenizer=bare, processes=processes)
        prepare.prepare(wanted, print)
    finally:
        logging.getLogger("bertjax").removeHandler(handler)
    said = [line for line in capfd.readouterr().err.splitlines() if "is cased" in line]
    assert len(said) == 1 and said[0].startswith(f"{bare}: nothing says whether")
    # Whoever reads the shards is told again.
    settings = json.loads((tmp_path / "out/tokenizer/tokenizer_config.json").read_text())
    assert settings["do_lower_case_guessed"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_system_error_while_writing_is_a_sentence(config, make_corpus, log, monkeypatch, code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    cfg = config(make_corpus(5))
    with monkeypatch.context() as patch:
        patch.setattr(token_store, "write_atomically", fail)
        with pytest.raises(UserError, match=rf"can't be written \({os.strerror(code)}\)"):
            prepare.prepare(cfg, log)
    with monkeypatch.context() as patch:
        patch.setattr(example_writer, "write_unit", lambda *arguments: Path("/absent").stat())
        with pytest.raises(FileNotFoundError):  # not a user error
            prepare.prepare(cfg, log)


def test_progress_is_lines_in_a_file_and_a_bar_on_a_terminal(
    config, make_corpus, log, monkeypatch, capsys
):
    corpus = make_corpus(500, sentences=(10, 40))
    monkeypatch.setattr(workers, "_SECONDS_BETWEEN_LINES", -1.0)
    prepare.prepare(config(corpus, "lines", block_mib=1), log)
    assert any(line.startswith("Tokenizing: 1 of ") for line in log.lines)
    assert any(line.startswith("Drawing examples: 2 of ") for line in log.lines)
    assert capsys.readouterr() == ("", "")
    log.lines.clear()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    prepare.prepare(config(corpus, "bar", block_mib=1), log)
    bar = capsys.readouterr().err
    assert "Tokenizing: 100%" in bar and "Drawing examples: 100%" in bar
    assert len(log.lines) == 2
