"""Replaced-token detection, as in ELECTRA (Clark et al., 2020).

A small generator is trained as a masked LM. Its samples replace the masked tokens, and the
discriminator, which is kept, classifies every token as original or replaced. A sample that equals
the original token counts as original.

Source: google-research/electra, run_pretraining.py. As there, both share the word, position and
type embeddings with their LayerNorm, and a dense layer projects them to the generator's width.

The export is the discriminator's embeddings and encoder: an ordinary BERT encoder. Its detection
head and the generator stay in the run's checkpoints.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.config import BertConfig, Execution
from bertjax.model import initializers
from bertjax.model.bert import row_keys
from bertjax.model.dropout import fold_keys
from bertjax.model.encoder import Encoder
from bertjax.model.flops import encoder_flops
from bertjax.model.heads import MlmHead, TokenDetectionHead
from bertjax.model.layers import dense
from bertjax.model.linen import BertEncoder, Inputs, attention_mask
from bertjax.objectives import losses
from bertjax.objectives.losses import Batch, Metrics, Normalizers
from bertjax.objectives.objective import UNIGRAM, Metric, Objective
from bertjax.objectives.options import RtdOptions

# Folded into the dropout keys of the generator, so that it and the discriminator share no draws.
_GENERATOR_KEYS = 1 << 22


class Detection(NamedTuple):
    """The outputs of the generator and the discriminator."""

    generator: jax.Array
    """Masked-LM logits [B, P, V]."""
    replaced: jax.Array
    """bool [B, T]: the tokens that differ from the original."""
    logits: jax.Array
    """[B, T]; above 0 where the discriminator takes a token for replaced."""


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection(RtdOptions, Objective):
    """Trains a generator and a discriminator; see the module's docstring."""

    name = "rtd"
    segments = "single"
    any_segments = True
    metrics = (
        Metric("rtd_loss", "rtd", "detection loss", "min", in_verdict=True),
        Metric("rtd_accuracy", "rtd_acc", "detection accuracy", in_verdict=True),
        Metric("rtd_replaced", "replaced", "replaced tokens", None, in_verdict=True),
        Metric("mlm_loss", "gen", "generator's masked-LM loss", "min", baseline=UNIGRAM),
        Metric("mlm_accuracy", "gen_acc", "generator's masked-LM accuracy"),
    )
    best_metric = "rtd_loss"
    export_kind = "encoder"

    def generator(self, config: BertConfig) -> BertConfig:
        """Returns the generator's shape.

        It is narrower, with fewer heads of about the same size, and has as many layers.
        """
        width, inner, heads = (
            max(1, round(size * self.generator_size))
            for size in (config.hidden_size, config.intermediate_size, config.num_attention_heads)
        )
        while width % heads:
            heads -= 1
        sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
        return dataclasses.replace(config, **sizes)

    def init_params(self, config: BertConfig, key: jax.Array) -> dict[str, Any]:
        """Draws embeddings, encoder, detection, and generator_{projection,encoder,mlm}."""
        ids = jnp.zeros((1, 1), jnp.int32)
        module = _Electra(config, generator=self.generator(config))
        return dict(module.init(key, {"input_ids": ids}, ids)["params"])

    @staticmethod
    def reinitialize(params: dict[str, Any], *options: Any) -> dict[str, Any]:
        """Applies `initializers.reinitialize`; the masked-LM bias is the generator's."""
        params = dict(params)
        params["mlm"] = params.pop("generator_mlm")
        params = initializers.reinitialize(params, *options)
        params["generator_mlm"] = params.pop("mlm")
        return params

    def logits(
        self,
        params: Any,
        batch: Batch,
        config: BertConfig,
        *,
        execution: Execution,
        dropout_key: jax.Array | None,
        sample_key: jax.Array,
    ) -> Detection:
        """Runs the generator, replaces tokens by its samples and runs the discriminator."""
        module = _Electra(config, execution, generator=self.generator(config))
        ids, positions = batch["input_ids"], batch["masked_positions"]
        keys = row_keys(dropout_key, ids.shape[0])

        def run(method: Any, *inputs: Any) -> Any:
            return module.apply({"params": params}, *inputs, keys, method=method)

        generated = run(_Electra.generate, batch, positions)
        # Integers carry no gradient: the generator learns from its own loss alone.
        samples = jax.vmap(jax.random.categorical)(sample_key, generated / self.temperature)
        used = batch["masked_weights"] > 0
        # Unused predictions point to [CLS], never masked, so they write back its id.
        kept = jnp.take_along_axis(ids, positions, axis=1)
        rows = jnp.arange(ids.shape[0])[:, None]
        ids = ids.at[rows, positions].set(jnp.where(used, samples, kept))
        differs = used & (samples != batch["masked_labels"])
        replaced = jnp.zeros(ids.shape, bool).at[rows, positions].set(differs)
        logits = run(_Electra.discriminate, {**batch, "input_ids": ids})
        return Detection(generated, replaced, logits)

    def scores(self, logits: Detection, batch: Batch, token_groups: Any = None) -> Metrics:
        """Binary cross-entropy over all tokens, and the generator's masked-LM metrics."""
        weights = _token_weights(batch)
        labels = logits.replaced.astype(jnp.float32)
        binary = optax.sigmoid_binary_cross_entropy(logits.logits, labels)
        right = (logits.logits > 0) == logits.replaced
        found = {"rtd_loss": binary, "rtd_accuracy": right, "rtd_replaced": labels}
        sums = {name: ((each * weights).sum(), weights.sum()) for name, each in found.items()}
        return {**losses.masked_lm(logits.generator, batch, token_groups), **sums}

    @staticmethod
    def normalizers(batch: Batch) -> Normalizers:
        """Counts the predictions and the tokens."""
        return {**losses.masked_lm_normalizers(batch), "tokens": _token_weights(batch).sum()}

    def total(self, metrics: Metrics, normalizers: Normalizers) -> jax.Array:
        """Adds the weighted loss of the discriminator to the loss of the generator."""
        detection = losses.divide(metrics["rtd_loss"][0], normalizers["tokens"])
        generator = losses.masked_lm_total(metrics, normalizers)
        return generator + self.discriminator_weight * detection

    def flops(self, config: BertConfig, length: int, predictions: int) -> int:
        """Counts both encoders, the projection and both heads."""
        wide, small = config.hidden_size, self.generator(config)
        projection = 2 * length * wide * small.hidden_size
        masked = 2 * predictions * wide * (small.hidden_size + config.vocab_size)
        detection = 2 * length * (wide * wide + wide)
        encoders = encoder_flops(config, length) + encoder_flops(small, length, predictions)
        return encoders + projection + masked + detection

    @staticmethod
    def exported(params: dict[str, Any]) -> dict[str, Any]:
        """Returns the discriminator without its head."""
        return {part: params[part] for part in ("embeddings", "encoder")}


