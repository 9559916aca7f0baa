"""Writes tf1_training.npz: a tiny BERT trained and saved by TensorFlow 1's own functions.

    python tests/interop/make_tf1_training.py

The graph has the scopes of google-research/bert's modeling.py and run_pretraining.py, its optimizer
the slots and the update of optimization.py (a clipped global norm, no bias correction, decay of all
but LayerNorm and biases, linear decay of the learning rate), its files are tf.train.Saver's. Kept
are the checkpoints after 4 and 8 steps of one batch, with the logits at 4 and the losses between.
Needs TensorFlow, which bertjax does not.
"""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
tf1.disable_eager_execution()

CONFIG = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",  # erf
    "hidden_dropout_prob": 0.0,
    "hidden_size": 8,
    "initializer_range": 0.02,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 11,
}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
D, N, F = CONFIG["hidden_size"], CONFIG["num_attention_heads"], CONFIG["intermediate_size"]
V, T, B = CONFIG["vocab_size"], 7, 2
PEAK, TOTAL, SAVED, LAST = 1e-2, 10, 4, 8


def variable(name, shape, mean=0.0):
    return tf1.get_variable(name, shape, initializer=tf1.random_normal_initializer(mean, 0.3))


def dense(x, scope, size):
    with tf1.variable_scope(scope):
        kernel = variable("kernel", [x.shape[-1], size])
        return tf.tensordot(x, kernel, 1) + variable("bias", [size])


def layer_norm(x):
    with tf1.variable_scope("LayerNorm"):
        gamma, beta = variable("gamma", [D], mean=1.0), variable("beta", [D])
    mean, variance = tf1.nn.moments(x, [-1], keepdims=True)
    return (x - mean) * tf1.rsqrt(variance + 1e-12) * gamma + beta


def gelu(x):
    return x * 0.5 * (1.0 + tf.math.erf(x / np.float32(np.sqrt(2.0))))


def attention(x, mask):
    def heads(scope):
        return tf.transpose(tf.reshape(dense(x, scope, D), [B, T, N, D // N]), [0, 2, 1, 3])

    query, key, value = map(heads, ("query", "key", "value"))
    scores = tf.matmul(query, key, transpose_b=True) / np.float32(np.sqrt(D // N))
    scores += (1.0 - mask.astype(np.float32))[:, None, None, :] * -10000.0
    context = tf.matmul(tf.nn.softmax(scores), value)
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [B, T, D])


def encoder(batch):
    with tf1.variable_scope("bert"):
        with tf1.variable_scope("embeddings"):
            words = variable("word_embeddings", [V, D])
            types = variable("token_type_embeddings", [2, D])
            positions = variable("position_embeddings", [CONFIG["max_position_embeddings"], D])
            x = tf.gather(words, batch["input_ids"]) + tf.gather(types, batch["token_type_ids"])
            x = layer_norm(x + positions[None, :T])
        with tf1.variable_scope("encoder"):
            for number in range(CONFIG["num_hidden_layers"]):
                with tf1.variable_scope(f"layer_{number}"):
                    with tf1.variable_scope("attention"):
                        with tf1.variable_scope("self"):
                            context = attention(x, batch["attention_mask"])
                        with tf1.variable_scope("output"):
                            x = layer_norm(dense(context, "dense", D) + x)
                    with tf1.variable_scope("intermediate"):
                        hidden = gelu(dense(x, "dense", F))
                    with tf1.variable_scope("output"):
                        x = layer_norm(dense(hidden, "dense", D) + x)
        with tf1.variable_scope("pooler"):
            pooled = tf.tanh(dense(x[:, 0], "dense", D))
    return x, pooled, words


def logits(batch):
    x, pooled, words = encoder(batch)
    with tf1.variable_scope("cls/predictions"):
        with tf1.variable_scope("transform"):
            x = layer_norm(gelu(dense(x, "dense", D)))
        mlm = tf.tensordot(x, tf.transpose(words), 1) + variable("output_bias", [V])
    with tf1.variable_scope("cls/seq_relationship"):
        weights = variable("output_weights", [2, D])
        nsp = tf.matmul(pooled, weights, transpose_b=True) + variable("output_bias", [2])
    return mlm, nsp


def train_op(loss, step):
    rate = PEAK * (1.0 - tf.cast(step, tf.float32) / TOTAL)
    parameters = tf1.trainable_variables()
    grads = [tf.convert_to_tensor(grad) for grad in tf1.gradients(loss, parameters)]
    grads, _ = tf1.clip_by_global_norm(grads, 1.0)
    changes = []
    for parameter, grad in zip(parameters, grads, strict=True):
        name = parameter.name.removesuffix(":0")
        zeros = {"initializer": tf1.zeros_initializer(), "trainable": False}
        m = tf1.get_variable(f"{name}/adam_m", parameter.shape, **zeros)
        v = tf1.get_variable(f"{name}/adam_v", parameter.shape, **zeros)
        new_m, new_v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * tf.square(grad)
        update = new_m / (tf.sqrt(new_v) + 1e-6)
        if not re.search("LayerNorm|layer_norm|bias", name):
            update += 0.01 * parameter
        changes += [(parameter, parameter - rate * update), (m, new_m), (v, new_v)]
    with tf.control_dependencies([new for _, new in changes]):
        assigned = [tf1.assign(old, new) for old, new in changes]
    with tf.control_dependencies(assigned):
        return tf1.assign_add(step, 1)


def main():
    rng = np.random.default_rng(0)
    mask = np.ones((B, T), np.int32)
    mask[1, 5:] = 0
    batch = {
        "input_ids": rng.integers(0, V, (B, T)).astype(np.int32),
        "token_type_ids": np.repeat((np.arange(T) > 3).astype(np.int32)[None], B, 0),
        "attention_mask": mask,
    }
    tf1.set_random_seed(0)
    mlm, nsp = logits(batch)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    loss = tf.reduce_mean(entropy(labels=batch["input_ids"], logits=mlm))
    loss += tf.reduce_mean(entropy(labels=[0, 1], logits=nsp))
    step = tf1.train.get_or_create_global_step()
    train, saver, losses = train_op(loss, step), tf1.train.Saver(), []
    kept = {"generator": "tf.compat.v1.train.Saver", "tensorflow": tf.__version__, **batch}
    with tempfile.TemporaryDirectory() as folder, tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        for number in range(LAST + 1):
            if number in (SAVED, LAST):
                saver.save(session, f"{folder}/model.ckpt", step, write_meta_graph=False)
            if number == SAVED:
                kept["mlm"], kept["nsp"] = session.run([mlm, nsp])
            losses.append(session.run(loss))
            session.run(train)
        (Path(folder) / "bert_config.json").write_text(json.dumps(CONFIG))
        (Path(folder) / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
        kept["losses"] = np.array(losses[SAVED:LAST])
        for path in Path(folder).iterdir():
            if path.name != "checkpoint":
                kept[f"file:{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    np.savez_compressed(Path(__file__).with_name("tf1_training.npz"), **kept)


if __name__ == "__main__":
    main()
