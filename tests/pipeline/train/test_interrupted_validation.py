"""A worker that dies while the metrics are computed costs no validation; through Ray Train."""

import json

import pytest

from pipeline.train import ray_workers
from pipeline.train.driver import run_training
from tests.pipeline.train.driver_runs import (
    STEPS,
    assert_same_history,
    loss_history,
    make_config,
)

pytestmark = pytest.mark.ray

# Imported by each worker process at its start: metrics are computed in another process however few
# detections there are, and the first worker that asks for them is killed.
DIES_ONCE = """
import importlib.abc, os, signal, sys
from pathlib import Path

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "pipeline.train.training_validation":
            return None
        sys.meta_path.remove(self)
        from pipeline.evaluate import validation_metrics
        validation_metrics.FEW_DETECTIONS = 0
        start = validation_metrics.start_measuring
        def start_measuring(*arguments):
            killed = Path(__file__).with_name("killed")
            metrics = start(*arguments)
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return metrics
        validation_metrics.start_measuring = start_measuring
        return None

sys.meta_path.insert(0, Patch())
"""


@pytest.mark.soak
def test_a_worker_that_dies_before_the_metrics_are_there_validates_again(
    finished, shards, tmp_path, monkeypatch
):
    uninterrupted, whole = finished
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE)
    environment = ray_workers.worker_environment
    monkeypatch.setattr(
        ray_workers,
        "worker_environment",
        lambda gpu: {**environment(gpu), "PYTHONPATH": str(tmp_path)},
    )
    output = tmp_path / "output"
    result = run_training(make_config(output, shards, validate_every=2, keep_checkpoints=1))
    assert (tmp_path / "killed").exists()
    best = json.loads((output / "train/best.json").read_text())
    assert [each["step"] for each in best["validations"]] == [2, 4, STEPS]
    assert sorted(loss_history(output, result.run_id, "val/segm/AP")) == [2, 4, STEPS]
    assert result.metrics["val/segm/AP"] == best["validations"][-1]["value"]
    assert result.best_metrics["val/segm/AP"] == max(v["value"] for v in best["validations"])
    assert result.checkpoint_url.endswith(f"step_{result.best_step:08d}")
    expected = loss_history(uninterrupted.output, whole.run_id)
    assert_same_history(loss_history(output, result.run_id), expected)
