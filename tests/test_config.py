"""BertConfig: named sizes, JSON both ways, and sentences for what can't be."""

import json

import pytest

from bertjax import BertConfig, UserError


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "heads", "feed_forward"),
    [
        ("tiny", 2, 128, 2, 512),
        ("mini", 4, 256, 4, 1024),
        ("small", 4, 512, 8, 2048),
        ("medium", 8, 512, 8, 2048),
        ("base", 12, 768, 12, 3072),
        ("large", 24, 1024, 16, 4096),
        ("L-10_H-256", 10, 256, 4, 1024),
    ],
)
def test_named_sizes(name, layers, hidden, heads, feed_forward):
    config = BertConfig.named(name, vocab_size=100)
    assert config.num_hidden_layers == layers
    assert config.hidden_size == hidden
    assert config.num_attention_heads == heads
    assert config.intermediate_size == feed_forward
    assert config.vocab_size == 100
    assert config.head_size == 64


@pytest.mark.parametrize("name", ["huge", "L-2_H-100", "L-2", ""])
def test_unknown_names(name):
    with pytest.raises(UserError, match="Size"):
        BertConfig.named(name)


def test_json_both_ways(tmp_path):
    config = BertConfig.named("mini", hidden_act="gelu_new")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.to_dict(), "architectures": ["BertModel"]}))
    assert BertConfig.from_json(path) == config
    assert hash(BertConfig.from_json(path)) == hash(config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"hidden_size": 4}', "has no num_hidden_layers, vocab_size"),
        ('{"hidden_size": 5, "num_hidden_layers": 1, "vocab_size": 9}', "not a multiple"),
        (
            '{"hidden_size": 12, "num_hidden_layers": 1, "vocab_size": 9, "hidden_act": "swish"}',
            "'swish' is unknown",
        ),
        ('{"hidden_size": 12, "num_hidden_layers": 0, "vocab_size": 9}', "at least 1"),
        ('{"hidden_size": "12", "num_hidden_layers": 1, "vocab_size": 9}', "whole number"),
    ],
)
def test_bad_json_is_said_with_its_file(tmp_path, text, sentence):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        BertConfig.from_json(path)
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        BertConfig.from_json(tmp_path / "absent.json")


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_probabilities(name):
    with pytest.raises(UserError, match=name):
        BertConfig(**{name: 1.0})
