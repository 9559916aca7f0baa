"""The parity certificate: a model's outputs against those of the implementation it comes from.

Where they differ, the known mistakes (`variants.py`) are tried one at a time, and the one that
makes the difference vanish is named.
"""

import dataclasses
import functools
import json
import sys
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
from bertjax.interop.huggingface import CONFIG, Pretrained
from bertjax.model import bert
from bertjax.model.heads import TASK_PARTS

TOLERANCE = 2e-5
"""Largest difference of an output over its largest value. On all-MiniLM-L6-v2, float32 in PyTorch's
order of summation gives 1e-6, and an epsilon of 1e-6 for 1e-12 in LayerNorm 5e-5."""

# The same programs on a TPU, whose products would round to bfloat16; one layer is compiled.
_EXECUTION = Execution(precision="highest", scan_layers=True)
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a model is the one it was made from, and how that is known."""

    agrees: bool
    """Every output within `tolerance`, and the same ids for every text."""
    source: str
    """Where the model came from."""
    compared_with: str
    """Whose outputs they were compared with, and versions."""
    stored: bool
    """Whether these were golden statistics, not a live implementation."""
    differences: dict[str, float]
    """Of every output: its largest difference over its largest value; inf for another shape."""
    not_compared: tuple[str, ...]
    """Outputs that the source has and this model has not."""
    texts_that_differ: tuple[str, ...]
    """Texts to which the tokenizers give other ids."""
    causes: tuple[str, ...]
    """The likely causes, as clauses; empty where none is known."""
    reference: Reference = dataclasses.field(repr=False, compare=False)
    """What they were compared with."""
    tolerance: float = TOLERANCE
    versions: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"bertjax": bertjax.__version__, "jax": jax.__version__}
    )
    """Of this side."""

    def verdict(self) -> str:
        """The result in one sentence."""
        name, largest = max(self.differences.items(), key=lambda item: item[1])
        with_what = f"{self.compared_with}{' (stored statistics)' if self.stored else ''}"
        if self.agrees:
            return (
                f"Agrees with {with_what}: {', '.join(self.differences)} differ by at most "
                f"{largest:.1e} of their largest value ({name}; allowed: {self.tolerance:g})"
                f"{self._left_out()}."
            )
        wrong = [
            f"{name} by {difference:.1e} of its largest value" if np.isfinite(difference)
            else f"{name} in its shape, or as it isn't finite"
            for name, difference in self.differences.items()
            if difference > self.tolerance
        ]  # fmt: skip
        if self.texts_that_differ:
            wrong.append(f"the ids of {self.texts_that_differ[0]!r}")
        cause = "none of the known mistakes explains it"
        if self.causes:
            cause = f"the likely cause: {'; '.join(self.causes)}"
        return f"Differs from {with_what}: {', '.join(wrong)}{self._left_out()}; {cause}."

    def _left_out(self) -> str:
        if not self.not_compared:
            return ""
        return f"; not compared, as this model has none: {', '.join(self.not_compared)}"

    def to_json(self) -> str:
        """All of it as one JSON object; a difference that is no number is null."""
        fields = dataclasses.asdict(self)
        del fields["reference"]
        fields["differences"] = {
            name: difference if np.isfinite(difference) else None
            for name, difference in self.differences.items()
        }
        return json.dumps({"verdict": self.verdict(), **fields}, indent=2, ensure_ascii=False)


def verify(
    model: Pretrained,
    source: epath.PathLike,
    log: Callable[[str], None],
    *,
    golden: epath.PathLike | None = None,
    interpreter: str = sys.executable,
) -> Certificate:
    """Compares a model's outputs with those of its source's implementation.

    For a source in Hugging Face's layout this is transformers, where it is installed, in a process
    of its own. Otherwise golden statistics are read: `golden`, or parity.json beside the source.

    Args:
        model: as it was converted.
        source: the directory, or a file in it, that it was converted from.
        log: is given one line at a time about what happens.
        golden: another file of golden statistics, read where it exists.
        interpreter: the Python that may have transformers and torch.

    Raises:
        UserError: there is nothing to compare with, or the golden statistics are damaged, of
            another vocabulary, or bertjax's own.
    """
    source = location(source)
    reference, stored = _find_reference(model, source, log, golden, interpreter)
    log(f"Comparing with {reference}{' (stored statistics)' if stored else ''}.")
    ids = reference.probe["input_ids"]
    if ids.min() < 0 or ids.max() >= model.config.vocab_size:
        raise UserError(
            f"{source}: the stored statistics are of a larger vocabulary than this model's "
            f"{model.config.vocab_size} tokens; make them again from the model's own source."
        )
    ours = model_outputs(model, reference.probe)
    found = _differences(ours, reference)
    texts = _texts_that_differ(model, reference)
    causes = []
    if max(found.values()) > TOLERANCE:
        log("The outputs differ: trying the known causes, one at a time.")
        causes += _causes(model, reference, ours, found)
    if texts:
        causes += _tokenizer_causes(model, reference)
    return Certificate(
        agrees=max(found.values()) <= TOLERANCE and not texts,
        source=str(source),
        compared_with=str(reference),
        stored=stored,
        differences=found,
        not_compared=tuple(name for name in reference.outputs if name not in ours),
        texts_that_differ=texts,
        causes=tuple(causes),
        reference=reference,
    )


def probe_of(model: Pretrained) -> dict[str, np.ndarray]:
    """The batch that a model is tried with: `reference.make_probe` for its shape."""
    tokenizer, config = model.tokenizer, model.config
    return references.make_probe(
        min(tokenizer.vocab_size, config.vocab_size),
        config.max_position_embeddings,
        config.type_vocab_size,
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.pad_id,
    )


def model_outputs(model: Pretrained, probe: Mapping[str, np.ndarray]) -> Outputs:
    """A model's outputs for a probe by the names of `Reference.outputs`, float32, 0 at padding."""
    found = _program(model.config, model.kind)(model.params, dict(probe))
    return {
        name: references.without_padding(np.asarray(output), probe["attention_mask"])
        for name, output in found.items()
    }


