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


@pytest.mark.parametrize("version", ["2021.03", "1.1", "20.0", "v1", 1.1])
def test_other_versions_have_the_rules_of_1(tmp_path, version):
    assert not squad.read_squad(write(tmp_path, qa(), version=version)).has_unanswerable


@pytest.mark.parametrize("version", ["2", "v2", "2.0", "v2.0", 2, 2.0])
def test_version_2_by_its_names(tmp_path, version):
    assert squad.read_squad(write(tmp_path, qa(), version=version)).has_unanswerable


def test_numbers_are_ids_and_an_impossible_question_needs_no_list(tmp_path):
    impossible = {"id": 8, "question": "Where?", "is_impossible": True}
    file = squad.read_squad(write(tmp_path, qa(17), impossible))
    assert [each.id for each in file.questions] == ["17", "8"]
    assert [len(each.answers) for each in file.questions] == [1, 0]


def test_misaligned_answers_are_left_out_with_questions_that_have_no_other(tmp_path):
    answers = [{"text": "1858", "answer_start": 17}, {"text": "1858", "answer_start": 18}]
    path = write(tmp_path, qa(start=25), {**qa("q2"), "answers": answers}, qa("q3"))
    file = squad.read_squad(path, drop_misaligned=True)
    assert [each.id for each in file.questions] == ["q2", "q3"] and file.misaligned == 2
    assert file.questions[0].answers == (squad.Answer("1858", 18),)
    assert not file.has_unanswerable


def test_many_misaligned_answers_are_counted(tmp_path):
    path = write(tmp_path, *(qa(f"q{number}", start=25) for number in range(30)))
    with pytest.raises(UserError, match=r"30 answers are .*'q19'.*; and 10 more. Correct"):
        squad.read_squad(path)


def rows_of_hugging_face():
    return [
        {
            "id": f"q{number}",
            "title": "Lourdes",
            "context": CONTEXT,
            "question": "Where?",
            "answers": {"text": [text] * len(starts), "answer_start": starts},
        }
        for number, (text, starts) in enumerate([("Lourdes", [26]), ("", []), ("1858", [18, 18])])
    ]


@pytest.mark.parametrize("form", ["lines", "data", "one line", "qas"])
def test_the_rows_of_hugging_face(tmp_path, form):
    rows = rows_of_hugging_face()
    if form == "qas":
        path = write(tmp_path, *rows)
    else:
        rows = rows[:1] if form == "one line" else rows
        lines = "\n".join(map(json.dumps, rows))
        text = json.dumps({"data": rows}) if form == "data" else lines + "\n"
        path = tmp_path / "part-00000"
        path.write_text(text)
    file = squad.read_squad(path)
    assert [question.id for question in file.questions] == [row["id"] for row in rows]
    assert file.questions[0].answers == (squad.Answer("Lourdes", 26),)
    assert file.questions[0].context == CONTEXT
    if len(rows) == 3:
        assert [len(question.answers) for question in file.questions] == [1, 0, 2]


PLACE = r"a.json: article 1 \('Lourdes'\), paragraph 1, question 'q1'"


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        (
            [qa(start=25)],
            r"a.json: an answer is not at answer_start: article 1 \('Lourdes'\), paragraph 1, "
            "question 'q1': at 25 stands ' Lourde', but the answer is 'Lourdes', which is found at "
            "character 26. Correct",
        ),
        (
            [qa(text="Paris"), qa("q2"), qa("q3", start=-7)],
            "2 answers are not at answer_start: .*'q1': .*found nowhere in its context; .*'q3': at "
            "-7 stands",
        ),
        ([qa(start="26")], PLACE + ": answer_start is '26'; write the number"),
        ([qa(text=" ")], PLACE + ", its answer: 'text' is empty"),
        ([qa(), qa()], PLACE + ": two questions have this id"),
        ([qa(is_impossible=True)], PLACE + ": is_impossible is true and it has 1 answers"),
        ([qa(text=None, is_impossible=False)], "is_impossible is false and it has 0 answers"),
        ([{**qa(), "question": ""}], PLACE + ": 'question' is empty"),
        ([{**qa(), "id": True}], "one of its qas has no id"),
        (
            [{"id": "q1", "question": "Where?"}],
            PLACE + r": has no list 'answers' \(it has 'id', 'qu",
        ),
        ([{"answer": [], **qa(), "answers": None}], "has no list 'answers' .it has 'answer', 'id'"),
        (
            [{**qa(), "answers": {"text": ["Lourdes"], "answer_start": []}}],
            PLACE + ": has answers of 1 texts and 0 answer_starts",
        ),
        ([{**qa(), "answers": {"text": []}}], "its answers: has no list 'answer_start'"),
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
        ("a.tsv", "a\tb\n", "a.tsv:1: not JSON"),
        ("a.jsonl", '{"question": "x"}\n{"question": 1', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"question": "x"}\n', "row 1: 'context' is missing"),
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
