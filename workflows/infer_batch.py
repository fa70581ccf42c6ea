"""Run a registered detector over a folder or bucket of images, or over shards."""

import sys

from pipeline.config import RunConfig
from pipeline.infer.inference import run_inference
from workflows.command_line import main


def job(config: RunConfig) -> str:
    """Predict on every input that has no finished output yet."""
    result = run_inference(config)
    return (
        f"model       {result.model}\n"
        f"images      {result.images}, {result.failed} of them unreadable\n"
        f"objects     {result.objects}\n"
        f"files       {result.shards_done} written, {result.shards_skipped} stood already\n"
        f"output      {result.output_url}\n"
        f"pictures    {len(result.pictures)}"
    )


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Predicts on infer.inputs (images or shards under any URL; default the validation
            shards) with infer.model (default models:/{track.model_name}@champion). One Parquet file
            per input shard; finished ones are skipped on a rerun; an unreadable image is a row
            with an error.""",
            example="python workflows/infer_batch.py configs/quickstart.yaml "
            "infer.inputs=s3://bucket/images infer.output=s3://bucket/predictions",
            job=job,
            sections=("infer", "track"),
        )
    )
