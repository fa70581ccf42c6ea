"""A run records its settings, code and backend, and how it ended."""

import pytest
from mlflow import MlflowClient

from pipeline.config import TrackConfig
from pipeline.track.mlflow_run import flatten_settings, open_run
from pipeline.track.mlflow_store import TrackingError, hide_password, tracking_uri


def test_the_default_store_is_in_the_local_output_folder(run_config, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = run_config.model_copy(update={"track": TrackConfig()})
    assert tracking_uri(local) == f"sqlite:///{tmp_path}/output/mlflow.db"
    remote = local.model_copy(update={"output": "s3://bucket/run"})
    with pytest.raises(TrackingError, match=r"s3://bucket/run.*track\.uri"):
        tracking_uri(remote)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri(remote) == "http://tracker:5000"


def test_a_run_records_its_settings_code_and_backend(run_config):
    with open_run(run_config, "train") as run:
        pass
    stored = MlflowClient(run.uri).get_run(run.run_id)
    assert stored.info.run_name == "tiny-train"
    assert stored.info.status == "FINISHED"
    assert stored.data.params["model.backbone.width"] == "8"
    assert set(stored.data.tags) >= {"config_digest", "code_commit", "ops_backend", "job"}
    files = [file.path for file in MlflowClient(run.uri).list_artifacts(run.run_id)]
    assert set(files) >= {"config.yaml", "environment.json"}


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_error_marks_the_run_and_is_raised_again(run_config, error, status):
    with pytest.raises(type(error)), open_run(run_config, "train") as run:
        raise error
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == status


def test_a_run_can_be_continued_and_nested(run_config):
    with (
        open_run(run_config, "train") as parent,
        open_run(run_config, "trial", parent_run_id=parent.run_id) as child,
    ):
        pass
    with open_run(run_config, "evaluate", run_id=parent.run_id) as continued:
        client = MlflowClient(parent.uri)
        assert client.get_run(parent.run_id).info.status == "RUNNING"
    assert continued.run_id == parent.run_id
    assert client.get_run(parent.run_id).info.status == "FINISHED"
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_an_unreachable_tracker_stops_the_job_before_it_starts(run_config, tmp_path):
    (tmp_path / "file").write_text("")
    unreachable = TrackConfig(uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    broken = run_config.model_copy(update={"track": unreachable})
    with pytest.raises(TrackingError, match=r"set track\.uri"), open_run(broken, "train"):
        pytest.fail("the block must not run")


def test_passwords_are_not_recorded(run_config):
    secret = TrackConfig(uri="postgresql://me:hush@host/db")
    flat = flatten_settings(run_config.model_copy(update={"track": secret}))
    assert flat["track.uri"] == "postgresql://me:***@host/db"
    assert hide_password("s3://bucket/key") == "s3://bucket/key"
