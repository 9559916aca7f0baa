"""Configurations, weights, inputs and data for both sides of a parity test, with NumPy alone.

Weights are never stored: a tensor's values follow from its name in Hugging Face's state dict and
its shape, so that the reference and bertjax draw the same ones. They are uniform draws of NumPy's
frozen RandomState stream: arithmetic alone, no libm, equal bits everywhere.
"""

import zlib

import numpy as np

_SHARED = {
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
}
_TINY = {
    **_SHARED,
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "max_position_embeddings": 24,
}
CONFIGS = {
    "tiny_erf": _TINY,
    "tiny_new": {**_TINY, "hidden_act": "gelu_new"},
    "odd": {
        **_TINY,
        "vocab_size": 53,
        "hidden_size": 27,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 41,
        "max_position_embeddings": 19,
    },
    "long": {**_TINY, "hidden_size": 16, "max_position_embeddings": 192},
    "heads": {**_TINY, "hidden_size": 48, "num_attention_heads": 16, "num_hidden_layers": 1},
    "base": {
        **_SHARED,
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
    },
}
SAMPLED = ("base",)
"""Cases of which only a sample of outputs and gradients is stored."""

LENGTHS = {
    "tiny_erf": (16, 9, 12, 2),
    "tiny_new": (16, 16, 5, 11),
    "odd": (19, 13, 7, 1),
    "long": (151, 77),
    "heads": (14, 3, 11, 8),
    "base": (21, 10),
}
"""Tokens per row without padding; the first row fills the batch's length."""

SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays music on an instrument.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the beginning of the week.",
    "Café au lait, s'il vous plaît!",
    "Two dogs run across a snowy field, barking at the sky and at each other.",
    "Puppies are running outside in winter.",
    "How do I reset my password?",
    "I can't log in any more; what should I do to recover my account?",
    "E = mc^2 (Einstein, 1905)",
    "日本の首都は東京です。",
    "Yes.",
]
"""Sentences for all-MiniLM-L6-v2."""

LABELS = {"sequence_classification": 3, "regression": 1, "token_classification": 5}
PREDICTIONS = 3
STEPS, WARMUP, PEAK = 50, 5, 1e-3
DECAY = 0.1
"""Ten times the usual value, so that it has an effect within few steps."""

RECIPES = ("huggingface", "google")


def stream(name: str) -> np.random.RandomState:
    """Returns a random generator that depends on a name only."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns random weights for a name: all different, none near a value that hides errors.

    LayerNorm's scales lie about 1 and biases are not 0. Queries, keys and heads have the deviation
    1 / sqrt(in) instead of 0.02, so that attention is far from uniform and logits differ;
    embeddings are small, so that the epsilon of LayerNorm shows. With more than 0.5 / sqrt(in) in
    the other matrices all tokens of a deep random model become alike: the gradients of its last
    queries and keys cancel out, and PyTorch's own in float32 are 3e-4 off those in float64.
    """
    unit = (stream(name).random_sample(shape) - 0.5) * np.sqrt(12.0)
    if "LayerNorm.weight" in name:
        values = 1.0 + 0.1 * unit
    elif name.endswith("bias"):
        values = 0.1 * unit
    elif "embeddings" in name:
        values = 0.05 * unit
    else:
        mixing = ".layer." in name and not name.endswith(("query.weight", "key.weight"))
        values = (0.5 if mixing else 1.0) * unit / np.sqrt(shape[-1])
    return values.astype(np.float32)


def inputs(case: str) -> dict[str, np.ndarray]:
    """Returns input_ids, attention_mask, token_type_ids [B, T] int32 with padding and two types."""
    return _inputs(CONFIGS[case], LENGTHS[case], stream(f"inputs of {case}"))


def choices(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same inputs as questions with two choices: [B / 2, 2, T]."""
    return {name: array.reshape(-1, 2, array.shape[-1]) for name, array in arrays.items()}


def pretraining_batch(case: str) -> dict[str, np.ndarray]:
    """Returns `inputs` with the labels of `pretraining_loss`; some predictions have weight 0."""
    return _with_targets(inputs(case), CONFIGS[case], stream(f"targets of {case}"))


def training_batches() -> list[dict[str, np.ndarray]]:
    """Returns a batch for each of STEPS steps of tiny_erf; a word depends on its position."""
    config, batches = CONFIGS["tiny_erf"], []
    for step in range(STEPS):
        draws = stream(f"training batch {step}")
        lengths = (16, *draws.randint(4, 17, size=7))
        arrays = _inputs(config, lengths, draws)
        offsets = draws.randint(0, 4, size=arrays["input_ids"].shape)
        learnable = 5 + (3 * np.arange(16)[None] + offsets) % (config["vocab_size"] - 5)
        arrays["input_ids"] = np.where(arrays["attention_mask"], learnable, 0).astype(np.int32)
        batches.append(_with_targets(arrays, config, draws))
    return batches


def cosines(hidden: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """Returns cosine similarities [B, B] of sentences, each the mean of its words in [B, T, D]."""
    weights = attention_mask[..., None].astype(np.float64)
    means = (hidden * weights).sum(1) / weights.sum(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means @ means.T


def sample(name: str, array: np.ndarray, count: int = 96) -> np.ndarray:
    """Returns [count] entries of an array at fixed positions, or all entries if there are fewer."""
    flat = np.asarray(array).reshape(-1)
    if flat.size <= count:
        return flat
    # Only the positions within the first row's length have a gradient.
    used = LENGTHS["base"][0] * array.shape[-1] if "position_embeddings" in name else flat.size
    return flat[stream(f"sample of {name}").randint(0, used, size=count)]


def projections(name: str, array: np.ndarray, count: int = 8) -> np.ndarray:
    """Returns sums of all entries with random signs over sqrt(size): every error changes them."""
    flat = np.asarray(array, np.float64).reshape(-1)
    signs = stream(f"signs of {name}").randint(0, 2, size=(count, flat.size), dtype=np.int8)
    return (signs * 2.0 - 1.0) @ flat / np.sqrt(flat.size)


def _inputs(
    config: dict, lengths: tuple[int, ...], draws: np.random.RandomState
) -> dict[str, np.ndarray]:
    rows, width = len(lengths), max(lengths)
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = draws.randint(1, config["vocab_size"], size=(rows, width))
    first = draws.randint(
        0, np.array(lengths) + 1
    )  # start of the second text; the length if there is none
    types = np.arange(width)[None] >= first[:, None]
    arrays = {
        "input_ids": np.where(mask, ids, 0),
        "attention_mask": mask,
        "token_type_ids": types & mask,
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def _with_targets(
    arrays: dict[str, np.ndarray], config: dict, draws: np.random.RandomState
) -> dict[str, np.ndarray]:
    lengths = arrays["attention_mask"].sum(1)
    shape = (len(lengths), PREDICTIONS)
    places = (draws.random_sample(shape) * lengths[:, None]).astype(np.int32)
    weights = np.arange(PREDICTIONS)[None] < np.minimum(lengths // 3, PREDICTIONS)[:, None]
    labels = np.take_along_axis(arrays["input_ids"], places, axis=1)
    masked = arrays["input_ids"].copy()
    mask_id = config["vocab_size"] - 1
    for row, (where, kept) in enumerate(zip(places, weights, strict=True)):
        masked[row, where[kept]] = mask_id
    return {
        **arrays,
        "input_ids": masked,
        "masked_positions": places,
        "masked_labels": labels.astype(np.int32),
        "masked_weights": weights.astype(np.float32),
        "next_sentence_label": (arrays["token_type_ids"].sum(1) % 2).astype(np.int32),
    }
