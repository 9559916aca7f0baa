import dataclasses

import jax
import pytest

from bertjax.config import BertConfig
from bertjax.interop.huggingface import Pretrained
from bertjax.model.bert import init_params
from bertjax.runs.recipes import ModelConfig
from bertjax.text.tokenizer import load_tokenizer

WORDS = (
    "good great fine bad awful poor the a film was is very not and plot acting one two , . ##s ##ly"
)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def tiny_shape():
    """A model for rows of 32 tokens, of the size that a recipe names."""
    return ModelConfig(
        "tiny",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer):
    return BertConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config, tiny_tokenizer):
    """A pre-training model with random weights, drawn wider so that its logits differ."""
    wide = dataclasses.replace(tiny_config, initializer_range=0.3)
    params = jax.jit(lambda key: init_params(wide, key))(jax.random.key(1))
    return Pretrained(tiny_config, params, tiny_tokenizer, {"kind": "pretraining"})
