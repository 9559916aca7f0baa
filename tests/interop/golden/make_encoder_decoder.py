"""Writes one of the files beside it: `python tests/interop/golden/make_encoder_decoder.py`.

transformers 5 writes encoder_decoder.npz: an encoder-decoder with different widths, depths and
vocabularies. transformers 4 writes encoder_decoder_tied.npz: one whose encoder and decoder share
weights (`tie_encoder_decoder`, which transformers 5 does not know). Each has the tensors of
model.safetensors, config.json, inputs and logits. The entry `made_by` names the versions. Needs
torch, safetensors and transformers, no bertjax.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import transformers

HERE = Path(__file__).parent
MADE_BY = f"torch {torch.__version__}, transformers {transformers.__version__}"
ENCODER = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
}
DECODER = {
    "vocab_size": 14,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 9,
    "type_vocab_size": 1,
}
INPUTS = {
    "input_ids": torch.tensor([[2, 5, 6, 4, 7, 3, 0, 0], [2, 8, 3, 9, 10, 11, 6, 3]]),
    "attention_mask": torch.tensor([[1] * 6 + [0] * 2, [1] * 8]),
    "decoder_input_ids": torch.tensor([[2, 5, 9, 11, 6], [2, 10, 7, 0, 1]]),
}


def write(file: str, encoder: dict, decoder: dict, **options) -> None:
    torch.manual_seed(0)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**encoder), transformers.BertConfig(**decoder), **options
    )
    model = transformers.EncoderDecoderModel(config).eval()
    with torch.no_grad():
        # No bias is 0 and no scale 1. Stronger mixing would make all tokens alike.
        for name, parameter in model.named_parameters():
            deviation = 0.1 if parameter.ndim == 1 else 0.6 / parameter.shape[1] ** 0.5
            if "embeddings" in name or "query.weight" in name or "key.weight" in name:
                deviation *= 2
            parameter.add_(deviation * torch.randn_like(parameter))
        mask = torch.ones_like(INPUTS["decoder_input_ids"])
        logits = model(**INPUTS, decoder_attention_mask=mask).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = safetensors.numpy.load_file(f"{folder}/model.safetensors")
        saved = json.loads(Path(folder, "config.json").read_text())
    np.savez_compressed(
        HERE / file,
        made_by=MADE_BY,
        config=json.dumps(saved),
        logits=logits.numpy(),
        **{name: tensor.numpy() for name, tensor in INPUTS.items()},
        **{f"tensor:{name}": array for name, array in tensors.items()},
    )


if __name__ == "__main__":
    if transformers.__version__ < "5":
        write("encoder_decoder_tied.npz", ENCODER, ENCODER, tie_encoder_decoder=True)
    else:
        write("encoder_decoder.npz", ENCODER, DECODER)
