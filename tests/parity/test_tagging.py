"""Tagging beside run_ner.py of transformers: rows, loss, predictions and F1 of real sentences."""

import numpy as np
import pytest

import bertjax as bj
from bertjax.inference import predict
from bertjax.inference.programs import output_batches
from bertjax.model import bert
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.tasks.token_classification.features import make_windows
from bertjax.tasks.token_classification.files import read_tagged
from bertjax.tasks.token_classification.losses import token_classification_loss
from bertjax.tasks.token_classification.metrics import entity_scores
from bertjax.tasks.token_classification.reading import find_labels

pytestmark = [
    pytest.mark.parity,
    pytest.mark.data,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

SENTENCES = 64


@pytest.fixture(scope="module")
def tagged(data_dir, tmp_path_factory):
    """Tweets with names, emoji and addresses."""
    blocks = (data_dir / "ner/btc/e.conll").read_text().split("\n\n")[:SENTENCES]
    path = tmp_path_factory.mktemp("btc") / "e.conll"
    path.write_text("\n\n".join(blocks) + "\n")
    return read_tagged(path, TokenClassificationConfig())


@pytest.fixture(scope="module")
def models(data_dir, tagged, tmp_path_factory):
    """A model of transformers with random weights, its tokenizer, and the directory of both."""
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
    transformers = pytest.importorskip("transformers", reason="it comes with the extra parity")
    labels = find_labels(tagged)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    model = transformers.BertForTokenClassification(config).eval()
    directory = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(directory)
    vocabulary = (data_dir / "vocab/bert-base-uncased-vocab.txt").read_text()
    (directory / "vocab.txt").write_text(vocabulary)
    tokenizer = transformers.BertTokenizerFast(str(directory / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(directory)
    return model, tokenizer, directory


@pytest.fixture(scope="module")
def theirs(tagged, models):
    """Rows as `tokenize_and_align_labels` of run_ner.py makes them, their loss and tags."""
    import torch

    file, (model, tokenizer, _) = tagged, models
    encoded = tokenizer(
        [list(words) for words in file.words],
        is_split_into_words=True,
        padding=True,
        return_tensors="pt",
    )
    wanted = torch.full(encoded["input_ids"].shape, -100)
    for row, tags in enumerate(file.tags):
        before = None
        for place, word in enumerate(encoded.word_ids(row)):
            if word is not None and word != before:
                wanted[row, place] = model.config.label2id[tags[word]]
            before = word
    with torch.no_grad():
        out = model(**encoded, labels=wanted)
    kept = [row != -100 for row in wanted]
    best = out.logits.argmax(-1)
    tags = [
        [model.config.id2label[int(n)] for n in best[row][each]] for row, each in enumerate(kept)
    ]
    return encoded["input_ids"].numpy(), wanted.numpy(), float(out.loss), tags


def test_rows_loss_predictions_and_f1(tagged, models, theirs, tmp_path, hold):
    file, (_, _, directory) = tagged, models
    ids, wanted, loss, tags = theirs
    read = bj.from_pretrained(directory)
    labels = read.task["labels"]
    windows = make_windows(file.words, read.tokenizer, 512, tags=file.tags, labels=labels)
    batch = windows.batch(np.arange(len(windows)), ids.shape[1])
    labeled = np.where(batch["label_weight"] > 0, batch["label"], -100)
    different = (batch["input_ids"] != ids).sum() + (labeled != wanted).sum()
    hold("tagging: tokens and labels other than in run_ner.py", different, 0, f"of {2 * ids.size}")

    found, _ = token_classification_loss(read.params, batch, read.config)
    hold("tagging: loss", abs(float(found) - loss) / loss, 1e-5, "relative")

    answers = predict.predict(read, file.words)
    outputs = output_batches(
        read.params,
        windows,
        read.config,
        head=read.kind,
        batch_size=8,
        max_seq_length=512,
        forward=bert.task_logits,
    )
    raw = [labels[int(n)] for n in windows.word_logits(outputs).argmax(-1)]
    wrong = sum(
        one != other for one, other in zip(raw, [t for row in tags for t in row], strict=True)
    )
    hold("tagging: other tags than transformers", wrong, 0, f"of {len(raw)} words")
    assert len(set(raw)) > 2 and [len(each["tags"]) for each in answers] == list(
        map(len, file.words)
    )

    # Random weights find no entity of the file: half of the sentences get the tags that they find.
    true = [list(given if row % 2 else tags[row]) for row, given in enumerate(file.tags)]
    rows = [list(zip(*each, strict=True)) for each in zip(file.words, true, strict=True)]
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in row) for row in rows)
    (tmp_path / "half.conll").write_text(text + "\n")
    f1 = entity_scores(true, tags)["f1"]
    scores = predict.evaluate(read, tmp_path / "half.conll")
    assert 0 < f1 < 1 and scores["f1"] == f1
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval: pip install seqeval")
    assert seqeval.f1_score(true, tags) == f1


def test_the_export_is_read_by_transformers(models, tmp_path):
    import transformers

    model, _, directory = models
    bj.save_pretrained(tmp_path, bj.from_pretrained(directory))
    again = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert again.config.id2label == model.config.id2label
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy())
