"""Rows and their order are pure functions of (seed, step) on any number of hosts."""

import threading
import time

import numpy as np
import pytest

from bertjax.data import stream
from bertjax.data.mixture import TrainStream
from bertjax.data.pairs import Pair
from bertjax.data.stream import HeldOutBatches, ShardReader, read_ahead
from bertjax.errors import UserError

KEYS = ("input_ids", "attention_mask", "token_type_ids", "next_sentence_label")


def equal(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key]) for key in first
    )


def test_rows_by_hand(make_data):
    pairs = [
        Pair(np.array([10, 11]), np.array([20]), False),
        Pair(np.array([30]), np.array([40, 41, 42]), True),
        Pair(np.arange(50, 56), np.arange(60, 67), False),
    ]
    reader = ShardReader(make_data(pairs, per_file=2, max_seq_length=16), "train")
    assert len(reader) == 3
    rows = reader.rows(np.array([2, 0, 1, 0]))
    assert all(rows[key].dtype == np.int32 for key in KEYS)
    pad = [0] * 16
    short = [2, 10, 11, 3, 20, 3]
    assert rows["input_ids"].tolist() == [
        [2, 50, 51, 52, 53, 54, 55, 3, 60, 61, 62, 63, 64, 65, 66, 3],
        short + pad[6:],
        [2, 30, 3, 40, 41, 42, 3, *pad[7:]],
        short + pad[6:],
    ]
    assert rows["attention_mask"].sum(1).tolist() == [16, 6, 7, 6]
    assert rows["attention_mask"][1].tolist() == [1] * 6 + pad[6:]
    assert rows["token_type_ids"].tolist() == [
        [0] * 8 + [1] * 8,
        [0] * 4 + [1] * 2 + pad[6:],
        [0] * 3 + [1] * 4 + pad[7:],
        [0] * 4 + [1] * 2 + pad[6:],
    ]
    assert rows["next_sentence_label"].tolist() == [0, 0, 1, 0]
    assert reader.rows(np.array([], int))["input_ids"].shape == (0, 16)


def test_indices_outside_are_refused(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(9)), "train")
    for index in (-1, 9):
        with pytest.raises(IndexError, match="of train"):
            reader.rows(np.array([0, index]))
    with pytest.raises(ValueError, match="split"):
        ShardReader(make_data(some_pairs(9), name="other"), "dev")


def test_every_epoch_has_every_example_once_in_another_order(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(50)), "train")
    train = TrainStream.of(reader, seed=5, batch_size=10)
    epochs = [
        np.concatenate([train.examples(step, np.arange(10))[1] for step in range(5 * e, 5 * e + 5)])
        for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(50))
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()


def test_a_batch_may_lie_in_several_epochs(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(7)), "train")
    train = TrainStream.of(reader, seed=5, batch_size=32)
    seen = np.concatenate([train.examples(step, np.arange(32))[1] for step in range(7)])
    for epoch in seen.reshape(-1, 7):
        assert sorted(epoch.tolist()) == list(range(7))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6])
def test_same_data_for_any_number_of_hosts(make_data, some_pairs, processes):
    directory = make_data(some_pairs(40))
    whole = TrainStream.of(ShardReader(directory, "train"), seed=5, batch_size=12)
    hosts = [
        TrainStream.of(ShardReader(directory, "train"), seed=5, batch_size=12)
        for _ in range(processes)
    ]
    for step in (0, 3, 17, 1_000_003):
        rows = np.array_split(np.arange(12), processes)
        parts = [host.rows(step, part) for host, part in zip(hosts, rows, strict=True)]
        together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert equal(together, whole.rows(step, np.arange(12)))
    # In any order and repeated: rows are looked up, not taken from an iterator.
    assert equal(
        whole.rows(3, np.array([5, 0, 5])),
        {key: value[[5, 0, 5]] for key, value in whole.rows(3, np.arange(12)).items()},
    )


