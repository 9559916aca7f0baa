"""The loss of sequence-to-sequence models is a mean over the target tokens of the whole batch."""

import functools

import jax
import numpy as np
import pytest

from bertjax.config import EncoderDecoderConfig
from bertjax.model import bert, encoder_decoder
from bertjax.model.encoder_decoder import EncoderDecoder
from bertjax.model.prefix import Prefix
from bertjax.objectives.losses import smoothed_cross_entropy
from bertjax.tasks.seq2seq.features import add_targets, read_sources
from bertjax.tasks.seq2seq.losses import Seq2SeqLoss, seq2seq_normalizers

SOURCES = ["the film was good", "a film", "the plot was not bad", "one"]
TARGETS = ["good", "a very fine film", "not bad", "two"]


@pytest.fixture(scope="module")
def features(tiny_tokenizer):
    return add_targets(read_sources(SOURCES, tiny_tokenizer, 8), TARGETS, tiny_tokenizer, 8)


@pytest.fixture(scope="module", params=["encoder_decoder", "prefix"])
def case(request, tiny_config, tiny_tokenizer):
    """(loss, jitted loss, configuration, params) of an architecture."""
    key = jax.random.key(0)
    if request.param == "prefix":
        loss, config = Seq2SeqLoss(Prefix(tiny_tokenizer.mask_id), 0.1), tiny_config
        init = functools.partial(bert.init_params, config, heads=("mlm",), add_pooler=False)
    else:
        config = EncoderDecoderConfig(tiny_config, tiny_config)
        loss = Seq2SeqLoss(EncoderDecoder(), 0.1)
        init = functools.partial(encoder_decoder.init_params, config)
    return loss, jax.jit(loss, static_argnames="config"), config, jax.jit(init)(key)


def test_it_is_the_smoothed_cross_entropy_of_the_logits(case, features):
    loss, jitted, config, params = case
    batch = features.batch(np.arange(4), (8, 5))
    logits = jax.jit(functools.partial(loss.architecture.logits, config=config))(params, batch)
    weights = batch["label_weights"]
    assert seq2seq_normalizers(batch)["tokens"] == weights.sum() == 2 + 5 + 3 + 2

    def mean(values):
        return float((values * weights).sum() / weights.sum())

    value, metrics = jitted(params, batch, config)
    wanted = mean(smoothed_cross_entropy(logits, batch["labels"], 0.1))
    assert float(value) == pytest.approx(wanted, rel=1e-5)  # float32, summed in another order
    plain = mean(smoothed_cross_entropy(logits, batch["labels"], 0.0))
    accuracy = mean(logits.argmax(-1) == batch["labels"])
    for name, each in (("loss", wanted), ("nll_loss", plain), ("accuracy", accuracy)):
        total, count = metrics[name]
        assert float(total / count) == pytest.approx(each, rel=1e-5), name


def test_padding_and_padding_rows_weigh_nothing(case, features):
    _, jitted, config, params = case
    value, _ = jitted(params, features.batch(np.array([1, 2]), (8, 5)), config)
    wide, _ = jitted(params, features.batch(np.array([1, -1, 2, -1]), (11, 8)), config)
    assert float(wide) == pytest.approx(float(value), rel=1e-5)  # as above


def test_parts_of_a_batch_add_up(case, features):
    """As microbatches and devices do: each divides by the tokens of the whole batch."""
    _, jitted, config, params = case
    whole = features.batch(np.arange(4), (8, 5))
    normalizers = seq2seq_normalizers(whole)
    value, _ = jitted(params, whole, config)
    parts = [
        jitted(params, features.batch(rows, (8, 5)), config, normalizers=normalizers)[0]
        for rows in (np.array([0, 1]), np.array([2, 3]))
    ]
    assert float(sum(parts)) == pytest.approx(float(value), rel=1e-5)  # as above
