"""What several tests of pre-training share."""

import numpy as np
import pytest

from bertjax.data.prepare.run import PrepareConfig, prepare


@pytest.fixture(scope="module")
def random_shards(tmp_path_factory, tiny_tokenizer):
    """The directory of shards of random words, in rows of 32 tokens; a fifth is held out."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    words = [tiny_tokenizer.decode([number]) for number in range(5, 20)]
    documents = ["\n".join(" ".join(rng.choice(words, 6)) for _ in range(6)) for _ in range(40)]
    (root / "text.txt").write_text("\n\n".join(documents))
    tiny_tokenizer.save(root / "tokenizer")
    text, shards = (str(root / "text.txt"),), str(root / "shards")
    config = PrepareConfig(text, str(root / "tokenizer"), shards, max_seq_length=32, held_out=0.2)
    prepare(config, lambda line: None)
    return shards