def test_order_fingerprint(make_data, some_pairs):
    directory = make_data(some_pairs(40))

    def fingerprint(seed=5, batch_size=12, directory=directory):
        reader = ShardReader(directory, "train")
        return TrainStream.of(reader, seed=seed, batch_size=batch_size).order_fingerprint()

    assert fingerprint() == fingerprint()
    other = make_data(some_pairs(40, seed=1), name="other")
    changed = {fingerprint(seed=6), fingerprint(batch_size=13), fingerprint(directory=other)}
    assert len(changed | {fingerprint()}) == 4


def test_held_out_batches_weigh_every_example_once(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(3), some_pairs(23)), "held_out")
    batches = HeldOutBatches(reader, batch_size=8)
    assert len(batches) == 3 and batches.examples == 23
    seen = []
    for number in range(3):
        batch = batches.rows(number, np.arange(8))
        assert batch["example_weight"].dtype == np.float32
        real = batch["example_weight"] == 1
        seen.append({key: batch[key][real] for key in KEYS})
    assert batches.rows(2, np.arange(8))["example_weight"].tolist() == [1.0] * 7 + [0.0]
    whole = reader.rows(np.arange(23))
    assert equal({key: np.concatenate([part[key] for part in seen]) for key in KEYS}, whole)
    assert batches.rows(2, np.array([6, 7]))["example_weight"].tolist() == [1.0, 0.0]
    with pytest.raises(IndexError):
        batches.rows(3, np.arange(8))


def test_held_out_examples_are_spread_over_the_split(make_data, some_pairs):
    reader = ShardReader(make_data(some_pairs(3), some_pairs(40)), "held_out")
    batches = HeldOutBatches(reader, batch_size=4, max_examples=8)
    assert len(batches) == 2
    rows = [batches.rows(number, np.arange(4)) for number in range(2)]
    expected = reader.rows(np.arange(0, 40, 5))
    together = {key: np.concatenate([row[key] for row in rows]) for key in KEYS}
    assert equal(together, expected)
    assert HeldOutBatches(reader, batch_size=4, max_examples=999).examples == 40
    empty = ShardReader(make_data(some_pairs(3), name="empty"), "held_out")
    assert len(HeldOutBatches(empty, batch_size=4)) == 0
    for wrong in ({"batch_size": 0}, {"batch_size": 4, "max_examples": 0}):
        with pytest.raises(UserError, match="give at least 1"):
            HeldOutBatches(reader, **wrong)


def test_ids_beyond_the_vocabulary_are_named(make_data, some_pairs):
    pairs = some_pairs(20)
    pairs[16] = Pair(np.array([7]), np.array([100]), False)
    reader = ShardReader(make_data(pairs), "train")
    reader.rows(np.arange(16))
    with pytest.raises(
        UserError, match=r"train-00014\.array_record, record 2: .*vocabulary of 100"
    ):
        reader.rows(np.arange(20))


def test_an_example_too_long_is_named(make_data, some_pairs):
    pairs = [*some_pairs(8), Pair(np.full(7, 9), np.full(7, 9), False)]
    reader = ShardReader(make_data(pairs), "train")
    with pytest.raises(UserError, match=r"train-00007\.array_record, record 1: .*max_seq_length"):
        reader.rows(np.arange(9))


def _flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))


def test_every_flipped_bit_is_harmless_or_named(make_data, some_pairs):
    pairs = some_pairs(7)
    directory = make_data(pairs)
    shard = directory / "train-00000.array_record"
    whole = ShardReader(directory, "train").rows(np.arange(7))
    data = shard.read_bytes()
    named = 0
    for position in np.random.default_rng(0).integers(0, len(data), 60).tolist() + [
        data.index(bytes(pair.a.astype("<u2").tobytes())) for pair in pairs
    ]:
        _flip(shard, position)
        try:
            rows = ShardReader(directory, "train").rows(np.arange(7))
        except UserError as error:
            named += 1
            assert "train-00000.array_record" in str(error) and "damaged" in str(error)
        else:
            assert equal(rows, whole)
        shard.write_bytes(data)
    assert named >= 7


