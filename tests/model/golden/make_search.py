"""Writes search.npz: sequences that transformers' `generate` finds for a model that is a hash.

    python tests/model/golden/make_search.py

Every setting is a JSON object of `GenerationConfig`'s and `OutputVocabulary`'s fields. Its entry
"SETTING tokens", uint8 [ROWS, n, T], holds the generated tokens without the start token, padded
with PAD, and "SETTING scores", float32 [ROWS, n], their scores. Needs torch and transformers, no
bertjax.
"""

import itertools
import json
from pathlib import Path

import numpy as np

ROWS, VOCAB, REAL, LENGTH = 200, 44, 40, 18
# Not 0, for which transformers takes the end token instead.
PAD, START, END = 3, 1, 2


def logits(xp, rows, tokens, previous, index):
    """Returns logits, float32 [..., VOCAB], the same in NumPy and in JAX.

    They depend on the row, the last token and a little of the token before it, so that n-grams
    repeat, and slightly on the step, so that no two sequences have equal scores.
    """

    def uniform(seed, *numbers):
        value = xp.arange(VOCAB, dtype=xp.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed)
        for number in numbers:
            number = xp.asarray(number).astype(xp.uint32)[..., None]
            value = (value ^ (value >> 15)) * np.uint32(0x85EBCA6B) + number
            value = (value ^ (value >> 13)) * np.uint32(0xC2B2AE35)
        return ((value ^ (value >> 16)) >> 8).astype(xp.float32) * np.float32(2**-24)

    found = np.float32(16) * uniform(1, rows, tokens, previous % 3)
    found = found + np.float32(1) * uniform(2, rows, tokens, index + 0 * tokens)
    return found + (xp.arange(VOCAB) == END) * np.float32(1)


def settings():
    """Yields the settings: every one as a dict of the fields that are not the defaults."""
    for beams, penalty in itertools.product((4, 5), (0.6, 1.0, 2.0)):
        for early_stopping in (False, True):
            yield {"num_beams": beams, "length_penalty": penalty, "early_stopping": early_stopping}
    for penalty, early_stopping in ((0.0, False), (-1.0, False), (-1.0, "never"), (1.0, "never")):
        yield {"num_beams": 4, "length_penalty": penalty, "early_stopping": early_stopping}
    yield {"num_beams": 1}
    yield {"num_beams": 1, "min_length": 6, "no_repeat_ngram_size": 2, "suppressed_ids": [0, 1, 7]}
    yield {"num_beams": 4, "no_repeat_ngram_size": 3, "n_best": 4}
    yield {"num_beams": 5, "no_repeat_ngram_size": 3, "min_length": 10, "early_stopping": True}
    yield {"num_beams": 4, "no_repeat_ngram_size": 1, "min_length": LENGTH}
    yield {"num_beams": 4, "min_length": 5, "forced_start_id": 9, "n_best": 3}
    yield {"num_beams": 5, "force_end": True, "length_penalty": 2.0, "max_length": 7}
    yield {"num_beams": 4, "suppressed_ids": [0, 1, 7], "max_length": 1, "n_best": 4}


def generate(setting):
    """Returns transformers' sequences and scores."""
    import torch
    import transformers

    class Model(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config):
            super().__init__(config)
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, row, **unused):
            ids = input_ids.numpy()
            previous = ids[:, -2] if ids.shape[1] > 1 else np.zeros_like(ids[:, 0])
            step = logits(np, row.numpy(), ids[:, -1], previous, ids.shape[1] - 1)
            return transformers.modeling_outputs.CausalLMOutput(
                logits=torch.from_numpy(step)[:, None]
            )

    setting = {"max_length": LENGTH, "length_penalty": 1.0, **setting}
    greedy = setting["num_beams"] == 1
    names = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
    names |= {"forced_start_id": "forced_bos_token_id", "suppressed_ids": "suppress_tokens"}
    names["n_best"] = "num_return_sequences"
    options = {names.get(name, name): value for name, value in setting.items()}
    if options.pop("force_end", False):
        options["forced_eos_token_id"] = END
    if greedy:
        del options["length_penalty"]
    # Ids beyond the real ones pad the model's vocabulary.
    options["suppress_tokens"] = [*range(REAL, VOCAB), *options.get("suppress_tokens", [])]
    out = Model(transformers.PretrainedConfig(vocab_size=VOCAB)).generate(
        torch.full((ROWS, 1), START),
        row=torch.arange(ROWS),
        attention_mask=torch.ones(ROWS, 1, dtype=torch.int64),
        generation_config=transformers.GenerationConfig(
            pad_token_id=PAD,
            eos_token_id=END,
            use_cache=False,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **options,
        ),
    )
    found = out.sequences[:, 1:].numpy()
    tokens = np.full((len(found), setting["max_length"]), PAD, np.uint8)
    tokens[:, : found.shape[1]] = found
    if greedy:  # transformers has no scores of greedy search
        steps = torch.stack(out.logits, 1).log_softmax(-1).numpy()  # [ROWS, T, VOCAB]
        chosen = np.take_along_axis(steps, found[..., None], -1)[..., 0]
        before = np.cumsum(found == END, axis=1) - (found == END) == 0
        scores = (chosen * before).sum(1) / before.sum(1) ** setting["length_penalty"]
    else:
        scores = out.sequences_scores.numpy()
    return tokens.reshape(ROWS, -1, tokens.shape[-1]), scores.reshape(ROWS, -1).astype(np.float32)


def main():
    """Writes the file beside this one."""
    import torch
    import transformers

    arrays = {"made_by": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    for setting in settings():
        tokens, scores = generate(setting)
        arrays[f"{json.dumps(setting)} tokens"] = tokens
        arrays[f"{json.dumps(setting)} scores"] = scores
    np.savez_compressed(Path(__file__).parent / "search.npz", **arrays)


if __name__ == "__main__":
    main()
