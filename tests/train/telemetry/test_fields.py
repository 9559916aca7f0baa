"""How metrics, speeds and durations read in a line."""

import pytest

from bertjax.train.telemetry.fields import Field, duration, show_fields, show_tokens


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.6, "1m00s"), (250, "4m10s"), (11_100, "3h05m"), (187_200, "2d04h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_fields_choose_order_label_format_and_reference():
    fields = [Field("b", "B", ".1f", ("chance", 0.5)), Field("absent"), Field("a")]
    assert show_fields(fields, {"a": 1.0, "b": 2.0, "c": 3.0}) == ["B 2.0 (chance 0.5)", "a 1.000"]


def test_speeds_have_three_digits_or_hundreds():
    assert show_tokens(16_384) == "16,400 tok/s"
    assert show_tokens(131.4) == "131 tok/s"
