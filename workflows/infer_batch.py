"""Run a registered detector on a folder or bucket of images, or on shards."""

import sys

from pipeline.config import RunConfig
from pipeline.infer.cluster_use import needs_cluster
from pipeline.output_layout import predictions_url, split_shards_url
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say what is predicted on, with which model, and where the predictions are written."""
    inputs = config.infer.inputs or split_shards_url(config, "val")
    model = config.infer.model or f"the champion of models:/{config.track.model_name}"
    return f"predicting on {inputs} with {model}; predictions in {predictions_url(config)}"


def check(config: RunConfig) -> None:
    """Refuse inputs that are missing, or that the settings do not fit."""
    from pipeline.infer.inference import open_job_input

    open_job_input(config)


def job(config: RunConfig) -> str:
    """Predict on every input whose output is not finished yet."""
    from pipeline.infer.inference import run_inference

    result = run_inference(config)
    skipped = ", ".join(f"{count} {suffix}" for suffix, count in result.skipped_files.items())
    return (
        f"model       {result.model}\n"
        f"images      {result.images} ({result.failed} unreadable)\n"
        f"no images   {skipped or 'none'}\n"
        f"objects     {result.objects}\n"
        f"files       {result.shards_done} written, {result.shards_skipped} already finished\n"
        f"output      {result.output_url}\n"
        f"visualized  {len(result.pictures)} images"
    )


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Predicts on infer.inputs (images, a list of images, a COCO document, Parquet files, a
            video or shards, at any URL; default: the validation shards) with infer.model (default:
            models:/{track.model_name}@champion). Writes one Parquet file per input shard, or per
            infer.images_per_shard images; a rerun predicts on what is new only. An unreadable image
            becomes a row with an error.""",
            example="python workflows/infer_batch.py configs/quickstart.yaml "
            "infer.inputs=s3://bucket/images infer.output=s3://bucket/predictions",
            job=job,
            plan=plan,
            check=check,
            sections=("infer", "track"),
            needs_cluster=lambda config: needs_cluster(config.infer.workers),
        )
    )
