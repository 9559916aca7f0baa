"""Rows of a whole batch at once are the rows of its records one by one; bad records are named."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bertjax.data import shards
from bertjax.data.rows import BadRecord, make_rows
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError

LENGTH = 16


@pytest.fixture
def manifests(make_data, some_pairs):
    """Manifests by (segments, whether ids are wide)."""
    read = shards.read_manifest
    return {
        (segments, wide): read(
            make_data([], name=f"{segments}-{wide}", segments=segments, vocab_size=size)
        )
        for segments in ("next_sentence", "single")
        for wide, size in ((False, 65_536), (True, 65_537))
    }


def by_hand(pair, manifest):
    """input_ids, attention_mask, token_type_ids of one example."""
    first = [manifest.cls_id, *pair.a.tolist(), manifest.sep_id]
    second = [] if manifest.segments == "single" else [*pair.b.tolist(), manifest.sep_id]
    rest = LENGTH - len(first) - len(second)
    return (
        first + second + [manifest.pad_id] * rest,
        [1] * (len(first) + len(second)) + [0] * rest,
        [0] * len(first) + [1] * len(second) + [0] * rest,
    )


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("segments", ["next_sentence", "single"])
def test_rows_of_a_batch_are_those_of_its_records(manifests, segments, wide):
    manifest, rng = manifests[segments, wide], np.random.default_rng(0)
    dtype = shards.id_dtype(wide)

    def ids(most):
        length = rng.choice([1, rng.integers(1, most + 1), most])
        return rng.integers(0, manifest.vocab_size, length).astype(dtype)

    records = []
    for _ in range(200):
        a = ids(LENGTH - 2 if segments == "single" else 7)
        b = b"" if segments == "single" else ids(LENGTH - 3 - len(a)).tobytes()
        random = segments == "next_sentence" and bool(rng.integers(2))
        records.append(shards.encode_bytes(a.tobytes(), b, is_random=random, wide=wide))
    rows = make_rows(records, manifest)
    assert {array.dtype for array in rows.values()} == {np.dtype(np.int32)}
    for place, record in enumerate(records):
        pair = shards.decode_pair(record)
        names = ("input_ids", "attention_mask", "token_type_ids")
        for name, expected in zip(names, by_hand(pair, manifest), strict=True):
            assert rows[name][place].tolist() == expected
        if segments == "next_sentence":
            assert rows["next_sentence_label"][place] == pair.is_random
    assert ("next_sentence_label" in rows) == (segments == "next_sentence")


@hypothesis.settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0, 7), st.integers(0, 20), st.binary(max_size=36)).map(
                lambda parts: bytes((parts[0], 0, parts[1], 0)) + parts[2]
            ),
        ),
        max_size=4,
    ),
    st.sampled_from(
        [("next_sentence", False), ("next_sentence", True), ("single", False), ("single", True)]
    ),
)
def test_any_bytes_are_rows_or_the_first_bad_record_is_named(manifests, records, kind):
    manifest = manifests[kind]

    def is_bad(record):
        try:
            make_rows([record], manifest)
        except BadRecord as error:
            assert error.position == 0 and str(error)
            return True
        return False

    bad = [place for place, record in enumerate(records) if is_bad(record)]
    if not bad:
        assert len(make_rows(records, manifest)["input_ids"]) == len(records)
        return
    with pytest.raises(BadRecord) as caught:
        make_rows(records, manifest)
    assert caught.value.position in bad


@pytest.mark.parametrize(
    ("segments", "wide", "reason"),
    [("single", False, "other segments"), ("next_sentence", True, "another vocabulary")],
)
def test_an_example_of_other_shards_is_named(make_data, some_pairs, segments, wide, reason):
    size = 65_537 if wide else 100
    directory = make_data(some_pairs(9), segments=segments, vocab_size=size)
    with pytest.raises(
        UserError, match=rf"train-00007\.array_record, record 1: damaged \(an example of {reason}\)"
    ):
        ShardReader(directory, "train").rows(np.array([8]))
