"""Search learning rates, schedules, batch sizes, or any other keys."""

import sys
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import SWEEP_FOLDER, split_shards_url
from workflows.command_line import format_values, main

if TYPE_CHECKING:
    from pipeline.sweep.results import TrialSummary


def plan(config: RunConfig) -> str:
    """Say which keys are searched, and where the result is written."""
    keys = ", ".join(config.sweep.space) or "no keys"
    return (
        f"searching {keys} in {config.sweep.trials} trials on {split_shards_url(config, 'train')}; "
        f"results in {storage.join(config.output, SWEEP_FOLDER)}"
    )


def job(config: RunConfig) -> str:
    """Run the sweep, or read the finished one, and return its trials and the best of them."""
    from pipeline.sweep.driver import run_sweep

    result = run_sweep(config)
    trials = "\n".join(f"  {_trial_line(trial, config)}" for trial in result.trials)
    return (
        f"trials\n{trials}\n"
        f"best\n{format_values(result.best_values)}\n{format_values(result.best_metrics, 'val/')}\n"
        f"config      {result.best_config_url}\n"
        f"MLflow run  {result.run_id}"
    )


def _trial_line(trial: "TrialSummary", config: RunConfig) -> str:
    score = trial.metrics.get(f"val/{config.sweep.metric}")
    score_text = "not measured" if score is None else f"{score:.4f}"
    values = "  ".join(f"{key}={value}" for key, value in trial.values.items())
    status = trial.error or ("stopped early" if trial.stopped_early else "finished")
    return (
        f"{trial.trial_id}  {config.sweep.metric} {score_text}  step {trial.steps}, {status}  "
        f"{values}"
    )


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Samples sweep.trials configurations from sweep.space, trains each as its own Ray Train
            run (nested MLflow runs) and stops the weak ones early (ASHA). The best configuration
            is written to {output}/sweep/best.yaml, which train.py takes.""",
            example="python workflows/sweep.py configs/sweep_lr_batch.yaml sweep.trials=8",
            job=job,
            plan=plan,
            sections=("sweep", "data", "train", "track"),
        )
    )
