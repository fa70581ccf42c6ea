"""A training's run has its inputs, the weights it started from, and the load of the machine."""

import json
import time
from dataclasses import replace

import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import load_text
from sqlalchemy.exc import OperationalError

from model.weights.storage.checksums import file_sha256
from pipeline.config import DataConfig
from pipeline.shards.manifest import read_manifest
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import open_run
from pipeline.track.system_metrics import SystemMetrics
from pipeline.track.unsent_run import CHECKPOINTS, STATUS, TAGS, UnsentRun
from pipeline.train import ray_workers, run_tracking
from pipeline.train.out_of_memory import StepOutOfMemoryError
from pipeline.train.run_inputs import recorded_inputs
from pipeline.train.run_tracking import (
    memory_metrics,
    recorded_checkpoints,
    recording,
    send_unsent,
)
from pipeline.train.training_state import new_training_state
from pipeline.train.worker_task import WorkerResult, WorkerTask
from tests.pipeline.conftest import SHAPES


@pytest.fixture
def run(run_config):
    with open_run(run_config, "train") as opened:
        yield opened


def test_the_weights_that_a_training_starts_from_are_in_its_run(run, run_config, tiny_checkpoint):
    train = run_config.train.model_copy(update={"weights": str(tiny_checkpoint)})
    config = run_config.model_copy(update={"train": train})
    loaded = new_training_state(config, SHAPES, torch.device("cpu")).loaded
    with recording(run.uri, run.run_id, config.output, loaded, interval_s=0) as recorder:
        recorder.record({"train/loss": 1.0, **memory_metrics(torch.device("cpu"))}, 5)
    stored = MlflowClient(run.uri).get_run(run.run_id)
    digest = file_sha256(tiny_checkpoint / "model.safetensors")
    assert stored.data.tags["initial_weights_sha256"] == digest
    assert stored.data.tags["device"]
    assert stored.data.metrics["train/memory_cpu_gb"] > 0.01
    report = json.loads(load_text(f"{stored.info.artifact_uri}/initial_weights.json"))
    assert (report["sha256"], report["missing"]) == (digest, [])
    assert len(report["loaded"]) > 50


def test_the_datasets_and_the_first_samples_are_in_the_run(run, run_config, shapes_shards):
    manifest = read_manifest(shapes_shards)
    data = DataConfig(train_shards=shapes_shards, val_shards=shapes_shards)
    train = run_config.train.model_copy(update={"global_batch": 4})
    config = run_config.model_copy(update={"data": data, "train": train})
    with recorded_inputs(run, config, manifest, shapes_shards, shapes_shards):
        pass
    client = MlflowClient(run.uri)
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    assert {each.dataset.name for each in inputs} == {"training", "validation"}
    assert "training_samples.png" in {file.path for file in client.list_artifacts(run.run_id)}


def test_inputs_that_cannot_be_recorded_do_not_end_a_training(
    run, run_config, shapes_shards, tmp_path, caplog
):
    manifest, nowhere = read_manifest(shapes_shards), str(tmp_path / "nowhere")
    with recorded_inputs(run, run_config, manifest, nowhere, nowhere):
        pass
    assert any("lacks its inputs" in message for message in caplog.messages)


def test_the_load_of_the_machine_is_recorded_at_the_step_of_the_training(run):
    sink = MetricSink(run.uri, run.run_id)
    with SystemMetrics(sink, step=lambda: 7, every_s=0.05):
        deadline = time.monotonic() + 60
        while not sink.delivered and time.monotonic() < deadline:
            time.sleep(0.05)
    sink.close()
    client = MlflowClient(run.uri)
    history = client.get_metric_history(run.run_id, "system/system_memory_usage_percentage")
    assert {metric.step for metric in history} == {7}
    assert all(0 < metric.value < 100 for metric in history)


@pytest.fixture
def away(monkeypatch):
    """The URI of a database that is away: its client raises as it is made, here without a wait."""

    def refuse(**_options):
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    for module in (ray_workers, run_tracking):
        monkeypatch.setattr(module, "MlflowClient", refuse)
    return "postgresql://host/db"


def test_a_tracker_that_goes_away_ends_no_finished_training(run, run_config, away, caplog):
    unsent = UnsentRun(run_config.output, run.run_id)
    unsent.keep_note(STATUS, "FINISHED")
    send_unsent(away, run.run_id, run_config.output)
    assert any("is not complete yet" in message for message in caplog.messages)
    with recorded_checkpoints(replace(run, uri=away), run_config):
        pass
    assert unsent.notes() == [STATUS, CHECKPOINTS]


def test_a_tracker_that_goes_away_does_not_end_the_retry_after_out_of_memory(
    run, run_config, away, monkeypatch
):
    """Also the tags that the worker could not set at the start stay."""
    unsent = UnsentRun(run_config.output, run.run_id)
    unsent.keep_tags({"device": "cpu"})
    train = run_config.train.model_copy(update={"worker_count": 1})
    settled = run_config.model_copy(update={"train": train})
    task = WorkerTask(settled, (), "", None, away, run.run_id, "", "")
    results = iter([StepOutOfMemoryError("out of memory"), WorkerResult(8)])

    def run_once(*_arguments):
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(ray_workers, "_run_once", run_once)
    smaller = train.model_copy(update={"accumulate": 2})
    monkeypatch.setattr(ray_workers, "with_smaller_micro_batches", lambda _: smaller)
    assert ray_workers.run_workers(task, resources=None).steps == 8
    assert unsent.read_note(TAGS) == {"device": "cpu", "accumulate_after_out_of_memory": "2"}
