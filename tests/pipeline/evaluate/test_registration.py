"""The checkpoint that the evaluation measured is registered, with the measured metrics."""

import pytest
from mlflow import MlflowClient

from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated


def test_the_evaluated_checkpoint_is_registered_with_its_metrics(evaluate_config):
    with pytest.raises(FileNotFoundError, match=r"run workflows/evaluate\.py first"):
        register_evaluated(evaluate_config)
    result = run_evaluation(evaluate_config)
    version = register_evaluated(evaluate_config)
    assert version.promoted
    client = MlflowClient(evaluate_config.track.uri, registry_uri=evaluate_config.track.uri)
    stored = client.get_model_version(version.name, version.version)
    assert stored.tags["dataset_digest"] == result.dataset_digest
    assert stored.tags["metric/segm/AP"] == repr(result.metrics["segm/AP"])
    champion = run_evaluation(evaluate_config, weights=f"models:/{version.name}@champion")
    assert champion.weights == f"models:/{version.name}/{version.version}"
    assert champion.metrics == result.metrics
