"""A training loop of your own: masked-LM training on the lines of a text file.

    python experiments/own_loop.py TOKENIZER_DIRECTORY TEXT_FILE WORKDIR

The same command resumes. `bertjax.train.loop.fit` adds evaluation, signals, metrics and hooks.
"""

import functools
import pathlib
import sys

import jax
import numpy as np
import optax

import bertjax as bj
from bertjax.objectives.table import OBJECTIVES
from bertjax.train import sharding
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.step import jit_train_step


def train(config, tokenizer, lines, workdir, *, steps=1000, rows=32, length=128, save_every=100):
    """Trains on random lines and exports the model to workdir/export."""
    objective, masking = OBJECTIVES["mlm"], bj.MaskingConfig(whole_word=True)

    def corrupt(batch, keys):
        return objective.corrupt(batch, keys, bj.Vocabulary.of(tokenizer), masking)

    def batch_at(step):  # a pure function of the step, so that a resumed run reads the same data
        chosen = np.random.default_rng(step).integers(len(lines), size=rows)
        return tokenizer.batch([lines[line] for line in chosen], max_length=length, pad_to=length)

    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps))
    loss = bj.Loss(functools.partial(objective.loss, config=config), objective.normalizers, corrupt)

    def init():
        return bj.init_state(objective.init_params(config, jax.random.key(0)), optimizer)

    mesh = sharding.make_mesh(sharding.MeshConfig())  # all devices along the axis data
    shardings = sharding.state_shardings(mesh, jax.eval_shape(init))
    step = bj.make_train_step(loss, optimizer, placement=sharding.Placement(mesh))
    step = jit_train_step(step, mesh, shardings)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(sharding.placed(jax.eval_shape(init), shardings))
        state = restored.state if restored else jax.jit(init, out_shardings=shardings)()
        for number in range(int(state.step), steps):
            batch = jax.device_put(batch_at(number), sharding.batch_sharding(mesh))
            state, metrics = step(state, batch)
            if (number + 1) % save_every == 0:
                print(f"step {number + 1}: loss {metrics['loss']:.4f}")
                checkpoints.save(state, meta={})
    model = bj.Pretrained(config, sharding.on_host(mesh, state.params), tokenizer)
    bj.save_pretrained(workdir / "export", model)


if __name__ == "__main__":
    tokenizer, text = bj.load_tokenizer(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text()
    config = bj.BertConfig.named("mini", vocab_size=tokenizer.vocab_size)
    train(config, tokenizer, text.splitlines(), pathlib.Path(sys.argv[3]))
