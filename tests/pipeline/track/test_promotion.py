"""The champion alias moves only to a version that is better on the same dataset."""

import pytest
from mlflow import MlflowClient

from pipeline.track.model_registry import register_model

DATASET = "d" * 64


def champion(run_config, uri):
    client = MlflowClient(uri, registry_uri=uri)
    return str(client.get_registered_model(run_config.track.model_name).aliases.get("champion"))


def test_a_better_version_becomes_champion_and_a_worse_or_equal_one_does_not(
    run_config, run, make_checkpoint
):
    def register(number, value):
        metrics = {"segm/AP": value}
        return register_model(run_config, make_checkpoint(number), metrics, run.run_id, DATASET)

    first = register(1, 0.30)
    assert (first.promoted, first.champion_metric_value) == (True, None)
    worse = register(2, 0.20)
    assert (worse.promoted, worse.champion_metric_value) == (False, 0.30)
    equal = register(3, 0.30)
    assert not equal.promoted
    better = register(4, 0.31)
    assert (better.promoted, better.champion_metric_value) == (True, 0.30)
    worse_after_better = register(5, 0.305)
    assert not worse_after_better.promoted
    assert champion(run_config, run.uri) == better.version


def test_a_version_measured_on_another_dataset_is_not_promoted(run_config, run, make_checkpoint):
    first = register_model(run_config, make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    other = register_model(run_config, make_checkpoint(2), {"segm/AP": 0.9}, run.run_id, "e" * 64)
    assert not other.promoted
    assert "champion 1 was not measured on this dataset" in other.reason
    assert champion(run_config, run.uri) == first.version


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_version_without_a_measurable_metric_is_not_promoted(
    run_config, run, make_checkpoint, value
):
    metrics = {"segm/AP": value}
    version = register_model(run_config, make_checkpoint(1), metrics, run.run_id, DATASET)
    assert not version.promoted
    assert champion(run_config, run.uri) == "None"


def test_any_measured_metric_can_decide(run_config, run, make_checkpoint):
    track = run_config.track.model_copy(update={"champion_metric": "keypoints/AP"})
    config = run_config.model_copy(update={"track": track})
    for number, value, is_better in ((1, 0.3, True), (2, 0.2, False), (3, 0.4, True)):
        metrics = {"keypoints/AP": value, "bbox/AP": 1 - value}
        version = register_model(config, make_checkpoint(number), metrics, run.run_id, DATASET)
        assert version.promoted == is_better
