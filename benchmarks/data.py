"""Measures preparing and reading text against other programs, or against itself.

    BERTJAX_TEST_DATA=DIRECTORY python benchmarks/data.py --part google-10

The text is pretrain/novels.tar.xz in that directory: 87 English novels, 67 MB. The vocabulary is
vocab/bert-base-uncased-vocab.txt. Each side of a comparison runs in a fresh process. The sides take
turns for some rounds; a ratio is the median of the ratios of the rounds. `ratio_cpu` compares CPU
seconds: trust it for work on one core where other work shares the machine. Results go to
benchmarks/results/data.json with their commands.

Parts, with their goals:
    google-10, google-1  prepare against Google's algorithm in plain Python, with dupe factor 10 and
                         1, on the first --megabytes of the novels: 10 and 20 times as fast
    tokenizers           prepare, end to end with dupe factor 1, against `tokenizers` that only
                         encodes the same sentences: 0.6 times as fast
    processes            two processes against one: 1.8 times as fast
    memory               anonymous memory of the process tree, for the novels and for ten times
                         their text: under 1 GB, and within 50 MB of each other
    reading              shuffled rows of 128 tokens a second, against the rows that a step of
                         BERT-base consumes on a TPU v5e chip at its peak: 20 times as many
"""

import argparse
import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import shlex
import statistics
import struct
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from recorded import keep, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results") / "data.json"
PACKAGES = ("bertjax", "tokenizers", "numpy", "array_record", "protobuf")
LENGTH, PREDICTIONS, SHORT, SEED = 128, 20, 0.1, 12345
# The peak of a v5e chip in bfloat16, and a forward and backward pass of BERT-base with the
# masked-LM head at 20 of 128 positions.
V5E_OPERATIONS, OPERATIONS_PER_TOKEN = 197e12, 545e6


# The sides: each prepares itself and returns the function to time ---------------------------------


def prepared(corpus, vocabulary, output, dupe_factor, processes):
    """bertjax prepare: from text files to shards and their manifest."""
    from bertjax.data.prepare.run import PrepareConfig, prepare

    config = PrepareConfig(
        input=(corpus,),
        tokenizer=vocabulary,
        output=output,
        max_seq_length=LENGTH,
        dupe_factor=dupe_factor,
        short_seq_prob=SHORT,
        held_out=0,
        seed=SEED,
        processes=processes,
    )
    return lambda: {"examples": prepare(config, lambda line: None).examples("train")}


def googles(corpus, vocabulary, output, dupe_factor):
    """create_pretraining_data.py: tokenizes all text, pairs, masks, shuffles, writes TFRecords."""
    pairs, examples = helper("data/google_pairs.py"), helper("data/google_examples.py")
    tokenizing = helper("parity/full_tokenizer.py")
    for name in ("is_space", "is_control", "is_ideograph", "is_punctuation"):
        # Google's code has no cache of characters.
        setattr(tokenizing, name, getattr(tokenizing, name).__wrapped__)
    tokens = Path(vocabulary).read_text().splitlines()
    ids = {token: number for number, token in enumerate(tokens)}
    special = examples.Vocabulary(len(ids), *(ids[name] for name in ("[CLS]", "[SEP]", "[MASK]")))
    serialize = example_writer()

    def tokenize(line):
        words = tokenizing.words_of(line, lowercase=True)
        return [ids[piece] for word in words for piece in tokenizing.pieces_of(word, ids)]

    def work():
        rng = random.Random(SEED)
        documents = []
        for file in sorted(Path(corpus).iterdir()):
            documents.append([])
            with file.open(encoding="utf-8") as lines:
                for line in map(str.strip, lines):
                    if not line:
                        documents.append([])
                    elif found := tokenize(line):
                        documents[-1].append(found)
        documents = [document for document in documents if document]
        made = pairs.create_pairs(documents, LENGTH, SHORT, dupe_factor, rng)
        with Path(output).open("wb") as target:
            for a, b, is_random in made:
                features = examples.example(a, b, is_random, special, LENGTH, PREDICTIONS, rng)
                target.write(framed(serialize(features)))
        return {"examples": len(made)}

    return work


def encoded(corpus, vocabulary):
    """The `tokenizers` library alone, on sentences in memory."""
    import tokenizers

    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece.from_file(vocabulary, unk_token="[UNK]")
    )
    library.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    text = [file.read_text().splitlines() for file in sorted(Path(corpus).iterdir())]
    sentences = [line for lines in text for line in lines if line]

    def work():
        for start in range(0, len(sentences), 4096):
            library.encode_batch_fast(sentences[start : start + 4096], add_special_tokens=False)
        return {"sentences": len(sentences)}

    return work


