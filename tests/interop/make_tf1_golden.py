"""Writes tf1_golden.json: every tensor of a TF1 checkpoint, as TensorFlow's own reader gives it.

    python tests/interop/make_tf1_golden.py DATA/tf1_checkpoint/bert_model.ckpt

Needs TensorFlow, which bertjax does not. The checkpoint itself is no part of the project.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(prefix):
    reader = tf.train.load_checkpoint(prefix)
    tensors = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        array = np.asarray(reader.get_tensor(name))
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        tensors[name] = [str(array.dtype), list(array.shape), digest]
    golden = {
        "generator": "tf.train.load_checkpoint",
        "tensorflow": tf.__version__,
        "checkpoint": f"{Path(prefix).parent.name}/{Path(prefix).name}",
        "tensors": tensors,
    }
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(t)}" for n, t in tensors.items())
    head = json.dumps({key: value for key, value in golden.items() if key != "tensors"}, indent=1)
    text = f'{head[:-2]},\n "tensors": {{\n{lines}\n }}\n}}\n'
    assert json.loads(text) == golden
    Path(__file__).with_name("tf1_golden.json").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
