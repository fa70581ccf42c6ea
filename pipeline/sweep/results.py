"""Results of a sweep: a summary of each trial, and the best trial."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ray.tune import Result

from pipeline.config import RunConfig
from pipeline.sweep.trial import trial_config
from pipeline.train.failures import error_message
from pipeline.train.training_length import planned_steps


@dataclass(frozen=True)
class TrialSummary:
    """The outcome of one trial.

    Args:
        trial_id: also the name of its folder in ``{output}/sweep/trials``.
        values: the sampled values by dotted key.
        metrics: its last losses and validation metrics.
        steps: optimizer steps taken.
        stopped_early: whether the scheduler stopped it before its last step.
        error: the error message of a failed trial.
    """

    trial_id: str
    values: dict[str, Any]
    metrics: dict[str, float]
    steps: int
    stopped_early: bool
    error: str | None = None


def summarize_trial(result: Result, config: RunConfig) -> TrialSummary:
    """Summarize Ray Tune's result of one trial of the sweep ``config``."""
    reported = result.metrics or {}
    trial_id = str(reported.get("trial_id") or PurePosixPath(result.path).name)
    values = dict(result.config or {})
    steps = int(reported.get("step", 0))
    total_steps = planned_steps(trial_config(config, values, trial_id))
    return TrialSummary(
        trial_id=trial_id,
        values=values,
        metrics={
            key: float(value)
            for key, value in reported.items()
            if key.startswith(("train/", "val/"))
        },
        steps=steps,
        stopped_early=result.error is None and steps < total_steps,
        error=None if result.error is None else error_message(result.error),
    )


def best_trial(trials: Sequence[TrialSummary], metric: str, mode: str) -> TrialSummary | None:
    """Return the trial with the best last value of ``metric`` among those that ran to their end.

    Trials that were stopped early count only if none ran to its end. Trials that failed, or whose
    metric is missing or NaN, never count.
    """
    eligible = [
        trial
        for trial in trials
        if trial.error is None and math.isfinite(trial.metrics.get(metric, math.nan))
    ]
    candidates = [trial for trial in eligible if not trial.stopped_early] or eligible
    sign = 1.0 if mode == "max" else -1.0
    return max(candidates, key=lambda trial: sign * trial.metrics[metric], default=None)
