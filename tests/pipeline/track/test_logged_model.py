"""A registered model is loaded and served by environments without this checkout or any pickle."""

import base64
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from model import Predictor
from model.images.decode import decode_image
from model.weights import load_network
from pipeline.track.model_contents import UnsafeModelError, check_contents
from pipeline.track.model_registry import register_model
from pipeline.track.weights_source import resolve_weights
from tests.fresh_environment import ROOT, build_wheel, environment_variables, make_environment

LOAD = """
import json, sys
import mlflow, pandas
uri, image = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
frame = pandas.DataFrame({"image": [open(image, "rb").read()] * 2})
rows = model.predict(frame, params={"score_threshold": 0.0})
import model, ops_cuda
import pipeline.evaluate.validation  # the code of the model hides none of the installed packages
document = {"rows": rows.to_dict("list"), "file": model.__file__, "backend": ops_cuda.backend()}
print(json.dumps(document))
"""


@pytest.fixture
def registered(run_config, run, tiny_checkpoint):
    """The URI of a registered version, and its folder."""
    version = register_model(
        run_config, str(tiny_checkpoint), {"segm/AP": 0.3}, run.run_id, "d" * 64
    )
    client = MlflowClient(run.uri, registry_uri=run.uri)
    location = client.get_model_version_download_uri(version.name, version.version)
    return f"models:/{version.name}@champion", Path(location.removeprefix("file://"))


@pytest.fixture
def image(shapes_images):
    return sorted(shapes_images[1].iterdir())[0]


@pytest.fixture
def expected(tiny_checkpoint, image):
    [detections] = Predictor(load_network(tiny_checkpoint)).predict(
        [decode_image(image.read_bytes())]
    )
    assert len(detections) > 0
    return detections


def check_row(rows, expected):
    assert rows["labels"] == expected.labels.tolist()
    assert rows["category_ids"] == [10 * label for label in expected.labels.tolist()]
    # The other process may use another number of threads.
    np.testing.assert_allclose(rows["boxes"], expected.boxes, atol=1e-3)
    assert [mask["size"] for mask in rows["masks"]] == [[64, 64]] * len(expected)
    assert rows["keypoints"] == rows["keypoint_names"] == []


def test_an_environment_with_the_wheel_alone_loads_the_champion(
    registered, run, image, expected, tmp_path
):
    python = make_environment(tmp_path / "venv", build_wheel(tmp_path))
    process = subprocess.run(
        [python, "-c", LOAD, registered[0], image],
        env=environment_variables(MLFLOW_TRACKING_URI=run.uri),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert not result["file"].startswith(str(ROOT))
    assert "reference" not in result["backend"]
    check_row({name: values[0] for name, values in result["rows"].items()}, expected)


def test_mlflow_serves_the_model_without_this_project_installed(
    registered, run, image, expected, tmp_path
):
    python = make_environment(tmp_path / "venv")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "mlflow", "models", "serve", "--model-uri", registered[0]]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*command, *options, "--workers", "1"],
            # The server starts the programs of its environment by their names.
            env=environment_variables(
                MLFLOW_TRACKING_URI=run.uri, PATH=f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
            ),
            stdout=sink,
            stderr=sink,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        wait_until_served(server, port, log)
        encoded = base64.b64encode(image.read_bytes()).decode()
        frame = {"columns": ["image"], "data": [[encoded]]}
        body = {"dataframe_split": frame, "params": {"score_threshold": 0.0}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            [row] = json.load(response)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    check_row(row, expected)


def wait_until_served(server, port, log):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the model is not served:\n{log.read_text()[-3000:]}")


def test_the_requirements_are_packages_of_pypi_and_the_example_fits_the_signature(registered):
    _, folder = registered
    requirements = (folder / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in requirements)
    assert not [line for line in requirements if "maskrcnn" in line or "+" in line]
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    assert mlmodel["signature"]["inputs"]
    example = json.loads((folder / "input_example.json").read_text())
    assert example["columns"] == ["image"]
    assert decode_image(base64.b64decode(example["data"][0][0])).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("artifacts/detector/extra.pkl", b"anything"),
        ("artifacts/detector/weights.data", pickle.dumps({"a": 1})),
        ("code/model/__init__.pyc", b"anything"),
        ("python_model.pkl", pickle.dumps(1)),
    ],
)
def test_a_file_that_could_run_code_is_refused(registered, run_config, name, content):
    uri, folder = registered
    check_contents(folder, uri)
    (folder / name).write_bytes(content)
    with (
        pytest.raises(UnsafeModelError, match=rf"{Path(name).name}, a .*Somebody added it"),
        resolve_weights(uri, run_config),
    ):
        pass


def test_bytecode_that_python_writes_is_neither_registered_nor_refused(
    request, monkeypatch, run_config
):
    """A registered model is loaded as a test, and users load one where a local store has it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow changes it
    from mlflow.pyfunc import load_model

    uri, folder = request.getfixturevalue("registered")
    assert not list(folder.rglob("*.pyc"))
    load_model(str(folder))
    assert list(folder.rglob("__pycache__/*.pyc"))
    with resolve_weights(uri, run_config) as weights:
        load_network(weights)


def test_an_mlmodel_that_loads_something_else_is_refused(registered, run_config):
    uri, folder = registered
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"]["loader_module"] = "mlflow.sklearn"
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    with (
        pytest.raises(UnsafeModelError, match=r"changed to load something else \(mlflow.sklearn"),
        resolve_weights(uri, run_config),
    ):
        pass


def test_a_served_detector_with_a_file_too_many_is_not_loaded(registered, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow changes it
    from mlflow.pyfunc import load_model

    _, folder = registered
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "artifacts/detector/training.pt").write_bytes(b"the optimizer's state")
    with pytest.raises(ValueError, match=r"holds training\.pt, which is no file of a registered"):
        load_model(str(copy))
