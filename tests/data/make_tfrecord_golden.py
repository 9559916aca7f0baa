"""Writes golden/old.tfrecord, the same compressed as old.tfrecord.gz, and old.json: masked examples
by TensorFlow's own writer, and the pairs that they were made from.

    python tests/data/make_tfrecord_golden.py

Needs TensorFlow, which bertjax does not. Every record is also written by `google_examples.py`,
which is what the other tests write with, and read by TensorFlow to the same features.
"""

import json
import random
import sys
from pathlib import Path

import tensorflow as tf

HERE = Path(__file__).parent
for room in (HERE, HERE.parent / "interop"):
    sys.path.insert(0, str(room))

import bundle_writer  # noqa: E402 - where it lies is known only now
import google_examples  # noqa: E402

LENGTH, PREDICTIONS, EXAMPLES = 24, 4, 10
# BERT's own ids: of one, two and three bytes as varints.
VOCABULARY = google_examples.Vocabulary(size=30_522, cls_id=101, sep_id=102, mask_id=103)


def feature(values):
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def check_helper(example, features):
    """TensorFlow reads the same out of what the tests write."""
    record = google_examples.serialized(features, bundle_writer)
    assert tf.train.Example.FromString(record) == example
    path = HERE / "golden" / "check.tfrecord"
    path.write_bytes(google_examples.framed(record, bundle_writer))
    (read,) = tf.data.TFRecordDataset(str(path))
    path.unlink()
    assert tf.train.Example.FromString(read.numpy()) == example


def main():
    rng = random.Random(0)
    pairs, records = [], []
    for number in range(EXAMPLES):
        a, b = (
            [rng.choice((rng.randint(104, 127), rng.randint(1000, 30_521))) for _ in range(length)]
            for length in (rng.randint(1, 9), rng.randint(1, 9))
        )
        is_random = number % 3 == 0
        features = google_examples.example(a, b, is_random, VOCABULARY, LENGTH, PREDICTIONS, rng)
        example = tf.train.Example(
            features=tf.train.Features(feature={k: feature(v) for k, v in features.items()})
        )
        check_helper(example, features)
        pairs.append([a, b, is_random])
        records.append(example.SerializeToString(deterministic=True))
    golden = {
        "generator": "tf.io.TFRecordWriter",
        "tensorflow": tf.__version__,
        "max_seq_length": LENGTH,
        **{name: getattr(VOCABULARY, name) for name in VOCABULARY._fields},
        "pairs": pairs,
    }
    for name, compression in (("old.tfrecord", ""), ("old.tfrecord.gz", "GZIP")):
        with tf.io.TFRecordWriter(str(HERE / "golden" / name), compression) as file:
            for record in records:
                file.write(record)
    rows = ",\n".join(f"  {json.dumps(pair)}" for pair in pairs)
    head = json.dumps({key: value for key, value in golden.items() if key != "pairs"}, indent=1)
    text = f'{head[:-2]},\n "pairs": [\n{rows}\n ]\n}}\n'
    assert json.loads(text) == golden
    (HERE / "golden" / "old.json").write_text(text)


if __name__ == "__main__":
    (HERE / "golden").mkdir(exist_ok=True)
    main()
