"""Train a detector on shards."""

import sys

from pipeline.config import RunConfig
from workflows.command_line import format_values, main


def job(config: RunConfig) -> str:
    """Train, or resume an unfinished training, and return its final metrics."""
    from pipeline.train.driver import run_training

    result = run_training(config)
    return (
        f"{format_values(result.metrics, 'val/')}\n"
        f"steps       {result.steps}\n"
        f"checkpoint  {result.checkpoint_url}\n"
        f"MLflow run  {result.run_id}"
    )


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Trains on {output}/shards/train (or data.train_shards) with train.workers Ray Train
            workers; writes checkpoints to {output}/train and an MLflow run. Submitted again, it
            continues from the newest checkpoint.""",
            example="python workflows/train.py configs/coco_tiny.yaml train.weights=resnet50.pth",
            job=job,
            sections=("data", "model", "train", "track"),
        )
    )
