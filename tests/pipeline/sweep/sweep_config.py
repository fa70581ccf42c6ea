"""Configs with a search space, for the tests of sweeps."""

from pipeline.config import RunConfig
from pipeline.sweep.ledger import TrialRecord

LR = "train.optimizer.lr"
BATCH = "train.global_batch"
KIND = "train.schedule.kind"


def sweep_config(space, sweep=None, **tree):
    return RunConfig.model_validate(
        {"output": "/out", **tree, "sweep": {"space": space, "grace_steps": 7, **(sweep or {})}}
    )


def finished(number, value, status="finished", metric="val/segm/AP", images=100, **fields):
    """A trial that has ended; without a value it measured nothing."""
    measured = value is not None
    return TrialRecord(
        f"{number:04d}",
        fields.pop("values", {}),
        status,
        steps=10,
        metrics={metric: value} if measured else {},
        history=((images, value),) if measured else (),
        **fields,
    )


def tiny_sweep(output, sweep, **train):
    """A sweep of the smallest detector on eight drawn images, which really runs."""
    return RunConfig.model_validate(
        {
            "output": str(output),
            "seed": 1,
            "model": {
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
                    "pre_nms_train": 50,
                    "pre_nms_test": 20,
                    "post_nms_train": 50,
                    "post_nms_test": 10,
                },
                "box": {"hidden": 16, "samples_per_image": 16, "detections_per_image": 5},
                "mask": None,
            },
            "data": {
                "shapes": {"images": 8, "val_images": 2, "side": 64, "max_objects": 2},
                "train_short_sides": [64],
                "decode_threads": 1,
            },
            "train": {
                "device": "cpu",
                "global_batch": 2,
                "schedule": {"steps": 8, "milestones": [100], "warmup_steps": 0},
                "validate_every": 2,
                "log_every": 1,
                **train,
            },
            "evaluate": {"pictures": 0},
            "track": {"champion_metric": "bbox/AP"},
            "sweep": sweep,
        }
    )
