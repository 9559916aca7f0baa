"""Records -> padded rows, all records of a batch at once."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from bertjax.data import shards
from bertjax.data.pairs import Pair
from bertjax.data.shards import Manifest


class BadRecord(ValueError):
    """A record that can't be an example of these shards: its place in the batch, and why."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


def make_rows(records: Sequence[bytes], manifest: Manifest) -> dict[str, np.ndarray]:
    """Examples as rows [CLS] A [SEP] B [SEP], padded to T = manifest.max_seq_length; single
    sequences as rows [CLS] A [SEP].

    Args:
        records: as `shards.encode_bytes` makes them, n of them.
        manifest: of the shards that they come from.

    Returns:
        input_ids, attention_mask (1 for tokens, 0 for padding) and token_type_ids (1 for B [SEP]),
        each [n, T] int32, and next_sentence_label [n] int32 (1: B is random, or A and B are
        swapped). Single sequences have no label.

    Raises:
        BadRecord: the first that is no such example, or has ids outside the vocabulary.
    """
    single = not manifest.segment_kind.is_pair
    dtype = shards.id_dtype(shards.needs_wide_ids(manifest.vocab_size))
    flags, a_length, b_length, first = _headers(records, manifest, dtype)
    ids = np.frombuffer(b"".join(records), dtype)

    place = np.arange(manifest.max_seq_length)
    a_end = 1 + a_length[:, None]  # where the [SEP] after A is
    end = a_end if single else a_end + 1 + b_length[:, None]
    is_token, is_second = place <= end, place > a_end
    # The id of a place, as if neither [CLS] nor [SEP] took one of their own.
    source = first[:, None] + place - 1 - is_second
    input_ids = ids[np.where(place < end, source, 0)].astype(np.int32)
    input_ids[place == end] = manifest.sep_id
    input_ids[place == a_end] = manifest.sep_id
    input_ids[:, 0] = manifest.cls_id
    _check_ids(input_ids, is_token, manifest.vocab_size)
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
    """The example of a record of these shards.

    Raises:
        ValueError: the bytes are no record, or one of other shards; its ids are not looked at.
    """
    pair = shards.decode_pair(record)
    if (len(pair.b) > 0) != manifest.segment_kind.is_pair:
        raise ValueError("an example of other segments")
    if pair.a.dtype != shards.id_dtype(shards.needs_wide_ids(manifest.vocab_size)):
        raise ValueError("an example of another vocabulary")
    tokens = len(pair.a) + len(pair.b) + manifest.segment_kind.special_tokens
    if tokens > manifest.max_seq_length:
        raise ValueError("an example longer than max_seq_length")
    return pair


def _headers(
    records: Sequence[bytes], manifest: Manifest, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every record: flags, lengths of A and B, and where its ids begin among the ids of all, its
    own header counted as ids; int64 [n]."""
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


def _refuse(records: Sequence[bytes], place: int, manifest: Manifest) -> NoReturn:
    """Says what is wrong with one record."""
    try:
        example_of(records[place], manifest)
    except ValueError as error:
        raise BadRecord(place, str(error)) from None
    raise AssertionError(f"record {place} was found bad, and is not")


def _check_ids(input_ids: np.ndarray, is_token: np.ndarray, vocab_size: int) -> None:
    # JAX clamps ids outside a table or gives NaN, and says nothing.
    wrong = ((input_ids < 0) | (input_ids >= vocab_size)) & is_token
    if wrong.any():
        place = int(wrong.any(axis=1).argmax())
        raise BadRecord(place, f"ids beyond the vocabulary of {vocab_size}")
