"""Complete trainings through Ray Train and MLflow: results, resuming, killed workers."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from model.weights import load_network
from pipeline import storage
from pipeline.train.driver import run_training
from pipeline.train.failures import TrainingError
from tests.pipeline.train.driver_runs import STEPS, assert_same_history, loss_history, make_config

pytestmark = pytest.mark.ray


def test_the_checkpoint_of_a_training_loads_as_a_detector(finished):
    config, result = finished
    assert result.steps == STEPS
    detector = load_network(result.checkpoint_url)
    assert detector.config == config.model
    assert {category.name for category in detector.categories} >= {"circle", "square"}


def test_every_step_and_the_last_validation_are_in_mlflow(finished):
    config, result = finished
    assert sorted(loss_history(config.output, result.run_id)) == list(range(1, STEPS + 1))
    assert sorted(loss_history(config.output, result.run_id, "val/segm/AP")) == [STEPS]
    assert "val/segm/AP" in result.metrics
    assert "train/loss" in result.metrics


def test_only_the_newest_checkpoints_are_kept(finished):
    config, _ = finished
    folders = Path(config.output, "train").glob("step_*")
    assert sorted(folder.name for folder in folders) == [
        "step_00000004",
        "step_00000006",
    ]


def test_each_kept_checkpoint_is_a_logged_model_with_its_validation(finished):
    config, result = finished
    client = MlflowClient(f"sqlite:///{config.output}/mlflow.db")
    run = client.get_run(result.run_id)
    models = client.search_logged_models(
        [run.info.experiment_id], order_by=[{"field_name": "metrics.val/segm/AP"}]
    )
    assert [model.name for model in models] == [f"step_{STEPS:08d}", "step_00000004"]
    best = models[0]
    assert best.tags["checkpoint"] == result.checkpoint_url
    assert best.source_run_id == result.run_id
    measured = {metric.key: (metric.step, metric.dataset_name) for metric in best.metrics}
    assert measured["val/segm/AP"] == (STEPS, "validation")
    assert models[1].metrics is None or models[1].metrics == []
    assert {each.step for each in run.outputs.model_outputs} >= {4, STEPS}


@pytest.mark.s3
def test_resuming_with_more_workers_from_a_bucket_gives_the_same_losses(
    finished, shards, s3, tmp_path
):
    """Number of workers, interruptions and the storage of checkpoints do not affect the losses."""
    config, result = finished
    url, tracker = s3("train"), f"sqlite:///{tmp_path}/mlflow.db"
    first = run_training(make_config(url, shards, steps=2, workers=1, tracker=tracker))
    second = run_training(make_config(url, shards, workers=2, tracker=tracker))
    assert second.checkpoint_url == f"{url}/train/step_{STEPS:08d}"
    with storage.fetch(second.checkpoint_url) as folder:
        assert load_network(folder).config == config.model
    assert second.run_id == first.run_id
    assert second.steps == STEPS
    expected = loss_history(config.output, result.run_id)
    history = loss_history(tmp_path, second.run_id)
    assert sorted(history) == list(range(1, STEPS + 1))
    # Two workers add floats in another order than one (1e-7). The differences grow with each step,
    # until they decide which of two equally good proposals is kept and the losses diverge.
    first_steps = range(1, 4)
    assert_same_history(
        {step: history[step] for step in first_steps},
        {step: expected[step] for step in first_steps},
    )


def test_a_finished_training_returns_at_once(finished):
    config, result = finished
    record = Path(config.output, "train", "run.json")
    before = record.stat().st_mtime_ns
    assert run_training(config) == result
    assert record.stat().st_mtime_ns == before


def test_a_killed_worker_loses_only_the_steps_since_the_checkpoint(finished, shards, tmp_path):
    config, result = finished
    killed = make_config(tmp_path, shards)
    killed_pids = []

    def kill_a_worker():
        snapshot = tmp_path / "train" / "checkpoint_manager_snapshot.json"
        while not (snapshot.exists() and "step_0" in snapshot.read_text()):
            time.sleep(0.05)
        worker = next(
            process
            for process in psutil.Process().children(recursive=True)
            if any("RayTrainWorker" in part for part in process.cmdline())
        )
        os.kill(worker.pid, signal.SIGKILL)
        killed_pids.append(worker.pid)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    killed_result = run_training(killed)
    assert killed_pids, "the run ended before a worker could be killed"
    assert killed_result.steps == STEPS
    expected = loss_history(config.output, result.run_id)
    assert_same_history(loss_history(tmp_path, killed_result.run_id), expected)


@pytest.mark.soak
def test_a_failed_validation_and_a_damaged_checkpoint_cost_only_their_own_steps(
    finished, shards, tmp_path, caplog
):
    """The checkpoint is saved before the validation; Ray's own files cannot stop a resumed run."""
    config, result = finished
    broken_shards = Path(shutil.copytree(shards["val_shards"], tmp_path / "val"))
    for file in broken_shards.glob("*.parquet"):
        file.write_bytes(b"damaged")
    output = tmp_path / "output"
    broken = {**shards, "val_shards": str(broken_shards)}
    with pytest.raises(TrainingError, match=r"^training failed on worker \d: ") as raised:
        run_training(make_config(output, broken, steps=4))
    assert "\n" not in str(raised.value)
    train = output / "train"
    assert sorted(path.name for path in train.glob("step_*")) == ["step_00000002", "step_00000004"]

    weights = train / "step_00000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    (train / "checkpoint_manager_snapshot.json").write_text('{"ray_version": "2.')
    resumed = run_training(make_config(output, shards))
    [warning] = [m for m in caplog.messages if "damaged" in m]
    assert str(weights) in warning and "resuming from" in warning
    assert sorted(path.name for path in train.glob("*step_*")) == [
        "damaged-step_00000004",
        "step_00000004",
        "step_00000006",
    ]
    assert resumed.checkpoint_url == str(train / "step_00000006")
    expected = loss_history(config.output, result.run_id)
    assert_same_history(loss_history(output, resumed.run_id), expected)


def test_a_finished_training_in_a_moved_folder_is_found_there(finished, tmp_path):
    config, result = finished
    moved = shutil.copytree(config.output, tmp_path / "moved ?%20#")
    found = run_training(config.model_copy(update={"output": str(moved)}))
    assert found.checkpoint_url == f"{moved}/train/step_{STEPS:08d}"
    assert found.run_id == result.run_id
    assert str(config.output) not in (moved / "train/run.json").read_text()