def _token_weights(batch: Batch) -> jax.Array:
    """Returns the weights [B, T]: 1 for every token, 0 for padding."""
    return losses.weigh_rows(batch["attention_mask"].astype(jnp.float32), batch)


class _Electra(BertEncoder):
    """A discriminator and a generator over shared embeddings."""

    add_pooler: bool = False
    generator: BertConfig = BertConfig()

    def setup(self) -> None:
        super().setup()
        config, execution = self.config, self.execution
        self.detection = TokenDetectionHead(config, execution)
        self.generator_projection = dense(self.generator.hidden_size, config, execution)
        self.generator_encoder = Encoder(self.generator, execution)
        self.generator_mlm = MlmHead(config, execution)

    def __call__(self, inputs: Inputs, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs both parts on the same inputs; `init` draws the parameters by it."""
        return self.generate(inputs, positions), self.discriminate(inputs)

    def generate(
        self, inputs: Inputs, positions: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Returns masked-LM logits [B, P, V]; keys are dropout keys [B]."""
        keys = fold_keys(keys, _GENERATOR_KEYS)
        x, position_ids = self.embed(inputs, keys)
        x, mask = self.generator_projection(x), attention_mask(inputs)
        given = {"mask": mask, "position_ids": position_ids, "keys": keys}
        x, _, _ = self.generator_encoder(x, positions=positions, **given)
        return self.generator_mlm(x, self.embeddings.attend)

    def discriminate(self, inputs: Inputs, keys: jax.Array | None = None) -> jax.Array:
        """Returns detection logits [B, T]."""
        return self.detection(BertEncoder.__call__(self, inputs, keys).last_hidden_state)
