"""Kept checkpoints are logged models with the metrics of their step, and deleted ones are not."""

import json
import logging
import re
import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from safetensors.numpy import load_file, save_file

from model import load_detector
from model.weights.storage.checksums import file_sha256, write_checksums
from pipeline.shards.manifest import read_manifest
from pipeline.track.checkpoint_models import checkpoint_models, record_checkpoints
from pipeline.track.dataset_inputs import log_dataset
from tests.conftest import ROOT


@pytest.fixture
def save(tiny_checkpoint, tmp_path):
    """A function: step, number -> saves a checkpoint whose weights depend on the number."""

    def write(step, number=0):
        folder = tmp_path / "train" / f"step_{step:08d}"
        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        tensors = load_file(tiny_checkpoint / "model.safetensors")
        name = min(tensors)
        save_file(tensors | {name: tensors[name] + number}, folder / "model.safetensors")
        write_checksums(folder, ("model.safetensors", "model.json"))
        return folder

    return write


@pytest.fixture
def validated(tmp_path):
    """A function: step, metrics -> writes a validation into ``best.json``."""
    validations = {}

    def write(step, metrics):
        validations[step] = {"step": step, "value": 0.0, "metrics": metrics}
        content = {"metric": "segm/AP", "validations": list(validations.values())}
        (tmp_path / "train" / "best.json").write_text(json.dumps(content))

    return write


