"""Parity certificates: compares a model's outputs with those of its source's implementation.

If they differ, the known mistakes (`variants.py`) are tried one at a time, and the certificate
names the one that explains the difference.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from etils import epath

import bertjax
from bertjax.config import BertConfig, Execution
from bertjax.convert import reference as references
from bertjax.convert import variants
from bertjax.convert.reference import GOLDEN, Reference, Statistics
from bertjax.errors import UserError
from bertjax.files import is_local, location
from bertjax.interop.huggingface import Pretrained
from bertjax.interop.model_directory import CONFIG
from bertjax.model import bert
from bertjax.model.heads import TASK_PARTS
from bertjax.text.tokenizer import Tokenizer

TOLERANCE = 2e-5
"""Maximum difference of an output, relative to its largest value. On all-MiniLM-L6-v2, PyTorch's
order of summation in float32 gives 1e-6; a LayerNorm epsilon of 1e-6 for 1e-12 gives 5e-5."""

# Highest precision, because a TPU would round products to bfloat16. Only one layer is compiled.
_EXECUTION = Execution(precision="highest", scan_layers=True)
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The result of comparing a converted model with its source."""

    agrees: bool
    """Whether every output is within `tolerance` and every text has the same ids."""
    source: str
    """Path of the source."""
    compared_with: str
    """The implementation that made the reference outputs, with versions."""
    stored: bool
    """Whether the reference outputs are stored statistics instead of a live implementation's."""
    differences: dict[str, float]
    """Difference of each output relative to its largest value; inf if the shapes differ."""
    not_compared: tuple[str, ...]
    """Outputs of the source that this model does not have."""
    texts_that_differ: tuple[str, ...]
    """Texts with different ids."""
    causes: tuple[str, ...]
    """The likely causes, as clauses; empty if none is known."""
    reference: Reference = dataclasses.field(repr=False, compare=False)
    """The reference outputs."""
    tolerance: float = TOLERANCE
    versions: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"bertjax": bertjax.__version__, "jax": jax.__version__}
    )
    """Versions of this implementation."""

    def verdict(self) -> str:
        """Returns the result in one sentence."""
        with_what = f"{self.compared_with}{' (stored statistics)' if self.stored else ''}"
        left_out = ""
        if self.not_compared:
            lacking = ", ".join(self.not_compared)
            left_out = f"; not compared, because this model lacks it: {lacking}"
        if self.agrees:
            name, largest = max(self.differences.items(), key=lambda item: item[1])
            return (
                f"Agrees with {with_what}: {', '.join(self.differences)} differ by at most "
                f"{largest:.1e} of their largest value ({name}; the tolerance is "
                f"{self.tolerance:g}){left_out}."
            )
        wrong = []
        for name, difference in self.differences.items():
            if np.isinf(difference):
                wrong.append(f"{name} in shape or finiteness")
            elif difference > self.tolerance:
                wrong.append(f"{name} by {difference:.1e} of its largest value")
        if self.texts_that_differ:
            wrong.append(f"the ids of {self.texts_that_differ[0]!r}")
        cause = "none of the known mistakes explains it"
        if self.causes:
            cause = f"the likely cause: {'; '.join(self.causes)}"
        return f"Differs from {with_what}: {', '.join(wrong)}{left_out}; {cause}."

    def to_json(self) -> str:
        """Returns the certificate as a JSON object; a difference that is not finite is null."""
        fields = {"verdict": self.verdict(), **dataclasses.asdict(self)}
        del fields["reference"]
        for name, difference in self.differences.items():
            fields["differences"][name] = None if np.isinf(difference) else difference
        return json.dumps(fields, indent=2, ensure_ascii=False)


def verify(model: Pretrained, source: epath.PathLike, log: Callable[[str], None]) -> Certificate:
    """Compares a model's outputs with those of its source's implementation.

    For a source in Hugging Face's layout, transformers computes the reference outputs in a separate
    process if it is installed. Otherwise they are read from parity.json beside the source.

    `source` is the directory that the model was converted from, or a file in it. `log` takes one
    line at a time.

    Raises:
        UserError: there are no reference outputs, or the golden statistics are damaged, belong to
            another vocabulary, or were made by bertjax.
    """
    source, rows = location(source), model.bert_config("`verify`").vocab_size
    reference, stored = _find_reference(model, source, log)
    log(f"Comparing with {reference}{' (stored statistics)' if stored else ''}.")
    ids = reference.probe["input_ids"]
    if ids.min() < 0 or ids.max() >= rows:
        raise UserError(
            f"{source}: the stored statistics belong to a larger vocabulary than the model's "
            f"{rows} tokens; make them again from the model's own source."
        )
    ours = model_outputs(model, reference.probe)
    found = _differences(ours, reference)
    texts = _texts_that_differ(model.tokenizer, reference)
    causes = []
    if is_wrong := max(found.values()) > TOLERANCE:
        log("The outputs differ: trying the known causes, one at a time.")
        causes += _causes(model, reference, ours, found)
    if texts:
        tokenizers = variants.tokenizer_variants(model.tokenizer)
        fitting = (cause for cause, other in tokenizers if not _texts_that_differ(other, reference))
        causes += itertools.islice(fitting, 1)
    return Certificate(
        agrees=not is_wrong and not texts,
        source=str(source),
        compared_with=str(reference),
        stored=stored,
        differences=found,
        not_compared=tuple(name for name in reference.outputs if name not in ours),
        texts_that_differ=texts,
        causes=tuple(causes),
        reference=reference,
    )


