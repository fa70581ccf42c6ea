"""Convert annotated images to Parquet shards with a manifest."""

import logging
import sys

from pipeline.config import RunConfig
from pipeline.output_layout import split_shards_url
from workflows.arguments import Mode
from workflows.command_line import main

logger = logging.getLogger(__name__)


def plan(config: RunConfig) -> str:
    """Say where the shards come from and where they are written."""
    folders = ", ".join(split_shards_url(config, split) for split in config.data.split_names)
    if config.data.source == "shards":
        return f"writing new shards from existing ones to {folders}"
    return f"writing shards of the {config.data.source} dataset to {folders}"


def job(config: RunConfig) -> str:
    """Write the shards of all splits, unless they are up to date."""
    from pipeline.ingest.splits import prepare_split
    from pipeline.storage.versions import file_versions

    lines = []
    for split in config.data.split_names:
        shards_url = split_shards_url(config, split)
        before = file_versions(shards_url)
        summary = prepare_split(config, split).summary()
        status = "up to date, nothing written" if file_versions(shards_url) == before else "written"
        lines.append(f"{shards_url}: {status}: {summary}")
    return "\n".join(lines)


def check(config: RunConfig) -> None:
    """Refuse annotations that do not exist; warn of what only later jobs refuse."""
    from pipeline.ingest.source_check import check_sources
    from pipeline.track.mlflow_store import TrackingError, tracking_uri

    check_sources(config)
    try:
        tracking_uri(config)
    except TrackingError as error:
        logger.warning("the shards are written, but train and later jobs will refuse: %s", error)


def plan_check(config: RunConfig) -> str:
    """Say which shards are checked."""
    folders = ", ".join(split_shards_url(config, split) for split in config.data.split_names)
    return f"checking the shards in {folders}: digests, and every image and mask"


def check_shards(config: RunConfig) -> str:
    """Check the shards of all splits; raise if any is damaged."""
    from pipeline.ingest import shard_check

    urls = list(dict.fromkeys(split_shards_url(config, split) for split in config.data.split_names))
    manifests = shard_check.check_shards(urls)
    return "\n".join(
        f"{url}: intact: {manifest.rows} images in {len(manifest.files)} shards"
        for url, manifest in zip(urls, manifests, strict=True)
    )


CHECK = Mode(
    "--check",
    "check shards that are already written: compare their digests, decode every image and mask, "
    "list what is damaged, and end with status 1 if anything is",
    check_shards,
    plan_check,
)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Reads annotated images (data.source) and writes Parquet shards with a manifest, one
            folder per split. Records that are left out or corrected are listed in quarantine.jsonl
            beside the manifest; if more than data.max_quarantined are left out, the job fails.
            Shards that are up to date are kept. With data.source=shards it writes new shards from
            existing ones: several merged, with classes matched by name, or one with other
            data.rows_per_shard and data.rows_per_group.""",
            example="python workflows/prepare_shards.py configs/coco_tiny.yaml "
            "output=s3://bucket/coco_tiny",
            job=job,
            plan=plan,
            check=check,
            sections=("data",),
            modes=(CHECK,),
        )
    )
