"""Decodes records into padded rows, all records of a batch at once."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from bertjax.data import shards
from bertjax.data.pairs import Pair
from bertjax.data.shards import Manifest


class BadRecord(ValueError):
    """A record that can't be an example of these shards, by its position in the batch."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


def make_rows(records: Sequence[bytes], manifest: Manifest) -> dict[str, np.ndarray]:
    """Decodes examples into rows [CLS] A [SEP] B [SEP], padded to T = manifest.max_seq_length.

    The rows of single sequences are [CLS] A [SEP]. The n records are those of
    `shards.encode_bytes`.

    Returns:
        input_ids, attention_mask (1 for tokens, 0 for padding) and token_type_ids (1 for B [SEP]),
        each [n, T] int32, and next_sentence_label [n] int32 (1: B is random, or A and B are
        swapped). Single sequences have no label.

    Raises `BadRecord` for the first record that is no such example or has ids outside the
    vocabulary.
    """
    single = not manifest.segment_kind.is_pair
    dtype = manifest.id_dtype
    flags, a_length, b_length, first = _headers(records, manifest, dtype)
    ids = np.frombuffer(b"".join(records), dtype)

    position = np.arange(manifest.max_seq_length)
    a_end = 1 + a_length[:, None]  # position of the [SEP] after A
    end = a_end if single else a_end + 1 + b_length[:, None]
    is_token, is_second = position <= end, position > a_end
    # Index of each token's id: [CLS] and [SEP] have positions but no ids in the record.
    source = first[:, None] + position - 1 - is_second
    input_ids = ids[np.where(position < end, source, 0)].astype(np.int32)
    input_ids[position == end] = manifest.sep_id
    input_ids[position == a_end] = manifest.sep_id
    input_ids[:, 0] = manifest.cls_id
    # JAX silently clamps ids outside a table, or returns NaN.
    wrong = ((input_ids < 0) | (input_ids >= manifest.vocab_size)) & is_token
    if wrong.any():
        reason = f"ids beyond the vocabulary of {manifest.vocab_size}"
        raise BadRecord(int(wrong.any(axis=1).argmax()), reason)
    input_ids[~is_token] = manifest.pad_id
    batch = {
        "input_ids": input_ids,
        "attention_mask": is_token.astype(np.int32),
        "token_type_ids": (is_token & is_second).astype(np.int32),
    }
    if single:
        return batch
    return {**batch, "next_sentence_label": (flags & shards.RANDOM).astype(np.int32)}


def example_of(record: bytes, manifest: Manifest) -> Pair:
    """Decodes the example of a record of these shards; does not check its ids.

    Raises `ValueError` if the bytes are no record, or a record of other shards.
    """
    pair = shards.decode_pair(record)
    if (len(pair.b) > 0) != manifest.segment_kind.is_pair:
        raise ValueError("an example of other segments")
    if pair.a.dtype != manifest.id_dtype:
        raise ValueError("an example of another vocabulary")
    tokens = len(pair.a) + len(pair.b) + manifest.segment_kind.special_tokens
    if tokens > manifest.max_seq_length:
        raise ValueError("an example longer than max_seq_length")
    return pair


def _headers(
    records: Sequence[bytes], manifest: Manifest, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns flags, lengths of A and B, and the start of the ids for every record: int64 [n].

    Starts are indices into all records, joined and read as ids, headers included.
    """
    sizes = np.fromiter(map(len, records), np.int64, len(records))
    fits = (sizes >= shards.HEADER_BYTES) & (sizes % dtype.itemsize == 0)
    if not fits.all():
        _refuse(records, int(fits.argmin()), manifest)
    starts = np.cumsum(sizes) - sizes
    heads = b"".join([record[: shards.HEADER_BYTES] for record in records])
    flags, a_length = np.frombuffer(heads, "<u2").astype(np.int64).reshape(-1, 2).T
    total = (sizes - shards.HEADER_BYTES) // dtype.itemsize
    b_length = total - a_length
    single = not manifest.segment_kind.is_pair
    kind = (shards.WIDE if dtype.itemsize == 4 else 0) | (shards.SINGLE if single else 0)
    # The upper byte of the first word is the record's zero byte.
    good = (flags & ~(0 if single else shards.RANDOM)) == kind
    good &= (a_length > 0) & ((b_length == 0) if single else (b_length > 0))
    good &= total + manifest.segment_kind.special_tokens <= manifest.max_seq_length
    if not good.all():
        _refuse(records, int(good.argmin()), manifest)
    return flags, a_length, b_length, (starts + shards.HEADER_BYTES) // dtype.itemsize


def _refuse(records: Sequence[bytes], position: int, manifest: Manifest) -> NoReturn:
    """Raises the reason why a record is bad."""
    try:
        example_of(records[position], manifest)
    except ValueError as error:
        raise BadRecord(position, str(error)) from None
    raise AssertionError(f"record {position} is good after all")
