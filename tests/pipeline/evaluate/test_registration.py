"""The checkpoint that the evaluation measured is registered, with the measured metrics."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.config.settings import ConfigError
from model.weights import WeightsError
from pipeline import storage
from pipeline.chain.run import run_chain
from pipeline.config import RunConfig
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import check_champion_metric, register_evaluated


def test_the_evaluated_checkpoint_is_registered_with_its_metrics(evaluate_config):
    with pytest.raises(FileNotFoundError, match=r"run maskrcnn-ray evaluate first"):
        register_evaluated(evaluate_config)
    result = run_evaluation(evaluate_config)
    # The output folder may be moved between the two jobs.
    moved = shutil.move(evaluate_config.output, f"{evaluate_config.output} moved")
    evaluate_config = evaluate_config.model_copy(update={"output": moved})
    version = register_evaluated(evaluate_config)
    assert version.promoted
    client = MlflowClient(evaluate_config.track.uri, registry_uri=evaluate_config.track.uri)
    stored = client.get_model_version(version.name, version.version)
    assert stored.tags["dataset_digest"] == result.dataset_digest
    assert stored.tags["metric/segm/AP"] == repr(result.metrics["segm/AP"])
    champion = run_evaluation(evaluate_config, weights=f"models:/{version.name}@champion")
    assert champion.weights == f"models:/{version.name}/{version.version}"
    assert champion.metrics == result.metrics


def test_a_damaged_checkpoint_is_neither_evaluated_nor_registered(evaluate_config):
    weights = Path(evaluate_config.output) / "train/step_00000010/model.safetensors"
    report = {"weights": str(weights.parent), "metrics": {"values": {"segm/AP": 0.5}}}
    report |= {"run_id": "0" * 32, "dataset_digest": "d" * 64}
    content = weights.read_bytes()
    weights.write_bytes(content[:-8] + bytes(8))
    url = storage.join(evaluate_config.output, "evaluation", "report.json")
    storage.write_json(url, report)
    for job in (run_evaluation, register_evaluated):
        with pytest.raises(WeightsError, match="SHA-256") as raised:
            job(evaluate_config)
        assert str(raised.value).startswith(f"{weights} is damaged")


@pytest.mark.parametrize("report", [{}, [], {"weights": "w", "metrics": {"values": 3}}])
def test_a_damaged_report_is_named_with_the_remedy(evaluate_config, report):
    url = storage.join(evaluate_config.output, "evaluation", "report.json")
    storage.write_json(url, report)
    with pytest.raises(
        storage.DamagedRecordError,
        match=r"report.json is damaged .*run maskrcnn-ray evaluate again",
    ):
        register_evaluated(evaluate_config)


@pytest.mark.parametrize(
    ("model", "metric", "measured"),
    [
        ({}, "segm/AP", True),
        ({}, "bbox/AR100", True),
        ({}, "voc/AP50", True),
        ({}, "bbox/mAP", False),
        ({}, "keypoints/AP", False),
        ({"mask": None}, "segm/AP", False),
        ({"mask": None}, "bbox/AP", True),
    ],
)
def test_a_champion_metric_that_is_not_measured_is_refused_before_the_training(
    model, metric, measured
):
    settings = {"model": model, "track": {"champion_metric": metric}}
    config = RunConfig.model_validate(settings)
    if measured:
        check_champion_metric(config)
        return
    with pytest.raises(ConfigError, match=f"champion_metric: {metric} is not measured .* use bbox"):
        check_champion_metric(config)
    with pytest.raises(ConfigError, match="champion_metric"):
        next(run_chain(config))
