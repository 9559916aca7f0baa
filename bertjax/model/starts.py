"""First values that let a short run learn sooner than Google's; the model they start is plain BERT.

BERT's masked-LM loss first falls to about the entropy of single tokens, stays near it for millions
of tokens, and then falls again, suddenly. Both functions shorten the wait.
"""

import numpy as np

_LONGEST_WAVE = 10_000.0


def unigram_bias(counts: np.ndarray) -> np.ndarray:
    """Log frequencies, add-one smoothed, of mean 0: a first masked-LM output bias, float32 [V].

    From zeros, the tied embeddings learn the frequencies before the bias does, as one direction
    that all of them share.

    Args:
        counts: int [V], how often every token is seen; 0 for special tokens.
    """
    logs = np.log(counts + 1.0)
    return (logs - logs.mean()).astype(np.float32)


def sinusoidal_positions(positions: int, width: int, deviation: float) -> np.ndarray:
    """The position embeddings of Vaswani et al. (2017) as first values, float32 [positions, width].

    The same distance between two positions is the same rotation everywhere, so what attention
    learns of two neighbours at one place holds at all places.

    Args:
        positions: number of them.
        width: D, even.
        deviation: of the values; each column has mean 0.
    """
    rates = _LONGEST_WAVE ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(positions)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table -= table.mean(0)
    return (deviation * table / table.std()).astype(np.float32)
