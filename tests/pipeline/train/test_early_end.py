"""Trainings that keep their best checkpoint, end early, or need less memory; through Ray Train."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.weights import load_network
from model.weights.storage.model_folder import find_model_folder
from pipeline.train import ray_workers
from pipeline.train.driver import run_training
from tests.pipeline.train.driver_runs import assert_same_history, loss_history, make_config

pytestmark = pytest.mark.ray

# Imported by each worker process at its start: a device on which one image fits, not two.
ONE_IMAGE_FITS = """
import importlib.abc, sys

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "pipeline.train.loop":
            return None
        sys.meta_path.remove(self)
        import torch
        from model.detector import Detector
        losses = Detector.forward
        def forward(self, images, targets=None):
            if targets is not None and len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return losses(self, images, targets)
        Detector.forward = forward
        return None

sys.meta_path.insert(0, Patch())
"""


def checkpoints(output):
    return sorted(path.name for path in Path(output, "train").glob("step_*"))


def test_a_training_that_does_not_improve_ends_and_its_best_checkpoint_is_used(shards, tmp_path):
    config = make_config(
        tmp_path,
        shards,
        steps=40,
        workers=1,
        lr=1e-9,  # nothing is learned: AP stays the same
        validate_every=2,
        patience=2,
        checkpoint_every=1,
        keep_checkpoints=1,
        validation_loss=True,
    )
    result = run_training(config)
    best = json.loads((tmp_path / "train/best.json").read_text())
    assert best["checkpoint"] == "step_00000006"  # the last of equally good ones
    assert [each["step"] for each in best["validations"]] == [2, 4, 6]
    assert result.steps == 6
    assert result.stopped == "segm/AP has not improved on 0.0000 in 2 validations"
    assert checkpoints(tmp_path) == ["step_00000006"]
    assert find_model_folder(tmp_path).name == "step_00000006"
    assert result.checkpoint_url.endswith("step_00000006")
    terms = {name for name in result.metrics if name.startswith("val/loss/")}
    assert sum(result.metrics[name] for name in terms) == pytest.approx(result.metrics["val/loss"])
    assert len(terms) == 5
    # It is finished until a setting changes.
    assert run_training(config) == result
    more = config.model_copy(update={"train": config.train.model_copy(update={"patience": 3})})
    continued = run_training(more)
    assert continued.steps == 8
    assert sorted(loss_history(tmp_path, result.run_id)) == list(range(1, 9))


@pytest.mark.soak
def test_a_training_ends_when_its_hours_are_over_and_continues_with_more(
    finished, shards, tmp_path
):
    uninterrupted, whole = finished
    config = make_config(tmp_path, shards, max_hours=1e-9)
    result = run_training(config)
    assert (result.steps, result.stopped) == (1, "train.max_hours=1e-09 is over")
    assert "val/segm/AP" in result.metrics
    assert load_network(result.checkpoint_url).config == config.model
    assert run_training(config) == result
    continued = run_training(make_config(tmp_path, shards))
    assert (continued.steps, continued.stopped) == (whole.steps, None)
    expected = loss_history(uninterrupted.output, whole.run_id)
    assert_same_history(loss_history(tmp_path, result.run_id), expected)


@pytest.mark.soak
def test_a_training_goes_on_with_the_workers_that_the_cluster_can_hold(finished, shards, tmp_path):
    uninterrupted, whole = finished
    # Four are wanted, and two fit: each takes its two images one by one.
    result = run_training(make_config(tmp_path, shards, steps=2, workers=4, min_workers=1))
    assert result.steps == 2
    expected = loss_history(uninterrupted.output, whole.run_id, "train/rpn_objectness")
    history = loss_history(tmp_path, result.run_id, "train/rpn_objectness")
    # A term with a constant count per image: the same global batch has the same loss.
    assert min(history[1]) == pytest.approx(min(expected[1]), rel=1e-4)


@pytest.mark.soak
def test_a_step_that_needs_too_much_memory_is_split_into_smaller_micro_batches(
    shards, tmp_path, monkeypatch, caplog
):
    (tmp_path / "sitecustomize.py").write_text(ONE_IMAGE_FITS)
    environment = ray_workers.worker_environment
    monkeypatch.setattr(
        ray_workers,
        "worker_environment",
        lambda gpu: {**environment(gpu), "PYTHONPATH": str(tmp_path)},
    )
    output = tmp_path / "output"
    result = run_training(make_config(output, shards, steps=2))
    assert (result.steps, result.stopped) == (2, None)
    [warning] = [m for m in caplog.messages if "out of memory" in m]
    assert "Continuing with train.accumulate=2" in warning
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    assert client.get_run(result.run_id).data.tags["accumulate_after_out_of_memory"] == "2"
    # The same job is still the same job.
    assert run_training(make_config(output, shards, steps=2)) == result
