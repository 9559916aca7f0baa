"""The loss of question answering, beside numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj

CONFIG = bj.BertConfig(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=12,
)

# Compiled, because these tests take minutes operation by operation.
question_answering_loss = jax.jit(bj.question_answering_loss, static_argnames="config")
question_answering_grad = jax.jit(
    jax.value_and_grad(bj.question_answering_loss, has_aux=True), static_argnames="config"
)


def question_answering_batch(width=8):
    """Rows of 8, 6 and 5 tokens, padded to a width; the last has weight 0."""
    rng = np.random.default_rng(1)
    ids, lengths = rng.integers(5, 40, (3, 8)), np.array([8, 6, 5])
    real = np.arange(width) < lengths[:, None]
    ids = np.where(real, np.pad(ids, ((0, 0), (0, width - 8))), 0)
    return {
        "input_ids": jnp.asarray(ids),
        "attention_mask": jnp.asarray(real, jnp.int32),
        "token_type_ids": jnp.asarray(real & (np.arange(width) > 3), jnp.int32),
        "start_position": jnp.asarray([4, 0, 3]),
        "end_position": jnp.asarray([6, 0, 3]),
        "example_weight": jnp.asarray([1.0, 1.0, 0.0]),
    }


@pytest.fixture(scope="module")
def qa_params():
    init_params = jax.jit(bj.init_params, static_argnames=("config", "heads"))
    tree = init_params(CONFIG, jax.random.key(0), heads=("qa_outputs",))
    return CONFIG, jax.tree.map(lambda leaf: leaf * 10, tree)


def test_question_answering_loss_by_hand(qa_params):
    config, params = qa_params
    batch = question_answering_batch()
    logits = np.asarray(
        jax.jit(bj.task_logits, static_argnums=(2, 3))(params, batch, config, "question_answering"),
        np.float64,
    )
    wanted = hits = 0.0
    for row, length in enumerate((8, 6)):  # [CLS], question and document, but no padding
        for column, name in enumerate(("start_position", "end_position")):
            scores, place = logits[row, :length, column], int(batch[name][row])
            wanted += 0.5 * (np.log(np.exp(scores).sum()) - scores[place])
        hits += all(
            logits[row, :length, column].argmax() == int(batch[name][row])
            for column, name in enumerate(("start_position", "end_position"))
        )
    loss, metrics = question_answering_loss(params, batch, config)
    np.testing.assert_allclose(loss, wanted / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], (wanted, 2), rtol=1e-6)
    assert metrics["accuracy"] == (hits, 2)


def test_question_answering_does_not_see_how_wide_a_batch_is_padded(qa_params):
    config, params = qa_params
    (loss, _), grad = question_answering_grad(params, question_answering_batch(8), config)
    (wider, _), other = question_answering_grad(params, question_answering_batch(12), config)
    # Sums of float32 in another order.
    np.testing.assert_allclose(loss, wider, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grad, other)


def test_parts_of_a_batch_add_up_to_its_question_answering_loss(qa_params):
    config, params = qa_params
    batch = question_answering_batch()
    normalizers = bj.question_answering_normalizers(batch)
    whole = question_answering_loss(params, batch, config)[0]
    parts = [
        question_answering_loss(
            params,
            {name: value[rows] for name, value in batch.items()},
            config,
            normalizers=normalizers,
        )[0]
        for rows in (slice(0, 1), slice(1, 3))
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)
    everything = {name: value for name, value in batch.items() if name != "example_weight"}
    assert bj.question_answering_normalizers(everything)["examples"] == 3
