"""Complete trainings through Ray Train and MLflow, on a few drawn images."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray.train
from mlflow import MlflowClient

from model.weights import load_network
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.splits import prepare_split
from pipeline.train.driver import run_training
from pipeline.train.failures import TrainingError

pytestmark = pytest.mark.ray

STEPS = 6
MODEL = {
    "num_classes": 5,
    "input": {"short_side": 64, "long_side": 64},
    "backbone": {
        "depth": 18,
        "norm": "group_norm",
        "frozen_stages": 0,
        "width": 8,
    },
    "fpn": {"channels": 16},
    "rpn": {
        "anchor_sizes": [8, 16, 32, 64, 128],
        "samples_per_image": 32,
        "pre_nms_train": 100,
        "pre_nms_test": 50,
        "post_nms_train": 50,
        "post_nms_test": 20,
    },
    "box": {"hidden": 32, "samples_per_image": 32, "detections_per_image": 10},
    "mask": {"channels": 16, "layers": 1},
}


@pytest.fixture(scope="module")
def shards(ray_cluster, tmp_path_factory):
    """URLs of shards of 24 + 6 drawn images."""
    folder = tmp_path_factory.mktemp("shapes")
    config = RunConfig.model_validate(
        {
            "output": str(folder),
            "data": {
                "shapes": {"images": 24, "val_images": 6, "side": 64, "max_objects": 3},
                "rows_per_shard": 12,
                "rows_per_group": 4,
            },
        }
    )
    prepare_split(config, "train")
    prepare_split(config, "val")
    return {"train_shards": f"{folder}/shards/train", "val_shards": f"{folder}/shards/val"}


def make_config(output, shards, steps=STEPS, workers=2, lr=0.002, tracker=None, **train):
    return RunConfig.model_validate(
        {
            "output": str(output),
            "track": {"uri": tracker},
            "model": MODEL,
            "data": {**shards, "train_short_sides": [64], "decode_threads": 1},
            "train": {
                "workers": workers,
                "device": "cpu",
                "global_batch": 4,
                "schedule": {"steps": steps, "milestones": [100], "warmup_steps": 2},
                "optimizer": {"lr": lr},
                "log_every": 1,
                "checkpoint_every": 2,
                "max_failures": 1,
                **train,
            },
        }
    )


def loss_history(output, run_id, name="train/loss"):
    """Return all values that were logged for each step."""
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    history = {}
    for metric in client.get_metric_history(run_id, name):
        history.setdefault(metric.step, set()).add(metric.value)
    return history


def assert_same_history(history, expected):
    """Compare every value of every step; float additions in another order differ slightly."""
    assert history.keys() == expected.keys()
    for step, values in history.items():
        for value in values:
            assert value == pytest.approx(min(expected[step]), rel=1e-4), step


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """An uninterrupted training of two workers."""
    config = make_config(tmp_path_factory.mktemp("finished"), shards)
    return config, run_training(config)


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


def test_nan_stops_the_run_and_writes_the_image_ids(shards, tmp_path):
    config = make_config(tmp_path, shards, workers=1, lr=1e30)
    with pytest.raises(TrainingError, match="NaN or infinite"):
        run_training(config)
    report = json.loads((tmp_path / "train" / "nan_batch.json").read_text())
    assert len(report["image_ids"]) == 4
    assert report["step"] >= 1


def test_more_workers_than_fit_on_the_machine_are_refused(shards, tmp_path):
    with pytest.raises(TrainingError, match="need 4 CPUs, but this machine has 2"):
        run_training(make_config(tmp_path, shards, workers=4))


def test_a_wrong_number_of_classes_is_refused_before_anything_starts(shards, tmp_path):
    config = make_config(tmp_path, shards)
    wrong = config.model_copy(update={"model": RunConfig().model})
    with pytest.raises(TrainingError, match=r"set model\.num_classes=5"):
        run_training(wrong)
    assert not storage.exists(str(tmp_path / "train" / "run.json"))


class CountFailures(ray.train.UserCallback):
    """Append a line to ``file`` for each failed attempt."""

    def __init__(self, file):
        self.file = file

    def after_exception(self, run_context, worker_exceptions):
        with self.file.open("a") as lines:
            lines.write(f"{worker_exceptions}\n")


def failed_attempts(config, file, message):
    with pytest.raises(TrainingError, match=message):
        run_training(config, callbacks=[CountFailures(file)])
    return len(file.read_text().splitlines())


def test_an_error_that_a_retry_would_repeat_ends_the_training_at_once(finished, shards, tmp_path):
    _, result = finished
    config = make_config(tmp_path, shards, weights=result.checkpoint_url, max_failures=2)
    deeper_mask_head = {**MODEL, "mask": {"channels": 16, "layers": 2}}
    config = RunConfig.model_validate({**config.model_dump(), "model": deeper_mask_head})
    message = r"training failed on worker \d: WeightsError: .*roi_heads.mask"
    assert failed_attempts(config, tmp_path / "failures", message) == 1


def test_too_little_memory_ends_the_training_at_once_and_says_what_to_lower(shards, tmp_path):
    config = make_config(tmp_path, shards, workers=1, max_failures=2)
    # More than the address space of a process can hold, so nothing is allocated.
    impossible = {**MODEL, "box": {**MODEL["box"], "hidden": 2**45}}
    config = RunConfig.model_validate({**config.model_dump(), "model": impossible})
    message = r"^training failed on worker 0: out of memory on cpu .*lower train\.global_batch.*$"
    assert failed_attempts(config, tmp_path / "failures", message) == 1


def frozen_norms(config, **train):
    """Return the config with frozen norms in its backbone."""
    tree = config.model_dump()
    tree["model"]["backbone"]["norm"] = "frozen_bn"
    return RunConfig.model_validate({**tree, "train": {**tree["train"], **train}})


def test_frozen_norms_without_weights_are_refused_before_anything_starts(shards, tmp_path):
    with pytest.raises(TrainingError, match=r"frozen_bn but train\.weights is not set.*Set train"):
        run_training(frozen_norms(make_config(tmp_path, shards)))
    assert not storage.exists(str(tmp_path / "train" / "run.json"))


def test_frozen_norms_with_weights_train_and_resume_without_them(finished, shards, tmp_path):
    _, result = finished
    patterns = {"allow_missing": ["*"], "allow_unused": ["*"]}  # those weights have other norms
    config = frozen_norms(
        make_config(tmp_path, shards, workers=1, steps=2),
        weights=result.checkpoint_url,
        **patterns,
    )
    assert run_training(config).steps == 2
    schedule = {**config.train.schedule.model_dump(), "steps": 3}
    assert run_training(frozen_norms(config, weights=None, schedule=schedule)).steps == 3


def test_frozen_norms_without_weights_train_if_asked_to(shards, tmp_path):
    config = make_config(tmp_path, shards, workers=1, steps=1)
    assert run_training(frozen_norms(config, allow_frozen_random_norms=True)).steps == 1
