"""Check the settings of a sweep before anything starts."""

from model.config.settings import ConfigError
from pipeline.config import RunConfig
from pipeline.evaluate.metrics import measured_metrics
from pipeline.evaluate.registration import check_champion_metric
from pipeline.sweep.proposals import SECONDS
from pipeline.sweep.search_space import sample, with_values
from pipeline.sweep.space_check import check_space
from pipeline.train.start_checks import check_train_shards

_TIME = ("second_metric", SECONDS)


_CHECKED_TRIALS = 8


def check_trials(config: RunConfig) -> None:
    """Check that the training shards fit the first trials; needs no Ray.

    Raises:
        ConfigError, TrainingError, StorageError: as in `check_train_shards`.
    """
    check_train_shards(config)
    for number in range(_CHECKED_TRIALS if config.sweep.space else 0):
        check_train_shards(with_values(config, sample(config.sweep.space, config.seed, number)))


def check_sweep(config: RunConfig) -> None:
    """Check the settings of a sweep before anything starts.

    Raises:
        ConfigError: lists what is wrong.
    """
    check_space(config)
    names = measured_metrics(config.model)
    for key in ("metric", "second_metric"):
        metric = getattr(config.sweep, key)
        known = metric is None or metric.startswith("train/") or (key, metric) == _TIME
        if not known and metric.removeprefix("val/") not in names:
            raise ConfigError(
                [f"sweep.{key}: {metric} is not measured for this detector; use {names[0]}"]
            )
    if config.sweep.register_best:
        check_champion_metric(config)
