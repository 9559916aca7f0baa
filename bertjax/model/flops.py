"""Floating-point operations of a model: its matrix products, counted from its shape.

A product of [m, k] and [k, n] counts as 2 m k n operations. Other operations (lookups, softmax,
LayerNorm, GELU, dropout, the optimizer) do not count, as in appendix B of PaLM (arXiv 2204.02311)
and in the 6 N D of Kaplan et al. (arXiv 2001.08361), where N are the parameters that multiply
tokens. Unlike there, attention and heads are counted exactly.
"""

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.model.heads import TASK_PARTS, task_parts


def encoder_flops(config: BertConfig, length: int, positions: int | None = None) -> int:
    """Counts the forward pass of the layers over one row of T tokens.

    The last layer computes P positions, or all tokens, as with Splash attention, which the count
    does not know. Attention counts the pairs of tokens that a
    layer attends to: those within its windows.
    """
    wide, inner = config.hidden_size, config.intermediate_size
    last = length if positions is None else min(positions, length)
    read = 2 * length * (2 * wide * wide)  # keys and values
    computed = 2 * (2 * wide * wide + (3 if config.glu else 2) * wide * inner)  # of one token
    total = 0
    for layer in range(config.num_hidden_layers):
        tokens = last if layer == config.num_hidden_layers - 1 else length
        pairs = _pairs(config, length, layer) * tokens // length
        total += read + tokens * computed + 2 * (2 * pairs * wide)  # logits and context
    return total


def _pairs(config: BertConfig, length: int, layer: int) -> int:
    """Counts the pairs of a query and a key that a layer multiplies."""
    if not config.is_local(layer):
        return length * length
    side = min(config.local_attention // 2, length - 1)
    return length * (2 * side + 1) - side * (side + 1)


def pretraining_flops(
    config: BertConfig, length: int, predictions: int, *, sentences: bool = True
) -> int:
    """Counts the forward pass of pre-training over one row of T tokens, P of them predicted.

    `sentences` says whether there are a pooler and a next-sentence or sentence-order head.
    """
    wide = config.hidden_size
    masked = 2 * predictions * (wide * wide + wide * config.vocab_size)
    whole = sentences and config.classifier_pooling == "mean"
    encoder = encoder_flops(config, length, None if whole else predictions + sentences)
    return encoder + masked + sentences * classifier_flops(config, 2)


def classifier_flops(config: BertConfig, outputs: int) -> int:
    """Counts the forward pass of the pooler and of a classifier into C classes, for one row."""
    return 2 * config.hidden_size * (config.hidden_size + outputs)


def task_flops(config: BertConfig, kind: str, outputs: int, length: int) -> int:
    """Counts the forward pass of a fine-tuned model over one row of T tokens.

    The head of `kind` has C outputs and reads the pooled output or every token.
    """
    pooled, wide = "pooler" in TASK_PARTS[kind], config.hidden_size
    before = wide * wide if "token_head" in task_parts(kind, config) else 0
    per_token = 2 * length * (before + wide * outputs)
    head = classifier_flops(config, outputs) if pooled else per_token
    first = 1 if pooled and config.classifier_pooling == "cls" else None
    return encoder_flops(config, length, first) + head


def first_token_flops(config: BertConfig, kind: str, outputs: int, length: int) -> int:
    """Counts the layers over one row of T tokens whose first token alone is read."""
    del kind, outputs
    return encoder_flops(config, length, 1)


def seq2seq_flops(
    config: BertConfig | EncoderDecoderConfig, kind: str, outputs: int, source: int, target: int
) -> int:
    """Counts the forward pass with teacher forcing over a source of S and a target of T tokens.

    A prefix model reads both and a [MASK] for each target token.
    """
    del kind, outputs
    if isinstance(config, BertConfig):
        wide, vocabulary = config.hidden_size, config.vocab_size
        head = 2 * target * (wide * wide + wide * vocabulary)
        return encoder_flops(config, source + 2 * target - 1, target) + head
    reader, writer = config.encoder, config.decoder
    wide = writer.hidden_size
    projected = 0 if reader.hidden_size == wide else 2 * source * reader.hidden_size * wide
    # Queries and outputs of cross-attention for the target, keys and values for the source.
    weights = 2 * (2 * target + 2 * source) * wide * wide
    attention = 2 * (2 * target * source * wide)
    cross = writer.num_hidden_layers * (weights + attention)
    head = 2 * target * (wide * wide + wide * writer.vocab_size)
    return encoder_flops(reader, source) + projected + encoder_flops(writer, target) + cross + head


def training_flops(forward: float) -> float:
    """Counts a training step: for each product of its forward pass, the backward pass has two.

    Recomputation (`Execution.remat`) does not count, and frozen weights count as trained ones.
    """
    return 3 * forward
