"""Computes a BERT's outputs with Hugging Face's `transformers`, in a process of its own.

    python transformers_outputs.py SOURCE DIRECTORY

SOURCE is a local directory in Hugging Face's layout. DIRECTORY has request.json: {"probe":
{input_ids, attention_mask, token_type_ids: lists [B, T]}, "texts": [...]}, and gets outputs.npz and
about.json. The program imports nothing from bertjax, so that bertjax loads neither transformers nor
torch. `reference.py` starts it.

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

# For each output, what the names of the tensors that compute it contain: those of BERT, RoBERTa
# (lm_head), DistilBERT (vocab_) and ModernBERT (head, decoder). transformers draws a part at random
# if the file lacks it.
_NEEDS = {
    "last_hidden_state": (),
    "pooled": ("pooler",),
    "mlm_logits": ("cls.predictions", "lm_head", "vocab_", "head.", "decoder."),
    "nsp_logits": ("pooler", "cls.seq_relationship"),
    "logits": ("pooler", "classifier", "qa_outputs", "head."),
}
_PARTS = {part for parts in _NEEDS.values() for part in parts}
_NAMES = {"MaskedLM": "mlm_logits", "NextSentencePrediction": "nsp_logits"}


def main(source: str, directory: str) -> int:
    """Writes outputs.npz and about.json; returns the exit code."""
    folder = pathlib.Path(directory)
    asked = json.loads((folder / "request.json").read_text())
    try:
        library = importlib.import_module("transformers")
        torch_version = importlib.metadata.version("torch")
    except ImportError as error:
        return _fail(NOT_INSTALLED, error)
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
    known: Any = {name: outputs[name] for name in outputs if missing.isdisjoint(_NEEDS[name])}
    np.savez(folder / "outputs.npz", **known)
    about = {
        "generator": "transformers",
        "versions": {"transformers": library.__version__, "torch": torch_version},
        "architecture": architecture,
        "ids": ids,
    }
    (folder / "about.json").write_text(json.dumps(about))
    return 0


def _load(library: Any, source: str) -> tuple[Any, str, set[str]]:
    """Returns the model, its architecture, and the parts that its file lacks."""
    fields = json.loads(pathlib.Path(source, "config.json").read_text())
    # Files of 2019 have no model_type.
    config_type = library.AutoConfig if "model_type" in fields else library.BertConfig
    config = config_type.from_pretrained(source, local_files_only=True)
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
    head = architecture.rpartition("For")[2]
    if head == "MultipleChoice":  # [B, C, T] with two choices per question
        tensors = {name: rows.reshape(-1, 2, rows.shape[-1]) for name, rows in tensors.items()}
    if model is not model.base_model:
        top = model(**tensors)
        if head == "PreTraining":
            found["mlm_logits"] = top.prediction_logits
            found["nsp_logits"] = top.seq_relationship_logits
        elif head == "QuestionAnswering":
            found["logits"] = np.stack([top.start_logits, top.end_logits], axis=-1)
        else:
            found[_NAMES.get(head, "logits")] = top.logits
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


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
