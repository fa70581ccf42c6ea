"""Settings of complete trainings on a few drawn images, and their loss histories."""

import pytest
from mlflow import MlflowClient

from pipeline.config import RunConfig

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


def make_config(output, shards, steps=STEPS, workers=2, lr=0.002, tracker=None, **train):
    return RunConfig.model_validate(
        {
            "output": str(output),
            "track": {"uri": tracker},
            "model": MODEL,
            "data": {**shards, "train_short_sides": [64], "decode_threads": 1},
            "train": {
                "workers": workers,
                "cpus_per_worker": 1,
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
