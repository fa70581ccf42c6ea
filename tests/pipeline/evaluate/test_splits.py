"""Evaluations of several splits stand beside each other, in the output and in MLflow."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.config.settings import ConfigError, check_settings
from pipeline.config import DataConfig, EvaluateConfig, RunConfig
from pipeline.evaluate.evaluated_model import find_evaluation
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from pipeline.output_layout import evaluation_url, split_shards_url
from tests.annotated_datasets import draw_coco
from workflows import evaluate, register


@pytest.fixture
def test_shards(tmp_path):
    """The URL of shards of other images than the validation's."""
    url = str(tmp_path / "test_shards")
    draw_coco(tmp_path / "drawn").write_shards(url)
    return url


def file_digests(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and "test" not in path.relative_to(folder).parts[:1]
    }


def test_a_further_split_has_a_folder_and_metrics_of_its_own(evaluate_config, test_shards):
    config = evaluate_config
    of_val = run_evaluation(config)
    before = file_digests(Path(config.output) / "evaluation")
    changes = {
        "data": config.data.model_copy(update={"split_shards": {"test": test_shards}}),
        "evaluate": config.evaluate.model_copy(update={"split": "test"}),
    }
    other = config.model_copy(update=changes)
    of_test = run_evaluation(other, run_id=of_val.run_id)
    assert file_digests(Path(config.output) / "evaluation") == before
    assert of_test.report_url == str(Path(config.output) / "evaluation" / "test" / "report.md")
    assert (of_val.images, of_test.images) == (11, 12)
    assert "on test" in Path(of_test.report_url).read_text().splitlines()[0]
    documents = [
        json.loads(Path(each.report_url).with_name("report.json").read_text())
        for each in (of_val, of_test)
    ]
    assert [document["split"] for document in documents] == ["val", "test"]
    assert find_evaluation(evaluation_url(other), other).table.origin.shards == test_shards

    client = MlflowClient(config.track.uri)
    run = client.get_run(of_val.run_id)
    for result, prefix in [(of_val, ""), (of_test, "test/")]:
        for name, value in result.metrics.items():
            if value != -1:
                assert run.data.metrics[prefix + name] == pytest.approx(value)
    names = {each.dataset.name for each in run.inputs.dataset_inputs}
    assert names >= {"validation", "test"}
    paths = {each.path for each in client.list_artifacts(of_val.run_id, "evaluation/test")}
    assert "evaluation/test/report.md" in paths

    for each, split in [(config, "val"), (other, "test")]:
        version = register_evaluated(each)
        tags = client.get_model_version(version.name, version.version).tags
        assert tags["evaluated_split"] == split
        assert tags["val_shards"] == split_shards_url(each, split)
        assert f"evaluated on {split}" in register.plan(each)
        assert f"on {split}, {split_shards_url(each, split)}" in evaluate.plan(each)


def test_a_further_split_is_prepared_from_its_own_annotations(tmp_path):
    drawn = draw_coco(tmp_path / "drawn")
    part = {"annotations": str(drawn.annotations), "images": str(drawn.images)}
    data = DataConfig(source="coco", train=part, val=part, splits={"test": part, "night": [part]})
    config = RunConfig(output=str(tmp_path), data=data)
    assert data.split_names == ("train", "val", "test", "night")
    manifest = prepare_split(config, "test")
    assert split_shards_url(config, "test") == str(tmp_path / "shards" / "test")
    listing = read_coco(part["annotations"], part["images"])
    expected = write_shards(listing, str(tmp_path / "expected"), 512, 32)
    assert manifest.digest == expected.digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate": {"split": "test"}}, "there is no split 'test'; there are train, val"),
        ({"data": {"split_shards": {"plots": "x"}}}, "cannot be named train, val, plots"),
        ({"data": {"split_shards": {"../up": "x"}}}, "match pattern"),
        ({"data": {"splits": {"test": []}}}, "name shards in data.split_shards"),
        (
            {
                "data": {
                    "source": "coco",
                    "train_shards": "a",
                    "val_shards": "b",
                    "splits": {"test": [{"images": "c"}]},
                }
            },
            "data.splits.test needs annotations",
        ),
    ],
)
def test_wrong_splits_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(RunConfig, settings)


def test_train_can_be_evaluated_too():
    config = RunConfig(output="out", evaluate=EvaluateConfig(split="train"))
    assert evaluation_url(config) == "out/evaluation/train"
