"""How many floating-point operations a model takes: the matrix products, counted from its shape.

A product of [m, k] and [k, n] is 2 m k n operations. Left out is what is no matrix product
(lookups, softmax, LayerNorm, GELU, dropout, the optimizer), as in PaLM's appendix B (arXiv
2204.02311) and Kaplan et al.'s 6 N D (arXiv 2001.08361), whose N are the parameters that multiply
tokens; unlike there, attention and the heads are counted exactly.
"""

from bertjax.config import BertConfig
from bertjax.model.heads import TASK_PARTS


def encoder_flops(config: BertConfig, length: int) -> int:
    """Of the layers' forward pass over one row of T tokens."""
    wide, inner = config.hidden_size, config.intermediate_size
    weights = 2 * length * (4 * wide * wide + 2 * wide * inner)
    attention = 2 * (2 * length * length * wide)  # logits and context, all heads together
    return config.num_hidden_layers * (weights + attention)


def pretraining_flops(
    config: BertConfig, length: int, predictions: int, *, sentences: bool = True
) -> int:
    """Of pre-training's forward pass over one row.

    Args:
        config: the shape.
        length: T.
        predictions: P, at which alone the masked-LM head is computed.
        sentences: there is a next-sentence (or sentence-order) head, and the pooler below it.
    """
    wide = config.hidden_size
    masked = 2 * predictions * (wide * wide + wide * config.vocab_size)
    return encoder_flops(config, length) + masked + sentences * classifier_flops(config, 2)


def classifier_flops(config: BertConfig, outputs: int) -> int:
    """Of the pooler and a classifier of its output into C classes, forward, for one row."""
    return 2 * config.hidden_size * (config.hidden_size + outputs)


def task_flops(config: BertConfig, kind: str, outputs: int, length: int) -> int:
    """Of the forward pass of a fine-tuned model over one row.

    Args:
        config: the shape.
        kind: one of `TASK_PARTS`: its head reads the pooled output, or every token.
        outputs: columns of the head.
        length: T.
    """
    head = 2 * length * config.hidden_size * outputs
    if "pooler" in TASK_PARTS[kind]:
        head = classifier_flops(config, outputs)
    return encoder_flops(config, length) + head


def training_flops(forward: float) -> float:
    """Of a training step, from those of its forward pass: the backward pass has two products for
    each, one for the gradient of the weights and one for that of the inputs.

    What is computed again to save memory (`Execution.remat`) is not counted, nor is anything left
    out for weights that are not trained.
    """
    return 3 * forward
