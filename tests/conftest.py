"""What every test shares: a CPU, the real data where there is some, processes of their own."""

import dataclasses
import gc
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests and the processes they start compile the same small programs many times: once is enough.
# Each worker of pytest-xdist has a cache of its own, as JAX writes into it without a lock.
_CACHE = tempfile.TemporaryDirectory(prefix="bertjax-tests-")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# The programs are small and run a few times, so that most of a test's time is compiling. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 they are compiled as users compile them, as .ci/run does with
# those that equal numbers rest on.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A third of the compiler's time. Later releases of jax have neither the choice nor the flag, and
# XLA ends a process over a flag that it doesn't know.
_HAS_EMITTERS = version("jaxlib").split(".")[:2] == ["0", "10"]
if _HAS_EMITTERS and os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# Tracing makes many objects that live long: collecting them rarely saves a twentieth of the time.
gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items):
    """Puts the programs for a TPU first: they take minutes, and would leave a worker idle last."""
    items.sort(key=lambda item: "tpu" not in item.keywords)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that BERTJAX_TEST_DATA names."""
    named = os.environ.get("BERTJAX_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("real data: set BERTJAX_TEST_DATA to its folder")
    return Path(named)


@pytest.fixture(scope="session")
def run_python():
    """Runs a Python program in a process of its own; returns its standard output."""

    def run(*arguments: str, devices: int = 1, timeout: float = 300, **environment: str) -> str:
        flags = [
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={devices}",
        ]
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


class _Elsewhere(type(backend.os_backend)):
    """The os backend, with gs:// names mapped into a folder."""

    def __init__(self, root: Path):
        self._root = root

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name.startswith("_") or not callable(method):
            return method
        root = super().__getattribute__("_root")

        def local(path):
            return str(path).replace("gs://", f"{root}/", 1)

        def call(*arguments, **named):
            plain = [local(a) if str(a).startswith("gs://") else a for a in arguments]
            result = method(*plain, **named)
            if name == "glob":
                return [f.replace(f"{root}/", "gs://", 1) for f in result]
            return result

        return call


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """gs://bucket, which is a folder, and that folder: what reaches it went through epath."""
    root = tmp_path / "remote"
    (root / "bucket").mkdir(parents=True)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", _Elsewhere(root))
    return epath.Path("gs://bucket"), root / "bucket"


@pytest.fixture(scope="session")
def store_tfds():
    """Stores examples as a data set of TFDS, without network and without TensorFlow."""

    def store(data_dir, splits, *, name="tiny", config=None, version="1.0.0", features=("text",)):
        import tensorflow_datasets as tfds

        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                texts = {name: tfds.features.Text() for name in features}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict({**texts, "number": np.int64}),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split):
                for number, text in enumerate(splits[split]):
                    yield number, {**dict.fromkeys(features, text), "number": number}

        Builder.name = name
        builder = Builder(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
        return Path(builder.data_dir)

    return store


@pytest.fixture
def give_stdin(monkeypatch):
    """Gives lines of text to the standard input of a command."""

    def give(lines):
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return give


@pytest.fixture(scope="session")
def load_helper():
    """Loads a script that lies beside the tests, off sys.path in importlib's import mode."""

    def load(path):
        path = Path(__file__).parent / path
        if path.stem not in sys.modules:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            sys.modules[path.stem] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[path.stem])
        return sys.modules[path.stem]

    return load


@pytest.fixture(scope="session")
def killing(load_helper):
    """Kills a training command and starts it again."""
    return load_helper("train/killing.py")


# A model small enough to compile in a second, for whatever needs some model.

_WORDS = (
    "good great fine bad awful poor the a film was is very not and plot acting one two , . ##s ##ly"
)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    from bertjax.text.tokenizer import load_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS.split()]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return load_tokenizer(directory)


@pytest.fixture(scope="session")
def tiny_shape():
    """A model for rows of 32 tokens, of the size that a recipe names.

    Without dropout, whose draws are a good part of a small step to compile.
    """
    from bertjax.pretrain.config import ModelConfig

    return ModelConfig(
        "tiny",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer):
    from bertjax.config import BertConfig

    return BertConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config, tiny_tokenizer):
    """A pre-training model with random weights, drawn wider so that its logits differ."""
    import jax

    from bertjax.interop.huggingface import Pretrained
    from bertjax.model.bert import init_params

    wide = dataclasses.replace(tiny_config, initializer_range=0.3)
    params = jax.jit(lambda key: init_params(wide, key))(jax.random.key(1))
    return Pretrained(tiny_config, params, tiny_tokenizer, {"kind": "pretraining"})