def run_documented_search(uri, experiment, folder):
    """Run the lines in docs/TRACKING.md, and compare what they load with a checkpoint."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/TRACKING.md").read_text(), re.DOTALL)
    [lines] = [block for block in blocks if "search_logged_models" in block]
    lines = lines.replace("sqlite:///runs/quickstart/mlflow.db", uri)
    namespace = {}
    exec(lines.replace('"quickstart"', repr(experiment)), namespace)
    loaded, expected = namespace["detector"].detector, load_detector(folder).detector
    for one, other in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_checkpoint_with_the_best_metric_is_found_and_loads(
    registry, save, validated, tmp_path, shapes_shards
):
    name = f"checkpoints-{uuid.uuid4().hex[:8]}"
    experiment = registry.create_experiment(name)
    run_id = registry.create_run(experiment).info.run_id
    manifest = read_manifest(shapes_shards)
    log_dataset(registry, run_id, "validation", shapes_shards, manifest)

    def measure(step, value):
        metrics = [Metric("val/segm/AP", value, 1000 + step, step), Metric("loss", 1.0, 1, step)]
        registry.log_batch(run_id, metrics=metrics)

    def ranked():
        return registry.search_logged_models(
            [experiment],
            filter_string="model_type = 'checkpoint'",
            order_by=[{"field_name": "metrics.val/segm/AP", "ascending": False}],
        )

    for step, value in ((10, 0.3), (20, 0.5), (30, 0.4)):
        save(step, step)
        measure(step, value)
        validated(step, {"val/segm/AP": value})
        if step != 20:  # the tracker was away then
            record_checkpoints(registry, run_id, str(tmp_path))
    assert [model.name for model in ranked()] == ["step_00000020", "step_00000030", "step_00000010"]
    best = ranked()[0]
    folder = Path(best.tags["checkpoint"])
    run_documented_search(registry.tracking_uri, name, folder)
    assert best.tags["weights_sha256"] == file_sha256(folder / "model.safetensors")
    [metric] = best.metrics
    assert (metric.key, metric.value, metric.step) == ("val/segm/AP", 0.5, 20)
    assert (metric.dataset_name, metric.dataset_digest) == ("validation", manifest.digest[:36])
    assert len(registry.get_metric_history(run_id, "val/segm/AP")) == 3  # not a second time
    # Recorded in the meantime by two processes, deleted, replaced, and half written.
    extra = registry.create_logged_model(
        experiment, "step_00000030", run_id, best.tags | {"step": "30"}, model_type="checkpoint"
    )
    shutil.rmtree(folder)
    save(30, number=7)
    (save(40) / "checksums.json").unlink()
    record_checkpoints(registry, run_id, str(tmp_path))
    assert {model.name for model in ranked()} == {"step_00000010", "step_00000030"}
    replaced = tmp_path / "train" / "step_00000030" / "model.safetensors"
    assert ranked()[0].tags["weights_sha256"] == file_sha256(replaced)
    before = ranked()
    assert extra.model_id not in {model.model_id for model in before}
    stored = checkpoint_models(registry, registry.get_run(run_id))
    assert [model.tags["step"] for model in stored] == ["10", "30"]
    record_checkpoints(registry, run_id, str(tmp_path))
    assert [model.model_id for model in ranked()] == [model.model_id for model in before]


def metrics_of(registry, run_id):
    models = checkpoint_models(registry, registry.get_run(run_id))
    return {
        model.name: {metric.key: metric.value for metric in model.metrics or ()} for model in models
    }


def test_the_metrics_of_weights_that_were_replaced_are_not_linked(
    registry, save, validated, tmp_path
):
    """A trial of a population, whose weights are replaced, passes the same steps again."""
    run_id = registry.create_run("0").info.run_id
    for time, value in ((1000, 0.9), (2000, 0.2)):  # the first is that of the replaced weights
        registry.log_batch(run_id, metrics=[Metric("val/segm/AP", value, time, 20)])
    save(20)
    record_checkpoints(registry, run_id, str(tmp_path))
    assert metrics_of(registry, run_id) == {"step_00000020": {}}
    validated(20, {"val/segm/AP": 0.2})
    record_checkpoints(registry, run_id, str(tmp_path))
    assert metrics_of(registry, run_id) == {"step_00000020": {"val/segm/AP": 0.2}}
    # The copy of a checkpoint that another trial has validated.
    save(30)
    validated(30, {"val/segm/AP": 0.5})
    for _ in range(2):
        record_checkpoints(registry, run_id, str(tmp_path))
    assert metrics_of(registry, run_id)["step_00000030"] == {"val/segm/AP": 0.5}
    assert len(registry.get_metric_history(run_id, "val/segm/AP")) == 3


def test_what_a_killed_process_has_half_recorded_is_completed(registry, save, validated, tmp_path):
    run_id = registry.create_run("0").info.run_id
    measured = {"val/bbox/AP": 0.3, "val/segm/AP": 0.2}
    rows = [Metric(key, value, 1000, 10) for key, value in measured.items()]
    registry.log_batch(run_id, metrics=rows)
    folder = save(10)
    validated(10, measured)
    pending = registry.create_logged_model(
        "0",
        folder.name,
        run_id,
        {
            "checkpoint": str(folder),
            "step": "10",
            "weights_sha256": file_sha256(folder / "model.safetensors"),
        },
        model_type="checkpoint",
    )
    record_checkpoints(registry, run_id, str(tmp_path))
    [model] = checkpoint_models(registry, registry.get_run(run_id))
    assert model.model_id != pending.model_id and model.status == LoggedModelStatus.READY
    assert metrics_of(registry, run_id) == {folder.name: measured}
    # Killed between two requests: one of its metrics is missing.
    save(20)
    record_checkpoints(registry, run_id, str(tmp_path))
    model = checkpoint_models(registry, registry.get_run(run_id))[1]
    half = Metric("val/bbox/AP", 0.3, 2000, 20, model_id=model.model_id)
    registry.log_batch(run_id, metrics=[half, Metric("val/segm/AP", 0.2, 2000, 20)])
    validated(20, measured)
    record_checkpoints(registry, run_id, str(tmp_path))
    assert metrics_of(registry, run_id)["step_00000020"] == measured


def test_a_tracker_without_logged_models_is_named_once(save, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    save(10)
    info = SimpleNamespace(run_id=uuid.uuid4().hex, experiment_id="0")

    def search(*_arguments, **_options):
        # What MLflow's client raises at a 404 without JSON, of a server of MLflow 2.
        raise MlflowException(
            "404 != 200. Response body: 'Not Found'", error_code=ENDPOINT_NOT_FOUND
        )

    client = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(info=info), search_logged_models=search
    )
    for _ in range(2):
        record_checkpoints(client, info.run_id, str(tmp_path))
    [message] = caplog.messages
    assert "set track.log_checkpoints=false" in message
