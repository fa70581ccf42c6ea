"""How weak trials end early: Ray Tune's schedulers, with what earlier submissions have seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from pipeline.config import RunConfig, SearchDimension
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.proposals import reported_name
from pipeline.train.training_length import planned_steps

IMAGES = "images_seen"
"""What schedulers compare trials at. Images rather than steps: trials may differ in batch size
and, with scaled recipes, in steps."""

_MEDIAN_OF = 3
# Longer than any trial: to yield to waiting trials is not needed, because none waits.
_NEVER = 10**15


def build_scheduler(config: RunConfig, settled: Iterable[TrialRecord]) -> TrialScheduler:
    """Build the scheduler of a sweep.

    Args:
        config: the sweep's settings.
        settled: trials of earlier submissions; new ones are compared with them too.
    """
    match config.sweep.scheduler:
        case "asha":
            return _asha(config, settled)
        case "median":
            return _median(config, settled)
        case "pbt":
            return _pbt(config)
        case "none":
            return FIFOScheduler()


def _asha(config: RunConfig, settled: Iterable[TrialRecord]) -> ASHAScheduler:
    """Build ASHA (Li et al. 2020)."""
    images = planned_steps(config) * config.train.global_batch
    scheduler = ASHAScheduler(
        time_attr=IMAGES,
        metric=reported_name(config.sweep.metric),
        mode=config.sweep.mode,
        max_t=images,
        grace_period=min(grace_images(config), images),
        reduction_factor=config.sweep.reduction_factor,
        # A trial ends by itself, after its last validation and checkpoint.
        stop_last_trials=False,
    )
    for record in settled:
        earlier = _EarlierTrial(record.trial_id)
        scheduler.on_trial_add(None, earlier)
        for result in _results(config, record):
            scheduler.on_trial_result(None, earlier, result)
    return scheduler


def _median(config: RunConfig, settled: Iterable[TrialRecord]) -> MedianStoppingRule:
    """Build the median stopping rule (Golovin et al. 2017)."""
    scheduler = MedianStoppingRule(
        time_attr=IMAGES,
        metric=reported_name(config.sweep.metric),
        mode=config.sweep.mode,
        grace_period=grace_images(config),
        min_samples_required=_MEDIAN_OF,
        min_time_slice=_NEVER,
    )
    for record in settled:
        earlier = _EarlierTrial(record.trial_id)
        for result in _results(config, record):
            scheduler.on_trial_complete(None, earlier, result)
    return scheduler


def _pbt(config: RunConfig) -> PopulationBasedTraining:
    """Build population based training (Jaderberg et al. 2017) over the keys of the space."""
    sweep = config.sweep
    steps = sweep.pbt.every_steps or sweep.grace_steps
    return PopulationBasedTraining(
        time_attr=IMAGES,
        metric=reported_name(sweep.metric),
        mode=sweep.mode,
        perturbation_interval=steps * config.train.global_batch,
        hyperparam_mutations={
            "values": {key: _mutation(dimension) for key, dimension in sweep.space.items()}
        },
        custom_explore_fn=_keep_within_bounds(config),
        quantile_fraction=sweep.pbt.quantile,
        resample_probability=sweep.pbt.resample_probability,
        log_config=False,
        require_attrs=False,
    )


def grace_images(config: RunConfig) -> int:
    """Return the images that a trial sees at least."""
    return config.sweep.grace_steps * config.train.global_batch


@dataclass(frozen=True)
class _EarlierTrial:
    """A trial of an earlier submission, as far as a scheduler asks."""

    trial_id: str


def _results(config: RunConfig, record: TrialRecord) -> list[dict[str, Any]]:
    metric = reported_name(config.sweep.metric)
    return [{IMAGES: images, metric: value} for images, value in record.history]


def _mutation(dimension: SearchDimension) -> Any:
    """Return the values that pbt may change to: a list, of which it takes a neighbor, or a range.

    A range is sampled as in the space; Ray Tune's own integers exclude their upper bound.
    """
    options = dimension.options()
    if options is not None:
        return list(options)
    low, high = dimension.bounds
    if dimension.is_logarithmic:
        return tune.loguniform(low, high)
    return tune.uniform(low, high)


def _keep_within_bounds(config: RunConfig) -> Callable[[dict[str, Any]], dict[str, Any]]:
    space = config.sweep.space

    def keep(trial: dict[str, Any]) -> dict[str, Any]:
        values = {
            key: value if space[key].is_list else space[key].number(value)
            for key, value in trial["values"].items()
        }
        return {**trial, "values": values}

    return keep
