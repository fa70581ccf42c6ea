"""A registered version records its provenance and resolves to the registered weights."""

import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import save_file

from model.weights import WeightsError, load_network
from model.weights.storage.checksums import file_sha256
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.model_registry import register_model
from pipeline.track.weights_source import pin_version, resolve_weights

DATASET = "d" * 64


def test_registering_a_checkpoint_twice_makes_one_version(run_config, run, make_checkpoint):
    arguments = (run_config, make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    first, again = register_model(*arguments), register_model(*arguments)
    assert first.version == again.version
    assert again.promoted


def test_a_champion_metric_that_was_not_measured_is_an_error(run_config, run, make_checkpoint):
    with pytest.raises(TrackingError, match=r"segm/AP was not measured; .* has bbox/AP"):
        register_model(run_config, make_checkpoint(1), {"bbox/AP": 0.3}, run.run_id, DATASET)


def test_a_version_records_its_provenance(run_config, run, make_checkpoint, tmp_path):
    initial = tmp_path / "initial.safetensors"
    save_file({"a": np.ones(3, np.float32)}, initial)
    config = run_config.model_copy(update={"train": TrainConfig(weights=str(initial))})
    folder = make_checkpoint(1)
    version = register_model(config, folder, {"segm/AP": 0.25}, run.run_id, DATASET)
    stored = MlflowClient(run.uri, registry_uri=run.uri).get_model_version(
        version.name, version.version
    )
    run_tags = MlflowClient(run.uri).get_run(run.run_id).data.tags
    assert stored.run_id == run.run_id
    assert stored.tags["dataset_digest"] == DATASET
    assert stored.tags["config_digest"] == run_tags["config_digest"]
    assert stored.tags["code_commit"] == run_tags["code_commit"]
    assert stored.tags["initial_weights_sha256"] == file_sha256(initial)
    assert stored.tags["weights_sha256"] == file_sha256(Path(folder) / "model.safetensors")
    assert stored.tags["metric/segm/AP"] == "0.25"
    assert stored.tags["train_digest"] == "unknown"


def test_a_damaged_registered_model_is_named(run_config, run, make_checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow changes it
    version = register_model(run_config, make_checkpoint(3), {"segm/AP": 0.3}, run.run_id, DATASET)
    client = MlflowClient(run.uri, registry_uri=run.uri)
    source = client.get_model_version_download_uri(version.name, version.version)
    [weights] = Path(storage.local_path(source)).rglob("model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-100] + bytes(100))
    by_alias = f"models:/{version.name}@champion"
    with pytest.raises(WeightsError) as raised, resolve_weights(by_alias, run_config):
        pass
    assert str(raised.value).startswith(f"{by_alias}/model.safetensors is damaged")
    with pytest.raises(WeightsError, match="SHA-256"):
        mlflow.pyfunc.load_model(source)


def test_a_version_resolves_to_the_weights_that_were_registered(run_config, run, make_checkpoint):
    version = register_model(run_config, make_checkpoint(7), {"segm/AP": 0.3}, run.run_id, DATASET)
    by_alias = f"models:/{version.name}@champion"
    assert pin_version(by_alias, run_config) == f"models:/{version.name}/{version.version}"
    with resolve_weights(by_alias, run_config) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            "checksums.json",
            "model.json",
            "model.safetensors",
        ]
        resolved = load_network(folder).state_dict()
    registered = load_network(make_checkpoint(7)).state_dict()
    assert all((resolved[name] == tensor).all() for name, tensor in registered.items())
    with pytest.raises(TrackingError, match=r"no model absent@champion"):
        pin_version("models:/absent@champion", run_config)
    with (
        pytest.raises(TrackingError, match=r"models:/absent/3"),
        resolve_weights("models:/absent/3", run_config),
    ):
        pass
