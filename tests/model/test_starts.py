import jax
import numpy as np

from bertjax.model import starts


def test_unigram_bias_gives_the_frequencies_back():
    counts = np.array([0, 9, 99, 899])
    frequencies = jax.nn.softmax(starts.unigram_bias(counts))
    np.testing.assert_allclose(frequencies, (counts + 1) / (counts + 1).sum(), rtol=1e-5)


def test_sinusoidal_positions_turn_alike_everywhere():
    table = np.asarray(starts.sinusoidal_positions(128, 64, 0.02))
    assert table.shape == (128, 64) and table.dtype == np.float32
    assert abs(table.std() - 0.02) < 1e-6 and np.abs(table.mean(0)).max() < 1e-6
    # The distance of two positions depends on how far apart they are alone, and grows with it.
    near = np.linalg.norm(table[1:] - table[:-1], axis=1)
    far = np.linalg.norm(table[4:] - table[:-4], axis=1)
    assert np.ptp(near) < 1e-5 and np.ptp(far) < 1e-5
    assert far.mean() > 2 * near.mean()
