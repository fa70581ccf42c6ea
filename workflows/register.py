"""Register the evaluated detector; promote it if it beats the champion."""

import sys

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import EVALUATION_FOLDER
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say which evaluation is registered, and under which name."""
    evaluation = storage.join(config.output, EVALUATION_FOLDER)
    return f"registering the detector of {evaluation} as models:/{config.track.model_name}"


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
            plan=plan,
            sections=("track",),
        )
    )
