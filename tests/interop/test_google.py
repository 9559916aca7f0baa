"""Tests the reader of TF1 checkpoints: names, heads, moments, and messages about wrong files."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import google
from bertjax.interop.google import is_checkpoint, read_checkpoint, variable_name
from bertjax.interop.tensor_bundle import TensorBundle
from bertjax.model.bert import init_params
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.schedules import make_schedule
from bertjax.train.tree import named

TRAINED = Path(__file__).with_name("tf1_training.npz")
CONFIG = BertConfig(
    vocab_size=12,
    hidden_size=6,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=10,
    max_position_embeddings=8,
)
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]


@pytest.fixture(scope="module")
def writer(load_helper):
    return load_helper("interop/bundle_writer.py")


def random_tree(seed, shapes=None):
    rng = np.random.default_rng(seed)
    shapes = shapes or jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return random_tree(0)


@pytest.fixture
def released(tmp_path, writer, params):
    """A directory like Google's archives."""

    def write(change=None, config=CONFIG, params=params, name="release", **options):
        return writer.write_google(
            tmp_path / name, params, config, TOKENS, change=change, **options
        )

    return write


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        assert np.asarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.data
def test_every_variable_of_a_genuine_checkpoint_has_its_parameter(data_dir):
    """These names are written out by hand; the writer of the other tests derives them."""
    directory = data_dir / "tf1_checkpoint"
    bundle = TensorBundle(directory / "bert_model.ckpt")
    found = read_checkpoint(directory)
    assert found.notes == () and found.step == int(bundle.read("global_step")) == 20
    trees = {"": found.params, "/adam_m": found.mu, "/adam_v": found.nu}
    wanted = {"global_step"}
    for slot, tree in trees.items():
        for path, array in named(tree).items():
            name, transposed = variable_name(path)
            wanted.add(name + slot)
            theirs = bundle.read(name + slot)
            theirs = theirs.T if transposed else theirs
            assert np.asarray(array).tobytes() == np.ascontiguousarray(theirs).tobytes()
    assert wanted == set(bundle.names)
    model = bj.from_pretrained(directory)
    same(model.params, found.params)
    assert model.tokenizer.lowercase  # no upper-case letter in vocab.txt
    assert len(bj.fill_mask(model, ["all work and no [MASK]"], top_k=2)) == 1


def test_google_variables_are_named_as_in_google_code(writer, params):
    """bundle_writer.py and google.py derive the names independently."""
    theirs = writer.google_variables(params)
    assert {variable_name(path)[0] for path in named(params)} == set(theirs)
    with pytest.raises(ValueError, match="no name in Google's BERT"):
        variable_name("encoder/layer_0/cross/kernel")


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_moments_and_step_in_equal_bytes(released, params, shards):
    mu, nu = random_tree(1), random_tree(2)
    found = read_checkpoint(released(mu=mu, nu=nu, step=70_000, shards=shards))
    same(found.params, params)
    same(found.mu, mu)
    same(found.nu, nu)
    assert (found.step, found.config, found.notes) == (70_000, CONFIG, ())
    only = read_checkpoint(found.prefix, moments=False)
    assert (only.mu, only.nu, only.has_moments) == (None, None, True)


def test_a_release_without_moments(released, params):
    directory = released()
    found = read_checkpoint(directory)
    assert (found.mu, found.nu, found.step, found.has_moments) == (None, None, None, False)
    model = bj.from_pretrained(directory)
    same(model.params, params)
    assert model.kind == "pretraining"
    assert model.tokenizer.decode([5, 6]) == "a b"
    inputs = {"input_ids": jnp.array([[2, 5, 3]])}
    logits = bj.mlm_logits(model.params, inputs, model.config)
    np.testing.assert_array_equal(logits, bj.mlm_logits(params, inputs, CONFIG))


@pytest.mark.parametrize(
    ("head", "classes", "task"),
    [
        (
            "classifier",
            3,
            {"kind": "sequence_classification", "labels": ["LABEL_0", "LABEL_1", "LABEL_2"]},
        ),
        ("classifier", 1, {"kind": "regression", "labels": []}),
        ("qa_outputs", 2, {"kind": "question_answering"}),
    ],
)
def test_heads_of_fine_tuning_come_over(released, params, head, classes, task):
    body = {part: params[part] for part in ("embeddings", "encoder", "pooler")}
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(CONFIG.hidden_size, classes)).astype(np.float32)
    body[head] = {"kernel": kernel, "bias": np.arange(classes, dtype=np.float32)}
    directory = released(params=body)
    found = read_checkpoint(directory)
    same(found.params, body)
    assert bj.from_pretrained(directory).task == task
    stored = TensorBundle(found.prefix)
    prefix = {"classifier": "output_", "qa_outputs": "cls/squad/output_"}[head]
    np.testing.assert_array_equal(stored.read(f"{prefix}weights"), kernel.T)


