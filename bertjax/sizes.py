"""The named sizes of models: those of BERT's releases, and those with the options of ModernBERT."""

import re
from typing import Any

from bertjax.errors import UserError

# Google's release of 2018 (base, large) and of 2020 (the miniatures): layers, hidden size.
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
# Layers, hidden size, feed-forward width. Base and large are those of ModernBERT (Warner et al.
# 2024, arXiv 2412.13663); the others have about the parameters of the miniature of their name.
MODERN_SIZES = {
    "modern-tiny": (3, 128, 192),
    "modern-mini": (6, 256, 384),
    "modern-small": (6, 512, 768),
    "modern-medium": (11, 512, 768),
    "modern-base": (22, 768, 1152),
    "modern-large": (28, 1024, 2624),
}
_MODERN: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 8192,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "local_attention": 128,
    "norm_placement": "pre",
    "final_norm": True,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "glu": True,
    "prediction_head": True,
    "classifier_bias": False,
}
_MINIATURE = re.compile(r"L-(\d+)_H-(\d+)")


def fields_of(name: str) -> dict[str, Any]:
    """Returns the fields of `BertConfig` of a size; raises `UserError` if the name is unknown."""
    more: dict[str, Any] = {}
    if name in SIZES:
        layers, hidden = SIZES[name]
        inner = 4 * hidden
    elif name in MODERN_SIZES:
        (layers, hidden, inner), more = MODERN_SIZES[name], _MODERN
    elif match := _MINIATURE.fullmatch(name):
        layers, hidden = int(match[1]), int(match[2])
        inner = 4 * hidden
        if hidden % 64:
            raise UserError(f"Size {name!r}: H must be a multiple of 64 (a head is 64 wide).")
    else:
        raise UserError(
            f"Size {name!r} is unknown: use one of {', '.join((*SIZES, *MODERN_SIZES))}, or a "
            'miniature\'s name such as "L-4_H-256".'
        )
    shape = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "intermediate_size": inner,
    }
    return {**shape, **more}
