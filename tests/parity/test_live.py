"""Compares with transformers in one process; `make parity` runs this besides the golden files."""

import numpy as np
import pytest

import bertjax as bj
from bertjax.interop.huggingface import Pretrained
from bertjax.text import sentencepiece

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = {
    "BertModel": "encoder",
    "BertForPreTraining": "pretraining",
    "BertForMaskedLM": "masked_lm",
    "BertForNextSentencePrediction": "next_sentence",
    "BertForSequenceClassification": "sequence_classification",
    "BertForTokenClassification": "token_classification",
    "BertForQuestionAnswering": "question_answering",
    "BertForMultipleChoice": "multiple_choice",
}
CASE = "tiny_erf"


@pytest.fixture(scope="module")
def reference(load_helper, cases, golden):
    pytest.importorskip("torch", reason="torch and transformers come with the extra parity")
    pytest.importorskip("transformers", reason="transformers comes with the extra parity")
    return load_helper("parity/reference.py")


def tensors_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", KINDS)
def test_what_transformers_saves_loads_here_and_goes_back(
    name, reference, cases, ours, tmp_path, hold
):
    import torch
    import transformers

    labels = {"num_labels": 5} if "Classification" in name else {}
    model = reference.build(name, CASE, **labels)
    model.save_pretrained(tmp_path / "theirs")
    words = "\n".join([*SPECIALS, *map(chr, range(ord("a"), ord("z") + 1))])
    (tmp_path / "theirs/vocab.txt").write_text(words + "\n")

    read = bj.from_pretrained(tmp_path / "theirs")
    assert read.kind == KINDS[name]
    arrays = cases.inputs(CASE)
    arrays = cases.choices(arrays) if name == "BertForMultipleChoice" else arrays
    with torch.no_grad():
        out = model(**reference.torched(arrays))
    for what, (found, expected) in _outputs(name, read, arrays, out, cases, ours).items():
        difference = np.abs(np.asarray(found) - expected.numpy()).max()
        hold(f"live, {name}, {what}", difference, 1e-5, "max abs difference")

    bj.save_pretrained(tmp_path / "ours", read)
    again, info = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    wrong = {key: list(found) for key, found in info.items() if found}
    hold(f"live, {name} back: missing and unexpected keys", len(wrong), 0, str(wrong or ""))
    theirs, back = tensors_of(model), tensors_of(again)
    assert set(back) == set(theirs)
    different = [n for n, array in theirs.items() if back[n].tobytes() != array.tobytes()]
    hold(f"live, {name} back: tensors of other bytes", len(different), 0, f"of {len(theirs)}")
    assert again.config.architectures == [name]


def _outputs(name, read, arrays, out, cases, ours):
    """Returns {name: (our outputs, theirs)}."""
    options = {"execution": ours.EXECUTION}
    if name == "BertModel":
        encoded = bj.encode(read.params, arrays, read.config, **options)
        return {
            "last_hidden_state": (encoded.last_hidden_state, out.last_hidden_state),
            "pooled": (encoded.pooled, out.pooler_output),
        }
    if name == "BertForPreTraining":
        rows, width = arrays["input_ids"].shape
        everywhere = np.broadcast_to(np.arange(width), (rows, width))
        found = bj.pretraining_logits(read.params, arrays, everywhere, read.config, **options)
        return {
            "mlm": (found[0], out.prediction_logits),
            "nsp": (found[1], out.seq_relationship_logits),
        }
    found = bj.task_logits(read.params, arrays, read.config, read.task, **options)
    if name == "BertForQuestionAnswering":
        return {"start": (found[..., 0], out.start_logits), "end": (found[..., 1], out.end_logits)}
    return {"logits": (found, out.logits)}


@pytest.mark.data
@pytest.mark.parametrize("name", ["uncased", "cased", "multilingual-cased"])
def test_tokens_are_those_of_transformers_tokenizer(name, reference, data_dir, texts, hold):
    import transformers

    path = data_dir / "vocab" / f"bert-base-{name}-vocab.txt"
    words = [token for token in path.read_text(encoding="utf-8").split("\n") if token]
    theirs = transformers.BertTokenizer(
        vocab={token: number for number, token in enumerate(words)},
        do_lower_case=name == "uncased",
    )
    tokenizer = bj.load_tokenizer(path)
    # In transformers, a text can contain special tokens. In bertjax and Google's code, it can't.
    plain = [text for text in texts if not any(special in text for special in SPECIALS)]
    expected = theirs(plain, add_special_tokens=False)["input_ids"]
    found = tokenizer.encode_sentences(plain)
    different = sum(a.tolist() != b for a, b in zip(found, expected, strict=True))
    tokens = sum(map(len, expected))
    hold(
        f"live, tokens against transformers, {name}: texts that differ",
        different,
        0,
        f"{len(plain):,} texts, {tokens:,} tokens",
    )


def test_transformers_makes_the_ids_of_a_sentencepiece_vocabulary(reference, cases, tmp_path, hold):
    import jax
    import transformers

    tokenizer = sentencepiece.train(
        cases.SENTENCES * 20, 150, lowercase=True, character_coverage=1.0
    )
    config = bj.BertConfig.named("tiny", vocab_size=tokenizer.vocab_size)
    model = Pretrained(config, bj.init_params(config, jax.random.key(0)), tokenizer)
    bj.save_pretrained(tmp_path, model)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*cases.SENTENCES, "Élan, the [MASK] of it"]
    ours = tokenizer.batch(texts, list(reversed(texts)), parse_mask=True)
    found = theirs(texts, list(reversed(texts)), padding=True, return_tensors="np")
    different = [name for name, array in ours.items() if not np.array_equal(array, found[name])]
    hold("live, SentencePiece: arrays that differ", len(different), 0, f"of {list(ours)}")
    assert theirs.mask_token_id == tokenizer.mask_id


def test_the_encoder_of_a_model_that_picks_sentences_is_a_bert_model(
    reference, cases, ours, tiny_tokenizer, tmp_path, hold
):
    """Its head lies in a file beside it, which transformers does not read."""
    import jax
    import torch
    import transformers

    from bertjax.model import extractive

    config, params = ours.config(CASE), dict(ours.params(CASE))
    for name in ("pooler", "mlm", "nsp"):
        del params[name]
    params |= extractive.init_params(config, jax.random.key(0), whole=False)
    task = {"kind": extractive.KIND}
    bj.save_pretrained(tmp_path, Pretrained(config, params, tiny_tokenizer, task))
    model, loading = transformers.AutoModel.from_pretrained(
        tmp_path, add_pooling_layer=False, output_loading_info=True
    )
    assert type(model) is transformers.BertModel
    different = [name for keys in loading.values() for name in keys]
    hold("live, encoder of sentence_extraction: missing or unexpected keys", len(different), 0)
    arrays = cases.inputs(CASE)
    with torch.no_grad():
        expected = model(**reference.torched(arrays)).last_hidden_state.numpy()
    found = np.asarray(bj.encode(params, arrays, config).last_hidden_state)
    real = arrays["attention_mask"] != 0
    difference = np.abs(found - expected)[real].max()
    hold("live, encoder of sentence_extraction: hidden states", difference, 1e-5)
