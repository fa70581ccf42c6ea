"""Durations and rates as people read them."""

import pytest

from pipeline.rates import format_duration, format_rate


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (7.4, "7s"), (62, "1m 02s"), (3725, "1h 02m")]
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (4.21, "4.2 images/s"),
        (1500.0, "1500.0 images/s"),
        (0.2, "5.0 s per image"),
        (0.04, "25s per image"),
        (0.001, "16m 40s per image"),
    ],
)
def test_a_slow_rate_is_not_rounded_to_zero(per_second, text):
    assert format_rate(per_second, "images") == text
