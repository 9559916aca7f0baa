"""Questions with choices: the shapes of public data sets, and how answers are written."""

import dataclasses
import json

import pytest

from bertjax.errors import UserError
from bertjax.tasks.multiple_choice.config import MultipleChoiceConfig
from bertjax.tasks.multiple_choice.questions import parse_question, read_questions

COLUMNS = MultipleChoiceConfig(choice_columns=("a", "b", "c"))


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write_rows


@pytest.mark.parametrize(
    ("shape", "options", "pairs", "answer"),
    [
        (  # Hugging Face's swag
            {"sent1": "A drum line.", "sent2": "It", "ending0": "sings.", "ending1": "walks."}
            | {"label": 1},
            {"context_column": "sent1", "question_column": "sent2", "answer_column": "label"}
            | {"choice_columns": ("ending0", "ending1"), "answer_form": "from_0"},
            [("A drum line.", "It sings."), ("A drum line.", "It walks.")],
            1,
        ),
        (  # HellaSwag: rows of WikiHow have no ctx_b
            {"ctx_a": "How to bow.", "ctx_b": "", "endings": ["Stand.", "Bend.", "Go."]}
            | {"label": "2"},
            {"context_column": "ctx_a", "question_column": "ctx_b", "choices_column": "endings"}
            | {"answer_column": "label", "answer_form": "from_0"},
            [("How to bow.", "Stand."), ("How to bow.", "Bend."), ("How to bow.", "Go.")],
            2,
        ),
        (  # ARC's own files
            {"question": {"stem": "Why?", "choices": [{"text": "a", "label": "A"}, {"text": "b"}]}}
            | {"answerKey": "B"},
            {"question_column": "question.stem", "choices_column": "question.choices"}
            | {"answer_column": "answerKey"},
            [("Why?", "a"), ("Why?", "b")],
            1,
        ),
        (  # ARC in Hugging Face's data sets, with numbers from 1
            {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}}
            | {"answerKey": "2"},
            {"choices_column": "choices.text", "answer_column": "answerKey"},
            [("Why?", "a"), ("Why?", "b")],
            1,
        ),
        (  # RACE: a choice fills the blank
            {"article": "Tom ran.", "question": "Tom _ yesterday.", "options": ["ran", "sat"]}
            | {"answer": "A"},
            {"context_column": "article", "choices_column": "options"},
            [("Tom ran.", "Tom ran yesterday."), ("Tom ran.", "Tom sat yesterday.")],
            0,
        ),
    ],
)
def test_the_shapes_of_public_data_sets(write, shape, options, pairs, answer):
    source = read_questions(write([shape]), MultipleChoiceConfig(**options))
    assert source.questions[0].pairs() == pairs
    assert source.answers.tolist() == [answer] and source.left_out == 0
    # An object of `predict` is read as a row of the file.
    assert parse_question(shape, MultipleChoiceConfig(**options), "") == source.questions[0]


def test_a_table_without_a_header_has_rows_of_unequal_length(write):
    path = write(["o\twhy?\tx\ty\tz\t2", "o\twho?\tx\ty\t\t0"], "codah.tsv")
    names = ("category", "question", "a", "b", "c", "answer")
    source = read_questions(path, dataclasses.replace(COLUMNS, column_names=names))
    assert [question.choices for question in source.questions] == [("x", "y", "z"), ("x", "y")]
    assert source.form == "from_0" and source.answers.tolist() == [2, 0]


def row(answer, choices=("x", "y", "z"), **more):
    return {"question": "why?", "choices": list(choices), "answer": answer, **more}


@pytest.mark.parametrize(
    ("answers", "form", "found"),
    [
        (["B", "a", "C"], "from_1", [1, 0, 2]),
        (["B", "1", "3"], "from_1", [1, 0, 2]),
        (["1", "3"], "from_1", [0, 2]),
        ([0, 1, 2], "from_0", [0, 1, 2]),
        (["y", "x"], "text", [1, 0]),
    ],
)
def test_the_form_of_answers_is_that_which_fits_all_rows(write, answers, form, found):
    source = read_questions(write(map(row, answers)), MultipleChoiceConfig())
    assert source.form == form and source.answers.tolist() == found


