# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A program of a user's, which test_types.py gives to pyright. Nothing runs it."""

from pathlib import Path
from typing import Any, assert_type

import jax
import numpy as np

import bertjax as bj
from bertjax.finetune.results import FinetuneResult
from bertjax.pretrain.run import PretrainResult
from bertjax.text.tokenizer_base import Encoding, Tokenizer

# Functions on arrays, with arrays of NumPy and of JAX
config = bj.BertConfig.named("mini", vocab_size=8192)
params = assert_type(bj.init_params(config, jax.random.key(0), heads=["mlm"]), dict[str, Any])
tokenizer = assert_type(bj.load_tokenizer(Path("tokenizer")), Tokenizer)
batch = assert_type(tokenizer(["a sentence", "another"], padding=True), dict[str, np.ndarray])
assert_type(tokenizer.batch(["a text"], ["its pair"], max_length=16), dict[str, np.ndarray])
assert_type(tokenizer.encode("a text", "its pair"), Encoding)
assert_type(tokenizer.decode(batch["input_ids"][0]), str)

out = bj.encode(params, batch, config, execution=bj.Execution(dtype="bfloat16"))
assert_type(out.last_hidden_state, jax.Array)
assert_type(out.pooled.shape, tuple[int, ...])
assert_type(out.hidden_states, tuple[jax.Array, ...] | None)
bj.encode(params, {"input_ids": out.last_hidden_state[..., 0]}, config)
assert_type(bj.mlm_logits(params, batch, config, positions=np.zeros((2, 1), int)), jax.Array)
assert_type(bj.task_logits(params, batch, config, "token_classification"), jax.Array)
bj.pretraining_logits(params, batch, np.zeros((2, 1), int), config)

# Models and their answers
model = assert_type(bj.from_pretrained("runs/mine"), bj.Pretrained)
assert_type(model.config, bj.BertConfig | bj.EncoderDecoderConfig)
assert_type(model.params, dict[str, Any])
assert_type(model.tokenizer, Tokenizer)
assert_type(bj.save_pretrained("copy", model).name, str)
assert_type(bj.embed(model, ["a sentence", "another"], [-1, -2]), np.ndarray)
assert_type(bj.embed(model, [("a text", "its pair")], pooling="cls"), np.ndarray)
assert_type(bj.fill_mask(model, ["the cat [MASK]."], top_k=3), list[dict[str, Any]])
assert_type(bj.predict(model, ["a sentence"]), list[dict[str, Any]])
assert_type(bj.generate(model, ["ein Satz"], num_beams=4), list[Any])
assert_type(bj.pseudo_log_likelihood(model, ["a sentence"]), list[dict[str, Any]])

# Runs: lists wherever several values are meant
pretraining = bj.PretrainConfig(
    data=["shards", "more"],
    data_weights=[1.0, 2.0],
    length_buckets=[32, 64],
    workdir="runs/mine",
    model=bj.ModelConfig(size="mini"),
    initialization=bj.InitializationConfig(),
    masking=bj.MaskingConfig(whole_word=True),
    optimizer=bj.OptimizerConfig(learning_rate=1e-4, freeze=["embeddings"], groups=[]),
    loop=bj.LoopConfig(train_steps=100),
    mesh=bj.MeshConfig(data=-1),
    telemetry=bj.TelemetryConfig(profile_steps=(10, 12)),
)
assert_type(bj.fit(pretraining), PretrainResult)
for task in (
    bj.ClassificationConfig(column_names=["text", "label"], class_weights={"good": 2.0}),
    bj.QuestionAnsweringConfig(doc_stride=64),
    bj.Seq2SeqConfig(generation=bj.GenerationConfig(num_beams=4)),
    bj.ExtractiveSummarizationConfig(column_names=["document", "summary"]),
):
    finetuning = bj.FinetuneConfig(
        model="runs/mine",
        train="train.csv",
        dev="dev.csv",
        task=task,
        seeds=range(3),
        learning_rates=[5e-5, 3e-5],
        batch_sizes=[16, 32],
        lora=bj.LoraConfig(rank=8, layers=["query"]),
    )
    assert_type(bj.fit(finetuning, log=print), FinetuneResult)

# Mistakes, which pyright has to find: an `ignore` that is not needed is an error
bj.OptimizerConfig(learning_rate="fast")  # pyright: ignore[reportArgumentType]
bj.FinetuneConfig(model="m", train="t", dev="d", seeds=3)  # pyright: ignore[reportArgumentType]
bj.encode(params, ["a text"], config)  # pyright: ignore[reportArgumentType]
bj.embed(model, ["a text"], pooling="median")  # pyright: ignore[reportArgumentType]
bj.fit(model)  # pyright: ignore[reportCallIssue, reportArgumentType]
bj.OptimizerConfg()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
