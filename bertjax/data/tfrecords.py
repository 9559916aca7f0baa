"""Reads the TFRecord files of Google's pre-training scripts, without TensorFlow.

`create_pretraining_data.py` of google-research/bert, and the same script in NVIDIA's
DeepLearningExamples, write one tf.train.Example for each pair of texts, padded and masked. The
labels name the masked words, so the text can be restored, and training masks it anew.

Formats: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/{example,feature}.proto.
"""

import functools
import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax import protobuf
from bertjax.commands import command
from bertjax.data.pairs import Pair
from bertjax.errors import UserError
from bertjax.files import location, reading
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer

# The field of a Feature that holds the values: 2 for floats, 3 for integers.
_FEATURES = {
    "input_ids": 3,
    "input_mask": 3,
    "segment_ids": 3,
    "masked_lm_positions": 3,
    "masked_lm_ids": 3,
    "masked_lm_weights": 2,
    "next_sentence_labels": 3,
}
# a.tfrecord, a.tfrecords.gz, a.tfrecord-00000-of-00010, eval.tf_record
_NAME = re.compile(r"\.tf_?records?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_GZIP = b"\x1f\x8b\x08"
_RECORDS_AT_ONCE = 512


class Example(NamedTuple):
    """An example with its masked words restored."""

    pair: Pair  # A and B (int32, without special tokens), and whether B is random
    max_seq_length: int  # the number of tokens that the record was padded to
    predictions: int  # the number of masked positions, replaced by [MASK] or not


class _Unfit(Exception):
    """A record has other features than expected; the message says why, and what to do."""


def read_examples(
    path: epath.PathLike, tokenizer: Tokenizer | None = None, *, max_seq_length: int | None = None
) -> Iterator[Example]:
    """Yields the examples of one TFRecord file in order and in bounded memory.

    Args:
        path: the file, plain or compressed by gzip; local or remote (gs://).
        tokenizer: the tokenizer that the file was made with. None skips the checks that need it.
        max_seq_length: the length that records must be padded to. None takes that of the first.

    Raises:
        UserError: there is no such file; or the named record, from 1, is damaged or truncated,
            lacks a feature, or has impossible or unexpected values.
    """
    path = location(path)
    numbered = enumerate(_read_records(path), start=1)
    while batch := list(itertools.islice(numbered, _RECORDS_AT_ONCE)):
        try:
            examples = _decode([record for _, record in batch], max_seq_length, tokenizer)
        except (protobuf.Malformed, _Unfit):
            examples = _decode_singly(path, batch, max_seq_length, tokenizer)
        max_seq_length = examples[0].max_seq_length
        yield from examples


def _decode_singly(
    path: epath.Path,
    batch: Sequence[tuple[int, bytes]],
    max_seq_length: int | None,
    tokenizer: Tokenizer | None,
) -> list[Example]:
    """Decodes records one by one, to name the faulty one."""
    examples: list[Example] = []
    for number, record in batch:
        try:
            examples += _decode([record], max_seq_length, tokenizer)
        except protobuf.Malformed as error:
            raise _damaged(path, number, error) from None
        except _Unfit as error:
            raise UserError(f"{path}, record {number}: {error}") from None
        max_seq_length = examples[0].max_seq_length
    return examples


def _read_records(path: epath.Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, plain or compressed by gzip; checks each CRC32C."""
    if not path.exists():
        raise UserError(f"{path}: no such file; give a TFRecord file.")
    with reading(path), path.open("rb") as file:
        stream = _decompressed(file)
        for number in itertools.count(1):
            try:
                record = protobuf.next_record(functools.partial(_read, stream))
            except protobuf.Malformed as error:
                raise _damaged(path, number, error) from None
            if record is None:
                return
            yield record


def is_named_tfrecord(path: epath.Path) -> bool:
    """Whether a file has the name of a TFRecord file."""
    return _NAME.search(path.name) is not None


def is_tfrecord(path: epath.Path) -> bool:
    """Whether a file is a TFRecord file, by its name or because it begins with a record header."""
    if is_named_tfrecord(path):
        return True
    with reading(path), path.open("rb") as file:
        try:
            header = _read(_decompressed(file), protobuf.RECORD_HEADER_BYTES)
        except protobuf.Malformed:
            return False
    return protobuf.is_record_header(header)


def expanded(patterns: Sequence[str], leave_out: Sequence[epath.Path]) -> list[str]:
    """Replaces each directory that contains TFRecords, at any depth, by these files.

    The arguments are those of `corpus.expand_inputs`.

    Raises:
        UserError: a directory has both TFRecords and text.
    """
    found: list[str] = []
    others = {path.resolve() for path in leave_out}
    for pattern in patterns:
        path = location(pattern)
        files = list(corpus.files_in(path)) if path.is_dir() else []
        if records := [file for file in files if is_named_tfrecord(file)]:
            for file in files:
                if corpus.is_named_text(file) and file.resolve() not in others:
                    raise _mixed(records[0], file)
        found += map(str, records or [pattern])
    return found


def are_tfrecords(sources: Sequence[Source]) -> bool:
    """Whether the input is TFRecords rather than text.

    Raises:
        UserError: it has both.
    """
    is_record = [isinstance(each, epath.Path) and is_tfrecord(each) for each in sources]
    if any(is_record) and not all(is_record):
        raise _mixed(sources[is_record.index(True)], sources[is_record.index(False)])
    return all(is_record)


def prepare_command(data: epath.Path) -> str | None:
    """Returns the command that converts TFRecords given in place of shards, None for other data."""
    if data.is_dir():
        found = any(map(is_named_tfrecord, data.iterdir()))
    elif data.is_file():
        found = is_tfrecord(data)
    else:  # a pattern, perhaps
        found = ".tfrecord" in data.name or ".tf_record" in data.name
    return command("prepare", input=data, tokenizer="vocab.txt", output="shards") if found else None


def _decompressed(file: Any) -> Any:
    """Returns the file, or a reader of its content if it is compressed by gzip."""
    start = file.read(len(_GZIP))
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if start == _GZIP else file


def _read(stream: Any, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise protobuf.Malformed("the gzip data is truncated or damaged") from None


def _damaged(path: epath.Path, number: int, error: protobuf.Malformed) -> UserError:
    return UserError(
        f"{path}, record {number}: damaged ({error}); copy the file again, or leave it out."
    )


def _decode(
    records: Sequence[bytes], max_seq_length: int | None, tokenizer: Tokenizer | None
) -> list[Example]:
    """Decodes several records at once; the message of an error fits a single record."""
    found = [_features(record) for record in records]
    columns = {name: [features[name] for features in found] for name in _FEATURES}
    ids = _rows(columns, "input_ids", max_seq_length)
    count, length = ids.shape
    mask, types = (_rows(columns, name, length) for name in ("input_mask", "segment_ids"))
    labels = _rows(columns, "next_sentence_labels", 1)[:, 0]

    # [CLS] A [SEP] B [SEP], then padding.
    column, ends = np.arange(length), mask.sum(axis=1)
    a_ends = ((types == 0) & (mask == 1)).sum(axis=1) - 1
    is_real = column < ends[:, None]
    is_row = np.array_equal(mask, is_real)
    is_row &= np.array_equal(types, is_real & (column > a_ends[:, None]))
    if not is_row or (a_ends < 2).any() or (ends < a_ends + 3).any():
        raise _Unfit(
            "its input_mask and segment_ids are not those of [CLS] A [SEP] B [SEP] and padding; "
            "only pairs of texts are supported."
        )
    row, position, label = _predictions(columns)
    if ((position < 1) | (position >= ends[row] - 1)).any():
        raise _Unfit("masks a position outside its text; make the file again.")
    ids[row, position] = label
    if ((labels < 0) | (labels > 1)).any():
        raise _Unfit("its next_sentence_labels is neither 0 nor 1; make the file again.")
    _check_vocabulary(ids, a_ends, ends, tokenizer)
    predictions = np.bincount(row, minlength=count).tolist()
    rows = zip(ids.astype(np.int32), a_ends.tolist(), ends.tolist(), labels.tolist(), strict=True)
    return [
        Example(Pair(line[1:a_end], line[a_end + 1 : end - 1], bool(is_random)), length, masked)
        for (line, a_end, end, is_random), masked in zip(rows, predictions, strict=True)
    ]


def _features(record: bytes) -> dict[str, bytes]:
    """Returns the packed values of the features of an example, by name."""
    found = {}
    for features in protobuf.messages(protobuf.fields(record), 1):
        for entry in protobuf.messages(protobuf.fields(features), 1):
            item = protobuf.fields(entry)
            name = b"".join(protobuf.messages(item, 1)[-1:]).decode(errors="replace")
            if name in _FEATURES:
                feature = protobuf.fields(b"".join(protobuf.messages(item, 2)))
                found[name] = _packed(name, feature)
    if missing := [name for name in _FEATURES if name not in found]:
        raise _Unfit(
            f"has no {', '.join(missing)}; give TFRecords of create_pretraining_data.py (Google's "
            "or NVIDIA's)."
        )
    return found


def _packed(name: str, feature: protobuf.Fields) -> bytes:
    """Returns the bytes of a feature's packed numbers."""
    if any(field != _FEATURES[name] for field in feature):
        raise _Unfit(f"its {name} is of another type; make the file again.")
    values = protobuf.fields(b"".join(protobuf.messages(feature, _FEATURES[name]))).get(1, [])
    if not all(isinstance(value, bytes) for value in values):
        raise protobuf.Malformed(f"its {name} is not packed, as TensorFlow writes it")
    return b"".join(value for value in values if isinstance(value, bytes))


def _rows(columns: dict[str, list[bytes]], name: str, length: int | None) -> np.ndarray:
    """Returns a feature: int64 [records, length]. The default length is the first record's."""
    values, offsets = protobuf.packed_varints(columns[name])
    counts = np.diff(offsets)
    length = int(counts[0]) if length is None else length
    if (counts != length).any():
        raise _Unfit(
            f"its {name} has {counts[0]} numbers instead of {length}; put the files of each "
            "sequence length into their own directory."
        )
    return values.reshape(len(counts), length)


def _predictions(columns: dict[str, list[bytes]]) -> tuple[np.ndarray, ...]:
    """Returns the record, position and original id of each prediction: int64 [predictions] each."""
    positions, offsets = protobuf.packed_varints(columns["masked_lm_positions"])
    ids, id_offsets = protobuf.packed_varints(columns["masked_lm_ids"])
    sizes = 4 * np.diff(offsets)
    weights = columns["masked_lm_weights"]
    if not np.array_equal(offsets, id_offsets) or sizes.tolist() != [*map(len, weights)]:
        raise _Unfit(
            "has different numbers of masked_lm_positions, masked_lm_ids and masked_lm_weights; "
            "make the file again."
        )
    weight = np.frombuffer(b"".join(weights), "<f4")
    if ((weight != 0) & (weight != 1)).any():
        raise _Unfit("its masked_lm_weights are not all 0 or 1; make the file again.")
    real = weight == 1
    row = np.repeat(np.arange(len(weights)), sizes // 4)
    return row[real], positions[real], ids[real]


def _check_vocabulary(
    ids: np.ndarray, a_ends: np.ndarray, ends: np.ndarray, tokenizer: Tokenizer | None
) -> None:
    """Refuses ids and special tokens that do not fit the tokenizer or, with None, any tokenizer."""
    row = np.arange(len(ids))
    first, middle, last = ids[:, 0], ids[row, a_ends], ids[row, ends - 1]
    cls_id, sep_id = (first, middle) if tokenizer is None else (tokenizer.cls_id, tokenizer.sep_id)
    vocab_size = 1 << 31 if tokenizer is None else tokenizer.vocab_size
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    advice = "give the vocabulary that the file was made with."
    if len(wrong):
        raise _Unfit(f"has the id {wrong[0]}, but the vocabulary has {vocab_size:,}; {advice}")
    if (first != cls_id).any() or (middle != sep_id).any() or (last != sep_id).any():
        raise _Unfit(
            f"has the ids {first[0]}, {middle[0]} and {last[0]} instead of [CLS], [SEP] and [SEP]; "
            f"{advice}"
        )
    if tokenizer is not None and (ids == tokenizer.mask_id).any():
        raise _Unfit(f"has a [MASK] (id {tokenizer.mask_id}) that no label replaces; {advice}")


def _mixed(record: Source, text: Source) -> UserError:
    return UserError(
        f"{record} is a TFRecord file, {text} is text: prepare them separately, each into its own "
        "directory."
    )
