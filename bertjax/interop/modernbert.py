"""Converts a ModernBERT to the options of `BertConfig` and the names of BERT's tensors, and back.

One matrix holds queries, keys and values, and another both halves of the gated feed-forward layer.
Source: `transformers/models/modernbert/modular_modernbert.py`.
"""

import re
from typing import Any

import numpy as np

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop.classes import ARCHITECTURES
from bertjax.interop.weights import Weights
from bertjax.text.tokenizer import Tokenizer

PREFIX = "ModernBert"
"""The beginning of the names of classes."""

# The options of every ModernBERT.
_SAME: dict[str, Any] = {
    "position_embedding_type": "rotary",
    "norm_placement": "pre",
    "final_norm": True,
    "embedding_norm": True,
    "glu": True,
    "prediction_head": True,
    "type_vocab_size": 0,
}
_NAMES = {
    "hidden_act": "hidden_activation",
    "layer_norm_eps": "norm_eps",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_dropout_prob": "mlp_dropout",
}
# Fields of the same name and meaning.
_EQUAL = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "initializer_range", "norm_bias"),
    *("attention_bias", "mlp_bias", "classifier_bias", "classifier_pooling"),
)
_ACTS = {"gelu_tanh": "gelu_pytorch_tanh"}
_DEFAULTS: dict[str, Any] = {
    "norm_eps": 1e-5,
    "hidden_activation": "gelu",
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
}
_TYPES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}

_LAYER, _ATTENTION = "bert.encoder.layer.{}", "bert.encoder.layer.{}.attention"
# Each of its modules, and the BERT's whose rows it holds, in order.
_MODULES = {
    "model.embeddings.tok_embeddings": ("bert.embeddings.word_embeddings",),
    "model.embeddings.norm": ("bert.embeddings.LayerNorm",),
    "model.layers.{}.attn_norm": (f"{_ATTENTION}.output.LayerNorm",),
    "model.layers.{}.attn.Wqkv": tuple(
        f"{_ATTENTION}.self.{name}" for name in ("query", "key", "value")
    ),
    "model.layers.{}.attn.Wo": (f"{_ATTENTION}.output.dense",),
    "model.layers.{}.mlp_norm": (f"{_LAYER}.output.LayerNorm",),
    "model.layers.{}.mlp.Wi": (f"{_LAYER}.intermediate.dense", f"{_LAYER}.gate.dense"),
    "model.layers.{}.mlp.Wo": (f"{_LAYER}.output.dense",),
    "model.final_norm": ("bert.encoder.final_norm",),
    "decoder": ("cls.predictions.decoder",),
}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# The names of head.dense and head.norm, and of the classifier, for each class.
_HEADS = {
    "MaskedLM": ("cls.predictions.transform", ""),
    "SequenceClassification": ("bert.pooler.transform", "classifier"),
    "MultipleChoice": ("bert.pooler.transform", "classifier"),
    "TokenClassification": ("token_head.transform", "classifier"),
    "QuestionAnswering": ("token_head.transform", "qa_outputs"),
}


def bert_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Converts a ModernBERT's config.json to fields of `BertConfig`.

    Raises:
        UserError: it has an option that `BertConfig` can't express; the sentence names it.
    """
    given = {**_DEFAULTS, **{name: value for name, value in fields.items() if value is not None}}
    act = given["hidden_activation"]
    for name, wanted in (
        ("decoder_bias", True),
        ("tie_word_embeddings", True),
        ("classifier_activation", act),
        ("embedding_dropout", given["mlp_dropout"]),
    ):
        if (found := given.get(name, wanted)) != wanted:
            raise UserError(
                f"{where}: {name} is {found!r:.50}; only {wanted!r} can be read beside "
                f"hidden_activation {act!r} and mlp_dropout {given['mlp_dropout']}."
            )
    theirs = {ours: given[name] for ours, name in _NAMES.items()}
    windows = _windows(given, where)
    names = fields.get("architectures")
    if isinstance(names, list):
        names = [re.sub(f"^{PREFIX}", "Bert", str(name)) for name in names]
    dropout = given["classifier_dropout"]
    theirs["classifier_dropout"] = None if dropout == given["mlp_dropout"] else dropout
    return {**given, **theirs, **windows, **_bases(given, where), **_SAME, "architectures": names}


def _windows(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns which layers attend within windows, and how wide these are."""
    depth, every = given.get("num_hidden_layers"), given["global_attn_every_n_layers"]
    types = given.get("layer_types")
    if not isinstance(types, list) or type(depth) is not int:
        return {"local_attention": given["local_attention"], "global_attn_every_n_layers": every}
    is_local = [each != "full_attention" for each in types]
    if not any(is_local):
        return {"local_attention": 0}
    for every in (given["global_attn_every_n_layers"], *range(2, len(types) + 1)):
        if type(every) is int and every and is_local == [i % every != 0 for i in range(depth)]:
            return {
                "local_attention": given["local_attention"],
                "global_attn_every_n_layers": every,
            }
    raise UserError(
        f"{where}: layer_types is {types!s:.80}; only full_attention in the first of every n "
        "layers, and sliding_attention in the others, can be read."
    )


