"""A version knows where it came from; the champion moves only for a better one on the same data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from model import load_detector
from pipeline.config import TrainConfig
from pipeline.track.mlflow_run import TrackingError, open_run
from pipeline.track.model_registry import file_sha256, register_model
from pipeline.track.weights_source import newest_checkpoint, pin_version, resolve_weights

ROOT = Path(__file__).resolve().parents[3]
DATA = "d" * 64


@pytest.fixture
def run(run_config):
    with open_run(run_config, "train") as opened:
        yield opened


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """Gives a function: number -> folder of a checkpoint that differs from the others."""

    def make(number):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir(exist_ok=True)
        tensors = load_file(tiny_checkpoint / "model.safetensors")
        name = min(tensors)
        save_file(tensors | {name: tensors[name] + number}, folder / "model.safetensors")
        (folder / "model.json").write_bytes((tiny_checkpoint / "model.json").read_bytes())
        (folder / "training.pt").write_bytes(b"the optimiser's state")
        return str(folder)

    return make


def champion(run_config, uri):
    client = MlflowClient(uri, registry_uri=uri)
    return str(client.get_registered_model(run_config.track.model_name).aliases.get("champion"))


def test_the_champion_moves_for_a_better_version_and_stays_for_a_worse_one(
    run_config, run, checkpoint
):
    def register(number, value):
        return register_model(run_config, checkpoint(number), {"segm/AP": value}, run.run_id, DATA)

    first = register(1, 0.30)
    assert (first.promoted, first.champion_metric_value) == (True, None)
    worse = register(2, 0.20)
    assert (worse.promoted, worse.champion_metric_value) == (False, 0.30)
    equal = register(3, 0.30)
    assert not equal.promoted
    better = register(4, 0.31)
    assert (better.promoted, better.champion_metric_value) == (True, 0.30)
    worse_after_better = register(5, 0.305)
    assert not worse_after_better.promoted
    assert champion(run_config, run.uri) == better.version


def test_a_metric_on_other_data_does_not_count(run_config, run, checkpoint):
    first = register_model(run_config, checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATA)
    other = register_model(run_config, checkpoint(2), {"segm/AP": 0.9}, run.run_id, "e" * 64)
    assert not other.promoted
    assert "other data" in other.reason
    assert champion(run_config, run.uri) == first.version


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_what_could_not_be_measured_is_not_promoted(run_config, run, checkpoint, value):
    version = register_model(run_config, checkpoint(1), {"segm/AP": value}, run.run_id, DATA)
    assert not version.promoted
    assert champion(run_config, run.uri) == "None"


def test_registering_the_same_twice_is_one_version(run_config, run, checkpoint):
    arguments = (run_config, checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATA)
    first, again = register_model(*arguments), register_model(*arguments)
    assert first.version == again.version
    assert again.promoted


def test_a_metric_that_was_not_measured_is_named(run_config, run, checkpoint):
    with pytest.raises(ValueError, match=r"segm/AP was not measured; there are bbox/AP"):
        register_model(run_config, checkpoint(1), {"bbox/AP": 0.3}, run.run_id, DATA)


def test_any_measured_number_may_decide(run_config, run, checkpoint):
    track = run_config.track.model_copy(update={"champion_metric": "keypoints/AP"})
    config = run_config.model_copy(update={"track": track})
    for number, value, is_better in ((1, 0.3, True), (2, 0.2, False), (3, 0.4, True)):
        measured = {"keypoints/AP": value, "bbox/AP": 1 - value}
        version = register_model(config, checkpoint(number), measured, run.run_id, DATA)
        assert version.promoted == is_better


def test_a_version_answers_where_it_came_from(run_config, run, checkpoint, tmp_path):
    began = tmp_path / "began.safetensors"
    save_file({"a": np.ones(3, np.float32)}, began)
    config = run_config.model_copy(update={"train": TrainConfig(weights=str(began))})
    folder = checkpoint(1)
    version = register_model(config, folder, {"segm/AP": 0.25}, run.run_id, DATA)
    stored = MlflowClient(run.uri, registry_uri=run.uri).get_model_version(
        version.name, version.version
    )
    of_run = MlflowClient(run.uri).get_run(run.run_id).data.tags
    assert stored.run_id == run.run_id
    assert stored.tags["dataset_digest"] == DATA
    assert stored.tags["config_digest"] == of_run["config_digest"]
    assert stored.tags["code_commit"] == of_run["code_commit"]
    assert stored.tags["initial_weights_sha256"] == file_sha256(began)
    assert stored.tags["weights_sha256"] == file_sha256(Path(folder) / "model.safetensors")
    assert stored.tags["metric/segm/AP"] == "0.25"
    assert stored.tags["train_digest"] == "unknown"


def test_a_version_is_resolved_to_the_weights_that_were_registered(run_config, run, checkpoint):
    version = register_model(run_config, checkpoint(7), {"segm/AP": 0.3}, run.run_id, DATA)
    by_alias = f"models:/{version.name}@champion"
    assert pin_version(by_alias, run_config) == f"models:/{version.name}/{version.version}"
    with resolve_weights(by_alias, run_config) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
        resolved = load_detector(folder).state_dict()
    original = load_detector(checkpoint(7)).state_dict()
    assert all((resolved[name] == tensor).all() for name, tensor in original.items())
    with pytest.raises(TrackingError, match=r"no model absent@champion"):
        pin_version("models:/absent@champion", run_config)
    with (
        pytest.raises(TrackingError, match=r"models:/absent/3"),
        resolve_weights("models:/absent/3", run_config),
    ):
        pass


def test_the_newest_whole_checkpoint_of_the_output_is_found(run_config, tiny_checkpoint):
    with pytest.raises(FileNotFoundError, match="train first"):
        newest_checkpoint(run_config)
    training = Path(run_config.output) / "train"
    for step, files in ((20, 2), (100, 2), (120, 1)):
        folder = training / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "model.json")[:files]:
            (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    assert newest_checkpoint(run_config) == str(training / "step_00000100")


SERVE = """
import json, sys
import mlflow, numpy, pandas
uri, image = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
frame = pandas.DataFrame({"image": [open(image, "rb").read()] * 2})
rows = model.predict(frame, params={"score_threshold": 0.0})
print(json.dumps(rows.to_dict("list")))
"""


def test_a_fresh_process_serves_the_champion_without_unpickling(
    run_config, run, tiny_checkpoint, shapes_images
):
    version = register_model(run_config, str(tiny_checkpoint), {"segm/AP": 0.3}, run.run_id, DATA)
    client = MlflowClient(run.uri, registry_uri=run.uri)
    stored = Path(
        client.get_model_version_download_uri(version.name, version.version).removeprefix("file://")
    )
    names = {path.name for path in stored.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    assert {"model.safetensors", "model.json", "served_model.py", "MLmodel"} <= names

    image = sorted(shapes_images[1].iterdir())[0]
    answer = subprocess.run(
        [sys.executable, "-c", SERVE, f"models:/{version.name}@champion", str(image)],
        env=os.environ
        | {
            "MLFLOW_TRACKING_URI": run.uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    rows = json.loads(answer.stdout)
    [here] = load_detector(tiny_checkpoint).predict([_pixels(image)])
    assert len(here) > 0
    assert rows["labels"] == [here.labels.tolist()] * 2
    assert rows["category_ids"][0] == [10 * label for label in here.labels.tolist()]
    np.testing.assert_allclose(rows["boxes"][0], here.boxes, atol=1e-3)  # another process's threads
    assert [mask["size"] for mask in rows["masks"][0]] == [[64, 64]] * len(here)
    assert rows["keypoints"] == rows["keypoint_names"] == [[], []]


def _pixels(path):
    from pipeline.shards.decode import decode_image

    return decode_image(path.read_bytes())
