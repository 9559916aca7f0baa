"""Computes a BERT's outputs with Hugging Face's `transformers`, in a process of its own.

    python transformers_outputs.py SOURCE REQUEST OUTPUT

SOURCE is a local directory in Hugging Face's layout. REQUEST is a JSON file: {"probe": {input_ids,
attention_mask, token_type_ids: lists [B, T]}, "texts": [...]}. The program writes outputs.npz and
about.json into the directory OUTPUT. It imports nothing from bertjax, so it runs in any interpreter
with transformers and torch, and neither is loaded by bertjax. `reference.py` starts it.

Exit codes: 3 if transformers or torch is not installed; 4 if transformers can't read the source.
"""

import importlib
import importlib.metadata
import inspect
import json
import pathlib
import sys
from typing import Any

import numpy as np

NOT_INSTALLED, NOT_READABLE = 3, 4

_PARTS = ("pooler", "cls.predictions", "cls.seq_relationship", "classifier", "qa_outputs")
# The parts that compute each output. transformers draws a part at random if the file lacks it.
_NEEDS = {
    "last_hidden_state": (),
    "pooled": ("pooler",),
    "mlm_logits": ("cls.predictions",),
    "nsp_logits": ("pooler", "cls.seq_relationship"),
    "logits": ("pooler", "classifier", "qa_outputs"),
}


def main(source: str, request: str, output: str) -> int:
    """Writes outputs.npz and about.json; returns the exit code."""
    try:
        library = importlib.import_module("transformers")
        torch_version = importlib.metadata.version("torch")
    except ImportError as error:
        return _fail(NOT_INSTALLED, error)
    asked = json.loads(pathlib.Path(request).read_text())
    try:
        model, architecture, missing = _load(library, source)
        ids = _token_ids(library, source, asked["texts"])
    # transformers raises any of these for a configuration, a file or a tokenizer it can't read.
    except (
        *(OSError, ValueError, KeyError, RuntimeError),
        *(ImportError, TypeError, AttributeError),
    ) as error:
        return _fail(NOT_READABLE, error)
    outputs = _outputs(library, model, architecture, asked["probe"])
    known: dict[str, Any] = {
        name: array for name, array in outputs.items() if missing.isdisjoint(_NEEDS[name])
    }
    np.savez(pathlib.Path(output, "outputs.npz"), **known)
    about = {
        "generator": "transformers",
        "versions": {"transformers": library.__version__, "torch": torch_version},
        "architecture": architecture,
        "ids": ids,
    }
    pathlib.Path(output, "about.json").write_text(json.dumps(about))
    return 0


def _load(library: Any, source: str) -> tuple[Any, str, set[str]]:
    """Returns the model, its architecture, and the parts that its file lacks."""
    fields = json.loads(pathlib.Path(source, "config.json").read_text())
    any_config = (
        library.AutoConfig if "model_type" in fields else library.BertConfig
    )  # files of 2019
    config = any_config.from_pretrained(source, local_files_only=True)
    architecture = (config.architectures or ["BertModel"])[0]
    kind = getattr(library, architecture, None)
    if kind is None:
        raise ValueError(f"its architecture {architecture!r} is unknown to transformers")
    model, loading = kind.from_pretrained(
        source, local_files_only=True, attn_implementation="eager", output_loading_info=True
    )
    missing = {part for key in loading["missing_keys"] for part in _PARTS if part in key}
    if lost := [key for key in loading["missing_keys"] if not any(p in key for p in _PARTS)]:
        raise ValueError(f"it lacks the tensor {min(lost)}")
    return model.float().eval().requires_grad_(False), architecture, missing


def _outputs(
    library: Any, model: Any, architecture: str, probe: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Returns arrays by the names of bertjax's own outputs."""
    known = inspect.signature(model.base_model.forward).parameters
    probe = {name: rows for name, rows in probe.items() if name in known}
    tensors = dict(library.BatchEncoding(probe, tensor_type="pt"))
    base = model.base_model(**tensors)
    found = {
        "last_hidden_state": base.last_hidden_state,
        "pooled": getattr(base, "pooler_output", None),
    }
    if model is not model.base_model:
        if architecture.endswith("ForMultipleChoice"):  # [B, C, T] with two choices per question
            tensors = {name: rows.reshape(-1, 2, rows.shape[-1]) for name, rows in tensors.items()}
        found |= _head_outputs(model(**tensors), architecture)
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def _head_outputs(top: Any, architecture: str) -> dict[str, Any]:
    if architecture.endswith("ForPreTraining"):
        return {"mlm_logits": top.prediction_logits, "nsp_logits": top.seq_relationship_logits}
    if architecture.endswith("ForQuestionAnswering"):
        return {"logits": np.stack([top.start_logits, top.end_logits], axis=-1)}
    if architecture.endswith("ForMaskedLM"):
        return {"mlm_logits": top.logits}
    if architecture.endswith("ForNextSentencePrediction"):
        return {"nsp_logits": top.logits}
    return {"logits": top.logits}


def _token_ids(library: Any, source: str, texts: list[str]) -> list[list[int]] | None:
    """Returns the ids of the source's tokenizer; None if it has none that transformers reads."""
    if not any(pathlib.Path(source, name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        return None
    tokenizer = library.AutoTokenizer.from_pretrained(source, local_files_only=True)
    return tokenizer(texts)["input_ids"]


def _fail(code: int, error: Exception) -> int:
    sys.stderr.write(" ".join(str(error).split())[:300] + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
