"""The store in an output folder works whatever the folder is called, and after it was moved."""

import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from pipeline.config import TrackConfig
from pipeline.track import mlflow_run
from pipeline.track.code_version import CodeVersion
from pipeline.track.mlflow_run import open_run
from pipeline.track.mlflow_store import TrackingError, open_store, recorded_uri, tracking_uri
from pipeline.track.model_registry import register_model
from pipeline.track.weights_source import resolve_weights

DATASET = "d" * 64

RUN_FILES = {"config.yaml", "environment.json"}


@pytest.fixture(autouse=True)
def unchanged_code(monkeypatch):
    """A checkout without uncommitted changes, which would add code.diff to each run."""
    monkeypatch.setattr(mlflow_run, "read_code_version", lambda: CodeVersion("c" * 40))


@pytest.fixture(scope="module")
def own_store(tmp_path_factory):
    """An output folder with its own, empty store; creating one takes seconds."""
    folder = tmp_path_factory.mktemp("store") / "output"
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def make_config(run_config, own_store, monkeypatch):
    """A function: output folder -> config with the store in that folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(output, copy_store=True):
        if copy_store:
            shutil.copytree(own_store, output)
        track = TrackConfig(model_name="moved")
        return run_config.model_copy(update={"output": str(output), "track": track})

    return make


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["a?b", "a%20b", "a#b", "50%", "a b", "ü", "a?b#c%3Fd&e=f", "a@b:c;d", "a\\b'\""]
)
def test_the_store_is_in_the_output_folder_whatever_its_name(make_config, tmp_path, name):
    config = make_config(tmp_path / name)
    started = time.monotonic()
    with open_run(config, "train") as run:
        pass
    assert time.monotonic() - started < 20
    assert [path.name for path in tmp_path.iterdir()] == [name]
    client = MlflowClient(tracking_uri(config))
    listed = {file.path for file in client.list_artifacts(run.run_id)}
    assert listed == RUN_FILES
    artifacts = {f"mlartifacts/{run.run_id}/artifacts/{file}" for file in RUN_FILES}
    assert files_below(tmp_path / name) == {"mlflow.db", *artifacts}
    assert recorded_uri(tracking_uri(config), config.output) == "sqlite:///{output}/mlflow.db"


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_moved_output_keeps_its_runs_artifacts_and_models(
    make_config, make_checkpoint, tmp_path, move
):
    old, new = tmp_path / "old", tmp_path / "elsewhere/new place"
    new.parent.mkdir()
    config = make_config(old)
    with open_run(config, "train") as run:
        register_model(config, make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    before = files_below(old)
    move(old, new)
    _artifact_repos_cache.clear()  # a move happens between two processes, this cache is of one

    config = make_config(new, copy_store=False)
    with open_run(config, "evaluate", run_id=run.run_id):
        client = open_store(config)
        client.log_text(run.run_id, "report", "report.md")
        names = {file.path for file in client.list_artifacts(run.run_id)}
    assert names == RUN_FILES | {"report.md"}
    with resolve_weights("models:/moved@champion", config) as folder:
        assert (folder / "model.safetensors").is_file()
    second = register_model(config, make_checkpoint(2), {"segm/AP": 0.4}, run.run_id, DATASET)
    assert second.promoted
    assert files_below(new) > before
    assert (files_below(old) if old.exists() else before) == before


def test_artifacts_of_a_shared_store_stay_where_they_are(make_config, own_store, tmp_path):
    """Only an output's own store is sure to have its artifacts beside it."""
    elsewhere = tmp_path / "disk/mlartifacts"
    elsewhere.mkdir(parents=True)
    shutil.copytree(own_store, tmp_path / "shared")
    (tmp_path / "shared/mlartifacts").mkdir()
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    MlflowClient(uri).create_experiment("theirs", artifact_location=elsewhere.as_uri())
    config = make_config(tmp_path / "output", copy_store=False)
    config = config.model_copy(update={"track": TrackConfig(uri=uri, experiment="theirs")})
    with open_run(config, "train") as run:
        pass
    assert (elsewhere / run.run_id / "artifacts/config.yaml").is_file()


@pytest.mark.parametrize("broken", ["not a database", "a folder", "below a file"])
def test_a_store_that_cannot_be_opened_is_named_at_once(make_config, tmp_path, broken):
    config = make_config(tmp_path / "output", copy_store=False)
    Path(config.output).mkdir()
    database = Path(config.output) / "mlflow.db"
    if broken == "a folder":
        database.mkdir()
    elif broken == "below a file":
        database.parent.rmdir()
        database.parent.write_text("")
    else:
        database.write_text("not a database, but long enough for a header" * 10)
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be opened .*track\.uri") as raised:
        open_store(config)
    assert time.monotonic() - started < 5
    assert "\n" not in str(raised.value)


def test_a_run_that_was_deleted_is_replaced_by_a_new_one(run_config, caplog):
    with open_run(run_config, "train", run_id="0" * 32) as run:
        assert run.run_id != "0" * 32
    assert "has no run 000" in caplog.text


def test_passwords_and_other_stores_in_records(run_config, tmp_path):
    assert recorded_uri("postgresql://me:hush@host/db", "/o") == "postgresql://me:***@host/db"
    assert recorded_uri("sqlite:////p/mlflow.db", "/o") == "sqlite:////p/mlflow.db"
    assert recorded_uri("http://tracker:5000", "s3://b/o") == "http://tracker:5000"
