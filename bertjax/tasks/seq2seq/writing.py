"""The forward pass of evaluation and prediction: writes texts, and scores the targets."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Execution
from bertjax.model.bert import Params
from bertjax.model.decoding import Seq2Seq
from bertjax.model.generation import generate_tokens
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.linen import Inputs
from bertjax.model.logits_processing import OutputVocabulary, TokenRules
from bertjax.objectives.losses import cross_entropy

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes sequences for a batch; a `Head.forward`. Equal values share compiled programs."""

    architecture: Seq2Seq
    generation: GenerationConfig
    vocabulary: OutputVocabulary

    def __post_init__(self) -> None:
        TokenRules(self.generation, self.vocabulary)  # refuses too many beams before training

    def __call__(
        self, params: Params, inputs: Inputs, config: Any, name: str, *, execution: Execution
    ) -> dict[str, jax.Array]:
        """Computes the outputs of a batch of `Seq2SeqFeatures`.

        Returns:
            tokens int32 [B, n, T], scores float32 [B, n] and lengths int32 [B, n] as `Generated`
            describes them. With targets also nll and count, float32 [B]: the cross-entropy of a
            target in nats, and its number of tokens.
        """
        del name
        source = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        generated = generate_tokens(
            params,
            source,
            config,
            self.architecture,
            self.generation,
            self.vocabulary,
            execution=execution,
            keys=jax.vmap(jax.random.key)(inputs["draw_seed"]),
        )
        outputs = dict(generated._asdict())
        if "labels" in inputs:
            x = self.architecture.hidden(params, inputs, config, execution=execution)
            layer, weights = self.architecture.output_layer(params), inputs["label_weights"]

            def of_position(arguments: tuple[jax.Array, jax.Array]) -> jax.Array:
                x, labels = arguments  # [B, D], [B]: the logits of one position at a time
                return cross_entropy(layer.logits(x, execution), labels)

            nll = jax.lax.map(of_position, (x.swapaxes(0, 1), inputs["labels"].T))  # [T, B]
            outputs["nll"] = (nll.T * weights).sum(-1)
            outputs["count"] = jnp.sum(weights, -1)
        return outputs


def output_vocabulary(tokenizer: "Tokenizer") -> OutputVocabulary:
    """Returns the ids that texts are written with: all but [PAD], [CLS] and [MASK]."""
    return OutputVocabulary(
        size=tokenizer.vocab_size,
        start_id=tokenizer.cls_id,
        end_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
        suppressed_ids=(tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id),
    )


def texts_of(tokens: np.ndarray, tokenizer: "Tokenizer") -> list[str]:
    """Returns the texts of sequences int32 [n, T]."""
    return [tokenizer.decode(row) for row in tokens]
