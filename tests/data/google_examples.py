"""What Google's create_pretraining_data.py makes of a pair: its masking, its features, its files.

Written from the published script and the formats' descriptions, with nothing of the reader's.
`serialized` and `framed` are held to TensorFlow's own bytes by `make_tfrecord_golden.py`.
"""

import random
import struct
from typing import NamedTuple


class Vocabulary(NamedTuple):
    """What masking needs to know."""

    size: int
    cls_id: int
    sep_id: int
    mask_id: int


def masked(
    a: list[int],
    b: list[int],
    vocabulary: Vocabulary,
    max_predictions: int,
    rng: random.Random,
    probability: float = 0.15,
) -> tuple[list[int], list[int], list[int]]:
    """The row [CLS] a [SEP] b [SEP] with masked words, their positions and their ids, as
    `create_masked_lm_predictions` without whole words."""
    row = [vocabulary.cls_id, *a, vocabulary.sep_id, *b, vocabulary.sep_id]
    candidates = [place for place in range(1, len(row) - 1) if place != len(a) + 1]
    rng.shuffle(candidates)
    count = min(max_predictions, max(1, round(len(row) * probability)))
    positions = sorted(candidates[:count])
    labels = [row[place] for place in positions]
    for place in positions:
        if rng.random() < 0.8:
            row[place] = vocabulary.mask_id
        elif rng.random() < 0.5:
            row[place] = rng.randint(0, vocabulary.size - 1)
    return row, positions, labels


def features(
    row: list[int],
    a_length: int,
    positions: list[int],
    labels: list[int],
    is_random: bool,
    max_seq_length: int,
    max_predictions: int,
) -> dict[str, list[int] | list[float]]:
    """The features of an example, padded with zeros, as `write_instance_to_example_files`."""
    padding = [0] * (max_seq_length - len(row))
    unused = [0] * (max_predictions - len(positions))
    return {
        "input_ids": row + padding,
        "input_mask": [1] * len(row) + padding,
        "segment_ids": [0] * (a_length + 2) + [1] * (len(row) - a_length - 2) + padding,
        "masked_lm_positions": positions + unused,
        "masked_lm_ids": labels + unused,
        "masked_lm_weights": [1.0] * len(positions) + [0.0] * len(unused),
        "next_sentence_labels": [int(is_random)],
    }


def example(
    a: list[int],
    b: list[int],
    is_random: bool,
    vocabulary: Vocabulary,
    max_seq_length: int,
    max_predictions: int,
    rng: random.Random,
) -> dict[str, list[int] | list[float]]:
    """The features of a pair, masked."""
    row, positions, labels = masked(a, b, vocabulary, max_predictions, rng)
    return features(row, len(a), positions, labels, is_random, max_seq_length, max_predictions)


def serialized(found: dict[str, list[int] | list[float]], writer) -> bytes:
    """A tf.train.Example as bytes.

    Args:
        found: the features; lists of floats become FloatLists.
        writer: the module interop/bundle_writer.py.
    """
    entries = b""
    for name, values in found.items():
        if values and isinstance(values[0], float):
            kind, packed = 2, struct.pack(f"<{len(values)}f", *values)
        else:
            kind, packed = 3, b"".join(writer.varint(value % (1 << 64)) for value in values)
        feature = writer.field(kind, writer.field(1, packed))
        entries += writer.field(1, writer.field(1, name.encode()) + writer.field(2, feature))
    return writer.field(1, entries)


def framed(record: bytes, writer) -> bytes:
    """A record as a TFRecord file holds it."""
    length = struct.pack("<Q", len(record))
    sums = [struct.pack("<I", writer.masked_crc32c(data)) for data in (length, record)]
    return length + sums[0] + record + sums[1]
