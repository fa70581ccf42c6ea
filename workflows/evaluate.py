"""Evaluate a detector on the validation shards with COCO metrics."""

import sys

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import EVALUATION_FOLDER, split_shards_url
from workflows.command_line import format_values, main


def plan(config: RunConfig) -> str:
    """Say what is evaluated, on which shards, and where the report is written."""
    weights = config.evaluate.weights or f"the checkpoint of {config.output}"
    return (
        f"evaluating {weights} on {split_shards_url(config, 'val')}; report in "
        f"{storage.join(config.output, EVALUATION_FOLDER)}"
    )


def job(config: RunConfig) -> str:
    """Evaluate and return the metrics."""
    from pipeline.evaluate.evaluation import run_evaluation

    result = run_evaluation(config)
    return (
        f"{format_values(result.metrics)}\n"
        f"images      {result.images} ({result.failed_images} unreadable)\n"
        f"weights     {result.weights}\n"
        f"report      {result.report_url}\n"
        f"MLflow      {result.run_url}"
    )


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Predicts on {output}/shards/val (or data.val_shards) with evaluate.weights, a checkpoint
            or models:/name@alias (default: that of the training in this output), and writes
            COCO's 12 metrics per task, AP per class and images with predictions to
            {output}/evaluation.""",
            example="python workflows/evaluate.py configs/quickstart.yaml "
            "evaluate.weights=models:/quickstart@champion",
            job=job,
            plan=plan,
            sections=("evaluate", "data", "track"),
        )
    )
