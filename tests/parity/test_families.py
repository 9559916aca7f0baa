"""RoBERTa and ModernBERT against transformers: logits, gradients, every tensor and every id."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import bertjax as bj
from bertjax.convert.run import ConvertConfig, convert
from bertjax.convert.verify import verify
from bertjax.interop import families
from bertjax.interop.tensors import to_tensors

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

EXECUTION = bj.Execution(precision="highest")
KINDS = {
    "Model": "encoder",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
}
VOCABULARY = 320  # ModernBERT's tokenizer has one token more
SHAPE = {
    "vocab_size": VOCABULARY + 1,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
ROBERTA = {
    **SHAPE,
    "max_position_embeddings": 42,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODERN = {
    **SHAPE,
    "num_hidden_layers": 4,
    "max_position_embeddings": 42,
    "local_attention": 12,
    "embedding_dropout": 0.0,
}
CONFIGS = {
    "Roberta": {
        "tiny": ROBERTA,
        "relu": {**ROBERTA, "hidden_act": "relu", "num_hidden_layers": 3},
        "odd": {**ROBERTA, "hidden_size": 27, "num_attention_heads": 3, "type_vocab_size": 2},
        "wide": {**ROBERTA, "hidden_size": 64, "num_attention_heads": 2, "layer_norm_eps": 1e-12},
    },
    "ModernBert": {
        "tiny": MODERN,
        "narrow": {**MODERN, "local_attention": 4, "global_attn_every_n_layers": 2},
        "biased": {
            **MODERN,
            **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
            "classifier_pooling": "mean",
            "hidden_activation": "silu",
            "classifier_activation": "silu",
        },
        "everywhere": {
            **MODERN,
            "num_hidden_layers": 2,
            "global_attn_every_n_layers": 1,
            "hidden_size": 48,
            "num_attention_heads": 2,
            "global_rope_theta": 500.0,
            "norm_eps": 1e-12,
        },
    },
}
SPECIALS = {
    "Roberta": ("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
    "ModernBert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
LENGTHS = (29, 12, 20, 5)
CASES = [
    (family, case, kind)
    for family, configs in CONFIGS.items()
    for case in configs
    for kind in KINDS
    # Every head in one configuration; the others differ in the encoder.
    if case == next(iter(configs)) or kind in ("ForMaskedLM", "ForSequenceClassification")
    if not (case == "relu" and kind == "ForMaskedLM")  # a RoBERTa's head always has gelu
]


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="torch and transformers come with the extra parity")
    return pytest.importorskip("transformers", reason="transformers comes with the extra parity")


@pytest.fixture(scope="module")
def tokenizer_of(transformers, cases, tmp_path_factory):
    """Returns a function: family -> its tokenizer of transformers."""

    def make(family):
        specials = SPECIALS[family]
        library = tokenizers.ByteLevelBPETokenizer()
        size = VOCABULARY if family == "Roberta" else VOCABULARY - len(specials)
        tokens = [*specials] if family == "Roberta" else []
        library.train_from_iterator(
            cases.SENTENCES, vocab_size=size, special_tokens=tokens, show_progress=False
        )
        directory = tmp_path_factory.mktemp(family)
        if family == "Roberta":
            library.save_model(str(directory))
            return transformers.RobertaTokenizer.from_pretrained(directory)
        return modern_tokenizer(transformers, library, specials)

    return make


def modern_tokenizer(transformers, library, specials):
    """Returns a tokenizer with the parts of ModernBERT's, whose special tokens come last."""
    library = tokenizers.Tokenizer.from_str(library.to_str())
    library.normalizer = tokenizers.normalizers.NFC()
    library.add_tokens([tokenizers.AddedToken("  ", normalized=True)])
    library.add_special_tokens(
        [tokenizers.AddedToken(name, lstrip=name == "[MASK]") for name in specials]
    )
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, library.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name[1:-1].lower()}_token": name for name in specials}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library, **names)


