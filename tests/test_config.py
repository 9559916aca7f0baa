"""BertConfig and Execution: named sizes, JSON, and refused values; lists in configurations."""

import json

import pytest

from bertjax import (
    BertConfig,
    ClassificationConfig,
    EncoderDecoderConfig,
    Execution,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    UserError,
)


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


def test_json_round_trip(tmp_path):
    config = BertConfig.named("mini", hidden_act="gelu_new")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.to_dict(), "architectures": ["BertModel"]}))
    assert BertConfig.from_json(path) == config
    assert hash(BertConfig.from_json(path)) == hash(config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no JSON object"),
        ('{"hidden_size": 4}', "has no num_hidden_layers, vocab_size"),
        ('{"hidden_size": 5, "num_hidden_layers": 1, "vocab_size": 9}', "not a multiple"),
        (
            '{"hidden_size": 12, "num_hidden_layers": 1, "vocab_size": 9, "hidden_act": "swish"}',
            "'swish' is unknown",
        ),
        (
            '{"hidden_size": 12, "num_hidden_layers": 1, "vocab_size": 9, "hidden_act": []}',
            "unknown",
        ),
        ('{"hidden_size": 12, "num_hidden_layers": 0, "vocab_size": 9}', "at least 1"),
        ('{"hidden_size": 12, "num_hidden_layers": 1001, "vocab_size": 9}', "at most 1,000"),
        ('{"hidden_size": 12, "num_hidden_layers": 1, "vocab_size": 2147483648}', "at most 2,147"),
        ('{"hidden_size": "12", "num_hidden_layers": 1, "vocab_size": 9}', "whole number"),
    ],
)
def test_bad_json_is_refused_with_its_file(tmp_path, text, sentence):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        BertConfig.from_json(path)
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        BertConfig.from_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "name",
    [
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_range",
        "layer_norm_eps",
    ],
)
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "1e-12", None])
def test_numbers_outside_0_to_1_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} is {value!r}: give a number from 0 to below 1"):
        BertConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dtype": "float16"}, "dtype` is 'float16': use one of 'float32', 'bfloat16'."),
        ({"precision": "highst"}, "precision` is 'highst': use one of 'default', 'high'"),
        ({"remat": True}, "remat` is True: use one of 'none', 'full', 'dots'"),
        ({"scan_layers": "yes"}, "scan_layers` is 'yes': use one of True, False"),
        ({"attention": None}, "attention` is None: use one of 'auto', 'plain'"),
    ],
)
def test_invalid_executions_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        Execution(**fields)


def test_other_names_of_the_same_activations():
    fields = BertConfig().to_dict()
    for theirs, ours in {"gelu_pytorch_tanh": "gelu_tanh", "gelu_python": "gelu"}.items():
        assert BertConfig.from_dict({**fields, "hidden_act": theirs}).hidden_act == ours


def test_lists_in_a_configuration_are_tuples():
    given = OptimizerConfig(freeze=["embeddings"])
    assert given == OptimizerConfig(freeze="embeddings") == OptimizerConfig(freeze=("embeddings",))
    assert hash(given) == hash(OptimizerConfig(freeze=("embeddings",)))
    paths = {"model": "m", "train": "t.csv", "dev": "d.csv"}
    grid = FinetuneConfig(**paths, seeds=range(2), learning_rates=[1e-4])
    assert grid == FinetuneConfig(**paths, seeds=(0, 1), learning_rates=(1e-4,))
    assert ClassificationConfig(column_names="text").column_names == ("text",)
    assert PretrainConfig(data=["a", "b"], workdir="w").data == ("a", "b")
    assert PretrainConfig(data="ab", workdir="w").directories == ("ab",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local_attention": 128}, "local_attention is 128 and position_embedding_type is 'abso"),
        ({"local_rope_theta": 1e4}, "local_rope_theta is 10000.0 and position_embedding_type"),
        ({"final_norm": True}, "norm_placement is 'post'"),
        ({"position_embedding_type": "rotary", "num_attention_heads": 256}, "rotate pairs"),
        ({"position_embedding_type": "none", "position_offset": 2}, "position_offset is 2"),
        ({"position_embedding_type": "rotary", "global_rope_theta": 0.5}, "at least 1"),
        ({"norm_placement": "sandwich"}, "norm_placement"),
        ({"glu": 1}, "glu is 1: give true or false"),
    ],
)
def test_options_that_exclude_each_other(options, said):
    with pytest.raises(UserError, match=said):
        BertConfig.named("mini", **options)


def test_a_named_modern_size_has_the_options_of_modernbert():
    base = BertConfig.named("modern-base", vocab_size=50_368)
    assert (base.num_hidden_layers, base.hidden_size, base.intermediate_size) == (22, 768, 1152)
    assert base.head_size == 64 and [base.is_local(n) for n in range(4)] == [0, 1, 1, 0]
    assert base == BertConfig.from_dict(base.to_dict()) and hash(base)
    assert not BertConfig.named("base").differences()
    with pytest.raises(UserError, match="type_vocab_size 2, and this model's is 0"):
        EncoderDecoderConfig(*[BertConfig(type_vocab_size=0)] * 2)


def test_the_config_of_another_architecture_is_no_shape(tmp_path):
    fields = {**BertConfig().to_dict(), "model_type": "modernbert"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="model_type is 'modernbert'"):
        BertConfig.from_json(tmp_path / "config.json")
