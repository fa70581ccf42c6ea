"""A run has the code and its changes, the machine and the data; a broken store costs little."""

import json
import logging
import subprocess
import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from pipeline.shards.manifest import read_manifest
from pipeline.track import code_version
from pipeline.track.artifact_upload import ArtifactUpload
from pipeline.track.code_version import read_code_version
from pipeline.track.dataset_inputs import log_dataset
from pipeline.track.mlflow_run import open_run
from pipeline.track.send_unsent import count_unsent


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path


def test_the_diff_is_what_differs_from_the_commit(repository, monkeypatch):
    clean = read_code_version(repository)
    assert (len(clean.commit), clean.diff) == (40, "")
    (repository / "train.py").write_text("lr = 0.2\n")
    changed = read_code_version(repository)
    assert changed.commit == f"{clean.commit}-dirty"
    assert "-lr = 0.1\n+lr = 0.2" in changed.diff
    monkeypatch.setattr(code_version, "MAX_DIFF_BYTES", 40)
    short = read_code_version(repository).diff
    assert "more bytes of the diff are left out" in short
    assert len(short) < 100


def test_code_without_a_repository_has_the_commit_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert read_code_version(tmp_path).commit == "abc"
    monkeypatch.delenv("GIT_COMMIT")
    assert read_code_version(tmp_path).commit == "unknown"


def test_a_run_has_its_code_machine_and_data(run_config, shapes_shards, monkeypatch):
    version = code_version.CodeVersion("c" * 40 + "-dirty", "+lr = 0.2")
    monkeypatch.setattr("pipeline.track.mlflow_run.read_code_version", lambda: version)
    manifest = read_manifest(shapes_shards)
    with open_run(run_config, "train") as run:
        client = MlflowClient(run.uri)
        for _ in range(2):  # a resumed training records it again
            log_dataset(client, run.run_id, "training", shapes_shards, manifest)
    stored = client.get_run(run.run_id)
    assert stored.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert stored.data.tags["code_commit"] == "c" * 40 + "-dirty"
    location = stored.info.artifact_uri
    assert load_text(f"{location}/code.diff") == "+lr = 0.2"
    environment = json.loads(load_text(f"{location}/environment.json"))
    assert environment["packages"]["torch"]
    assert environment["devices"]
    [data] = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("training", "training")
    assert json.loads(data.dataset.source)["url"] == shapes_shards
    assert json.loads(data.dataset.profile)["images"] == 11


class BrokenStore:
    """A client whose artifact store hangs or refuses."""

    def __init__(self, hang):
        self.calls = 0
        self.hang = hang
        self.released = threading.Event()

    def log_text(self, run_id, text, name):
        self.calls += 1
        if self.hang:
            self.released.wait(60)
        raise OSError("no space left")


@pytest.mark.parametrize("hang", [True, False], ids=["hangs", "refuses"])
def test_a_broken_artifact_store_is_waited_for_once_and_said_once(hang, caplog):
    caplog.set_level(logging.WARNING)
    store = BrokenStore(hang)
    upload = ArtifactUpload(store, "run", timeout_s=0.2)
    started = time.monotonic()
    for _ in range(20):
        upload.text("content", "name.txt")
    store.released.set()
    assert time.monotonic() - started < 10
    assert (store.calls, len(caplog.messages)) == (1, 1)
    reason = "no answer in 0.2 s" if hang else "OSError: no space left"
    assert reason in caplog.messages[0]


def test_a_job_runs_although_its_artifact_store_is_broken(run_config, tmp_path, caplog):
    """The experiment's artifacts are below a file, where no folder can be made."""
    client = MlflowClient(run_config.track.uri)
    (tmp_path / "blocked").write_text("")
    client.create_experiment("broken artifacts", artifact_location=f"{tmp_path}/blocked/artifacts")
    track = run_config.track.model_copy(update={"experiment": "broken artifacts"})
    with open_run(run_config.model_copy(update={"track": track}), "train") as run:
        pass
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert sum("does not take files" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("job", ["the same job", "the next job"])
def test_artifacts_that_the_store_did_not_take_are_sent_when_it_does(run_config, tmp_path, job):
    client = MlflowClient(run_config.track.uri)
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    name = f"blocked artifacts of {job}"
    client.create_experiment(name, artifact_location=f"{blocked}/artifacts")
    track = run_config.track.model_copy(update={"experiment": name})
    config = run_config.model_copy(update={"track": track})
    (tmp_path / "plot.png").write_bytes(b"a plot")
    with open_run(config, "train") as run:
        run.artifacts.file(tmp_path / "plot.png", "evaluation/plots")
        if job == "the same job":
            blocked.unlink()
    if job == "the next job":
        assert count_unsent(config.output).artifacts >= 3
        blocked.unlink()
        with open_run(config, "evaluate", run_id=run.run_id):
            pass
    location = client.get_run(run.run_id).info.artifact_uri
    assert load_text(f"{location}/evaluation/plots/plot.png") == "a plot"
    assert {"config.yaml", "environment.json"} <= {
        file.path for file in client.list_artifacts(run.run_id)
    }
    assert count_unsent(config.output).runs == 0


def test_a_kept_artifact_does_not_replace_a_newer_one(run_config, tmp_path):
    now_s = [0.0]
    with open_run(run_config, "train") as run:
        client = MlflowClient(run.uri)
        broken = BrokenStore(hang=False)
        upload = ArtifactUpload(broken, run.run_id, run.unsent, clock=lambda: now_s[0])
        for name in ("report.md", "other.md"):
            upload.text("old", name)
        broken.log_text, broken.log_artifact = client.log_text, client.log_artifact
        upload.text("newer", "third.md")
        assert len(run.unsent.artifacts()) == 3  # it is left alone for a while
        now_s[0] = 1000.0
        upload.text("new", "report.md")
        assert run.unsent.artifacts() == []
    location = client.get_run(run.run_id).info.artifact_uri
    contents = [load_text(f"{location}/{name}.md") for name in ("report", "other", "third")]
    assert contents == ["new", "old", "newer"]
