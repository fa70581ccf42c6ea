"""Where a new trial gets its values from: a random sample, a grid, or Optuna.

A searcher has no state of its own on disk: random and grid are functions of the trial's number,
and Optuna is told about all earlier trials of the ledger.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any, Protocol

import optuna

from pipeline.config import RunConfig, SearchDimension, SweepConfig
from pipeline.config.sweep.settings import DEFAULT_TRIALS
from pipeline.sweep.ledger import TrialRecord, id_of
from pipeline.sweep.search_space import Values, grid_points, is_active, keys_in_order, sample

logger = logging.getLogger(__name__)

SECONDS = "seconds"
"""Name of a trial's training time as a second metric."""


class Proposals(Protocol):
    """Proposes the values of new trials."""

    def propose(self, number: int) -> Values:
        """Return the values of a new trial."""

    def observe(self, record: TrialRecord) -> None:
        """Take note of a trial that has ended."""


def trial_count(config: RunConfig) -> int:
    """Return the number of trials of a sweep."""
    sweep = config.sweep
    if sweep.searcher != "grid":
        return sweep.trials or DEFAULT_TRIALS
    points = len(grid_points(sweep.space) or ())
    return min(sweep.trials or points, points)


def proposals(config: RunConfig, records: Iterable[TrialRecord]) -> Proposals:
    """Build the searcher of a sweep.

    Args:
        config: the sweep's settings.
        records: its trials so far.
    """
    match config.sweep.searcher:
        case "random":
            return RandomProposals(config)
        case "grid":
            return GridProposals(config)
        case "optuna":
            return OptunaProposals(config, records)


class RandomProposals:
    """Independent samples; see `sample`."""

    def __init__(self, config: RunConfig) -> None:
        self._space, self._seed = config.sweep.space, config.seed

    def propose(self, number: int) -> Values:
        """Return the values of a new trial."""
        return sample(self._space, self._seed, number)

    def observe(self, record: TrialRecord) -> None:
        """Take no note: samples are independent."""


class GridProposals:
    """All combinations in order."""

    def __init__(self, config: RunConfig) -> None:
        self._points = grid_points(config.sweep.space) or []

    def propose(self, number: int) -> Values:
        """Return the values of a new trial."""
        return self._points[number]

    def observe(self, record: TrialRecord) -> None:
        """Take no note: the grid is given."""


class OptunaProposals:
    """Optuna's tree-structured Parzen estimator, for one metric or two.

    Args:
        config: the sweep's settings.
        records: earlier trials, which Optuna is told first.

    Source: Bergstra et al. 2011; Ozaki et al. 2020 for several metrics. Trials that still run count
    as bad ones, so that those at the same time differ (Optuna's ``constant_liar``).
    """

    STARTUP_TRIALS = 5
    """Random trials before TPE proposes one; Optuna's default of 10 is meant for cheaper trials."""

    def __init__(self, config: RunConfig, records: Iterable[TrialRecord]) -> None:
        self._sweep = config.sweep
        records = list(records)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Another seed after each restart: the same would repeat the samples of the first start.
        sampler = optuna.samplers.TPESampler(
            seed=config.seed + len(records),
            constant_liar=True,
            n_startup_trials=self.STARTUP_TRIALS,
        )
        self._study = optuna.create_study(sampler=sampler, directions=directions(self._sweep))
        self._trials: dict[str, Any] = {}
        for record in records:
            # Asked with the values it has, as if it had been proposed in this process.
            self._study.enqueue_trial(to_parameters(self._sweep, record.values))
            self._ask(record.trial_id)
            if record.is_settled:
                self.observe(record)

    def propose(self, number: int) -> Values:
        """Return the values of a new trial."""
        return self._ask(id_of(number))

    def _ask(self, trial_id: str) -> Values:
        trial = self._study.ask()
        self._trials[trial_id] = trial
        values: Values = {}
        for key in keys_in_order(self._sweep.space):
            if is_active(self._sweep.space, key, values):
                values[key] = _suggest(trial, key, self._sweep.space[key])
        return {key: values[key] for key in self._sweep.space if key in values}

    def observe(self, record: TrialRecord) -> None:
        """Tell Optuna the result of a trial that has ended."""
        states = optuna.trial.TrialState
        trial = self._trials.pop(record.trial_id, None)
        if trial is None:
            return
        measured = objectives(self._sweep, record)
        if record.status == "failed" or not all(map(math.isfinite, measured)):
            self._study.tell(trial, state=states.FAIL)
        elif record.stopped_early:
            # Ranked below finished trials, by how far they came and their last value.
            for images, value in record.history:
                if math.isfinite(value):
                    trial.report(value, images)
            self._study.tell(trial, state=states.PRUNED)
        else:
            self._study.tell(trial, measured)


def objectives(sweep: SweepConfig, record: TrialRecord) -> list[float]:
    """Return the values of a trial's metric, or of both metrics; NaN if not measured."""
    values = [metric_of(record, sweep.metric)]
    if sweep.second_metric is not None:
        values.append(metric_of(record, sweep.second_metric))
    return values


def metric_of(record: TrialRecord, metric: str) -> float:
    """Return the last value of a metric of a trial; NaN if it was not measured."""
    if metric == SECONDS:
        return record.seconds
    return record.metrics.get(reported_name(metric), math.nan)


def reported_name(metric: str) -> str:
    """Return a metric's name in reports: ``segm/AP`` is ``val/segm/AP``; ``train/loss`` stays."""
    return metric if metric.startswith(("train/", "val/")) else f"val/{metric}"


def directions(sweep: SweepConfig) -> list[Any]:
    """Return the directions of the metrics, as Optuna names them."""
    modes = [sweep.mode] if sweep.second_metric is None else [sweep.mode, sweep.second_mode]
    return ["maximize" if mode == "max" else "minimize" for mode in modes]


def _suggest(trial: Any, key: str, dimension: SearchDimension) -> Any:
    if dimension.is_list:
        # By index: Optuna accepts only plain values.
        return dimension.values[trial.suggest_categorical(key, range(len(dimension.values)))]
    low, high = map(dimension.number, dimension.bounds)
    if dimension.is_integer:
        step = int(dimension.step or 1)
        log = dimension.is_logarithmic
        return trial.suggest_int(key, int(low), int(high), step=step, log=log)
    log = dimension.is_logarithmic
    return dimension.number(trial.suggest_float(key, low, high, step=dimension.q, log=log))


def to_parameters(sweep: SweepConfig, values: Values) -> dict[str, Any]:
    """Return the values of a trial as Optuna's parameters: listed values by index."""
    return {
        key: sweep.space[key].position(value) if sweep.space[key].is_list else value
        for key, value in values.items()
    }
