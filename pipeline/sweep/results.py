"""Which trials are the best."""

import math
from collections.abc import Iterable

from pipeline.config import SweepConfig
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.proposals import metric_of, objectives


def best_trial(trials: Iterable[TrialRecord], sweep: SweepConfig) -> TrialRecord | None:
    """Return the trial with the best last value of the metric among those that ran to their end.

    Trials that were stopped early count only if none ran to its end. Trials that failed, or whose
    metric is missing or NaN, never count.
    """
    eligible = [
        trial
        for trial in trials
        if trial.status != "failed" and math.isfinite(metric_of(trial, sweep.metric))
    ]
    finished = [trial for trial in eligible if trial.status == "finished"]
    sign = 1.0 if sweep.mode == "max" else -1.0
    return max(
        finished or eligible,
        key=lambda trial: sign * metric_of(trial, sweep.metric),
        default=None,
    )


def best_tradeoffs(trials: Iterable[TrialRecord], sweep: SweepConfig) -> list[TrialRecord]:
    """Return the finished trials than which no other is better in both metrics, by the first.

    That is the Pareto front; empty without a second metric.
    """
    if sweep.second_metric is None:
        return []
    signs = [1.0 if mode == "max" else -1.0 for mode in (sweep.mode, sweep.second_mode)]
    points = {
        trial.trial_id: [s * v for s, v in zip(signs, objectives(sweep, trial), strict=True)]
        for trial in trials
        if trial.status == "finished" and all(map(math.isfinite, objectives(sweep, trial)))
    }
    front = [
        trial
        for trial in trials
        if (point := points.get(trial.trial_id))
        and not any(
            all(a >= b for a, b in zip(other, point, strict=True)) and other != point
            for other in points.values()
        )
    ]
    return sorted(front, key=lambda trial: -points[trial.trial_id][0])
