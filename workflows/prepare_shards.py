"""Annotations and images to Parquet shards with a manifest."""

import sys

from pipeline.config import RunConfig
from pipeline.ingest.splits import SPLITS, prepare_split
from workflows.command_line import main


def job(config: RunConfig) -> str:
    """Write the shards of both splits."""
    return "\n".join(prepare_split(config, split).summary() for split in SPLITS)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Reads annotated images (data.source) and writes Parquet shards with a manifest, one
            folder per split. Bad records are named in quarantine.jsonl beside the manifest.
            Shards that stand are left as they are.""",
            example="python workflows/prepare_shards.py configs/coco_tiny.yaml "
            "output=s3://bucket/coco_tiny",
            job=job,
            sections=("data",),
        )
    )
