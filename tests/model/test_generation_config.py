import pytest

from bertjax.errors import UserError
from bertjax.model.generation_config import GenerationConfig

SAMPLING = {"do_sample": True, "num_beams": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "`generation.max_length` is 0: give a whole number of at least 1."),
        ({"num_beams": 2.0}, "`generation.num_beams` is 2.0: give a whole number"),
        ({"num_beams": True}, "`generation.num_beams` is True: give a whole number"),
        ({"no_repeat_ngram_size": -1}, "`generation.no_repeat_ngram_size` is -1"),
        ({"length_penalty": float("nan")}, "`generation.length_penalty` is nan"),
        ({"length_penalty": 11}, "`generation.length_penalty` is 11: give a number from -10 to 10"),
        ({"length_penalty_kind": "t5"}, "`generation.length_penalty_kind` 't5' is unknown"),
        ({"early_stopping": "always"}, "`generation.early_stopping` is 'always': give True, False"),
        ({"early_stopping": 1}, "`generation.early_stopping` is 1"),
        ({"min_length": 9, "max_length": 8}, "`generation.min_length` 9 exceeds"),
        ({"num_return_sequences": 5}, "`generation.num_return_sequences` 5 exceeds"),
        ({"do_sample": True}, "`generation.do_sample` does not work with `generation.num_beams` 4"),
        ({"temperature": 0.5}, "`generation.temperature` has no effect on a search"),
        ({"top_k": 5}, "`generation.top_k` has no effect on a search"),
        ({**SAMPLING, "temperature": 0.0}, "`generation.temperature` is 0.0: give a number above"),
        ({**SAMPLING, "temperature": float("inf")}, "`generation.temperature` is inf"),
        ({**SAMPLING, "top_p": 0.0}, "`generation.top_p` is 0.0: give a number above 0"),
        ({**SAMPLING, "top_p": 1.5}, "`generation.top_p` is 1.5"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        GenerationConfig(**fields)
    assert message in str(error.value)


def test_what_makes_sense_is_taken():
    GenerationConfig(num_beams=4, num_return_sequences=4, min_length=128, early_stopping="never")
    GenerationConfig(**SAMPLING, num_return_sequences=9, temperature=2, top_k=5, top_p=0.5)
    assert hash(GenerationConfig()) == hash(GenerationConfig())
