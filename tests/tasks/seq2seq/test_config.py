"""Options of sequence-to-sequence tasks that contradict each other."""

import pytest

from bertjax.errors import UserError
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "x"}, "`architecture` 'x' is unknown: give one of encoder_decoder"),
        ({"share": "some"}, "`share` 'some' is unknown: give one of none, embeddings, all"),
        ({"scoring": "meteor"}, "`scoring` 'meteor' is unknown: give one of rouge, bleu"),
        ({"max_target_length": 1}, "`max_target_length` is 1: give at least 2"),
        ({"label_smoothing": 1.0}, "`label_smoothing` is 1.0: give at least 0 and less than 1"),
        ({"eval_rows": -1}, "`eval_rows` is -1: give at least 0"),
        ({"source_column": "target"}, "`source_column` and `target_column` are both 'target'"),
        ({"architecture": "prefix", "share": "all"}, "`share` is 'all', and the architecture pr"),
        ({"architecture": "prefix", "decoder": "x"}, "`decoder` is 'x', and the architecture pr"),
        ({"decoder": "x", "share": "all"}, "`decoder` names another model, and with `share` all"),
        ({"encoder_weights": "random", "share": "embeddings"}, "`encoder_weights` is random, and"),
    ],
)
def test_contradictions_are_refused(options, sentence):
    with pytest.raises(UserError) as caught:
        Seq2SeqConfig(**options)
    assert str(caught.value).startswith(sentence)


def test_the_longest_target_is_read_or_written():
    assert Seq2SeqConfig(max_target_length=9).longest_target == 128
    short = GenerationConfig(max_length=3)
    assert Seq2SeqConfig(max_target_length=9, generation=short).longest_target == 9
