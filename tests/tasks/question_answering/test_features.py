import random

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks.question_answering import metrics, squad
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.features import make_windows
from bertjax.tasks.question_answering.squad import Answer, Question
from bertjax.text.tokenizer import load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["lour", "##des", "emile", "born", "in", "18", "##58", "where", "was", ",", ".", "(", "京"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "vocab.txt").write_text("\n".join(SPECIALS + PIECES) + "\n")
    return load_tokenizer(directory)


def make(questions, tokenizer, length=16, query=5, stride=4, has_unanswerable=False):
    return make_windows(
        questions,
        tokenizer,
        QuestionAnsweringConfig(doc_stride=stride, max_query_length=query),
        max_seq_length=length,
        has_unanswerable=has_unanswerable,
    )


def googles_spans(tokens, room, stride):
    """The loop of convert_examples_to_features in google-research/bert's run_squad.py."""
    spans, start = [], 0
    while start < tokens:
        length = min(tokens - start, room)
        spans.append((start, length))
        if start + length == tokens:
            break
        start += min(length, stride)
    return spans


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_windows_are_googles_and_hold_every_token(tokenizer, stride):
    for count in (1, 7, 8, 9, 16, 40):
        question = Question("q", "where was emile", " ".join(["born"] * count))
        made = make([question], tokenizer, length=14, stride=stride)
        spans = list(zip(made.first.tolist(), made.count.tolist(), strict=True))
        assert spans == googles_spans(count, 14 - 3 - 3, stride)
        assert set().union(*(range(a, a + n) for a, n in spans)) == set(range(count))
        assert made.lengths.max() <= 14


def test_a_batch_is_the_tokenizers_pair_of_question_and_part(tokenizer):
    question = Question("q", "where was emile", "Émile (born in 1858) in Lourdes .")
    made = make([question], tokenizer, length=32)
    batch = made.batch(np.array([0, -1]), 20)
    theirs = tokenizer.batch([question.question], [question.context], 32, pad_to=20)
    for name, value in theirs.items():
        assert np.array_equal(batch[name][0], value[0]), name
    assert batch["example_weight"].tolist() == [1.0, 0.0]
    assert made.lengths.tolist() == [theirs["attention_mask"].sum()]
    dtypes = {name: value.dtype.name for name, value in batch.items()}
    assert {dtypes.pop("example_weight")} == {"float32"} and set(dtypes.values()) == {"int32"}


def test_a_long_question_loses_its_end(tokenizer):
    question = Question("q", "where was emile born in lourdes", "born in lourdes")
    made = make([question], tokenizer, query=3)
    assert made.queries[0].tolist() == tokenizer.encode("where was emile").ids[1:-1]


def random_question(generator, number):
    words = ["Émile", "LOURDES", "1858", "(born", "in", "京京", "e\u0301", "x\u00a0y", "was,", "🙂"]
    parts = generator.choices(words, k=generator.randint(1, 30))
    context = generator.choice(["", " "]) + " ".join(parts)
    begin = generator.randrange(len(parts))
    end = generator.randint(begin, min(begin + 3, len(parts) - 1))
    text = " ".join(parts[begin : end + 1])
    start = len(context) - len(" ".join(parts)) + len(" ".join([*parts[:begin], ""]))
    assert context[start : start + len(text)] == text
    return Question(f"q{number}", "where was", context, (Answer(text, start),))


def test_an_answers_tokens_stand_for_its_text_in_every_window_that_holds_all_of_it(tokenizer):
    generator = random.Random(0)
    questions = [random_question(generator, number) for number in range(300)]
    made = make(questions, tokenizer)
    held = set()
    for row in range(len(made)):
        index = made.question[row]
        question, document = questions[index], made.documents[index]
        answer = question.answers[0]
        first, last = document.tokens_of(answer.start, answer.start + len(answer.text))
        begin, count = made.first[row], made.count[row]
        inside = begin <= first and last < begin + count
        prefix = len(made.queries[index]) + 2
        wanted = [first - begin + prefix, last - begin + prefix] if inside else [0, 0]
        assert made.positions[row].tolist() == wanted
        ids = made.batch(np.array([row]), 16)["input_ids"][0]
        if inside:
            held.add(index)
            assert np.array_equal(ids[wanted[0] : wanted[1] + 1], document.ids[first : last + 1])
        start, end = document.characters_of(first, last)
        assert question.context[start:end] == answer.text
    assert len(held) > 200 and (made.positions == 0).all(1).any()


def test_a_document_or_an_answer_that_the_tokenizer_does_not_read(tokenizer):
    blank = Question("q", "where", "\u200b\u200b", where="a.json, question 'q'")
    with pytest.raises(UserError, match="question 'q': its document has no tokens"):
        make([blank], tokenizer)
    lost = Question("q", "where", "in \u200b in", (Answer("\u200b", 3),), "a.json, question 'q'")
    with pytest.raises(UserError, match=r"question 'q': its answer '.*' has no tokens"):
        make([lost], tokenizer)


@pytest.mark.data
def test_the_answers_of_squad_are_found_again(data_dir):
    """86 of 11,877 answers begin or end inside a token: "Japan" of "Japanese", "7" of "1817"."""
    file = squad.read_squad(data_dir / "squad/train-part-v1.1.json")
    tokenizer = load_tokenizer(data_dir / "vocab/bert-base-uncased-vocab.txt")
    made = make(file.questions, tokenizer, 384, 64, 128)
    found = inside = 0
    for question, document in zip(file.questions, made.documents, strict=True):
        answer = question.answers[0]
        first, last = document.tokens_of(answer.start, answer.start + len(answer.text))
        start, end = document.characters_of(first, last)
        said = question.context[start:end]
        found += metrics.normalize_answer(said) == metrics.normalize_answer(answer.text)
        inside += answer.text in said
    assert (found, inside) == (11_791, 11_877)
    assert len(set(made.question[made.positions[:, 0] > 0].tolist())) == 11_877
