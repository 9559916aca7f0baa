"""The inputs on which two implementations are compared, and the reference outputs of the other one.

Live outputs come from Hugging Face's `transformers` in a separate process. Stored outputs are the
golden statistics in a file parity.json: the probe, and the shape, mean, standard deviation and a
sample of values of each output. Statistics that bertjax made itself prove nothing and are refused.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.config import read_json_object
from bertjax.convert import transformers_outputs
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.interop.huggingface import Pretrained

GOLDEN = "parity.json"
TEXTS = (
    "The quick Brown fox jumps over THE lazy dog.",
    "Élan vital, naïve café; São Paulo, Ångström.",
    "Don't split 3.14 or e-mail (too often)!",
    "東京 and 北京大学 are places.",
)
"""Texts whose ids show how a tokenizer treats case, accents, punctuation and CJK characters."""

_FORMAT = 1
_SAMPLE = 512
_TIMEOUT_MINUTES = 30
_PROBE_LENGTH = 37
_PROBE_KEYS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of an output, and its values at some positions."""

    shape: tuple[int, ...]
    mean: float
    std: float
    positions: np.ndarray
    """int [K]: flat indices, increasing."""
    values: np.ndarray
    """float32 [K]: the output at these indices."""

    @classmethod
    def of(cls, output: np.ndarray) -> "Statistics":
        """Computes the statistics of an output and keeps all its values."""
        mean, std = output.mean(dtype=np.float64), output.std(dtype=np.float64)
        values = output.reshape(-1).astype(np.float32)
        return cls(output.shape, float(mean), float(std), np.arange(values.size), values)

    def sample(self) -> "Statistics":
        """Keeps at most 512 values, at positions that depend only on the number of values."""
        size = self.values.size
        kept = np.random.default_rng(size).choice(size, min(size, _SAMPLE), replace=False)
        kept.sort()
        return dataclasses.replace(self, positions=self.positions[kept], values=self.values[kept])


@dataclasses.dataclass(frozen=True)
class Reference:
    """Outputs of another implementation."""

    generator: str
    """Name of the implementation, such as "transformers"."""
    versions: dict[str, str]
    """Versions of its libraries."""
    architecture: str
    """Class name in config.json, such as "BertForPreTraining"."""
    probe: dict[str, np.ndarray]
    """input_ids, attention_mask, token_type_ids [B, T] int32."""
    outputs: dict[str, Statistics]
    """last_hidden_state [B, T, D] and, if the model has them, pooled [B, D], mlm_logits [B, T, V],
    nsp_logits [B, 2] and logits of any other head. Values at padding are 0."""
    texts: tuple[str, ...] = ()
    """Texts for the tokenizer."""
    ids: list[list[int]] | None = None
    """Ids of each text; None without a tokenizer."""

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.architecture} of {versions or self.generator}"


