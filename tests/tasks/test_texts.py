"""Texts and pairs as rows of tokens."""

import dataclasses

import numpy as np

from bertjax.tasks.texts import tokenize


class Letters:
    """A tokenizer whose tokens are letters: [CLS] 1, letters 3 and up, [SEP] 2."""

    pad_id = 0

    def batch(self, texts, pairs=None, max_length=128, *, parse_mask=False):
        rows = []
        for at, text in enumerate(texts):
            row = [1, *(3 + ord(letter) for letter in text[: max_length - 2]), 2]
            rows.append((row, [3] * len(pairs[at]) + [2] if pairs else []))
        width = max(len(first) + len(second) for first, second in rows)
        shape = (len(rows), width)
        ids, mask, types = (np.zeros(shape, np.int32) for _ in range(3))
        for at, (first, second) in enumerate(rows):
            ids[at, : len(first) + len(second)] = first + second
            mask[at, : len(first) + len(second)] = 1
            types[at, len(first) : len(first) + len(second)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def test_a_batch_is_padded_and_weighted():
    features = tokenize(["ab", "abcd"], None, Letters(), 5, np.array([1, 0], np.int32))
    assert features.lengths.tolist() == [4, 5]
    batch = features.batch(np.array([1, 0, -1]), 6)
    assert batch["input_ids"].shape == (3, 6)
    assert batch["attention_mask"].sum(1).tolist() == [5, 4, 4]
    assert batch["label"].tolist() == [0, 1, 1]
    assert batch["example_weight"].tolist() == [1.0, 1.0, 0.0]
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "input_ids": "int32",
        "attention_mask": "int32",
        "token_type_ids": "int32",
        "label": "int32",
        "example_weight": "float32",
    }


def test_pairs_and_more_rows_than_a_chunk():
    texts = ["a" * (row % 7) for row in range(600)]
    features = tokenize(texts, texts[::-1], Letters(), 64)
    assert [len(ids) for ids in features.input_ids] == [
        len(a) + len(b) + 3 for a, b in zip(texts, texts[::-1], strict=True)
    ]
    assert features.token_type_ids[6].sum() == len(texts[-7]) + 1


def test_weights_reach_the_batch():
    features = tokenize(["x"] * 3, None, Letters(), 5)
    features = dataclasses.replace(features, weights=np.array([3, 1, 0.5], np.float32))
    batch = features.batch(np.array([2, 0, -1]), 5)
    assert batch["example_weight"].tolist() == [0.5, 3.0, 0.0]
    assert batch["example_weight"].dtype == np.float32