def test_only_the_damaged_record_is_named_and_the_others_are_read(make_data, some_pairs):
    pairs = some_pairs(7)
    directory = make_data(pairs)
    shard = directory / "train-00000.array_record"
    record = pairs[3].a.astype("<u2").tobytes() + pairs[3].b.astype("<u2").tobytes()
    _flip(shard, shard.read_bytes().index(record))
    reader = ShardReader(directory, "train")
    good = np.array([0, 1, 2, 4, 5, 6])
    reader.rows(good)
    for _ in range(2):
        with pytest.raises(UserError, match=r"train-00000\.array_record, record 3: damaged"):
            reader.rows(np.arange(7))
        reader.rows(good)  # ArrayRecord's reader would fail at every record from now on


def test_another_number_of_records_is_named(make_data, some_pairs):
    directory = make_data(some_pairs(14))
    first, second = (directory / f"train-{n:05d}.array_record" for n in (0, 7))
    other = make_data(some_pairs(12), per_file=5, name="other")
    second.write_bytes((other / "train-00000.array_record").read_bytes())
    assert second.stat().length == first.stat().length  # ArrayRecord pads to 64 KiB
    with pytest.raises(UserError, match=r"train-00007\.array_record: damaged \(5 records where 7"):
        ShardReader(directory, "train").rows(np.arange(14))


def test_few_open_files_and_many_threads(make_data, some_pairs, monkeypatch):
    monkeypatch.setattr(stream, "_OPEN_FILES", 2)
    reader = ShardReader(make_data(some_pairs(60)), "train")
    expected = reader.rows(np.arange(60))
    failures = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            indices = rng.integers(0, 60, 16)
            if not equal(reader.rows(indices), {key: expected[key][indices] for key in KEYS}):
                failures.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_remote_directory_reads_as_the_local_one(make_data, some_pairs, remote):
    directory = make_data(some_pairs(20), some_pairs(5))
    for file in directory.iterdir():
        (remote[1] / file.name).write_bytes(file.read_bytes())
    local = ShardReader(directory, "train").rows(np.arange(20))
    reader = ShardReader(remote[0], "train")
    assert equal(reader.rows(np.arange(20)), local)

    _flip(remote[1] / "train-00000.array_record", 70_000 % 65_536)
    with pytest.raises(UserError, match=r"gs://bucket/train-00000.array_record: is not the file"):
        ShardReader(remote[0], "train")


def test_read_ahead_keeps_the_order_and_works_ahead():
    made, lock, gate = [], threading.Lock(), threading.Event()

    def make(step):
        with lock:
            made.append(step)
        if step == 0:
            gate.wait(10)  # later ones are made meanwhile
        return step * step

    ahead = read_ahead(make, range(100), depth=4, threads=2)
    threading.Timer(0.2, gate.set).start()
    assert next(ahead) == (0, 0)
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(made) == [0, 1, 2, 3, 4]  # one taken, four ahead, no more
    assert list(ahead) == [(step, step * step) for step in range(1, 100)]
    assert not _threads()


def test_read_ahead_raises_where_it_is_due():
    def make(step):
        if step == 3:
            raise UserError("record 3")
        return step

    ahead = read_ahead(make, range(10))
    assert [next(ahead)[1] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="record 3"):
        next(ahead)
    assert not _threads()


def test_read_ahead_ends_its_threads_when_closed_or_dropped():
    ahead = read_ahead(lambda step: step, iter(range(10**9)))
    next(ahead)
    assert _threads()
    ahead.close()
    assert not _threads()
    ahead = read_ahead(lambda step: step, iter(range(10**9)))
    next(ahead)
    del ahead
    assert not _threads()
    assert list(read_ahead(lambda step: step, [])) == []


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]