def read(shards, batch_size, steps, seed):
    """Batches of the training stream, read ahead in threads as in training."""
    import numpy as np

    from bertjax.data.mixture import TrainStream
    from bertjax.data.stream import ShardReader, read_ahead

    stream = TrainStream.of(ShardReader(shards, "train"), seed=seed, batch_size=batch_size)
    rows = np.arange(batch_size)

    def work():
        for _ in read_ahead(lambda step: stream.rows(step, rows), range(steps)):
            pass
        return {"rows": batch_size * steps}

    return work


def example_writer():
    """Returns a function that serializes a tf.train.Example with protobuf, as TensorFlow does."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(parent, name, **fields):
        made = parent.add(name=name)
        for number, (field, (kind, repeated)) in enumerate(fields.items(), start=1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".t.{kind}"
            else:
                added.type = kind
        return made

    message(file.message_type, "BytesList", value=(kinds.TYPE_BYTES, True))
    message(file.message_type, "FloatList", value=(kinds.TYPE_FLOAT, True))
    message(file.message_type, "Int64List", value=(kinds.TYPE_INT64, True))
    feature = message(
        file.message_type,
        "Feature",
        bytes_list=("BytesList", False),
        float_list=("FloatList", False),
        int64_list=("Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(file.message_type, "Features", feature=("Features.FeatureEntry", True))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        key=(kinds.TYPE_STRING, False),
        value=("Feature", False),
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", features=("Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))

    def serialize(found):
        example = kind()
        for name, values in found.items():
            feature = example.features.feature[name]
            one = feature.float_list if isinstance(values[0], float) else feature.int64_list
            one.value.extend(values)
        return example.SerializeToString()

    return serialize


def framed(record):
    """Returns a record as TFRecordWriter writes it."""
    from bertjax.protobuf import masked_crc32c

    length = struct.pack("<Q", len(record))
    sums = [struct.pack("<I", masked_crc32c(data)) for data in (length, record)]
    return b"".join((length, sums[0], record, sums[1]))


# Measuring --------------------------------------------------------------------------------------


def helper(path):
    """Loads a script from the tests."""
    path = ROOT / "tests" / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cpu_seconds():
    """CPU seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(side, *arguments):
    """Runs a side and returns its seconds, its CPU seconds and its own result."""
    work = side(*arguments)
    started, used = time.perf_counter(), cpu_seconds()
    result = work()
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(cpu_seconds() - used, 3),
        **result,
    }


def fresh():
    """Returns an executor with one new process."""
    return concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    )


def in_turn(rounds, **sides):
    """Runs the sides (function, *arguments) in turn, each in a new process; returns all results."""
    found = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (side, *arguments) in sides.items():
            with tempfile.TemporaryDirectory(prefix="bertjax-bench-") as directory, fresh() as pool:
                given = [a.format(directory) if isinstance(a, str) else a for a in arguments]
                found[name].append(pool.submit(timed, side, *given).result())
            print(f"{name}: {json.dumps(found[name][-1])}", flush=True)
    return found


def compared(found, slow, fast):
    """Returns how many times as fast one side is: medians of the ratios of the rounds."""
    ratios = {
        kind: statistics.median(
            a[kind] / b[kind] for a, b in zip(found[slow], found[fast], strict=True)
        )
        for kind in ("seconds", "cpu_seconds")
    }
    return {"ratio": round(ratios["seconds"], 2), "ratio_cpu": round(ratios["cpu_seconds"], 2)}


def one_core():
    """Restricts this process and its children to one core."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def anonymous_memory(pid):
    """Sums RssAnon, in bytes, of a process and its descendants."""
    total, waiting = 0, [str(pid)]
    while waiting:
        directory = Path("/proc") / waiting.pop()
        try:
            status = (directory / "status").read_text()
            for task in (directory / "task").iterdir():
                waiting += (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) << 10
    return total


# The parts --------------------------------------------------------------------------------------


def against_google(asked, data, dupe_factor, bound):
    """Compares prepare with Google's algorithm on a part of the novels, on one core."""
    one_core()
    corpus = data.slice_of(asked.megabytes)
    common = (str(corpus), str(data.vocabulary))
    sides = {
        "bertjax": (prepared, *common, "{}/shards", dupe_factor, 1),
        "google": (googles, *common, "{}/examples.tfrecord", dupe_factor),
    }
    found = in_turn(asked.rounds, **sides)
    return {
        "bytes": data.size_of(corpus),
        "dupe_factor": dupe_factor,
        "bound": bound,
        **compared(found, "google", "bertjax"),
        "rounds": found,
    }


def against_tokenizers(asked, data):
    """Compares prepare, end to end, with encoding the same sentences, on one core."""
    one_core()
    common = (str(data.novels), str(data.vocabulary))
    found = in_turn(
        asked.rounds, bertjax=(prepared, *common, "{}/shards", 1, 1), tokenizers=(encoded, *common)
    )
    return {"bound": 0.6, **compared(found, "tokenizers", "bertjax"), "rounds": found}


