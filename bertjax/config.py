"""The shape of a model (`BertConfig`, `EncoderDecoderConfig`) and how to compute it (`Execution`).

It loads no jax.
"""

import dataclasses
import json
from typing import Any, Literal, get_args

from etils import epath

from bertjax import sizes
from bertjax.errors import UserError, refuse_unknown
from bertjax.files import check_downloaded, reading

HIDDEN_ACTS = ("gelu", "gelu_new", "gelu_tanh", "relu", "silu")
# Hugging Face's names for the same functions.
_SAME_ACTS = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}

_CHOICES = {
    "hidden_act": HIDDEN_ACTS,
    "position_embedding_type": ("absolute", "rotary", "none"),
    "norm_placement": ("post", "pre"),
    "classifier_pooling": ("cls", "mean"),
}
_MAY_BE_ZERO = ("type_vocab_size", "position_offset", "local_attention")
_ROPE_THETAS = {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
# Beyond these, the names and shapes of the weights alone exceed memory or an int.
_MAX, _MAX_LAYERS = (1 << 31) - 1, 1000


def read_json(path: epath.Path) -> Any:
    """Reads a JSON value; raises `UserError` if the file is absent, or holds none."""
    if not path.exists():
        raise UserError(f"{path}: no such file; write or export it again.")
    with reading(path):
        data = path.read_bytes()
    check_downloaded(data, path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); write or export it again.") from None


def read_json_object(path: epath.Path) -> dict[str, Any]:
    """Reads a JSON object; raises `UserError` if the file holds none or can't be read."""
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds no JSON object; write or export it again.")
    return fields


def make_tuples(config: Any) -> None:
    """Makes the lists of a frozen dataclass tuples, so that it is hashable and equals its like.

    One string is a tuple of one where the default is a tuple.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(field.default, tuple) and isinstance(value, str):
            value = (value,)
        if isinstance(value, list | range):
            value = tuple(value)
        object.__setattr__(config, field.name, value)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT, with the field names of Google's and Hugging Face's `config.json`.

    It is hashable, so it can be a static argument of `jax.jit`.
    """

    vocab_size: int = 30522
    """Number of token ids, V."""
    hidden_size: int = 768
    """Width of the residual stream, D."""
    num_hidden_layers: int = 12
    """Number of encoder layers, L."""
    num_attention_heads: int = 12
    """Number of attention heads, N; a divisor of hidden_size."""
    intermediate_size: int = 3072
    """Width of the feed-forward layer, F."""
    hidden_act: str = "gelu"
    """gelu (erf, as in the paper's release and Hugging Face), gelu_new or gelu_tanh (as in Google's
    code since February 2019), relu, or silu."""
    hidden_dropout_prob: float = 0.1
    """Dropout rate of the embeddings and of both outputs of every layer."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout rate of the attention probabilities."""
    max_position_embeddings: int = 512
    """Maximum length of a sequence."""
    type_vocab_size: int = 2
    """Number of token types (sentence A, sentence B); with 0, token_type_ids are not read."""
    initializer_range: float = 0.02
    """Standard deviation of the normal distribution of initial weights, before its truncation."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    classifier_dropout: float | None = None
    """Dropout rate before a classifier; None: hidden_dropout_prob."""
    position_offset: int = 0
    """Rows of the table of positions before that of the first token. RoBERTa has 2."""
    position_embedding_type: str = "absolute"
    """absolute (a table of learned positions), rotary (queries and keys are rotated by their
    positions, Su et al. 2021, arXiv 2104.09864), or none."""
    global_rope_theta: float | None = None
    """Base of rotary positions; None: 160,000."""
    local_rope_theta: float | None = None
    """Base of rotary positions in layers with windows; None: 10,000."""
    local_attention: int = 0
    """Width of the windows of attention: tokens attend to those at most half of it away. 0: every
    layer attends to all tokens."""
    global_attn_every_n_layers: int = 3
    """One layer of so many, beginning with the first, attends to all tokens in spite of windows."""
    norm_placement: str = "post"
    """LayerNorm after each residual sum (post), or of the input of attention and feed-forward
    (pre). If the embeddings are normalized too, pre has none before the first attention."""
    final_norm: bool = False
    """Whether there is a LayerNorm after the last layer; only with norm_placement pre."""
    embedding_norm: bool = True
    """Whether the embeddings are normalized."""
    norm_bias: bool = True
    """Whether LayerNorm adds a bias."""
    attention_bias: bool = True
    """Whether queries, keys, values and the output of attention have a bias."""
    mlp_bias: bool = True
    """Whether the feed-forward layers have a bias."""
    glu: bool = False
    """Whether the feed-forward layer is gated (Shazeer 2020, arXiv 2002.05202): the activation is
    multiplied by a third product, of width intermediate_size too."""
    prediction_head: bool = False
    """Whether classifiers of texts, tokens and answers read a dense layer, activation and
    LayerNorm, as the masked LM does, in place of a pooler with tanh or of nothing."""
    classifier_pooling: str = "cls"
    """A classifier of texts reads the first token (cls), or the mean of all tokens (mean)."""
    classifier_bias: bool = True
    """Whether the dense layer before a classifier and before the words of the masked LM has a
    bias."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            maximum = _MAX_LAYERS if name == "num_hidden_layers" else _MAX
            minimum = 0 if name in _MAY_BE_ZERO else 1
            if field.type is int and not (type(value) is int and minimum <= value <= maximum):
                raise UserError(
                    f"{name} is {value!r:.100}: give a whole number of at least {minimum} and at "
                    f"most {maximum:,}."
                )
            is_given = field.type is float or (field.type == float | None and value is not None)
            if name in _ROPE_THETAS:
                if is_given and not (isinstance(value, int | float) and 1 <= value < _MAX):
                    raise UserError(f"{name} is {value!r}: give a number of at least 1.")
            elif is_given and not (isinstance(value, int | float) and 0 <= value < 1):
                raise UserError(f"{name} is {value!r}: give a number from 0 to below 1.")
            if field.type is bool and not isinstance(value, bool):
                raise UserError(f"{name} is {value!r:.100}: give true or false.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}: every head needs the same width."
            )
        for name, choices in _CHOICES.items():
            refuse_unknown(name, getattr(self, name), choices)
        self._check_positions()
        if self.final_norm and self.norm_placement != "pre":
            raise UserError(
                "final_norm is set and norm_placement is 'post', which normalizes the output of "
                "the last layer already: set norm_placement 'pre', or leave final_norm out."
            )

    def _check_positions(self) -> None:
        """Refuses options of positions that exclude each other, and fills in the bases."""
        how = f"position_embedding_type is {self.position_embedding_type!r}"
        if self.position_embedding_type == "absolute" and self.local_attention:
            raise UserError(
                f"local_attention is {self.local_attention} and {how}: windows are for rotary "
                "positions, or none; set local_attention 0, or choose those."
            )
        if self.position_embedding_type != "absolute" and self.position_offset:
            raise UserError(
                f"position_offset is {self.position_offset} and {how}, which has no table of "
                "positions: set position_offset 0."
            )
        is_rotary = self.position_embedding_type == "rotary"
        if is_rotary and self.head_size % 2:
            raise UserError(
                f"A head is {self.head_size} wide, and rotary positions rotate pairs: choose "
                "num_attention_heads so that hidden_size / num_attention_heads is even."
            )
        for name, default in _ROPE_THETAS.items():
            if not is_rotary and getattr(self, name) is not None:
                raise UserError(
                    f"{name} is {getattr(self, name)} and {how}: it is the base of rotary "
                    "positions; leave it out, or choose those."
                )
            if is_rotary and getattr(self, name) is None:
                object.__setattr__(self, name, default)

    @property
    def head_size(self) -> int:
        """Width of one attention head, H."""
        return self.hidden_size // self.num_attention_heads

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends within windows."""
        return bool(self.local_attention) and layer % self.global_attn_every_n_layers != 0

    def lacks_norm(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has no LayerNorm before attention: the first one reads
        embeddings that are normalized."""
        return layer == 0 and self.norm_placement == "pre" and self.embedding_norm

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Returns (the value here, that of a BERT) of each option in which the two differ."""
        names = [field.name for field in dataclasses.fields(self)]
        own = dataclasses.fields(self)[names.index("position_offset") :]
        pairs = {field.name: (getattr(self, field.name), field.default) for field in own}
        if not self.type_vocab_size:
            pairs["type_vocab_size"] = (0, 2)
        return {name: (here, there) for name, (here, there) in pairs.items() if here != there}

    def check_classic(self, use: str, *allowed: str) -> None:
        """Raises `UserError`, which names `use`, if options differ from BERT's.

        `allowed` names options that may.
        """
        for name, (here, there) in self.differences().items():
            if name not in allowed:
                raise UserError(
                    f"{use} needs a BERT with {name} {there!r}, and this model's is {here!r}: give "
                    "another model."
                )

    @classmethod
    def named(cls, name: str, **overrides: Any) -> "BertConfig":
        """Returns a released size: tiny mini small medium base large, or e.g. "L-4_H-256".

        As in all of Google's releases, it has hidden_size / 64 heads and a feed-forward width of
        4 x hidden_size. modern-tiny ... modern-large have the options of ModernBERT. Raises
        `UserError` if the name is unknown.
        """
        return cls(**{**sizes.fields_of(name), **overrides})

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: str = "the configuration") -> "BertConfig":
        """Makes a configuration from Google's or Hugging Face's JSON object; ignores other keys.

        Raises `UserError`, which names `where`, if a key is missing or a value is invalid.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        missing = sorted({"vocab_size", "hidden_size", "num_hidden_layers"} - fields.keys())
        if missing:
            raise UserError(
                f"{where} has no {', '.join(missing)}: is it the configuration of a BERT?"
            )
        given = {key: value for key, value in fields.items() if key in known}
        if (act := str(given.get("hidden_act"))) in _SAME_ACTS:
            given["hidden_act"] = _SAME_ACTS[act]
        try:
            return cls(**given)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, path: epath.PathLike) -> "BertConfig":
        """Reads Google's `bert_config.json` or Hugging Face's `config.json`.

        Raises `UserError` if there is no such file, no JSON object in it, or it isn't a BERT's.
        """
        path = epath.Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; give the path of a config.json.")
        fields = read_json_object(path)
        if (kind := fields.get("model_type")) not in (None, "bert", "bertjax"):
            raise UserError(
                f"{path}: its model_type is {kind!r:.50}, and this shape has to be a BERT's: give "
                "a BERT's, or a named size and its options."
            )
        return cls.from_dict(fields, where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields under the names of Google's and Hugging Face's JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """The shape of an encoder-decoder: a BERT that reads, and one that writes what follows from it.

    The decoder is a BERT whose layers also attend to the output of the encoder (Rothe et al. 2020,
    Hugging Face's `EncoderDecoderModel`). If the widths differ, a dense layer projects that output
    to the width of the decoder. It is hashable.
    """

    encoder: BertConfig
    """Shape of the encoder."""
    decoder: BertConfig
    """Shape of the decoder, without the cross-attention, which has the same width and heads."""
    share: Literal["none", "embeddings", "all"] = "none"
    """Weights that encoder and decoder share. embeddings: the word embeddings. all: everything
    except cross-attention and output head, as BERTSHARE in Rothe et al."""

    def __post_init__(self) -> None:
        refuse_unknown("share", self.share, ("none", "embeddings", "all"))
        for half in (self.encoder, self.decoder):
            half.check_classic("An encoder-decoder")
        same = {"none": (), "embeddings": ("vocab_size", "hidden_size")}
        names = [field.name for field in dataclasses.fields(BertConfig)]
        for name in same.get(self.share, names):
            ours, theirs = getattr(self.encoder, name), getattr(self.decoder, name)
            if ours != theirs:
                raise UserError(
                    f"The encoder has the {name} {ours} and the decoder {theirs}: they can't share "
                    f"weights. Give both the same {name}, or share nothing."
                )

    @property
    def num_hidden_layers(self) -> dict[str, int]:
        """Number of layers of "encoder" and "decoder"."""
        halves = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: half.num_hidden_layers for name, half in halves.items()}

    @property
    def max_position_embeddings(self) -> int:
        """Maximum length of a source."""
        return self.encoder.max_position_embeddings

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dicts of all fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to compute a model. A resumed run may change it. It is hashable."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of matmuls and activations. Parameters, LayerNorm, softmax and loss stay float32."""
    precision: Literal["default", "high", "highest"] = "default"
    """Matmul precision; TPUs round float32 to bfloat16 unless this is "highest"."""
    remat: Literal["none", "full", "dots"] = "none"
    """Recompute in the backward pass: nothing, whole layers ("full"), or all of a layer except its
    products with weights ("dots", which recomputes attention's own products)."""
    scan_layers: bool = False
    """Compile one layer and scan over all. It compiles faster and runs slower on CPU."""
    attention: Literal["auto", "plain", "splash"] = "auto"
    """auto: the fastest for the platform. plain: JAX's derivatives. splash: a Pallas kernel on TPUs
    for unpacked rows of a multiple of 128 tokens, without dropout of probabilities."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices = get_args(field.type) or (True, False)
            if not isinstance(value, type(choices[0])) or value not in choices:
                shown = ", ".join(map(repr, choices))
                raise UserError(f"`execution.{field.name}` is {value!r}: use one of {shown}.")
