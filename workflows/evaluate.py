"""Evaluate a detector on the shards of a split with COCO metrics."""

import sys

from pipeline.config import RunConfig
from pipeline.output_layout import evaluated_shards_url, evaluation_url
from workflows.command_line import format_values, main


def plan(config: RunConfig) -> str:
    """Say what is evaluated, on which shards, and where the report is written."""
    settings = config.evaluate
    weights = settings.predictions or settings.weights or f"the checkpoint of {config.output}"
    return (
        f"evaluating {weights} on {config.evaluate.split}, {evaluated_shards_url(config)}; "
        f"report in {evaluation_url(config)}"
    )


def job(config: RunConfig) -> str:
    """Evaluate and return the metrics."""
    from pipeline.evaluate.evaluation import run_evaluation

    result = run_evaluation(config)
    return (
        f"{format_values(result.metrics)}\n"
        f"split       {config.evaluate.split}\n"
        f"images      {result.images} ({result.failed_images} unreadable)\n"
        f"weights     {result.weights}\n"
        f"report      {result.report_url}\n"
        f"MLflow      {result.run_url}"
    )


def check(config: RunConfig) -> None:
    """Refuse shards that are missing."""
    from pipeline.shards.manifest import read_manifest

    read_manifest(evaluated_shards_url(config))


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Predicts on the shards of evaluate.split (default: val) with evaluate.weights, a
            checkpoint or models:/name@alias (default: that of the training in this output), or
            reads evaluate.predictions, the output of infer_batch on these shards. Writes COCO's 12
            metrics per task, AP per class and images with predictions to {output}/evaluation, or
            for another split than val to a folder of its name in it.""",
            example="python workflows/evaluate.py configs/quickstart.yaml "
            "evaluate.weights=models:/quickstart@champion",
            job=job,
            plan=plan,
            check=check,
            sections=("evaluate", "data", "track"),
        )
    )
