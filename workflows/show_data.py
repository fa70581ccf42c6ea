"""Report on a dataset before training: augmented samples, counts, plots, records left out."""

import sys

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import EXPLORATION_FOLDER, split_shards_url
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say which shards are shown, and where the report is written."""
    return (
        f"reporting on {split_shards_url(config, 'train')} in "
        f"{storage.join(config.output, EXPLORATION_FOLDER)}"
    )


def job(config: RunConfig) -> str:
    """Write the report and return where it is."""
    from pipeline.explore.exploration import run_exploration

    result = run_exploration(config)
    return f"report      {result.report_url}\nsamples     {result.samples_url or result.summary}"


def check(config: RunConfig) -> None:
    """Refuse shards that are missing."""
    from pipeline.shards.manifest import read_manifest

    read_manifest(split_shards_url(config, "train"))


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Reads the shards of both splits and writes to {output}/data: samples.png, training
            samples with boxes, masks, keypoints and class names, augmented exactly as in training;
            plots of classes, sizes and shapes; and report.md with counts, classes, and the records
            that were left out or corrected.""",
            example="python workflows/show_data.py configs/coco_tiny.yaml explore.samples=24",
            job=job,
            plan=plan,
            check=check,
            sections=("explore", "data"),
        )
    )
