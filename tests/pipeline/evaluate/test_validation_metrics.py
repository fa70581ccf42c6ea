"""Metrics that are computed in another process are those that are computed at once."""

from dataclasses import replace

import pytest

from model.weights import load_network
from pipeline.evaluate import validation_metrics
from pipeline.evaluate.validation import measure, predict_shards
from pipeline.evaluate.validation_metrics import start_measuring


@pytest.fixture
def predictions(shapes_shards, tiny_checkpoint):
    return predict_shards(load_network(tiny_checkpoint), shapes_shards, 0, 1, batch=4)


def test_few_detections_and_metrics_that_are_waited_for_are_measured_at_once(
    predictions, monkeypatch
):
    assert start_measuring(predictions, is_needed_now=False).done()
    monkeypatch.setattr(validation_metrics, "FEW_DETECTIONS", 0)
    assert start_measuring(predictions, is_needed_now=True).done()


@pytest.mark.ray
def test_many_detections_are_measured_in_another_process(ray_cluster, predictions, monkeypatch):
    monkeypatch.setattr(validation_metrics, "FEW_DETECTIONS", 0)
    several = [start_measuring(predictions, is_needed_now=False) for _ in range(2)]
    wrong = replace(predictions, shards_url="no shards here")
    failing = start_measuring(wrong, is_needed_now=False)
    assert not any(each.done() for each in several)
    expected = measure(predictions)
    assert [each.result(60) for each in several] == [expected, expected]
    with pytest.raises(FileNotFoundError, match="no shards here"):
        failing.result(60)