def test_an_encoder_alone_and_a_masked_lm(released, params):
    body = {part: params[part] for part in ("embeddings", "encoder")}
    assert bj.from_pretrained(released(params=body)).task == {"kind": "encoder"}
    body["mlm"] = params["mlm"]
    assert bj.from_pretrained(released(params=body)).task == {"kind": "masked_lm"}


def test_half_precision_becomes_float32(released, params):
    half = read_checkpoint(
        released(lambda tensors: {name: a.astype(np.float16) for name, a in tensors.items()})
    )
    same(half.params, jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), params))


def test_a_part_without_a_gradient_has_zero_moments(released):
    """Google's optimizer makes no slots for parameters without gradients (SQuAD's pooler)."""
    mu, nu = random_tree(1), random_tree(2)
    del mu["pooler"], nu["pooler"]
    found = read_checkpoint(released(mu=mu, nu=nu, step=1))
    assert not np.any(found.mu["pooler"]["kernel"]) and not np.any(found.nu["pooler"]["bias"])
    assert found.notes == (
        "Without Adam moments, so never updated by a gradient: pooler/bias, pooler/kernel.",
    )
    nu["pooler"] = random_tree(2)["pooler"]
    assert "bert/pooler/dense/bias/adam_m [6] is missing" in refusal(released(mu=mu, nu=nu, step=1))


# A model that TensorFlow trained and saved


@pytest.fixture
def trained(tmp_path):
    """Checkpoints of steps 4 and 8 from make_tf1_training.py, and TensorFlow's outputs for them."""
    golden = np.load(TRAINED)
    assert golden["generator"] == "tf.compat.v1.train.Saver" and str(golden["tensorflow"])
    for name in golden.files:
        if name.startswith("file:"):
            (tmp_path / name.removeprefix("file:")).write_bytes(golden[name].tobytes())
    return tmp_path, golden


def batch_of(golden):
    names = ("input_ids", "token_type_ids", "attention_mask")
    inputs = {name: jnp.asarray(golden[name]) for name in names}
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    return inputs, positions


@pytest.fixture
def difference(trained):
    """A function: parameters -> the largest difference of their logits from TensorFlow's."""
    directory, golden = trained
    inputs, positions = batch_of(golden)
    config = BertConfig.from_json(directory / "bert_config.json")
    logits = jax.jit(lambda params: bj.pretraining_logits(params, inputs, positions, config))

    def compute(params):
        pairs = zip(logits(params), (golden["mlm"], golden["nsp"]), strict=True)
        return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)

    return compute


def test_logits_are_tensorflows(trained, difference):
    found = read_checkpoint(trained[0] / "model.ckpt-4")
    assert difference(found.params) < 1e-5  # the order of float32 sums differs: 7e-7 measured


def test_one_weight_changed_is_another_model(trained, difference):
    """A change of any tensor makes the test above fail."""
    directory, golden = trained
    params = read_checkpoint(directory / "model.ckpt-4").params
    leaves, structure = jax.tree.flatten(params)
    word = int(golden["input_ids"][0, 0])
    for number, name in enumerate(named(params)):
        if name.endswith("attention/key/bias"):
            continue  # adds the same to every score of a query
        at = (word, 0) if "word" in name else (0,) * leaves[number].ndim
        changed = [*leaves]
        changed[number] = leaves[number].at[at].add(0.01)
        assert difference(jax.tree.unflatten(structure, changed)) > 1e-5, name


def test_training_goes_on_as_in_tensorflow(trained):
    """From weights, moments and global_step of step 4 to TensorFlow's own checkpoint of step 8."""
    directory, golden = trained
    found = read_checkpoint(directory / "model.ckpt-4")
    end = read_checkpoint(directory)
    assert (found.step, end.step) == (4, 8)
    assert end.notes == (f"{directory} holds 2 checkpoints; model.ckpt-8 is read.",)
    inputs, positions = batch_of(golden)

    def loss(params):
        logits = bj.pretraining_logits(params, inputs, positions, found.config)
        labels = (inputs["input_ids"], jnp.array([0, 1]))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return sum(entropy(*pair).mean() for pair in zip(logits, labels, strict=True))

    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    count = jnp.asarray(found.step, jnp.int32)
    state = optax.tree.set(optimizer.init(found.params), mu=found.mu, nu=found.nu, count=count)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        changes, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, changes), state, value

    params, losses = found.params, []
    for _ in range(4):
        params, state, value = step(params, state)
        losses.append(float(value))
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-6)  # 1e-7 measured
    moments = (optax.tree.get(state, name) for name in ("mu", "nu"))
    for ours, theirs in zip((params, *moments), (end.params, end.mu, end.nu), strict=True):
        for name, array in named(ours).items():
            # Four steps at rates of about 5e-3. A key bias has no gradient except rounding errors,
            # from which Adam makes steps of any size.
            if not name.endswith("attention/key/bias"):
                np.testing.assert_allclose(array, named(theirs)[name], atol=1e-5, err_msg=name)


