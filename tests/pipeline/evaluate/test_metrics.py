"""Metrics that were not measured are left out of means."""

from pipeline.evaluate.metrics import mean_of_measured


def test_a_mean_leaves_out_what_was_not_measured():
    assert mean_of_measured([0.5, -1.0, 0.25]) == 0.375
    assert mean_of_measured([[0.5, -1.0], [0.25, -1.0]]) == 0.375
    assert mean_of_measured([-1.0]) == -1
    assert mean_of_measured([]) == -1
