from bertjax.tasks.question_answering.baseline import mean_length, overlap_answer
from bertjax.tasks.question_answering.squad import Answer, Question

CONTEXT = "The city has two rivers. Maria Callas sang in Verona for the first time in 1947."


def test_the_words_beside_the_questions_own_are_the_answer():
    where = Question("q", "Where sang Maria Callas for the first time?", CONTEXT)
    assert overlap_answer(where, 1) == "Verona"
    when = Question("q", "When was the first time?", CONTEXT)
    assert overlap_answer(when, 2) == "in 1947"
    assert overlap_answer(Question("q", "x", "one two"), 5) == "one two"
    assert overlap_answer(Question("q", "x", "?!"), 1) == ""


def test_the_mean_length_of_answers():
    texts = ["a", "b c", "f g h"]
    questions = [Question(text, "?", text, (Answer(text, 0),)) for text in texts]
    assert mean_length(questions) == 2 and mean_length([Question("q", "?", "x")]) == 1