# The choice between checkpoints


def test_any_name_of_a_checkpoint_will_do(released, params):
    directory = released(name="first")
    names = ("", ".index", ".data-00000-of-00001")
    paths = [directory, *(directory / f"bert_model.ckpt{suffix}" for suffix in names)]
    for path in paths:
        assert is_checkpoint(path)
        same(read_checkpoint(path).params, params)
        same(bj.from_pretrained(str(path)).params, params)
    assert not is_checkpoint(directory / "bert_config.json")
    assert not is_checkpoint(directory.parent)


def test_of_several_the_newest_is_taken_and_said(released, writer):
    trees = {step: random_tree(step) for step in (9, 20, 100)}
    for step, tree in trees.items():
        directory = released(params=tree, step=step, name="several")
        writer.write_google(directory, tree, CONFIG, step=step, name=f"model.ckpt-{step}")
    (directory / "bert_model.ckpt.index").unlink()
    found = read_checkpoint(directory)
    same(found.params, trees[100])
    assert found.notes == (f"{directory} holds 3 checkpoints; model.ckpt-100 is read.",)
    state = 'model_checkpoint_path: "/elsewhere/model.ckpt-20"\nall_model_checkpoint_paths: "x"\n'
    (directory / "checkpoint").write_text(state)
    same(read_checkpoint(directory).params, trees[20])
    same(read_checkpoint(directory / "model.ckpt-9").params, trees[9])
    (directory / "checkpoint").write_text('model_checkpoint_path: "gone-1"')
    assert read_checkpoint(directory).step == 100


def test_of_several_without_an_order_none_is_guessed(released, writer, params):
    directory = released()
    writer.write_google(directory, params, CONFIG, name="other.ckpt")
    assert "holds several checkpoints (bert_model.ckpt, other.ckpt)" in refusal(directory)


def test_hugging_faces_files_go_first(released, tmp_path):
    directory = released()
    bj.save_pretrained(tmp_path / "hf", bj.from_pretrained(directory))
    for path in (tmp_path / "hf").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    assert not is_checkpoint(directory)
    assert is_checkpoint(directory / "bert_model.ckpt")


# Messages about wrong files


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no TensorFlow checkpoint" in refusal(tmp_path / "empty")
    assert "model.index: no such file" in refusal(tmp_path / "model")


def test_a_configuration_is_needed(released):
    directory = released()
    (directory / "bert_config.json").rename(directory / "config.json")
    assert read_checkpoint(directory).config == CONFIG
    (directory / "config.json").unlink()
    assert "holds no bert_config.json, which describes the model's shape" in refusal(directory)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"vocab_size": 13},
            "word_embeddings [13, 6] has the shape [12, 6], but the configuration implies",
        ),
        ({"intermediate_size": 12}, "[10], but the configuration implies [12]"),
        ({"num_hidden_layers": 4}, "bert/encoder/layer_3/attention/key"),
        ({"num_hidden_layers": 2}, "bert/encoder/layer_2/attention/output/LayerNorm/beta [6] is"),
    ],
)
def test_a_configuration_that_contradicts_the_weights(released, changes, sentence):
    directory = released(config=dataclasses.replace(CONFIG, **changes))
    said = refusal(directory).replace("/self/", "/")
    assert sentence in said


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bert/embeddings/word_embeddings", "[12, 6]"),
        ("bert/encoder/layer_2/intermediate/dense/kernel", "[6, 10]"),
        ("bert/pooler/dense/bias", "[6]"),
        ("cls/predictions/output_bias", "[12]"),
        ("cls/seq_relationship/output_weights", "[2, 6]"),
    ],
)
def test_what_is_missing_is_named_with_its_shape(released, name, shape):
    directory = released(lambda tensors: {n: a for n, a in tensors.items() if n != name})
    assert f"the tensor {name} {shape} is missing" in refusal(directory)


