"""Search learning rates, schedules, batch sizes, or any other keys."""

import sys

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import SWEEP_FOLDER, split_shards_url
from workflows.arguments import Mode
from workflows.command_line import format_values, main


def plan(config: RunConfig) -> str:
    """Say which keys are searched, and where the result is written."""
    keys = ", ".join(config.sweep.space) or "no keys"
    sweep = config.sweep
    number = "all points" if sweep.trials is None else f"{sweep.trials} trials"
    if sweep.trials is None and sweep.searcher != "grid":
        number = "the default number of trials"
    return (
        f"searching {keys} in {number} ({sweep.searcher}, {sweep.scheduler}) on "
        f"{split_shards_url(config, 'train')}; "
        f"results in {storage.join(config.output, SWEEP_FOLDER)}"
    )


def job(config: RunConfig) -> str:
    """Run the sweep, or read the finished one, and return its trials and the best of them."""
    from pipeline.sweep.driver import run_sweep
    from pipeline.sweep.trial_table import as_text, errors, trial_table

    result = run_sweep(config)
    lines = [as_text(trial_table(config, result.trials)), *errors(result.trials)]
    if result.unfinished:
        lines.append(
            f"{result.unfinished} trials are not finished, because sweep.max_hours is over; raise "
            "it and submit the sweep again to continue them"
        )
    lines += [
        f"best        trial {result.best.trial_id}",
        format_values(result.best.values),
        format_values(result.best.metrics, "val/"),
        f"config      {result.best_config_url}",
        f"report      {result.report_url}",
        f"MLflow run  {result.run_id}",
    ]
    if result.registered is not None:
        lines.append(f"registered  {result.registered}")
    return "\n".join(lines)


def plan_description(config: RunConfig) -> str:
    """Say that nothing will run."""
    return f"describing the sweep in {storage.join(config.output, SWEEP_FOLDER)}; nothing runs"


def describe(config: RunConfig) -> str:
    """Return the trials that the sweep would run."""
    from pipeline.sweep.dry_run import describe_sweep

    return describe_sweep(config)


MODES = (
    Mode(
        "--dry-run",
        "print the trials with their batch, learning rate, steps, images and, once a trial or "
        "a training has run in this output, their estimated time; run nothing",
        describe,
        plan_description,
        needs_cluster=False,
    ),
)


def check(config: RunConfig) -> None:
    """Refuse a space that is wrong, and shards that are missing or that the trials do not fit."""
    from pipeline.sweep.sweep_check import check_sweep, check_trials

    check_sweep(config)
    check_trials(config)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Samples sweep.trials configurations from sweep.space, trains each as its own Ray Train
            run (nested MLflow runs) and ends the weak ones early. Writes a report and the best
            configuration, {output}/sweep/best.yaml, which train.py takes. Submitted again, it
            continues, or adds trials if sweep.trials has grown.""",
            example="python workflows/sweep.py configs/sweep_lr_batch.yaml sweep.trials=8",
            job=job,
            plan=plan,
            check=check,
            sections=("sweep", "data", "train", "track"),
            modes=MODES,
            extra=lambda _: "sweep",
        )
    )
