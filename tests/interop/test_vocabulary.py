import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.interop.vocabulary import add_words, swap_vocabulary
from bertjax.model.bert import init_params
from bertjax.objectives.nsp import pretraining_loss, pretraining_normalizers
from bertjax.text import sentencepiece
from bertjax.text.added_tokens import AddedToken
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import Loss, init_state, make_train_step
from bertjax.train.tree import named

# Google's order: [unused0] is second; the rest follow the special tokens.
TOKENS = [
    "[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]",
    "heart", "cardio", "##my", "##o", "##pathy", "the", "is", "weak", ",", "##,", ".",
]  # fmt: skip
TABLES = ("embeddings/word_embeddings/embedding", "mlm/bias")
TEXTS = ["The heart is weak, the heart.", "cardio is the cardiomyopathy"]


def random_tree(config, seed):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def make_model(tokenizer, spare=0):
    config = BertConfig(
        vocab_size=tokenizer.vocab_size + spare,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    return Pretrained(config, random_tree(config, 0), tokenizer, {"kind": "pretraining"})


def wordpiece(tokens=TOKENS, lowercase=True):
    return WordPieceTokenizer(list(tokens), lowercase)


@pytest.fixture(scope="module")
def model():
    return make_model(wordpiece())


@pytest.fixture(scope="module")
def moments(model):
    return random_tree(model.config, 1), random_tree(model.config, 2)


@pytest.fixture(scope="module")
def pieces():
    """A SentencePiece vocabulary of the same language."""
    text = "the heart is weak , and so is the cardio of the weak , the art too ."
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(text.split(), 8)) + "," for _ in range(300)]
    return sentencepiece.train(sentences, 34, True, 1.0)


def tokens_of(tokenizer):
    return [tokenizer.token(number) for number in range(tokenizer.vocab_size)]


def id_of(tokenizer, token):
    return tokens_of(tokenizer).index(token)


def row(tree, number):
    """The rows of a token in both tables."""
    return [np.asarray(named(tree)[name])[number] for name in TABLES]


def logits(model, texts):
    inputs = model.tokenizer.batch(texts, pad_to=12)
    return np.asarray(bj.mlm_logits(model.params, inputs, model.config))


def same_rows(new, new_id, old, old_id):
    for left, right in zip(row(new, new_id), row(old, old_id), strict=True):
        np.testing.assert_array_equal(left, right)


def untouched(new, old):
    """Whether all tensors without a row per token are the same objects."""
    assert named(new).keys() == named(old).keys()
    for name, value in named(old).items():
        if name not in TABLES:
            np.testing.assert_array_equal(named(new)[name], value)


# Adding words


def test_added_tokens_are_still_found_beside_new_words():
    tokenizer = WordPieceTokenizer(list(TOKENS), True, added=(AddedToken("[E1]"),))
    done = add_words(make_model(tokenizer), ["cardiomyopathy", "weakheart", "myo"])
    new, end = done.model.tokenizer, len(TOKENS)
    assert tokens_of(new)[end:] == ["[E1]", "myo"]
    assert new.encode("[E1] myo[E1]").ids[1:-1] == [end, end + 1, end]
    assert new.special()[end] and not new.special()[end + 1]


def test_words_go_into_unused_slots_first_and_then_to_the_end(model):
    done = add_words(model, ["cardiomyopathy", "weakheart", "myo", "theis"])
    expected = [*TOKENS, "myo", "theis"]
    expected[1], expected[6] = "cardiomyopathy", "weakheart"
    assert tokens_of(done.model.tokenizer) == expected
    assert done.model.config == dataclasses.replace(model.config, vocab_size=20)
    shapes = {name: named(done.model.params)[name].shape for name in TABLES}
    assert shapes == {TABLES[0]: (20, 8), TABLES[1]: (20,)}
    assert (done.kept, done.averaged, done.unknown) == (16, 1, 3)
    assert "4 words added: 2 in unused slots, 2 at the end" in done.report


def test_a_new_word_is_one_token_and_no_other_text_changes(model):
    new = add_words(model, ["cardiomyopathy", "weakness"]).model
    found = new.tokenizer.encode("the Cardiomyopathy is weakness")
    assert [new.tokenizer.token(number) for number in found.ids[1:-1]] == [
        "the", "cardiomyopathy", "is", "weakness",
    ]  # fmt: skip
    for text in [*TEXTS[:1], "cardiomy cardioopathy", "[unused0] [MASK] weak", "日本 heart"]:
        assert new.tokenizer.encode(text) == model.tokenizer.encode(text)


def test_a_word_that_begins_with_a_new_word_is_split_after_it(model):
    new = add_words(model, ["cardiomy", "heartily"]).model.tokenizer
    found = new.encode("cardiomyopathy heart").ids[1:-1]
    assert [new.token(number) for number in found] == ["cardiomy", "##o", "##pathy", "heart"]