def two_processes(asked, data):
    """Compares prepare with two processes and with one."""
    common = (prepared, str(data.novels), str(data.vocabulary), "{}/shards", 2)
    found = in_turn(asked.rounds, one=(*common, 1), two=(*common, 2))
    return {"bound": 1.8, **compared(found, "one", "two"), "rounds": found}


def memory(asked, data):
    """Measures the peak of anonymous memory, for the novels and for ten times their text."""
    peaks = {}
    for times in (1, 10):
        corpus = data.repeated(times)
        with tempfile.TemporaryDirectory(prefix="bertjax-bench-") as directory, fresh() as pool:
            pid = pool.submit(os.getpid).result()
            arguments = (str(corpus), str(data.vocabulary), f"{directory}/shards", 1, 2)
            done = pool.submit(timed, prepared, *arguments)
            peak = 0
            while not done.done():
                peak = max(peak, anonymous_memory(pid))
                time.sleep(0.05)
            peaks[times] = {"peak_mb": round(peak / 1e6, 1), **done.result()}
        print(f"{times} x: {json.dumps(peaks[times])}", flush=True)
    apart = abs(peaks[10]["peak_mb"] - peaks[1]["peak_mb"])
    return {
        "bound_mb": 1000,
        "bound_apart_mb": 50,
        "apart_mb": round(apart, 1),
        "processes": 2,
        **{f"x{times}": peak for times, peak in peaks.items()},
    }


def reading(asked, data):
    """Measures rows a second of the shuffled training stream, on one core."""
    one_core()
    with tempfile.TemporaryDirectory(prefix="bertjax-bench-") as directory:
        shards = f"{directory}/shards"
        with fresh() as pool:
            arguments = (str(data.novels), str(data.vocabulary), shards, 2, 1)
            pool.submit(timed, prepared, *arguments).result()
        found = in_turn(asked.rounds, read=(read, shards, 256, 400, 1))["read"]
    consumed = V5E_OPERATIONS / OPERATIONS_PER_TOKEN / LENGTH
    rates = {
        kind: statistics.median(each["rows"] / each[kind] for each in found)
        for kind in ("seconds", "cpu_seconds")
    }
    return {
        "bound": 20,
        "rows_per_second": round(rates["seconds"]),
        "rows_per_cpu_second": round(rates["cpu_seconds"]),
        "consumed_at_peak": round(consumed),
        "ratio": round(rates["seconds"] / consumed, 2),
        "ratio_cpu": round(rates["cpu_seconds"] / consumed, 2),
        "rounds": found,
    }


PARTS = {
    "google-10": lambda asked, data: against_google(asked, data, 10, 10),
    "google-1": lambda asked, data: against_google(asked, data, 1, 20),
    "tokenizers": against_tokenizers,
    "processes": two_processes,
    "memory": memory,
    "reading": reading,
}


class Data:
    """The novels, extracted to a temporary directory, and slices and multiples of them."""

    def __init__(self, source, directory):
        self.vocabulary = source / "vocab" / "bert-base-uncased-vocab.txt"
        self._directory = directory
        with tarfile.open(source / "pretrain" / "novels.tar.xz") as archive:
            archive.extractall(directory, filter="data")
        self.novels = directory / "train"

    def size_of(self, corpus):
        """Returns the bytes of a corpus."""
        return sum(file.stat().st_size for file in corpus.iterdir())

    def slice_of(self, megabytes):
        """Links the first novels, until they have so many megabytes."""
        corpus, size = self._directory / "slice", 0
        corpus.mkdir()
        for file in sorted(self.novels.iterdir()):
            if size >= megabytes * 1e6:
                break
            (corpus / file.name).symlink_to(file)
            size += file.stat().st_size
        return corpus

    def repeated(self, times):
        """Links each novel so many times, under different names."""
        corpus = self._directory / f"x{times}"
        corpus.mkdir()
        for number in range(times):
            for file in self.novels.iterdir():
                (corpus / f"{number}-{file.name}").symlink_to(file)
        return corpus


def main():
    """Measures one part, prints it and adds it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--megabytes", type=float, default=4.0, help="text of google-10 and google-1"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if "BERTJAX_TEST_DATA" not in os.environ:
        parser.error("set BERTJAX_TEST_DATA to the directory with pretrain/novels.tar.xz")
    command = shlex.join(["python", "benchmarks/data.py", *sys.argv[1:]])
    facts = {"command": command, **machine(*PACKAGES)}
    with tempfile.TemporaryDirectory(prefix="bertjax-novels-") as directory:
        data = Data(Path(os.environ["BERTJAX_TEST_DATA"]), Path(directory))
        facts |= PARTS[asked.part](asked, data)
    keep(asked.output, asked.part, facts)
    print(json.dumps({name: value for name, value in facts.items() if name != "rounds"}))


if __name__ == "__main__":
    main()
