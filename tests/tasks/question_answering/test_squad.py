import json

import pytest

from bertjax.errors import UserError
from bertjax.tasks.question_answering import squad

CONTEXT = "Émile was born in 1858 in Lourdes."


def qa(name="q1", text="Lourdes", start=26, **more):
    answers = [] if text is None else [{"text": text, "answer_start": start}]
    return {"id": name, "question": "Where?", "answers": answers, **more}


def write(directory, *questions, version="1.1", context=CONTEXT, name="a.json"):
    paragraphs = [{"context": context, "qas": list(questions)}]
    data = {"version": version, "data": [{"title": "Lourdes", "paragraphs": paragraphs}]}
    path = directory / name
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def test_questions_and_answers_are_read_in_order(tmp_path):
    file = squad.read_squad(write(tmp_path, qa(), qa("q2", "Émile", 0)))
    assert [question.id for question in file.questions] == ["q1", "q2"]
    assert file.questions[1].answers == (squad.Answer("Émile", 0),)
    assert file.questions[0].context == CONTEXT and not file.has_unanswerable
    same = squad.read_squad(write(tmp_path, qa(), qa("q2", "Émile", 0), name="b.json"))
    other = squad.read_squad(write(tmp_path, qa(), qa("q2", "1858", 18), name="c.json"))
    assert same.sha256 == file.sha256 != other.sha256


@pytest.mark.parametrize(
    ("question", "version"),
    [
        (qa(text=None), "1.1"),
        (qa(text=None, is_impossible=True, plausible_answers=[{"text": "x"}]), "v2.0"),
        (qa(is_impossible=False), "v2.0"),
    ],
)
def test_a_file_with_unanswerable_questions_or_of_version_2(tmp_path, question, version):
    assert squad.read_squad(write(tmp_path, question, version=version)).has_unanswerable


PLACE = r"a.json: article 1 \('Lourdes'\), paragraph 1, question 'q1'"


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        (
            [qa(start=25)],
            PLACE + r": at answer_start 25 stands ' Lourde', but the answer is 'Lourdes', which is "
            "found at character 26; correct",
        ),
        ([qa(text="Paris")], "which is found nowhere in its context"),
        ([qa(start=-7)], "at answer_start -7 stands"),
        ([qa(start="26")], PLACE + ": answer_start is '26'; write the number"),
        ([qa(text=" ")], PLACE + ", its answer: 'text' is empty"),
        ([qa(), qa()], PLACE + ": two questions have this id"),
        ([qa(is_impossible=True)], PLACE + ": is_impossible is true and it has 1 answers"),
        ([qa(text=None, is_impossible=False)], "is_impossible is false and it has 0 answers"),
        ([{**qa(), "question": ""}], PLACE + ": 'question' is empty"),
        ([{**qa(), "id": 7}], "one of its qas has no id"),
        ([{**qa(), "question": "a\0"}], PLACE + ": holds a NUL"),
        ([{**qa(), "answers": "Lourdes"}], PLACE + ": has no list 'answers'"),
        ([], "a.json: holds no question"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_in_a_sentence(tmp_path, questions, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        squad.read_squad(write(tmp_path, *questions))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "{\n'x'", "a.json:2: not JSON"),
        ("a.json", "[]", "no file in the format of SQuAD"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"data": ' + "9" * 5000 + "}", "a.json: not JSON .*digits"),
        ("a.json", '{"data": {}}', "has no list 'data'"),
        ("a.json", '{"data": [1]}', "article 1: has no list 'paragraphs'"),
        ("a.json", '{"data": [{"paragraphs": [{"qas": []}]}]}', "'context' is missing or no text"),
        ("a.tsv", "a\tb\n", "can't tell the format by its name; name the file SQuAD's .json"),
    ],
)
def test_what_is_no_squad(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        squad.read_squad(tmp_path / name)


@pytest.mark.data
def test_squads_own_files(data_dir):
    train = squad.read_squad(data_dir / "squad/train-part-v1.1.json")
    dev = squad.read_squad(data_dir / "squad/dev-part-v2.0.json")
    assert (len(train), train.has_unanswerable) == (11_877, False)
    assert (len(dev), dev.has_unanswerable) == (1503, True)
    assert sum(not question.answers for question in dev.questions) == 712