def test_unknown_variables(released):
    more = {"good_steps": np.int32(3), "bert/pooler/dense/bias/Adam": np.zeros(6, np.float32)}
    found = read_checkpoint(released(lambda tensors: {**tensors, **more}))
    assert found.notes == (
        "Not part of a BERT, and left out: bert/pooler/dense/bias/Adam, good_steps.",
    )
    more = {"bert/encoder/layer_0/adapter/kernel": np.zeros(3, np.float32)}
    said = refusal(released(lambda tensors: {**tensors, **more}))
    assert "the variable bert/encoder/layer_0/adapter/kernel [3] is not part of the BERT" in said


def test_values_that_can_not_be_weights(released):
    for bias, sentence in (
        (np.float32([1, 2, np.nan, 4, 5, 6]), "has values that are not finite"),
        (np.arange(6, dtype=np.int32), "has the type int32; only floating-point"),
    ):
        directory = released(lambda tensors, bias=bias: {**tensors, "bert/pooler/dense/bias": bias})
        assert f"bert/pooler/dense/bias [6] {sentence}" in refusal(directory)
    for step in (-1, 1 << 31):
        assert "global_step is not a number of steps" in refusal(released(step=step))


def test_a_vocabulary_is_needed_and_fits(released):
    directory = released()
    (directory / "vocab.txt").write_text("\n".join([*TOKENS, "h"]) + "\n")
    with pytest.raises(UserError, match="has 13 tokens and the model only 12"):
        bj.from_pretrained(directory)
    (directory / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"holds neither vocab\.txt"):
        bj.from_pretrained(directory)


def test_the_case_of_the_tokenizer_is_deduced(released):
    directory = released()
    assert bj.from_pretrained(directory).tokenizer.lowercase
    (directory / "vocab.txt").write_text("\n".join([*TOKENS[:-1], "G"]) + "\n")
    assert not bj.from_pretrained(directory).tokenizer.lowercase
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert bj.from_pretrained(directory).tokenizer.lowercase


def test_google_gelu_stays_gelu(released):
    fields = json.loads((released() / "bert_config.json").read_text())
    assert fields["hidden_act"] == "gelu"
    assert read_checkpoint(released()).config.hidden_act == "gelu"


def test_a_written_checkpoint_is_read_back_bit_for_bit(tmp_path, tiny_model, tiny_config):
    rng = np.random.default_rng(0)
    mu, nu = (
        jax.tree.map(lambda x: rng.random(x.shape, np.float32), tiny_model.params) for _ in range(2)
    )
    notes = google.write_checkpoint(
        tmp_path, tiny_config, tiny_model.params, mu=mu, nu=nu, step=123_456_789
    )
    assert "Google's code from February 2019 on computes its gelu with tanh" in notes[0]
    found = google.read_checkpoint(tmp_path)
    assert (found.config, found.step, found.notes) == (tiny_config, 123_456_789, ())
    for read, written in ((found.params, tiny_model.params), (found.mu, mu), (found.nu, nu)):
        assert jax.tree.all(jax.tree.map(np.array_equal, read, written))


def test_the_writer_makes_what_another_one_makes(tmp_path, tiny_model, writer):
    """The tests' own writer was read by TensorFlow; its variables have the same bytes."""
    (tmp_path / "ours").mkdir()
    google.write_checkpoint(tmp_path / "ours", tiny_model.config, tiny_model.params, step=7)
    writer.write_google(tmp_path / "theirs", tiny_model.params, tiny_model.config, step=7)
    name = "bert_model.ckpt.data-00000-of-00001"
    assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    ours, theirs = (TensorBundle(tmp_path / d / "bert_model.ckpt") for d in ("ours", "theirs"))
    assert ours.names == theirs.names
    assert all(ours._entries[name] == theirs._entries[name] for name in ours.names)


def test_what_googles_code_computes_differently_is_said(tmp_path, tiny_model):
    config = dataclasses.replace(tiny_model.config, hidden_act="gelu_new", layer_norm_eps=1e-5)
    params = {**tiny_model.params, "sentence_scorer": {}}
    notes = google.write_checkpoint(tmp_path, config, params)
    assert "left out: sentence_scorer" in notes[0]
    assert "written as gelu" in notes[1] and "Google's code adds 1e-12" in notes[2]
    found = google.read_checkpoint(tmp_path)
    assert found.config == dataclasses.replace(config, hidden_act="gelu")
    assert found.step is None and not found.has_moments


def test_tensorflow_read_these_bytes_as_these_tensors(tmp_path, load_helper):
    made = load_helper("interop/make_tf1_written.py")
    golden = json.loads(made.GOLDEN.read_text())
    made.write(tmp_path)
    assert made.files_of(tmp_path) == golden["files"]
    bundle = TensorBundle(tmp_path / made.PREFIX)
    assert {name: made.describe(bundle.read(name)) for name in bundle.names} == golden["tensors"]
