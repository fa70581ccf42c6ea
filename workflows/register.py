"""Register the evaluated detector; promote it if it beats the champion."""

import sys

from pipeline.config import RunConfig
from pipeline.evaluate.registration import register_evaluated
from workflows.command_line import main


def job(config: RunConfig) -> str:
    """Register and say what became of the champion."""
    version = register_evaluated(config)
    return f"models:/{version.name}/{version.version}: {version.reason}"


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Makes the checkpoint that {output}/evaluation measured a version of track.model_name,
            with its metrics and where it came from. The alias 'champion' moves to it only if
            track.champion_metric is better on the same data.""",
            example="python workflows/register.py configs/quickstart.yaml",
            job=job,
            sections=("track",),
        )
    )
