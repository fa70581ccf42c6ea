"""How much the metric depends on each key of the space."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import FanovaImportanceEvaluator

from pipeline.config import SearchDimension, SweepConfig
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.proposals import to_parameters

ENOUGH_TRIALS = 10
"""From this number on a forest is fitted; with fewer trials it says little."""


@dataclass(frozen=True)
class Importance:
    """How important keys are.

    Args:
        method: how it was measured, in a sentence.
        shares: key -> value from 0 to 1, the largest first; empty if nothing can be said.
    """

    method: str
    shares: dict[str, float]


def measure_importance(sweep: SweepConfig, trials: Iterable[TrialRecord]) -> Importance:
    """Measure how much the metric depends on each key, without the keys that have a condition.

    All trials are compared at the same number of images, so that a trial does not look bad because
    it was stopped early.
    """
    images, measured = metric_at_same_images(trials)
    values = [value for _, value in measured]
    keys = [key for key, dimension in sweep.space.items() if not dimension.when]
    at = f"of {sweep.metric} after {images} images, in {len(values)} trials"
    if len(values) < 3 or len({*values}) < 2:
        return Importance(f"The {len(values)} trials measured are too few or too alike.", {})
    if len(values) >= ENOUGH_TRIALS:
        method = f"Share of the variance {at} (fANOVA, Hutter et al. 2014; Optuna's forest)."
        shares = _forest_shares(sweep, keys, measured)
    else:
        method = (
            f"Rank correlation {at} (Spearman 1904, without its sign; for unordered choices the "
            f"correlation ratio of the ranks). From {ENOUGH_TRIALS} trials on, fANOVA is used."
        )
        shares = {
            key: _rank_correlation(sweep.space[key], [t.values[key] for t, _ in measured], values)
            for key in keys
        }
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return Importance(method, dict(ranked))


def metric_at_same_images(
    trials: Iterable[TrialRecord],
) -> tuple[int, list[tuple[TrialRecord, float]]]:
    """Return the largest number of images that all measured trials have seen, and the metric there.

    Between two validations the metric is interpolated. Failed trials do not count.
    """
    measured = [
        (trial, [(images, value) for images, value in trial.history if math.isfinite(value)])
        for trial in trials
        if trial.status != "failed"
    ]
    measured = [(trial, history) for trial, history in measured if history]
    if not measured:
        return 0, []
    images = min(history[-1][0] for _, history in measured)
    return images, [(trial, _interpolate(history, images)) for trial, history in measured]


def _interpolate(history: Sequence[tuple[int, float]], images: int) -> float:
    seen, values = zip(*history, strict=True)
    return float(np.interp(images, seen, values))


def _forest_shares(
    sweep: SweepConfig, keys: Sequence[str], measured: Iterable[tuple[TrialRecord, float]]
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    distributions = {key: _distribution(sweep.space[key]) for key in keys}
    for trial, value in measured:
        parameters = to_parameters(sweep, {key: trial.values[key] for key in keys})
        study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=distributions, value=value)
        )
    evaluator = FanovaImportanceEvaluator(seed=0)
    try:
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except RuntimeError:  # no tree found anything to split
        return {}


def _distribution(dimension: SearchDimension) -> optuna.distributions.BaseDistribution:
    if dimension.is_list:
        return optuna.distributions.CategoricalDistribution(range(len(dimension.values)))
    low, high = map(dimension.number, dimension.bounds)
    log = dimension.is_logarithmic
    if dimension.is_integer:
        return optuna.distributions.IntDistribution(
            int(low), int(high), log=log, step=int(dimension.step or 1)
        )
    return optuna.distributions.FloatDistribution(low, high, log=log, step=dimension.q)


def _rank_correlation(
    dimension: SearchDimension, values: Sequence[object], metric: Sequence[float]
) -> float:
    ranks = _ranks(metric)
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) == len(values):
        return _correlation(_ranks(numbers), ranks)
    positions = np.array([dimension.position(value) for value in values])
    between = sum(
        (positions == position).sum() * (ranks[positions == position].mean() - ranks.mean()) ** 2
        for position in np.unique(positions)
    )
    total = float(((ranks - ranks.mean()) ** 2).sum())
    return math.sqrt(float(between) / total) if total else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ranks(values: Sequence[object]) -> NDArray[np.float64]:
    """Return the rank of each value; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2, dtype=np.float64)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return abs(float((one * other).sum())) / norm if norm else 0.0