@functools.lru_cache(maxsize=8)
def _program(config: BertConfig, kind: str) -> Callable:
    """Compiled once for all the variants that differ in their weights alone."""

    def outputs(params: bert.Params, probe: dict[str, jax.Array]) -> dict[str, jax.Array]:
        encoded = bert.encode(params, probe, config, execution=_EXECUTION)
        found = {"last_hidden_state": encoded.last_hidden_state}
        if encoded.pooled is not None:
            found["pooled"] = encoded.pooled
            if "nsp" in params:
                found["nsp_logits"] = bert.task_logits(
                    params, probe, config, "next_sentence", execution=_EXECUTION
                )
        if "mlm" in params:
            found["mlm_logits"] = bert.mlm_logits(params, probe, config, execution=_EXECUTION)
        if {"classifier", "qa_outputs"}.intersection(TASK_PARTS[kind]):
            if kind == "multiple_choice":  # [B, C, T]: two choices of each question
                probe = {name: rows.reshape(-1, 2, rows.shape[-1]) for name, rows in probe.items()}
            found["logits"] = bert.task_logits(params, probe, config, kind, execution=_EXECUTION)
        return found

    return jax.jit(outputs)


def _find_reference(
    model: Pretrained,
    source: epath.Path,
    log: Callable[[str], None],
    golden: epath.PathLike | None,
    interpreter: str,
) -> tuple[Reference, bool]:
    """The live implementation's outputs where there is one, else the stored ones; and which."""
    directory = source if source.is_dir() else source.parent
    reason = "transformers reads local directories with safetensors or pytorch_model.bin alone"
    for place in (directory / "export", directory):
        if is_local(place) and _is_hugging_face(place):
            try:
                live = references.from_transformers(place, probe_of(model), interpreter)
            except UserError as error:
                reason = str(error).rstrip(".")
                log(f"{reason}: looking for golden statistics.")
                break
            if live is not None:
                return live, False
            reason = "transformers and torch are not installed (pip install transformers torch)"
            break
    candidates = [epath.Path(golden)] if golden is not None else []
    for path in (*candidates, directory / GOLDEN):
        if path.is_file():
            return references.read_golden(path), True
    raise UserError(
        f"{source}: there is nothing to compare the model with: {reason}, and no golden statistics "
        f"({GOLDEN}) lie beside it."
    )