def _bases(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the bases of rotary positions, which versions of transformers name differently."""
    found = {name: given[name] for name in _TYPES.values() if name in given}
    by_type = given.get("rope_parameters")
    for name, parameters in by_type.items() if isinstance(by_type, dict) else ():
        if not isinstance(parameters, dict) or name not in _TYPES:
            continue
        if (kind := parameters.get("rope_type", "default")) != "default":
            raise UserError(
                f"{where}: the rope_type of {name} is {kind!r:.50}; only 'default' can be read."
            )
        if "rope_theta" in parameters:
            found[_TYPES[name]] = parameters["rope_theta"]
    if given.get("rope_scaling"):
        raise UserError(f"{where}: has a rope_scaling; only rotary positions without can be read.")
    return found


def bert_weights(weights: Weights, architecture: str) -> Weights:
    """Renames a ModernBERT's tensors to a BERT's, and cuts those that hold several apart.

    `architecture` is the name of the class, which says what the head is for. Raises `UserError` if
    a tensor of the encoder is unknown.
    """
    modules = _modules(architecture.rpartition("For")[2])
    tensors: dict[str, np.ndarray] = {}
    shards = {}
    for name, array in weights.tensors.items():
        whole = name.startswith(("model.", "head.", "decoder.", "classifier."))
        module, _, leaf = (name if whole else f"model.{name}").rpartition(".")
        template, number = _template(module)
        ours = modules.get(template, (template,))
        if template.startswith("model.") and template not in modules:
            reason = f"the tensor {name} is not part of a ModernBERT"
            remedy = "put the config.json of these weights beside them"
            raise UserError(f"{weights.where(name)}: {reason}; {remedy}.")
        parts = [array] if len(array) % len(ours) else np.split(array, len(ours))
        for own, part in zip(ours, parts, strict=False):
            tensors[f"{own.format(number)}.{leaf}"] = part
            shards[f"{own.format(number)}.{leaf}"] = weights.where(name)
    return Weights(weights.path, tensors, shards)


def _modules(head: str) -> dict[str, tuple[str, ...]]:
    """Returns `_MODULES` with those of the head of a class."""
    before, classifier = _HEADS.get(head, ("head", "classifier"))
    own = {"head.dense": (f"{before}.dense",), "head.norm": (f"{before}.LayerNorm",)}
    return {**_MODULES, **own, **({"classifier": (classifier,)} if classifier else {})}


def _template(module: str) -> tuple[str, str]:
    """Returns the name of a module with {} for the number of its layer, and that number."""
    found = _NUMBER.search(module)
    return _NUMBER.sub("{}", module, 1), found[0] if found else ""


def tensors(bert: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Returns a BERT's tensors with the names and shapes of a ModernBERT's class for a task."""
    head = ARCHITECTURES[kind].removeprefix("BertFor")
    modules = _modules(head if head in _HEADS else "SequenceClassification")
    theirs = {own: name for name, several in modules.items() for own in several}
    order = {own: at for at, own in enumerate(theirs)}  # queries precede keys and values
    split = []
    for name, array in bert.items():
        module, _, leaf = name.rpartition(".")
        module = "cls.predictions.decoder" if module == "cls.predictions" else module
        split.append((*_template(module), leaf, array))
    found: dict[str, list[np.ndarray]] = {}
    for template, number, leaf, array in sorted(split, key=lambda each: order[each[0]]):
        found.setdefault(f"{theirs[template].format(number)}.{leaf}", []).append(array)
    whole = {name: np.concatenate(arrays) for name, arrays in found.items()}
    if kind in ("encoder", "sentence_extraction"):
        whole = {name.removeprefix("model."): array for name, array in whole.items()}
    return whole


def unlike(config: BertConfig) -> str:
    """Returns the options of a shape that no ModernBERT has, as words; empty if there are none."""
    pairs = {name: (getattr(config, name), wanted) for name, wanted in _SAME.items()}
    return ", ".join(
        f"{name} {here!r} for {there!r}" for name, (here, there) in pairs.items() if here != there
    )


def config_json(config: BertConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the fields of config.json that describe the shape."""
    depth, dropout = config.num_hidden_layers, config.hidden_dropout_prob
    act = _ACTS.get(config.hidden_act, config.hidden_act)
    local = [config.is_local(layer) for layer in range(depth)]
    given = config.classifier_dropout
    bases = {name: getattr(config, name) for name in _TYPES.values()}
    return {
        "model_type": "modernbert",
        **{name: getattr(config, name) for name in _EQUAL},
        **{theirs: getattr(config, ours) for ours, theirs in _NAMES.items()},
        "hidden_activation": act,
        "classifier_activation": act,
        "embedding_dropout": dropout,
        "classifier_dropout": dropout if given is None else given,
        "decoder_bias": True,
        "local_attention": config.local_attention or _DEFAULTS["local_attention"],
        # Versions of transformers read the layers and the bases from one of two entries each.
        "global_attn_every_n_layers": config.global_attn_every_n_layers if any(local) else 1,
        "layer_types": ["sliding_attention" if each else "full_attention" for each in local],
        **bases,
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": bases[base]}
            for name, base in _TYPES.items()
        },
        **{f"{n}_token_id": getattr(tokenizer, f"{n}_id") for n in ("pad", "cls", "sep")},
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
        "tie_word_embeddings": True,
    }
