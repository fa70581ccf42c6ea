"""Search learning rates, schedules, batch sizes, or any other keys."""

import sys

from pipeline.config import RunConfig
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.results import TrialSummary
from workflows.command_line import figures, main


def job(config: RunConfig) -> str:
    """Sweep, or say what the standing sweep found."""
    result = run_sweep(config)
    trials = "\n".join(f"  {_trial_line(trial, config)}" for trial in result.trials)
    return (
        f"trials\n{trials}\n"
        f"best\n{figures(result.best_values)}\n{figures(result.best_metrics, 'val/')}\n"
        f"config      {result.best_config_url}\n"
        f"MLflow run  {result.run_id}"
    )


def _trial_line(trial: TrialSummary, config: RunConfig) -> str:
    measured = trial.metrics.get(f"val/{config.sweep.metric}")
    score = "not measured" if measured is None else f"{measured:.4f}"
    drawn = "  ".join(f"{key}={value}" for key, value in trial.values.items())
    end = trial.error or ("stopped early" if trial.stopped_early else "finished")
    return f"{trial.trial_id}  {config.sweep.metric} {score}  step {trial.steps}, {end}  {drawn}"


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Draws sweep.trials configurations from sweep.space, trains each as its own Ray Train run
            (nested MLflow runs) and stops the weak ones early (ASHA). The best one's settings
            become {output}/sweep/best.yaml, which train.py takes.""",
            example="python workflows/sweep.py configs/sweep_lr_batch.yaml sweep.trials=8",
            job=job,
            sections=("sweep", "data", "train", "track"),
        )
    )
