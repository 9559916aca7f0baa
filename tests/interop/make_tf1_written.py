"""Writes tf1_written.json: what TensorFlow's own reader finds in a checkpoint of bertjax's writer.

python tests/interop/make_tf1_written.py write DIR    (with bertjax)
python tests/interop/make_tf1_written.py read DIR     (with TensorFlow, which bertjax lacks)
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

PREFIX = "bert_model.ckpt"
GOLDEN = Path(__file__).with_name("tf1_written.json")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def files_of(directory):
    return {
        file.name: digest(file.read_bytes()) for file in sorted(Path(directory).glob(f"{PREFIX}.*"))
    }


def describe(tensor):
    array = np.ascontiguousarray(tensor)
    return [str(array.dtype), list(array.shape), digest(array.tobytes())]


def write(directory):
    """Writes the same bytes on every machine: three layers, so that the table has two blocks."""
    import jax
    from etils import epath

    from bertjax.config import BertConfig
    from bertjax.interop.google import write_checkpoint
    from bertjax.model.bert import init_params

    config = BertConfig(12, 8, 3, 2, 10, max_position_embeddings=9)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params, mu, nu = (
        jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes) for _ in range(3)
    )
    write_checkpoint(epath.Path(directory), config, params, mu=mu, nu=nu, step=1_000_000)


def read(directory):
    import tensorflow as tf

    latest = tf.train.latest_checkpoint(directory)
    assert Path(latest).name == PREFIX
    reader = tf.train.load_checkpoint(latest)
    names = sorted(reader.get_variable_to_shape_map())
    tensors = {name: describe(reader.get_tensor(name)) for name in names}
    head = {"generator": "tf.train.load_checkpoint", "tensorflow": tf.__version__}
    golden = {**head, "files": files_of(directory), "tensors": tensors}
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(t)}" for n, t in tensors.items())
    start = json.dumps({**golden, "tensors": 0}, indent=1).removesuffix("0\n}")
    text = f"{start}{{\n{lines}\n }}\n}}\n"
    assert json.loads(text) == golden
    GOLDEN.write_text(text)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