def make_probe(model: Pretrained) -> dict[str, np.ndarray]:
    """Makes rows [4, T] int32 of different lengths, with ids from a model's whole vocabulary.

    The second half of each row has token type 1. The longest row is wider than a window of
    attention. The rows depend on the shape and the tokenizer.
    """
    config, tokenizer = model.bert_config("`verify`"), model.tokenizer
    rng = np.random.default_rng(0)
    width = min(max(_PROBE_LENGTH, config.local_attention), config.max_position_embeddings)
    lengths = (width, max(1, width - 4), max(1, width // 3), min(3, width))
    probe = {name: np.zeros((len(lengths), width), np.int32) for name in _PROBE_KEYS}
    probe["input_ids"][:] = tokenizer.pad_id
    for row, length in enumerate(lengths):
        middle = length // 2
        ids = rng.integers(0, min(tokenizer.vocab_size, config.vocab_size), length)
        ids[ids == tokenizer.pad_id] = tokenizer.mask_id  # RoBERTa does not count [PAD]'s positions
        ids[0], ids[middle], ids[-1] = tokenizer.cls_id, tokenizer.sep_id, tokenizer.sep_id
        probe["input_ids"][row, :length] = ids
        probe["attention_mask"][row, :length] = 1
        probe["token_type_ids"][row, middle + 1 : length] = min(
            1, max(0, config.type_vocab_size - 1)
        )
    return probe


def without_padding(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sets an output [B, T, ...] to 0 at padding, where implementations may differ."""
    if output.ndim == 3 and output.shape[:2] == mask.shape:
        return output * mask[..., None]
    return output


def from_transformers(source: epath.Path, probe: dict[str, np.ndarray]) -> Reference | None:
    """Computes the outputs of `transformers` for a local directory in Hugging Face's layout.

    Returns None if transformers or torch is not installed. Raises `UserError` if transformers
    can't read the model.
    """
    request = {"probe": {name: rows.tolist() for name, rows in probe.items()}, "texts": TEXTS}
    with tempfile.TemporaryDirectory(prefix="bertjax-parity-") as directory:
        folder = epath.Path(directory)
        (folder / "request.json").write_text(json.dumps(request))
        try:
            done = subprocess.run(
                # With -P, modules beside the program can't shadow others.
                [sys.executable, "-P", transformers_outputs.__file__, str(source), directory],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60 * _TIMEOUT_MINUTES,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{source}: transformers gave no answer in {_TIMEOUT_MINUTES} minutes."
            ) from None
        if done.returncode == transformers_outputs.NOT_INSTALLED:
            return None
        if done.returncode == transformers_outputs.NOT_READABLE:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise UserError(f"{source}: transformers can't read it ({last}).")
        if done.returncode:
            raise RuntimeError(f"transformers failed on {source}: {done.stderr[-3000:]}")
        about = json.loads((folder / "about.json").read_text())
        with np.load(str(folder / "outputs.npz"), allow_pickle=False) as arrays:
            outputs = {
                name: Statistics.of(without_padding(arrays[name], probe["attention_mask"]))
                for name in arrays.files
            }
    return Reference(**about, probe=probe, outputs=outputs, texts=TEXTS)


def write_golden(path: epath.Path, reference: Reference) -> None:
    """Writes a reference as golden statistics, with a few hundred values of each output."""
    outputs = {name: output.sample() for name, output in reference.outputs.items()}
    fields = dataclasses.asdict(dataclasses.replace(reference, outputs=outputs))
    text = json.dumps({"format": _FORMAT, **fields}, default=np.ndarray.tolist)
    write_atomically(path, text.encode() + b"\n")


def read_golden(path: epath.Path) -> Reference:
    """Reads golden statistics; raises `UserError` if they are damaged or bertjax made them."""
    fields = read_json_object(path)
    try:
        reference = _reference(fields)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UserError(
            f"{path}: not golden statistics of a model; write them again, or delete the file."
        ) from None
    if "bertjax" in reference.generator.lower():
        raise UserError(
            f"{path}: was made by {reference.generator}, so agreement would prove nothing; make it "
            "with another implementation."
        )
    return reference


def _reference(fields: Mapping[str, Any]) -> Reference:
    probe = {name: _array(fields["probe"][name], np.int32) for name in _PROBE_KEYS}
    outputs = {name: _statistics(output) for name, output in fields["outputs"].items()}
    is_known = fields["format"] == _FORMAT and isinstance(fields["generator"], str)
    is_rows = len({rows.shape for rows in probe.values()}) == 1 and probe["input_ids"].ndim == 2
    if not (is_known and is_rows and "last_hidden_state" in outputs):
        raise ValueError
    ids = fields["ids"]
    return Reference(
        generator=fields["generator"],
        versions={str(name): str(version) for name, version in fields["versions"].items()},
        architecture=str(fields["architecture"]),
        probe=probe,
        outputs=outputs,
        texts=tuple(map(str, fields["texts"])),
        ids=None if ids is None else [_array(row, np.int32).tolist() for row in ids],
    )


def _statistics(fields: Mapping[str, Any]) -> Statistics:
    shape = tuple(_array(fields["shape"], np.int64).tolist())
    positions, values = _array(fields["positions"], np.int64), _array(fields["values"], np.float32)
    inside = positions.size and positions.min() >= 0 and positions.max() < int(np.prod(shape))
    if positions.shape != values.shape or positions.ndim != 1 or not inside:
        raise ValueError
    return Statistics(shape, float(fields["mean"]), float(fields["std"]), positions, values)


def _array(rows: Sequence[Any], kind: type) -> np.ndarray:
    """Returns an array of numbers; raises ValueError or TypeError for any other JSON."""
    array = np.asarray(rows)
    if array.dtype.kind not in "iuf":
        raise ValueError
    return array.astype(kind)
