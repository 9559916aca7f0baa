"""Self-attention relation distillation, as in MiniLMv2 (Wang et al., 2020, arXiv 2012.15828).

A small model, the student, learns from a trained one, the teacher, how the tokens of a text relate
to each other in self-attention. Its width, layers and attention heads need not be the teacher's.

The queries of a layer, all attention heads concatenated, are split anew into A relation heads of
size R. The relation of token t in a head is the softmax over tokens s of q[t] . q[s] / sqrt(R). The
loss of an example is the divergence KL(teacher || student) of this distribution, averaged over
heads and over tokens, and the loss of a batch is the mean of its examples. The losses of keys and
of values are added (equations 5 to 8, with weight 1 for Q-Q, K-K and V-V). The student's relations
are those of its last layer. Padding is no token, the text is not masked, and the teacher has no
dropout. The authors released models, but no code of the training.

What lies above the queries, keys and values of the student's last layer has no gradient. It keeps
its initial values until fine-tuning trains it: weight decay alone would only shrink it. The export
is an encoder without a pooler.

The teacher's parameters are no part of the training state, so that checkpoints do not hold them.
A run records their hash instead, and reads them again when it resumes.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax

from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.model import bert, flops
from bertjax.model.input_checks import model_inputs
from bertjax.model.linen import attention_mask
from bertjax.objectives import losses
from bertjax.objectives.losses import Batch, Metrics, Normalizers
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.objectives.objective import TEACHER, Metric, Objective
from bertjax.objectives.options import MiniLMOptions


@dataclasses.dataclass(frozen=True)
class RelationDistillation(MiniLMOptions, Objective):
    """Trains a model on the relations of a teacher; see the module's docstring."""

    teacher: BertConfig | None = None
    """The shape of the teacher, which `taught_by` sets."""

    name = "minilm"
    segments = "single"
    any_segments = True
    metrics = (
        Metric("minilm_loss", "relations", "relation loss", "min", in_verdict=True),
        *(
            Metric(f"{name}_loss", name, f"loss of the {name} relations", "min")
            for name in bert.PROJECTIONS
        ),
    )
    best_metric = "minilm_loss"
    export_kind = "encoder"
    needs_teacher: ClassVar[bool] = True

    init_params = staticmethod(functools.partial(bert.init_params, heads=(), add_pooler=False))

    def __str__(self) -> str:
        assert self.teacher is not None
        layers = self.teacher.num_hidden_layers
        return f"layer {self.layer} of {layers}, {self.relation_heads} relation heads"

    def taught_by(self, teacher: BertConfig, student: BertConfig) -> Self:
        """See `Objective`."""
        if "pre" in (teacher.norm_placement, student.norm_placement):
            raise UserError(
                "The objective minilm reads projections of the output of a layer, and with "
                "norm_placement 'pre' they read its LayerNorm: choose another teacher or model."
            )
        layers, widths = teacher.num_hidden_layers, (teacher.hidden_size, student.hidden_size)
        layer = self.layer or (layers if layers <= 12 else layers - layers // 8)
        heads = self.relation_heads or 4 * teacher.num_attention_heads
        if layer > layers:
            raise UserError(
                f"`objective_options.minilm.layer` is {layer}, and the teacher has {layers} "
                f"layers: give 1 to {layers}, or leave it out."
            )
        common = math.gcd(*widths)
        if common % heads:
            fitting = max(each for each in range(1, heads) if common % each == 0)
            raise UserError(
                f"{heads} relation heads do not divide both hidden sizes, {widths[0]} of the "
                f"teacher and {widths[1]} of the model: set `objective_options.minilm."
                f"relation_heads` to {fitting}, or choose another `model.hidden_size`."
            )
        return dataclasses.replace(self, layer=layer, relation_heads=heads, teacher=teacher)

    def teacher_shapes(self) -> dict[str, Any]:
        """See `Objective`."""
        if self.teacher is None or self.layer is None:
            return {}
        below = dataclasses.replace(self.teacher, num_hidden_layers=self.layer)
        make = functools.partial(self.init_params, below)
        return self.trained(jax.eval_shape(make, jax.random.key(0)))

    @staticmethod
    def trained(params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters that the projections of the last layer depend on."""
        layers = dict(params["encoder"])
        last = f"layer_{len(layers) - 1}"
        attention = {name: layers[last]["attention"][name] for name in bert.PROJECTIONS}
        layers[last] = {"attention": attention}
        return {"embeddings": params["embeddings"], "encoder": layers}

    def corrupt(
        self, batch: Batch, keys: jax.Array, vocabulary: Vocabulary, masking: MaskingConfig
    ) -> Batch:
        """Returns the batch as it is."""
        del keys, vocabulary, masking
        return batch

    def logits(
        self,
        params: Any,
        batch: Batch,
        config: BertConfig,
        *,
        execution: Execution,
        dropout_key: jax.Array | None,
        sample_key: jax.Array | None,
    ) -> jax.Array:
        """Returns the divergences [3, B, T] of the relations of queries, keys and values."""
        del sample_key
        assert self.teacher is not None and self.layer is not None and self.relation_heads
        inputs = model_inputs(batch)
        project = functools.partial(bert.attention_projections, execution=execution)
        frozen = jax.lax.stop_gradient(params[TEACHER])
        teacher = project(frozen, inputs, self.teacher, self.layer)
        layers = config.num_hidden_layers
        student = project(params, inputs, config, layers, dropout_key=dropout_key)
        mask = attention_mask(inputs)
        return relation_divergences(teacher, student, self.relation_heads, mask, execution)

    @staticmethod
    def scores(logits: jax.Array, batch: Batch, token_groups: Any = None) -> Metrics:
        """The divergences, averaged over the tokens of an example and summed over the examples."""
        del token_groups
        count = _example_weights(batch).sum()
        sums = (logits * _token_weights(batch)).sum((1, 2))
        parts = {f"{name}_loss": (sums[n], count) for n, name in enumerate(bert.PROJECTIONS)}
        return {"minilm_loss": (sums.sum(), count), **parts}

    @staticmethod
    def normalizers(batch: Batch) -> Normalizers:
        """Counts the examples."""
        return {"examples": _example_weights(batch).sum()}

    @staticmethod
    def total(metrics: Metrics, normalizers: Normalizers) -> jax.Array:
        """Returns the mean over the examples."""
        return losses.divide(metrics["minilm_loss"][0], normalizers["examples"])

    def flops(self, config: BertConfig, length: int, predictions: int) -> int:
        """Counts both models up to their projections, and the relations of both."""
        del predictions
        assert self.teacher is not None and self.layer is not None
        teacher = _flops(self.teacher, self.layer, length)
        return teacher + _flops(config, config.num_hidden_layers, length)

    def training_flops(self, config: BertConfig, length: int, predictions: int) -> float:
        """Counts the teacher, which has no backward pass, once."""
        assert self.teacher is not None and self.layer is not None
        forward, teacher = self.flops(config, length, 0), _flops(self.teacher, self.layer, length)
        return teacher + flops.training_flops(forward - teacher)


def relation_divergences(
    teacher: jax.Array,
    student: jax.Array,
    heads: int,
    mask: jax.Array | None,
    execution: Execution,
) -> jax.Array:
    """Computes the divergences of self-attention relations, averaged over the relation heads.

    One relation head is computed at a time, and computed again in the backward pass: the arrays
    [3, B, T, T] of all heads together would take 48 times the memory.

    Args:
        teacher: queries, keys and values [3, B, T, D].
        student: the same [3, B, T, D] of a model that may have another width D.
        heads: number A of relation heads, a divisor of both widths.
        mask: bool [B, 1, 1 or T, T], as of attention; None masks nothing.
        execution: its precision multiplies. Softmax and logarithms are float32.

    Returns:
        KL(teacher || student) in nats, float32 [3, B, T]; 0 for equal projections.
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, 0)  # [A, 3, B, T, R]

    def log_relations(x: jax.Array) -> jax.Array:
        products = jnp.einsum(
            "kbtr,kbsr->kbts",
            x,
            x,
            precision=execution.precision,
            preferred_element_type=jnp.float32,
        )
        products *= x.shape[-1] ** -0.5
        if mask is not None:
            products = jnp.where(mask[:, 0], products, jnp.finfo(jnp.float32).min)
        return jax.nn.log_softmax(products, axis=-1)

    def of_head(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        wanted, found = map(log_relations, pair)
        return optax.losses.kl_divergence_with_log_targets(found, wanted)

    of_head = jax.checkpoint(of_head, prevent_cse=False)
    return jax.lax.map(of_head, (split(teacher), split(student))).mean(0)


def _token_weights(batch: Batch) -> jax.Array:
    """Returns the weights [B, T] of the tokens: those of each example add up to its weight."""
    tokens, segments = batch["attention_mask"].astype(jnp.float32), batch.get("segment_ids")
    if segments is None:
        examples = _example_weights(batch)[:, None]
        return tokens / jnp.maximum(tokens.sum(-1, keepdims=True), 1.0) * examples
    own = segments[:, :, None] == segments[:, None, :]
    return tokens / own.sum(-1)


def _example_weights(batch: Batch) -> jax.Array:
    return losses.example_weights(batch, "input_ids", 1)


def _flops(config: BertConfig, layer: int, length: int) -> int:
    """Counts the forward pass of one model over one row of T tokens, up to its relations."""
    one = dataclasses.replace(config, num_hidden_layers=1)
    below = (layer - 1) * flops.encoder_flops(one, length)
    projected = 3 * 2 * length * config.hidden_size * config.hidden_size
    return below + projected + 3 * 2 * length * length * config.hidden_size