def _is_hugging_face(directory: epath.Path) -> bool:
    weights = [*directory.glob("*.safetensors"), *directory.glob("pytorch_model*.bin")]
    return (directory / CONFIG).is_file() and bool(weights)


def _differences(ours: Outputs, reference: Reference) -> dict[str, float]:
    return {
        name: _difference(ours[name], theirs)
        for name, theirs in reference.outputs.items()
        if name in ours
    }


def _difference(ours: np.ndarray, theirs: Statistics) -> float:
    """The largest difference in values, mean or deviation over their largest value."""
    if ours.shape != theirs.shape:
        return float("inf")
    values = np.abs(ours.reshape(-1)[theirs.places].astype(np.float64) - theirs.values).max()
    mean = abs(ours.mean(dtype=np.float64) - theirs.mean)
    std = abs(ours.std(dtype=np.float64) - theirs.std)
    scale = max(float(np.abs(theirs.values).max()), float(np.finfo(np.float32).tiny))
    relative = max(float(values), float(mean), float(std)) / scale
    return relative if np.isfinite(relative) else float("inf")


def _causes(
    model: Pretrained, reference: Reference, ours: Outputs, found: Mapping[str, float]
) -> Iterator[str]:
    """The one known cause that explains every output; else what the pattern of them suggests."""
    wrong = [name for name, difference in found.items() if difference > TOLERANCE]
    orders = {name: _order_cause(ours[name], reference.outputs[name], name) for name in wrong}
    if all(orders.values()):
        yield from (cause for cause in orders.values() if cause is not None)
        return
    if any(np.isinf(difference) for difference in found.values()):
        return
    tried = []
    for variant in variants.variants(model):
        outputs = model_outputs(variant.model, reference.probe)
        largest = max(_differences(outputs, reference).values())
        tried.append((largest, variant.cause))
    largest, cause = min(tried)
    if largest <= TOLERANCE:
        yield cause
    elif wrong == ["mlm_logits"]:
        yield "the masked-LM decoder is not tied to the word embeddings there"
    elif variants.has_plain_norms(model):
        yield "LayerNorm's gamma and beta are 1 and 0 throughout here, as if they were not read"


def _order_cause(ours: np.ndarray, theirs: Statistics, name: str) -> str | None:
    if name not in ("logits", "nsp_logits") or ours.shape != theirs.shape:
        return None
    order = variants.label_order(ours, theirs.places, theirs.values)
    if order is None or _difference(ours[..., order], theirs) > TOLERANCE:
        return None
    return f"the labels of {name} are in another order (theirs in turn are {order} here)"


def _texts_that_differ(model: Pretrained, reference: Reference) -> tuple[str, ...]:
    if reference.ids is None:
        return ()
    pairs = zip(reference.texts, reference.ids, strict=False)
    return tuple(text for text, ids in pairs if model.tokenizer.encode(text).ids != ids)


def _tokenizer_causes(model: Pretrained, reference: Reference) -> Iterator[str]:
    for cause, tokenizer in variants.tokenizer_variants(model.tokenizer):
        if not _texts_that_differ(dataclasses.replace(model, tokenizer=tokenizer), reference):
            yield cause
            return
