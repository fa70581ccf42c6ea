"""Convert annotated images to Parquet shards with a manifest."""

import sys

from pipeline.config import RunConfig
from workflows.command_line import main


def job(config: RunConfig) -> str:
    """Write the shards of both splits."""
    from pipeline.ingest.splits import prepare_split
    from pipeline.output_layout import SPLITS

    return "\n".join(prepare_split(config, split).summary() for split in SPLITS)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Reads annotated images (data.source) and writes Parquet shards with a manifest, one
            folder per split. Invalid records are listed in quarantine.jsonl beside the manifest.
            Shards that are up to date are kept.""",
            example="python workflows/prepare_shards.py configs/coco_tiny.yaml "
            "output=s3://bucket/coco_tiny",
            job=job,
            sections=("data",),
        )
    )
