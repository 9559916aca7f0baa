"""Writes the files beside it: `python tests/interop/golden/make_files.py`.

state_dict.bin, state_dict_legacy.bin: one state dict in both of torch.save's formats, with what it
should be read as in state_dict.npz. distilbert.npz: a DistilBERT's tensors, inputs and outputs. The
entry `made_by` of the .npz files names the versions. Needs torch and transformers, no bertjax.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
MADE_BY = f"torch {torch.__version__}, transformers {transformers.__version__}"


def state_dict():
    """Tensors of every kind that a state dict may hold: views, ties, types, no elements."""
    table = torch.arange(24.0).reshape(4, 6) / 7
    layer = torch.nn.Linear(2, 3)  # its state dict is an OrderedDict with versions of modules
    with torch.no_grad():
        layer.weight.copy_(table[:3, :2])
        layer.bias.copy_(table[3, :3])
    tensors = layer.state_dict()
    tensors["transposed"] = table.t()
    tensors["strided"] = table[1:, ::2]
    tensors["tied"] = table
    tensors["parameter"] = torch.nn.Parameter(table[0].clone())
    tensors["empty"] = torch.zeros(0, 3)
    tensors["scalar"] = torch.tensor(0.3)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        tensors[str(dtype)] = (table[2] * 100).to(dtype)
    return tensors


def write_state_dict():
    tensors = state_dict()
    torch.save(tensors, HERE / "state_dict.bin")
    torch.save(tensors, HERE / "state_dict_legacy.bin", _use_new_zipfile_serialization=False)
    arrays = {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}
    np.savez_compressed(HERE / "state_dict.npz", **arrays, made_by=MADE_BY)


def write_distilbert():
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=12,
        dim=8,
        n_layers=2,
        n_heads=2,
        hidden_dim=12,
        max_position_embeddings=10,
    )
    model = transformers.DistilBertForMaskedLM(config).eval()
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 4, 7, 3, 0, 0], [2, 8, 3, 9, 10, 11, 6, 3]]),
        "attention_mask": torch.tensor([[1] * 6 + [0] * 2, [1] * 8]),
    }
    with torch.no_grad():
        for parameter in model.parameters():  # no bias of 0, no scale of 1
            parameter.add_(torch.randn_like(parameter) / 4)
        hidden = model.distilbert(**inputs).last_hidden_state
        logits = model(**inputs).logits
    np.savez_compressed(
        HERE / "distilbert.npz",
        made_by=MADE_BY,
        config=json.dumps(config.to_dict()),
        last_hidden_state=hidden.numpy(),
        logits=logits.numpy(),
        **{name: tensor.numpy() for name, tensor in inputs.items()},
        **{f"tensor:{name}": tensor.numpy() for name, tensor in model.state_dict().items()},
    )


if __name__ == "__main__":
    write_state_dict()
    write_distilbert()
