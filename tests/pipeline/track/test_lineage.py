"""A version says where it comes from, and a dataset which versions come from it."""

import pytest

from pipeline.config import TrainConfig
from pipeline.track.lineage import trace_version, versions_from_dataset
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.model_registry import register_model

DATASET = "d" * 64


def test_a_version_that_began_with_another_one_names_it(run_config, run, make_checkpoint):
    first = make_checkpoint(1)
    register_model(run_config, first, {"segm/AP": 0.3, "segm/APs": 0.1}, run.run_id, DATASET)
    config = run_config.model_copy(update={"train": TrainConfig(weights=first)})
    register_model(config, make_checkpoint(2), {"segm/AP": 0.4}, run.run_id, "e" * 64)

    lineage = trace_version(run_config, "2")
    assert lineage.parent_version == "1"
    assert lineage.run_id == run.run_id
    assert lineage.decision == "refused"
    text = dict(line.split(maxsplit=1) for line in lineage.to_text().splitlines())
    assert text["version"].endswith("/2 (candidate)")
    assert "which is version 1 (SHA-256 " in lineage.to_text()
    assert "segm/AP 0.4000" in text["metrics"]
    assert f"measured on    {run_config.output}/shards/val (digest eeee" in lineage.to_text()
    champion = trace_version(run_config, "champion")
    assert (champion.version, champion.parent, champion.decision) == ("1", "none", "promoted")
    assert " on " in champion.decided_by

    name = run_config.track.model_name
    assert versions_from_dataset(run_config, "dddd") == [
        f"models:/{name}/1  measured on it  promoted"
    ]
    both = versions_from_dataset(run_config, f"{run_config.output}/shards/val")
    assert [line.split("  ")[0][-2:] for line in both] == ["/1", "/2"]
    assert versions_from_dataset(run_config, "abc") == []


def test_what_is_not_in_the_registry_is_named(run_config, run, make_checkpoint):
    with pytest.raises(TrackingError, match="there is no registered model"):
        trace_version(run_config, "1")
    register_model(run_config, make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    for version in ("7", "previous"):
        with pytest.raises(TrackingError, match=f"has no version {version}"):
            trace_version(run_config, version)
