"""`Pretrained`: a model with its tokenizer and its task, whose weights may be read later."""

import dataclasses
from typing import Any

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.interop.model_directory import check_vocabulary
from bertjax.interop.sentence_transformers import SentenceModules
from bertjax.model.heads import kind_of_parts
from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(repr=False)
class Pretrained:
    """A model on disk: shape, weights, tokenizer and the task it was trained for.

    Raises `UserError` if a tokenizer has more tokens than the model.
    """

    config: BertConfig | EncoderDecoderConfig
    """The shape."""
    params: dict[str, Any]
    """Nested dict of float32 arrays; see `init_params`, and for an encoder-decoder
    `bertjax.model.encoder_decoder.init_params`."""
    tokenizer: Tokenizer
    """The tokenizer that makes the model's ids."""
    task: dict[str, Any] | None = None
    """None, or a dict with a "kind", one of `bertjax.model.heads.TASK_PARTS`. Classifiers of texts
    and of tokens also have "labels". Fine-tuning adds the fields that its kind of task records for
    prediction."""
    decoder_tokenizer: Tokenizer | None = None
    """The tokenizer of what an encoder-decoder writes, if it is another one."""
    source: str | None = None
    """For a model from the hub, "owner/name@" and the hash of the commit."""
    sentence_modules: SentenceModules | None = None
    """How a model of sentence-transformers makes the vector of a text; `embed` follows it."""

    def __post_init__(self) -> None:
        """See the class."""
        config, written = self.config, self.decoder_tokenizer or self.tokenizer
        if isinstance(config, EncoderDecoderConfig):
            check_vocabulary(written, config.decoder, "Pretrained, decoder")
            config = config.encoder
        check_vocabulary(self.tokenizer, config, "Pretrained")

    @property
    def kind(self) -> str:
        """The task's kind; without a task, the kind that the heads determine."""
        return self.task["kind"] if self.task else kind_of_parts(self.params)

    @property
    def shapes(self) -> dict[str, Any]:
        """The parameters, or for `open_pretrained` ShapeDtypeStructs in their places."""
        return self.params

    def __repr__(self) -> str:
        config, source = self.config, f", from {self.source}" if self.source else ""
        depth = config.num_hidden_layers
        return f"Pretrained({self.kind}: {type(config).__name__} with {depth} layers{source})"

    def bert_config(self, use: str) -> BertConfig:
        """Returns the shape of a model that is one BERT, for a use that needs one.

        Raises:
            UserError: the model is an encoder-decoder; the sentence names the use.
        """
        if isinstance(self.config, EncoderDecoderConfig):
            raise UserError(f"The model is an encoder-decoder, and {use} needs a BERT: give one.")
        return self.config


class Unread(Pretrained):
    """A model whose parameters are read when they are first used."""

    def __init__(self, config: BertConfig, params: Any, *more: Any, **fields: Any) -> None:
        """Takes (shapes, a function that reads); `dataclasses.replace` gives parameters instead."""
        super().__init__(config, params, *more, **fields)
        if isinstance(params, tuple):
            self._shapes, self._read = params
            del self.params

    def __getattr__(self, name: str) -> Any:
        if name != "params":
            raise AttributeError(name)
        return vars(self).setdefault("params", self._read())

    @property
    def shapes(self) -> dict[str, Any]:
        """The shapes that the file of the weights tells."""
        return vars(self).get("_shapes") or self.params
