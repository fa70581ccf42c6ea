"""Train a detector on shards."""

import sys
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER, split_shards_url
from workflows.command_line import format_values, main

if TYPE_CHECKING:
    from pipeline.train.driver import TrainingResult


def plan(config: RunConfig) -> str:
    """Say what is trained, on which shards, and where the checkpoints are written."""
    weights = config.train.weights or "random weights"
    return (
        f"training from {weights} on {split_shards_url(config, 'train')} with "
        f"workers: {config.train.workers} (train.device={config.train.device}); checkpoints in "
        f"{storage.join(config.output, TRAINING_FOLDER)}"
    )


def job(config: RunConfig) -> str:
    """Train, or resume an unfinished training, and return its final metrics."""
    from pipeline.train.driver import run_training

    result = run_training(config)
    return (
        f"{format_validations(result)}\n"
        f"steps       {result.steps}{f' ({result.stopped})' if result.stopped else ''}\n"
        f"checkpoint  {result.checkpoint_url}\n"
        f"MLflow run  {result.run_id}"
    )


def format_validations(result: "TrainingResult") -> str:
    """Return the metrics of the last weights, and those of the best ones if they are others."""
    last = format_values(result.metrics, "val/")
    if result.best_step in (None, result.steps) or not result.best_metrics:
        return last
    best = format_values(result.best_metrics, "val/")
    return f"last (step {result.steps})\n{last}\nbest (step {result.best_step})\n{best}"


def check(config: RunConfig) -> None:
    """Refuse shards that are missing, or that the settings do not fit."""
    from pipeline.train.start_checks import check_train_shards

    check_train_shards(config)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Trains on {output}/shards/train (or data.train_shards) with train.workers Ray Train
            workers; writes checkpoints to {output}/train and an MLflow run. Submitted again, it
            continues from the newest checkpoint.""",
            example="python workflows/train.py configs/coco_tiny.yaml train.weights=resnet50.pth",
            job=job,
            plan=plan,
            check=check,
            sections=("data", "model", "train", "track"),
        )
    )
