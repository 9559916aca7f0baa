import pytest

from bertjax.errors import UserError
from bertjax.model.generation_config import GenerationConfig

SAMPLING = {"do_sample": True, "num_beams": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "`max_length` is 0: give a whole number of at least 1."),
        ({"num_beams": 2.0}, "`num_beams` is 2.0: give a whole number"),
        ({"num_beams": True}, "`num_beams` is True: give a whole number"),
        ({"no_repeat_ngram_size": -1}, "`no_repeat_ngram_size` is -1"),
        ({"length_penalty": float("nan")}, "`length_penalty` is nan"),
        ({"length_penalty": 11}, "`length_penalty` is 11: give a number from -10 to 10"),
        ({"length_penalty_kind": "t5"}, "`length_penalty_kind` 't5' is unknown"),
        ({"early_stopping": "always"}, "`early_stopping` is 'always': give True, False"),
        ({"early_stopping": 1}, "`early_stopping` is 1"),
        ({"min_length": 9, "max_length": 8}, "`min_length` 9 exceeds"),
        ({"n_best": 5}, "`n_best` 5 exceeds"),
        ({"do_sample": True}, "`do_sample` does not work with `num_beams` 4"),
        ({"temperature": 0.5}, "`temperature` has no effect on a search"),
        ({"top_k": 5}, "`top_k` has no effect on a search"),
        ({**SAMPLING, "temperature": 0.0}, "`temperature` is 0.0: give a number above"),
        ({**SAMPLING, "temperature": float("inf")}, "`temperature` is inf"),
        ({**SAMPLING, "top_p": 0.0}, "`top_p` is 0.0: give a number above 0"),
        ({**SAMPLING, "top_p": 1.5}, "`top_p` is 1.5"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        GenerationConfig(**fields)
    assert message in str(error.value)


def test_what_makes_sense_is_taken():
    GenerationConfig(num_beams=4, n_best=4, min_length=128, early_stopping="never")
    GenerationConfig(**SAMPLING, n_best=9, temperature=2, top_k=5, top_p=0.5)
    assert hash(GenerationConfig()) == hash(GenerationConfig())
