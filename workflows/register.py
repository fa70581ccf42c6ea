"""Register the evaluated detector; promote it if it beats the champion."""

import sys

from pipeline.config import RunConfig
from pipeline.output_layout import evaluation_url
from workflows.arguments import Mode
from workflows.command_line import main


def plan(config: RunConfig) -> str:
    """Say which evaluation is registered, and under which name."""
    return (
        f"registering the detector of {evaluation_url(config)}, evaluated on "
        f"{config.evaluate.split}, as models:/{config.track.model_name}"
    )


def job(config: RunConfig) -> str:
    """Register the model and say whether it became the champion."""
    from pipeline.evaluate.registration import register_evaluated
    from pipeline.track.promotion_record import check_promoted

    version = register_evaluated(config)
    lines = [f"models:/{version.name}/{version.version}: {version.reason}"]
    lines += [f"  for      {reason}" for reason in version.reasons_for]
    lines += [f"  against  {reason}" for reason in version.reasons_against]
    print("\n".join(lines), flush=True)
    check_promoted(config, version)
    return f"champion   {version.champion or 'none'}"


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


def plan_lineage(config: RunConfig) -> str:
    """Say which registry is read."""
    return f"reading the versions of models:/{config.track.model_name}"


def show_lineage(config: RunConfig, version: str) -> str:
    """Return where a version comes from."""
    from pipeline.track.lineage import trace_version

    return trace_version(config, version).to_text()


def show_versions(config: RunConfig, dataset: str) -> str:
    """Return which versions were trained or measured on a dataset."""
    from pipeline.track.lineage import versions_from_dataset

    lines = versions_from_dataset(config, dataset)
    return "\n".join(lines) or f"no version of {config.track.model_name} is from {dataset}"


MODES = (
    Mode(
        "--promote",
        "make this version the champion, whatever its metrics; needs track.because='...'",
        promote,
        plan_change,
        value="VERSION",
        needs_cluster=False,
    ),
    Mode(
        "--rollback",
        "make the champion before the present one the champion again",
        roll_back,
        plan_change,
        needs_cluster=False,
    ),
    Mode(
        "--lineage",
        "say which data, settings, code and weights a version (or alias) comes from, and who "
        "promoted it",
        show_lineage,
        plan_lineage,
        value="VERSION",
        needs_cluster=False,
    ),
    Mode(
        "--from-data",
        "list the versions that were trained or measured on a dataset, given by its digest (or "
        "the first digits) or URL",
        show_versions,
        plan_lineage,
        value="DATASET",
        needs_cluster=False,
    ),
)


def check(config: RunConfig) -> None:
    """Refuse to register what was not evaluated."""
    from pipeline.evaluate.registration import check_evaluated

    check_evaluated(config)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Registers the checkpoint that {output}/evaluation measured (the evaluation on
            evaluate.split, default val) as a version of
            track.model_name, with its metrics and origin. The alias 'champion' moves to it only if
            its track.champion_metric is better on the same data and the rules of track.promotion
            allow it (docs/REGISTRY.md).""",
            example="python workflows/register.py configs/quickstart.yaml",
            job=job,
            plan=plan,
            check=check,
            sections=("track",),
            modes=MODES,
        )
    )
