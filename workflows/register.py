"""Register the evaluated detector; promote it if it beats the champion."""

import sys

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import EVALUATION_FOLDER
from workflows.command_line import Mode, main


def plan(config: RunConfig) -> str:
    """Say which evaluation is registered, and under which name."""
    evaluation = storage.join(config.output, EVALUATION_FOLDER)
    return f"registering the detector of {evaluation} as models:/{config.track.model_name}"


def job(config: RunConfig) -> str:
    """Register the model and say whether it became the champion."""
    from pipeline.evaluate.registration import register_evaluated

    version = register_evaluated(config)
    return f"models:/{version.name}/{version.version}: {version.reason}"


def plan_change(config: RunConfig) -> str:
    """Say whose champion is changed."""
    return f"changing the champion of models:/{config.track.model_name}"


def promote(config: RunConfig, version: str) -> str:
    """Make a version the champion by hand."""
    from pipeline.track.manual_promotion import promote_version

    moved = promote_version(config, version)
    return f"models:/{moved.name}/{moved.version} is the champion: {moved.reason}"


def roll_back(config: RunConfig) -> str:
    """Make the champion before the present one the champion again."""
    from pipeline.track import manual_promotion

    moved = manual_promotion.roll_back(config)
    return f"models:/{moved.name}/{moved.version} is the champion: {moved.reason}"


MODES = (
    Mode(
        "--promote",
        "make this version the champion, whatever its metrics; needs track.because='...'",
        promote,
        plan_change,
        value="VERSION",
    ),
    Mode(
        "--rollback",
        "make the champion before the present one the champion again",
        roll_back,
        plan_change,
    ),
)


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
            modes=MODES,
        )
    )
