"""The shape of a model (`BertConfig`, `EncoderDecoderConfig`) and how to compute it (`Execution`).

It loads no jax.
"""

import dataclasses
import json
import re
from typing import Any, Literal, get_args

from etils import epath

from bertjax.errors import UserError, refuse_unknown
from bertjax.files import check_downloaded, reading

HIDDEN_ACTS = ("gelu", "gelu_new", "gelu_tanh", "relu")
# Hugging Face's names for the same functions.
_SAME_ACTS = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}

# Google's release of 2018 (base, large) and of 2020 (the miniatures): layers, hidden size.
_SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
# Beyond these, the names and shapes of the weights alone exceed memory or an int.
_MAX, _MAX_LAYERS = (1 << 31) - 1, 1000
_MINIATURE = re.compile(r"L-(\d+)_H-(\d+)")


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
    code since February 2019), or relu."""
    hidden_dropout_prob: float = 0.1
    """Dropout rate of the embeddings and of both outputs of every layer."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout rate of the attention probabilities."""
    max_position_embeddings: int = 512
    """Maximum length of a sequence."""
    type_vocab_size: int = 2
    """Number of token types (sentence A, sentence B)."""
    initializer_range: float = 0.02
    """Standard deviation of the normal distribution of initial weights, before its truncation."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    classifier_dropout: float | None = None
    """Dropout rate before a classifier; None: hidden_dropout_prob."""
    position_offset: int = 0
    """Rows of the table of positions before that of the first token. RoBERTa has 2."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            maximum = _MAX_LAYERS if name == "num_hidden_layers" else _MAX
            minimum = 0 if name == "position_offset" else 1
            if field.type is int and not (type(value) is int and minimum <= value <= maximum):
                raise UserError(
                    f"{name} is {value!r:.100}: give a whole number of at least {minimum} and at "
                    f"most {maximum:,}."
                )
            is_given = field.type is float or (field.type == float | None and value is not None)
            if is_given and not (isinstance(value, int | float) and 0 <= value < 1):
                raise UserError(f"{name} is {value!r}: give a number from 0 to below 1.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}: every head needs the same width."
            )
        refuse_unknown("hidden_act", self.hidden_act, HIDDEN_ACTS)

    @property
    def head_size(self) -> int:
        """Width of one attention head, H."""
        return self.hidden_size // self.num_attention_heads

    def check_classic(self, use: str) -> None:
        """Raises `UserError`, which names `use`, if the shape has options that BERT lacks."""
        names = [field.name for field in dataclasses.fields(self)]
        for field in dataclasses.fields(self)[names.index("position_offset") :]:
            if (value := getattr(self, field.name)) != field.default:
                raise UserError(
                    f"{use} needs a BERT as in the paper, with {field.name} {field.default!r}, and "
                    f"this model's is {value!r}: give another model."
                )

    @classmethod
    def named(cls, name: str, **overrides: Any) -> "BertConfig":
        """Returns a released size: tiny mini small medium base large, or e.g. "L-4_H-256".

        As in all of Google's releases, it has hidden_size / 64 heads and a feed-forward width of
        4 x hidden_size. Raises `UserError` if the name is unknown.
        """
        if name in _SIZES:
            layers, hidden = _SIZES[name]
        elif match := _MINIATURE.fullmatch(name):
            layers, hidden = int(match[1]), int(match[2])
            if hidden % 64:
                raise UserError(f"Size {name!r}: H must be a multiple of 64 (a head is 64 wide).")
        else:
            raise UserError(
                f"Size {name!r} is unknown: use one of {', '.join(_SIZES)}, or a miniature's name "
                'such as "L-4_H-256".'
            )
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "intermediate_size": 4 * hidden,
        }
        return cls(**{**shape, **overrides})

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
        return cls.from_dict(read_json_object(path), where=str(path))

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