def model_outputs(model: Pretrained, probe: Mapping[str, np.ndarray]) -> Outputs:
    """Returns a model's outputs for a probe, float32, 0 at padding; see `Reference.outputs`."""
    found = _program(model.config, model.kind)(model.params, dict(probe))
    return {
        name: references.without_padding(np.asarray(output), probe["attention_mask"])
        for name, output in found.items()
    }


@functools.lru_cache(maxsize=8)
def _program(config: BertConfig, kind: str) -> Callable:
    """Returns a compiled program, which is shared by variants that differ only in weights."""

    def outputs(params: bert.Params, probe: dict[str, jax.Array]) -> dict[str, jax.Array]:
        encoded = bert.encode(params, probe, config, execution=_EXECUTION)
        task_logits = functools.partial(bert.task_logits, execution=_EXECUTION)
        found = {"last_hidden_state": encoded.last_hidden_state}
        if encoded.pooler_output is not None:
            found["pooled"] = encoded.pooled
            if "nsp" in params:
                found["nsp_logits"] = task_logits(params, probe, config, "next_sentence")
        if "mlm" in params:
            found["mlm_logits"] = bert.mlm_logits(params, probe, config, execution=_EXECUTION)
        if {"classifier", "qa_outputs"}.intersection(TASK_PARTS[kind]):
            if kind == "multiple_choice":  # [B, C, T] with two choices per question
                probe = {name: rows.reshape(-1, 2, rows.shape[-1]) for name, rows in probe.items()}
            found["logits"] = task_logits(params, probe, config, kind)
        return found

    return jax.jit(outputs)


def _find_reference(
    model: Pretrained, source: epath.Path, log: Callable[[str], None]
) -> tuple[Reference, bool]:
    """Returns the live outputs if possible, else the stored ones; and whether they are stored."""
    directory = source if source.is_dir() else source.parent
    reason = "transformers reads only local directories with safetensors or pytorch_model.bin"
    local = [place for place in (directory / "export", directory) if _is_readable(place)]
    if local:
        reason = "transformers and torch are not installed (pip install transformers torch)"
        try:
            live = references.from_transformers(local[0], references.make_probe(model))
            if live is not None:
                return live, False
        except UserError as error:
            reason = str(error).rstrip(".")
            log(f"{reason}: looking for golden statistics.")
    if (directory / GOLDEN).is_file():
        return references.read_golden(directory / GOLDEN), True
    raise UserError(
        f"{source}: there is nothing to compare the model with: {reason}, and there are no golden "
        f"statistics ({GOLDEN}) beside it."
    )


def _is_readable(directory: epath.Path) -> bool:
    """Whether a directory has files that transformers reads."""
    if not is_local(directory) or not (directory / CONFIG).is_file():
        return False
    return any(directory.glob("*.safetensors")) or any(directory.glob("pytorch_model*.bin"))


def _differences(ours: Outputs, reference: Reference) -> dict[str, float]:
    return {
        name: _difference(ours[name], theirs)
        for name, theirs in reference.outputs.items()
        if name in ours
    }


def _difference(ours: np.ndarray, theirs: Statistics) -> float:
    """Returns the largest difference of values, mean or std, relative to the largest value."""
    if ours.shape != theirs.shape:
        return float("inf")
    values = ours.reshape(-1)[theirs.positions].astype(np.float64)
    mean, std = ours.mean(dtype=np.float64), ours.std(dtype=np.float64)
    largest = [np.abs(values - theirs.values).max(), abs(mean - theirs.mean), abs(std - theirs.std)]
    scale = max(float(np.abs(theirs.values).max()), float(np.finfo(np.float32).tiny))
    relative = float(np.max(largest)) / scale  # NaN if any of the three is
    return relative if np.isfinite(relative) else float("inf")


def _causes(
    model: Pretrained, reference: Reference, ours: Outputs, found: Mapping[str, float]
) -> Iterator[str]:
    """Yields the known cause that explains every output, or else what their pattern suggests."""
    wrong = [name for name, difference in found.items() if difference > TOLERANCE]
    orders = {name: _order_cause(ours[name], reference.outputs[name], name) for name in wrong}
    if all(orders.values()):
        yield from filter(None, orders.values())
        return
    if any(np.isinf(difference) for difference in found.values()):
        return
    tried = []
    for cause, variant in variants.variants(model):
        outputs = model_outputs(variant, reference.probe)
        tried.append((max(_differences(outputs, reference).values()), cause))
    largest, cause = min(tried)
    if largest <= TOLERANCE:
        yield cause
    elif wrong == ["mlm_logits"]:
        yield "the masked-LM decoder is not tied to the word embeddings there"
    elif variants.has_plain_norms(model):
        yield "every LayerNorm here has gamma 1 and beta 0, as if they had not been read"


def _order_cause(ours: np.ndarray, theirs: Statistics, name: str) -> str | None:
    if name not in ("logits", "nsp_logits") or ours.shape != theirs.shape:
        return None
    order = variants.label_order(ours, theirs.positions, theirs.values)
    if order is None or _difference(ours[..., order], theirs) > TOLERANCE:
        return None
    return f"the labels of {name} are in another order (theirs, in order, are {order} here)"


def _texts_that_differ(tokenizer: Tokenizer, reference: Reference) -> tuple[str, ...]:
    pairs = zip(reference.texts, reference.ids or (), strict=False)
    return tuple(text for text, ids in pairs if tokenizer.encode(text).ids != ids)
