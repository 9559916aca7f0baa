import operator

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax.errors import UserError
from bertjax.model import initializers

init_params = jax.jit(bj.init_params, static_argnums=0)


def test_unigram_bias_gives_the_frequencies_back():
    counts = np.array([0, 9, 99, 899])
    frequencies = jax.nn.softmax(initializers.unigram_bias(counts))
    np.testing.assert_allclose(frequencies, (counts + 1) / (counts + 1).sum(), rtol=1e-5)


def test_sinusoidal_positions_rotate_equally_everywhere():
    table = np.asarray(initializers.sinusoidal_positions(128, 64, 0.02))
    assert table.shape == (128, 64) and table.dtype == np.float32
    assert abs(table.std() - 0.02) < 1e-6 and np.abs(table.mean(0)).max() < 1e-6
    # The distance of two embeddings depends only on the distance of their positions.
    near = np.linalg.norm(table[1:] - table[:-1], axis=1)
    far = np.linalg.norm(table[4:] - table[:-4], axis=1)
    assert np.ptp(near) < 1e-5 and np.ptp(far) < 1e-5
    assert far.mean() > 2 * near.mean()


def test_averaging_attention_adds_the_mean_of_its_tokens():
    config = bj.BertConfig.named("tiny", vocab_size=30, max_position_embeddings=16)
    plain = init_params(config, jax.random.key(0))
    params = initializers.reinitialize(
        plain, config, initializers.InitializationConfig(attention="averaging")
    )
    attention = params["encoder"]["layer_0"]["attention"]
    assert attention["query"] is plain["encoder"]["layer_0"]["attention"]["query"]
    product = attention["value"]["kernel"] @ attention["output"]["kernel"]  # [D, D]
    diagonal = np.diag(product)
    np.testing.assert_allclose(diagonal.mean(), 1.0, rtol=1e-5)
    # Values off the diagonal have mean 0 and deviation 1 / sqrt(D).
    beside = np.asarray(product)[~np.eye(128, dtype=bool)]
    assert abs(beside.mean()) < 0.01 and beside.std() < 1.1 / np.sqrt(128)
    random = plain["encoder"]["layer_0"]["attention"]
    assert abs(np.diag(random["value"]["kernel"] @ random["output"]["kernel"]).mean()) < 0.01


def test_every_head_of_the_first_layer_looks_at_its_own_neighbor():
    config = bj.BertConfig.named("tiny", vocab_size=500, num_attention_heads=4, hidden_size=256)
    initialization = initializers.InitializationConfig(positions="waves", attention="neighbors")
    plain = init_params(config, jax.random.key(0))
    params = initializers.reinitialize(plain, config, initialization)
    assert params["encoder"]["layer_1"] is plain["encoder"]["layer_1"]
    ids = jax.random.randint(jax.random.key(1), (2, 64), 0, 500)
    encode = jax.jit(bj.encode, static_argnames=("config", "output_attentions"))
    found = encode(params, {"input_ids": ids}, config=config, output_attentions=True)
    seen = found.attentions[0].mean(0)  # [heads, T, S]
    for head, offset in enumerate((-1, 1, -2, 2)):
        there = np.array([seen[head, place, place + offset] for place in range(2, 62)])
        elsewhere = np.array(seen[head]) * (np.eye(64, k=offset) == 0)
        # Chance is 1 / 64. It is below 1 because the words contribute too.
        assert there.mean() > 0.3 and there.mean() > 5 * elsewhere.max(1).mean()


def test_neighbors_need_waves():
    config = bj.BertConfig.named("tiny", vocab_size=30)
    with pytest.raises(UserError, match=r"needs `initialization\.positions` waves"):
        initializers.InitializationConfig(attention="neighbors").check(config)


def test_the_default_initialization_changes_nothing():
    config = bj.BertConfig.named("tiny", vocab_size=30, max_position_embeddings=16)
    params = init_params(config, jax.random.key(0))
    same = initializers.reinitialize(params, config, initializers.InitializationConfig())
    assert jax.tree.structure(same) == jax.tree.structure(params)
    assert all(map(operator.is_, jax.tree.leaves(same), jax.tree.leaves(params)))