def test_outputs_of_other_texts_are_the_same_bit_by_bit(model):
    new = add_words(model, ["cardiomyopathy", "weakness"]).model
    inputs = model.tokenizer.batch(TEXTS[:1], ["heart, is"], pad_to=14)
    for before, after in zip(
        bj.encode(model.params, inputs, model.config)[:2],
        bj.encode(new.params, inputs, new.config)[:2],
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    others = np.delete(np.arange(len(TOKENS)), [1, 6])
    np.testing.assert_array_equal(
        logits(model, TEXTS[:1])[..., others], logits(new, TEXTS[:1])[..., others]
    )


def test_a_new_words_logit_is_the_mean_of_its_pieces(model):
    new = add_words(model, ["cardiomyopathy"]).model
    pieces = [TOKENS.index(piece) for piece in ("cardio", "##my", "##o", "##pathy")]
    before, after = logits(model, TEXTS[:1]), logits(new, TEXTS[:1])
    # The order of float32 sums differs.
    np.testing.assert_allclose(after[..., 1], before[..., pieces].mean(-1), atol=1e-5)
    assert before[..., pieces].std(-1).min() > 1e-2  # they do differ


def test_of_a_word_without_known_pieces_the_mean_of_all_tokens_is_taken():
    # Two rows of the table have no token.
    model = make_model(wordpiece(), spare=2)
    done = add_words(model, ["жук", "heartxyz"])
    assert (done.averaged, done.unknown) == (0, 2)
    for left, right in zip(row(done.model.params, 1), row(done.model.params, 6), strict=True):
        np.testing.assert_array_equal(left, right)
    for name, found in zip(TABLES, row(done.model.params, 1), strict=True):
        mean = named(model.params)[name][: len(TOKENS)].mean(0)
        np.testing.assert_allclose(found, mean, atol=1e-6)


def test_rows_without_a_token_are_used_before_the_table_grows():
    model = make_model(wordpiece(), spare=2)
    words = ["cardiomy", "cardioo", "cardiopathy", "heartmy"]
    done = add_words(model, words)
    assert done.model.config == model.config
    assert tokens_of(done.model.tokenizer)[-2:] == words[2:]
    assert add_words(model, words[:1]).model.config == model.config


def test_moments_are_zero_for_new_rows_and_kept_bit_by_bit_for_others(model, moments):
    done = add_words(model, ["cardiomyopathy", "weakness", "myo"], moments)
    assert len(done.moments) == 2
    for new, old in zip(done.moments, moments, strict=True):
        untouched(new, old)
        for number in range(19):
            if number in (1, 6, 18):
                assert not any(np.any(value) for value in row(new, number))
            else:
                same_rows(new, number, old, number)
    untouched(done.model.params, model.params)
    for number in set(range(len(TOKENS))) - {1, 6}:
        same_rows(done.model.params, number, model.params, number)


def test_words_that_are_there_or_come_twice_are_skipped_and_said(model):
    done = add_words(model, ["heart", "myo", "myo", "weak"])
    assert id_of(done.model.tokenizer, "myo") == 1
    assert done.model.tokenizer.vocab_size == len(TOKENS)
    assert "1 word added" in done.report and "3 skipped" in done.report
    unchanged = add_words(model, ["heart"]).model
    assert unchanged.tokenizer.sha256 == model.tokenizer.sha256
    untouched(unchanged.params, model.params)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("two words", "into 2 words (two words)"),
        ("x-ray", "into 3 words (x - ray)"),
        ("日本", "into 2 words"),
        ("[MASK]", "into 3 words"),
        ("##ing", "into 3 words"),
        ("Heart", "to 'heart'"),
        ("naïve", "to 'naive'"),
        ("myo ", "to 'myo'"),
        ("\u200b", "drops the word"),
        ("x" * 101, "has 101 characters"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_words_that_can_be_no_token_are_refused_in_one_sentence(model, word, said):
    with pytest.raises(UserError) as caught:
        add_words(model, ["myo", word])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_cased_vocabulary_takes_capitals():
    done = add_words(make_model(wordpiece(lowercase=False)), ["Heart", "naïve"])
    assert done.model.tokenizer.encode("Heart naïve heart").ids[1:-1] == [1, 6, 7]


def test_no_words_and_sentencepiece_are_refused(model, pieces):
    with pytest.raises(UserError, match="no words"):
        add_words(model, [])
    with pytest.raises(UserError, match="replace"):
        add_words(make_model(pieces), ["myo"])


def test_the_result_is_saved_read_again_and_trained_further(model, moments, tmp_path):
    done = add_words(model, ["cardiomyopathy", "weakness", "myo"], moments)
    save_pretrained(tmp_path / "out", done.model)
    read = from_pretrained(tmp_path / "out")
    assert read.config == done.model.config
    assert read.tokenizer.sha256 == done.model.tokenizer.sha256
    jax.tree.map(np.testing.assert_array_equal, read.params, done.model.params)

    optimizer = make_optimizer(OptimizerConfig(), 1e-4)
    state = init_state(read.params, optimizer)
    mu, nu = done.moments
    shapes = jax.tree.map(jnp.shape, (mu, nu))
    assert shapes == (jax.tree.map(jnp.shape, state.params),) * 2
    nu = jax.tree.map(jnp.square, nu)
    state = state.replace(opt_state=optax.tree.set(state.opt_state, mu=mu, nu=nu))
    ids = read.tokenizer.batch(["the cardiomyopathy is weakness"] * 2)
    batch = {
        **ids,
        "masked_positions": np.array([[2], [4]], np.int32),
        "masked_labels": np.array([[1], [6]], np.int32),
        "masked_weights": np.ones((2, 1), np.float32),
        "next_sentence_label": np.zeros(2, np.int32),
        "example_weight": np.ones(2, np.float32),
    }

    def loss(params, batch, *, normalizers, **keys):
        return pretraining_loss(params, batch, read.config, normalizers=normalizers)

    step = make_train_step(Loss(loss, pretraining_normalizers), optimizer)
    state, metrics = jax.jit(step)(state, batch)
    assert int(state.updates) == 1 and np.isfinite(metrics["loss"])
    assert np.any(row(state.params, 1)[0] != row(done.model.params, 1)[0])


# Replacing the vocabulary


def test_a_permuted_wordpiece_vocabulary_keeps_every_row_and_every_output(model, moments):
    order = np.random.default_rng(3).permutation(len(TOKENS))
    done = swap_vocabulary(model, wordpiece([TOKENS[number] for number in order]), moments)
    assert (done.kept, done.averaged, done.unknown) == (len(TOKENS), 0, 0)
    for new, old in ((done.model.params, model.params), *zip(done.moments, moments, strict=True)):
        untouched(new, old)
        for number, source in enumerate(order):
            same_rows(new, number, old, source)
    np.testing.assert_array_equal(logits(done.model, TEXTS), logits(model, TEXTS)[..., order])


def test_a_token_that_is_new_starts_as_the_mean_of_its_old_pieces(model, moments):
    new = wordpiece(
        [*TOKENS[2:6], "[PAD]", "##art", "heartmy", "##cardioo", "the", "ж", "[unused9]"]
    )
    done = swap_vocabulary(model, new, moments)
    assert done.model.config.vocab_size == 11
    assert (done.kept, done.averaged, done.unknown) == (6, 2, 3)
    assert "6 keep" in done.report
    for number, expected in ((6, ("heart", "##my")), (7, ("cardio", "##o"))):
        sources = [TOKENS.index(token) for token in expected]
        for name, found in zip(TABLES, row(done.model.params, number), strict=True):
            np.testing.assert_allclose(found, named(model.params)[name][sources].mean(0), atol=1e-6)
    for tree in done.moments:
        for number in (5, 6, 7, 9, 10):
            assert not any(np.any(value) for value in row(tree, number))
    same_rows(done.model.params, 8, model.params, TOKENS.index("the"))
    same_rows(done.moments[1], 8, moments[1], TOKENS.index("the"))


def test_special_tokens_keep_their_role_and_words_their_place_in_sentencepiece(model, pieces):
    done = swap_vocabulary(model, pieces)
    params, tokenizer = done.model.params, done.model.tokenizer
    for role in ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id"):
        same_rows(params, getattr(tokenizer, role), model.params, getattr(model.tokenizer, role))
    # Texts contain "," and never "##,", so the rows of "," are the trained ones.
    for token, source in (("▁the", "the"), ("▁heart", "heart"), (",", ","), ("▁,", ",")):
        same_rows(params, id_of(tokenizer, token), model.params, TOKENS.index(source))
    assert done.kept + done.averaged + done.unknown == pieces.vocab_size
    assert done.unknown > 0  # single letters


def test_a_wordpiece_vocabulary_takes_over_from_sentencepiece(pieces):
    model = make_model(pieces)
    done = swap_vocabulary(model, wordpiece())
    for token, source in (("the", "▁the"), ("heart", "▁heart"), (",", ",")):
        same_rows(done.model.params, TOKENS.index(token), model.params, id_of(pieces, source))
    same_rows(done.model.params, TOKENS.index("[CLS]"), model.params, pieces.cls_id)
    # No text contains "##,", so its row is not that of a comma.
    with pytest.raises(AssertionError):
        same_rows(done.model.params, TOKENS.index("##,"), model.params, id_of(pieces, ","))


def test_there_and_back_keeps_what_both_have(model, pieces):
    """Two replacements keep the rows of tokens in both vocabularies bit for bit."""
    back = swap_vocabulary(swap_vocabulary(model, pieces).model, model.tokenizer).model
    for token in ("[CLS]", "[MASK]", "the", "heart", "weak", ","):
        number = TOKENS.index(token)
        same_rows(back.params, number, model.params, number)


def test_a_model_without_a_masked_lm_head_has_one_table(model):
    params = {part: tree for part, tree in model.params.items() if part not in ("mlm", "nsp")}
    encoder = dataclasses.replace(model, params=params, task={"kind": "encoder"})
    done = add_words(encoder, ["cardiomyopathy"])
    assert done.model.params.keys() == params.keys()
    assert done.model.kind == "encoder"
