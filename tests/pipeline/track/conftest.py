"""A run to record in, checkpoints to register, and a database for a server."""

import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from pipeline.track.mlflow_run import open_run
from tests.postgresql import postgres  # noqa: F401


@pytest.fixture
def run(run_config):
    """An open MLflow run."""
    with open_run(run_config, "train") as opened:
        yield opened


@pytest.fixture
def make_checkpoint(tiny_checkpoint, tmp_path):
    """A function: number -> folder of a checkpoint whose weights depend on the number."""

    def make(number):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir(exist_ok=True)
        tensors = load_file(tiny_checkpoint / "model.safetensors")
        name = min(tensors)
        save_file(tensors | {name: tensors[name] + number}, folder / "model.safetensors")
        (folder / "model.json").write_bytes((tiny_checkpoint / "model.json").read_bytes())
        (folder / "training.pt").write_bytes(b"the optimizer's state")
        return str(folder)

    return make


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(request, tmp_path_factory):
    """A client of a registry in a database of each kind."""
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    else:
        uri = request.getfixturevalue("postgres")
    return MlflowClient(uri, registry_uri=uri)
