"""A champion is measured on this data where the rules of promotion need it."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.config.settings import ConfigError
from pipeline.config import PromotionConfig, RunConfig
from pipeline.evaluate.champion_comparison import check_promotion_rules
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated
from pipeline.track.model_registry import register_model

OTHER_DATASET = "e" * 64


def with_rules(config, **rules):
    track = config.track.model_copy(update={"promotion": PromotionConfig(**rules)})
    return config.model_copy(update={"track": track})


def test_a_champion_of_other_data_is_measured_and_compared_by_all_rules(
    evaluate_config, tiny_checkpoint
):
    config = with_rules(
        evaluate_config,
        confidence=0.95,
        max_class_drop=0.1,
        min_class_objects=1,
        max_slowdown=1000.0,
    )
    result = run_evaluation(config)
    champion = register_model(
        config, str(tiny_checkpoint), {"segm/AP": 0.9}, result.run_id, OTHER_DATASET
    )
    assert champion.promoted
    # The same weights, measured on this data.
    version = register_evaluated(config)
    value = result.metrics["segm/AP"]
    assert (version.version, version.promoted, version.champion) == ("2", False, "1")
    assert version.champion_metric_value == value
    assert version.reasons_against == (
        f"segm/AP {value:.4f} does not beat {value:.4f} of champion 1",
        "the 95% interval of the difference in segm/AP is [+0.0000, +0.0000] (paired bootstrap "
        "over 11 images)",
    )
    drop, latency = version.reasons_for
    assert drop.endswith("classes is worse by more than 0.1")
    assert " ms of the champion, ratio " in latency
    assert latency.endswith("median of 11 images, batch 1, fp32)")
    assert (Path(config.output) / "champion/evaluation/report.json").exists()
    client = MlflowClient(config.track.uri, registry_uri=config.track.uri)
    tags = client.get_model_version(version.name, "1").tags
    assert tags[f"measured/{result.dataset_digest[:16]}/segm/AP"] == repr(value)
    assert tags["metric/segm/AP"] == "0.9"


def test_a_champion_that_cannot_be_measured_speaks_against_the_promotion(
    evaluate_config, tiny_checkpoint, tmp_path
):
    result = run_evaluation(evaluate_config)
    other = tmp_path / "other"
    other.mkdir()
    settings = json.loads((tiny_checkpoint / "model.json").read_text())
    for category in settings["categories"]:
        category["name"] = f"no {category['name']}"
    (other / "model.json").write_text(json.dumps(settings))
    (other / "model.safetensors").write_bytes((tiny_checkpoint / "model.safetensors").read_bytes())
    metrics = {"segm/AP": 0.0}
    register_model(evaluate_config, str(other), metrics, result.run_id, OTHER_DATASET)
    version = register_evaluated(evaluate_config)
    assert not version.promoted
    assert "champion 1 cannot be measured on this data: " in "; ".join(version.reasons_against)


@pytest.mark.parametrize(
    ("metric", "rules", "problem"),
    [
        ("bbox/AR100", {"confidence": 0.9}, r"confidence: bbox/AR100 cannot be resampled"),
        ("proposals/AR100", {"max_class_drop": 0.1}, "proposals/AR100 has no values per class"),
        ("segm/AP", {"confidence": 0.9, "max_class_drop": 0.1}, None),
    ],
)
def test_rules_that_do_not_fit_the_metric_are_refused(metric, rules, problem):
    track = {"champion_metric": metric, "promotion": rules}
    config = RunConfig.model_validate({"track": track})
    if problem is None:
        check_promotion_rules(config)
        return
    with pytest.raises(ConfigError, match=problem):
        check_promotion_rules(config)