def build(transformers, family, case, kind, tokenizer, cases):
    import torch

    fields = {"pad_token_id": tokenizer.pad_token_id, **CONFIGS[family][case]}
    config = getattr(transformers, f"{family}Config")(**fields, attn_implementation="eager")
    if "Classification" in kind:
        config.num_labels = 3
    model = getattr(transformers, family + kind)(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            like = "LayerNorm.weight" if is_scale else name
            drawn = cases.tensor(f"{family}.{name}.{like}", tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    return model


def inputs(tokenizer, cases, kind):
    draws = cases.stream("inputs of families")
    mask = np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]
    # No special token: PyTorch gives the embedding of [PAD] no gradient.
    ids = draws.randint(5, 256, size=mask.shape)
    arrays = {
        "input_ids": np.where(mask, ids, tokenizer.pad_token_id).astype(np.int32),
        "attention_mask": mask.astype(np.int32),
    }
    return cases.choices(arrays) if kind == "ForMultipleChoice" else arrays


def outputs_of(kind, out):
    """Returns the outputs of a class of transformers as one tensor."""
    import torch

    if kind == "ForQuestionAnswering":
        return torch.stack([out.start_logits, out.end_logits], -1)
    return out.last_hidden_state if kind == "Model" else out.logits


@pytest.mark.parametrize(("family", "case", "kind"), CASES)
def test_logits_gradients_and_tensors_are_those_of_transformers(
    family, case, kind, transformers, tokenizer_of, cases, tmp_path, hold
):
    import torch

    tokenizer = tokenizer_of(family)
    model = build(transformers, family, case, kind, tokenizer, cases)
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    read = bj.from_pretrained(tmp_path / "theirs")
    assert read.kind == KINDS[kind]
    what = f"live, {family}{kind}, {case}"

    arrays = inputs(tokenizer, cases, kind)
    theirs = outputs_of(kind, model(**{n: torch.from_numpy(a).long() for n, a in arrays.items()}))
    shape = tuple(theirs.shape)
    weights = cases.tensor("weights of outputs", shape)
    if shape[:2] == arrays["attention_mask"].shape:
        weights = weights * arrays["attention_mask"].reshape(*shape[:2], *[1] * (len(shape) - 2))

    @jax.jit
    def ours(params):
        if kind == "Model":
            found = bj.encode(params, arrays, read.config, execution=EXECUTION).last_hidden_state
        else:
            found = bj.task_logits(params, arrays, read.config, read.task, execution=EXECUTION)
        return (found * weights).sum(), found

    (_, found), gradients = jax.value_and_grad(ours, has_aux=True)(read.params)
    kept = weights != 0
    difference = np.abs(np.asarray(found) - theirs.detach().numpy())[kept].max()
    hold(f"{what}: outputs", difference, 1e-5, "max abs difference")

    (theirs * torch.from_numpy(weights)).sum().backward()
    expected = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    layout = families.layout(read.config, read.tokenizer, read.kind)
    computed = layout.tensors(to_tensors(gradients), read.kind)
    norm = np.sqrt(sum(np.square(each, dtype=np.float64).sum() for each in expected.values()))
    error = max(np.linalg.norm((computed[name] - each).ravel()) for name, each in expected.items())
    assert norm > 1 and len(expected) > 10
    hold(f"{what}: gradients", error / norm, 1e-5, "of the norm")

    bj.save_pretrained(tmp_path / "ours", read)
    again, info = getattr(transformers, family + kind).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    wrong = {key: list(names) for key, names in info.items() if names}
    hold(f"{what} back: missing and unexpected keys", len(wrong), 0, str(wrong or ""))
    held, back = model.state_dict(), again.state_dict()
    assert set(back) == set(held)
    different = [n for n in held if back[n].numpy().tobytes() != held[n].numpy().tobytes()]
    hold(f"{what} back: tensors of other bytes", len(different), 0, f"of {len(held)}")
    assert again.config.architectures == [family + kind]
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, bj.from_pretrained(tmp_path / "ours").params, read.params)
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_ids_are_those_of_transformers(family, transformers, tokenizer_of, cases, tmp_path, hold):
    theirs = tokenizer_of(family)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bj.load_tokenizer(tmp_path / "theirs")
    ours.save(tmp_path / "ours", export=True)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert bj.load_tokenizer(tmp_path / "ours").sha256 == ours.sha256
    texts = [*cases.SENTENCES, "  two  spaces, a\ttab \n", "Élan 日本", ""]
    others = texts[::-1]
    for name, tokenizer in (("transformers", theirs), ("an export in transformers", again)):
        for pair in (None, others):
            expected = tokenizer(texts, pair)["input_ids"]
            found = [ours.encode(text, pair and pair[at]).ids for at, text in enumerate(texts)]
            different = sum(a != b for a, b in zip(found, expected, strict=True))
            hold(f"live, ids of {family}, {name}: texts that differ", different, 0)
    masked = theirs(f"the cat {theirs.mask_token} on it")["input_ids"]
    assert ours.encode("the cat [MASK] on it", parse_mask=True).ids == masked
    if family == "Roberta":  # that of ModernBERT gives words the space before them
        offsets = theirs(texts[0], return_offsets_mapping=True)["offset_mapping"]
        assert ours.encode(texts[0]).offsets == offsets
    assert json.loads((tmp_path / "ours/tokenizer_config.json").read_text())


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_convert_verifies_the_model_and_names_a_mistake(
    family, kind, transformers, tokenizer_of, cases, tmp_path, hold
):
    tokenizer = tokenizer_of(family)
    source = tmp_path / "theirs"
    build(transformers, family, "tiny", kind, tokenizer, cases).save_pretrained(source)
    tokenizer.save_pretrained(source)
    lines = []
    convert(ConvertConfig(str(source), str(tmp_path / "ours"), verify=True), lines.append)
    certificate = json.loads((tmp_path / "ours/certificate.json").read_text())
    assert certificate["agrees"] and not certificate["not_compared"], lines
    assert certificate["compared_with"].startswith(f"{family}{kind} of transformers")
    names = {"last_hidden_state"} | {"Model": set(), "ForMaskedLM": {"mlm_logits"}}.get(
        kind, {"logits"}
    )
    assert names <= certificate["differences"].keys()
    largest = max(certificate["differences"].values())
    hold(f"convert --verify, {family}{kind}: largest difference", largest, 2e-5, "of the largest")

    read = bj.from_pretrained(source)
    wrong = dataclasses.replace(read.config, layer_norm_eps=1e-12)
    found = verify(dataclasses.replace(read, config=wrong), source, lines.append)
    assert found.causes == ("layer_norm_eps is 1e-05 there and 1e-12 here",), found.verdict()
