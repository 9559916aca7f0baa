"""Sources and targets as rows of token ids."""

import numpy as np
import pytest

from bertjax.tasks.seq2seq.features import add_targets, read_sources

SOURCES = ["the film was good", "a film", "the plot was not bad"]
TARGETS = ["good", "a very fine film", "not bad"]


@pytest.fixture(scope="module")
def features(tiny_tokenizer):
    sources = read_sources(SOURCES, tiny_tokenizer, 6)
    return add_targets(sources, TARGETS, tiny_tokenizer, 4)


def test_rows_that_are_too_long_lose_their_last_tokens_and_are_counted(features, tiny_tokenizer):
    def ids(text):
        return tiny_tokenizer.encode(text).ids

    assert features.lengths.tolist() == [[6, 2], [4, 4], [6, 3]]
    assert features.truncated_sources == 1 and features.truncated_targets == [1]
    assert features.source.input_ids[2].tolist() == ids("the plot was not")
    assert features.source.input_ids[0].tolist() == ids(SOURCES[0])
    # A target has a [SEP] and no [CLS]; scores compare with all of it.
    assert [row.tolist() for row in features.targets] == [
        ids(text)[1:] for text in ("good", "a very fine", "not bad")
    ]
    assert features.references == TARGETS


def test_a_batch_shifts_the_targets_and_weighs_no_padding(features, tiny_tokenizer):
    batch = features.batch(np.array([1, 2, -1]), (6, 5))
    start, end, pad = tiny_tokenizer.cls_id, tiny_tokenizer.sep_id, tiny_tokenizer.pad_id
    (_, first, second, third, _), labels = batch["decoder_input_ids"][0], batch["labels"]
    assert batch["decoder_input_ids"][:, 0].tolist() == [start] * 3
    assert labels[0].tolist() == [first, second, third, end, pad]
    assert labels[0, :3].tolist() == batch["decoder_input_ids"][0, 1:4].tolist()
    wanted = [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0] * 5]
    assert batch["label_weights"].tolist() == wanted
    assert batch["example_weight"].tolist() == [1, 1, 0]
    assert batch["attention_mask"].sum(1).tolist()[:2] == [4, 6]


def test_a_source_and_the_seed_determine_its_draws(features, tiny_tokenizer):
    def alone(seed):
        batch = read_sources(SOURCES[1:2], tiny_tokenizer, 6, seed).batch(np.array([0]), 8)
        assert "labels" not in batch
        return batch["draw_seed"][0]

    seeds = features.batch(np.array([2, 1]), (6, 5))["draw_seed"]
    assert seeds[1] == alone(0) != seeds[0]
    assert len({alone(seed) for seed in range(20)}) == 20


def test_sources_without_targets_have_one_length(tiny_tokenizer):
    features = read_sources(SOURCES, tiny_tokenizer, 6)
    assert features.lengths.tolist() == [6, 4, 6] and len(features) == 3
