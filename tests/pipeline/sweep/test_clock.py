"""The time of a sweep is counted over all submissions."""

import pytest

from pipeline.sweep.clock import SweepClock
from tests.pipeline.sweep.sweep_config import sweep_config


class Time:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def config(tmp_path):
    return sweep_config({}, {"max_hours": 0.01}, output=str(tmp_path))


def test_the_time_of_a_killed_sweep_counts_too(config):
    time = Time()
    first = SweepClock(config, time)
    time.now += 20
    assert not first.stop_all()
    # Killed here; the next submission is on another machine, with another clock.
    time.now = 5.0
    second = SweepClock(config, time)
    time.now += 15
    assert second.seconds == 35 and not second.stop_all()
    time.now += 2
    assert second.stop_all() and second.is_over


def test_without_a_limit_the_time_is_never_over(tmp_path):
    time = Time()
    clock = SweepClock(sweep_config({}, output=str(tmp_path)), time)
    time.now += 1e9
    assert not clock.stop_all()
    assert not clock("0000", {})
