"""Register the evaluated detector; promote it if it beats the champion."""

import sys

from pipeline.config import RunConfig
from workflows.command_line import main


def job(config: RunConfig) -> str:
    """Register the model and say whether it became the champion."""
    from pipeline.evaluate.registration import register_evaluated

    version = register_evaluated(config)
    return f"models:/{version.name}/{version.version}: {version.reason}"


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Registers the checkpoint that {output}/evaluation measured as a version of
            track.model_name, with its metrics and origin. The alias 'champion' moves to it only if
            its track.champion_metric is better on the same data.""",
            example="python workflows/register.py configs/quickstart.yaml",
            job=job,
            sections=("track",),
        )
    )
