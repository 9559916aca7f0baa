"""Reference outputs of another implementation, which a model's outputs are compared with.

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
_TIMEOUT_SECONDS = 1800
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
    def of(cls, output: np.ndarray, sample: int | None = None) -> "Statistics":
        """Computes the statistics of an output.

        Args:
            output: the output.
            sample: number of positions to keep, which depend only on the output's size; None keeps
                all.
        """
        positions = np.arange(output.size)
        if sample is not None and sample < output.size:
            rng = np.random.default_rng(output.size)
            positions = np.sort(rng.choice(output.size, sample, replace=False))
        values = output.reshape(-1)[positions].astype(np.float32)
        mean, std = output.mean(dtype=np.float64), output.std(dtype=np.float64)
        return cls(output.shape, float(mean), float(std), positions, values)


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


def make_probe(
    vocab_size: int, max_length: int, type_vocab_size: int, cls_id: int, sep_id: int, pad_id: int
) -> dict[str, np.ndarray]:
    """Makes rows [4, T] int32 of different lengths, with ids from the whole vocabulary.

    The second half of each row has token type 1. Equal arguments give equal rows.
    """
    rng = np.random.default_rng(0)
    width = min(_PROBE_LENGTH, max_length)
    lengths = (width, max(1, width - 4), max(1, width // 3), min(3, width))
    probe = {name: np.zeros((len(lengths), width), np.int32) for name in _PROBE_KEYS}
    probe["input_ids"][:] = pad_id
    for row, length in enumerate(lengths):
        middle = length // 2
        ids = rng.integers(0, vocab_size, length)
        ids[0], ids[middle], ids[-1] = cls_id, sep_id, sep_id
        probe["input_ids"][row, :length] = ids
        probe["attention_mask"][row, :length] = 1
        probe["token_type_ids"][row, middle + 1 : length] = min(1, type_vocab_size - 1)
    return probe


def without_padding(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sets an output [B, T, ...] to 0 at padding, where implementations may differ."""
    if output.ndim == 3 and output.shape[:2] == mask.shape:
        return output * mask[..., None]
    return output


def from_transformers(
    source: epath.Path, probe: Mapping[str, np.ndarray], interpreter: str = sys.executable
) -> Reference | None:
    """Computes the outputs of `transformers` for a model in Hugging Face's layout.

    Args:
        source: a local directory.
        probe: a result of `make_probe`.
        interpreter: the Python interpreter that may have transformers and torch.

    Returns:
        The outputs, or None if transformers or torch is not installed.

    Raises:
        UserError: transformers can't read the model.
    """
    request = {
        "probe": {name: np.asarray(rows).tolist() for name, rows in probe.items()},
        "texts": TEXTS,
    }
    with tempfile.TemporaryDirectory(prefix="bertjax-parity-") as directory:
        folder = epath.Path(directory)
        (folder / "request.json").write_text(json.dumps(request))
        # With -P, modules beside the program can't shadow others.
        command = [interpreter, "-P", transformers_outputs.__file__, str(source)]
        try:
            done = subprocess.run(
                [*command, str(folder / "request.json"), str(folder)],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{source}: transformers gave no answer in {_TIMEOUT_SECONDS // 60} minutes."
            ) from None
        if done.returncode == transformers_outputs.NOT_INSTALLED:
            return None
        last = (done.stderr.strip() or "it was killed").splitlines()[-1]
        if done.returncode == transformers_outputs.NOT_READABLE:
            raise UserError(f"{source}: transformers can't read it ({last}).")
        if done.returncode:
            raise RuntimeError(f"transformers failed on {source}: {done.stderr[-3000:]}")
        about = json.loads((folder / "about.json").read_text())
        with np.load(str(folder / "outputs.npz"), allow_pickle=False) as arrays:
            outputs = {name: arrays[name] for name in arrays.files}
    mask = np.asarray(probe["attention_mask"])
    return Reference(
        generator=about["generator"],
        versions=about["versions"],
        architecture=about["architecture"],
        probe=dict(probe),
        outputs={
            name: Statistics.of(without_padding(output, mask)) for name, output in outputs.items()
        },
        texts=TEXTS,
        ids=about["ids"],
    )


def write_golden(path: epath.Path, reference: Reference) -> None:
    """Writes a reference as golden statistics, with a few hundred values of each output.

    Raises:
        CannotWrite: the disk is full or permission is denied.
    """
    outputs = {}
    for name, output in reference.outputs.items():
        kept = Statistics.of(output.values, _SAMPLE)  # its positions index the known positions
        outputs[name] = {
            "shape": list(output.shape),
            "mean": output.mean,
            "std": output.std,
            "positions": output.positions[kept.positions].tolist(),
            "values": kept.values.tolist(),
        }
    fields = {
        "format": _FORMAT,
        "generator": reference.generator,
        "versions": reference.versions,
        "architecture": reference.architecture,
        "probe": {name: rows.tolist() for name, rows in reference.probe.items()},
        "outputs": outputs,
        "texts": list(reference.texts),
        "ids": reference.ids,
    }
    write_atomically(path, json.dumps(fields).encode() + b"\n")


def read_golden(path: epath.Path) -> Reference:
    """Reads golden statistics that `write_golden` wrote.

    Raises:
        UserError: the file is absent, is damaged, or was made by bertjax.
    """
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
    if fields["format"] != _FORMAT or not isinstance(fields["generator"], str):
        raise ValueError
    probe = {name: _array(fields["probe"][name], np.int32) for name in _PROBE_KEYS}
    if len({rows.shape for rows in probe.values()}) != 1 or probe["input_ids"].ndim != 2:
        raise ValueError
    outputs = {name: _statistics(output) for name, output in fields["outputs"].items()}
    if "last_hidden_state" not in outputs:
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