def test_forms_that_differ_are_asked_for(write):
    path = write(map(row, [1, 2]))
    with pytest.raises(UserError, match="'1', can be read as from_0 and as from_1; set `answer_f"):
        read_questions(path, MultipleChoiceConfig())
    for form, found in (("from_0", [1, 2]), ("from_1", [0, 1])):
        options = MultipleChoiceConfig(answer_form=form)
        assert read_questions(path, options).answers.tolist() == found
    # The choices themselves are numbers.
    path = write([row("1", ("0", "1", "2")), row("2", ("2", "1", "0"))])
    with pytest.raises(UserError, match="as from_0 and as from_1 and as text"):
        read_questions(path, MultipleChoiceConfig())


@pytest.mark.parametrize(
    ("wrong", "options", "message"),
    [
        (row("E"), {}, r"rows.jsonl:2: the answer 'E' is none of the 3 choices; write a number "),
        (row(3), {"answer_form": "from_0"}, "2: the answer '3' is none .* from 0 to 2, set "),
        (row("A", ["x"]), {}, r"rows.jsonl:2 \(or set `drop_incomplete`\): choices: 1; write at "),
        (row("A", ["x", "y"]), {"num_choices": 3}, "2: choices in this row: 2, and `num_choices` "),
        (row("A", ["x", "", "y"]), {}, "2: choice 2 of 3 is empty; write it"),
        (row("A", ["x", ["y"]]), {}, r"2: a choice is \[\"y\"\], which is no text"),
        (row("A") | {"choices": "x, y"}, {}, "2: 'choices' holds no list of choices; write a JSON"),
        (row("A") | {"question": " "}, {}, "2: column 'question' is empty; write a question"),
        ({"question": "why?", "answer": "A"}, {}, "2: no column 'choices'; the columns are "),
    ],
)
def test_mistakes_name_the_line(write, wrong, options, message):
    options = MultipleChoiceConfig(**{"answer_form": "from_1", **options})
    good = row(1) if options.answer_form == "from_0" else row("A")
    with pytest.raises(UserError, match=message):
        read_questions(write([good, wrong]), options)


def test_incomplete_rows_are_left_out_and_counted(write):
    rows = [row("C"), row("E"), row("A", []), row("1")]
    options = MultipleChoiceConfig(drop_incomplete=True)
    source = read_questions(write(rows), options)
    assert source.answers.tolist() == [2, 0] and source.left_out == 2 and source.form == "from_1"
    with pytest.raises(UserError, match="no row has two choices and an answer among them"):
        read_questions(write(rows[1:3]), options)


def test_an_answer_that_two_choices_have_is_none(write):
    path = write([row("x", ["x", "x", "y"]), row("y")])
    with pytest.raises(UserError, match=":1: the answer 'x' is none of the 3 choices; write the t"):
        read_questions(path, MultipleChoiceConfig(answer_form="text"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_form": "letters"}, "answer_form .letters. is unknown: give one of from_0"),
        ({"num_choices": 1}, "`num_choices` is 1: give at least 2"),
        ({"choice_columns": ("a",)}, "`choice_columns` has one column"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MultipleChoiceConfig(**options)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "left_out", "unequal"),
    [("arc_challenge_dev", 1096, 23, 1), ("arc_challenge_test", 294, 5, 3)],
)
def test_arc(data_dir, name, rows, left_out, unequal):
    names = ("question", *"abcd", "answer")
    options = MultipleChoiceConfig(choice_columns=tuple("abcd"), column_names=names)
    path = data_dir / "multiple_choice" / f"{name}.csv"
    with pytest.raises(UserError, match=f"{name}.csv:[0-9]+ "):
        read_questions(path, options)
    source = read_questions(path, dataclasses.replace(options, drop_incomplete=True))
    assert (len(source), source.left_out, source.form) == (rows, left_out, "from_1")
    assert sum(len(question.choices) < 4 for question in source.questions) == unequal
