"""The search space: typed dimensions as Ray Tune's distributions, and configs drawn from them."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from model.config.settings import ConfigError, check_settings
from pipeline import storage
from pipeline.config import RunConfig, SearchDimension, SweepConfig
from pipeline.ingest.splits import split_shards_url
from pipeline.track.mlflow_run import tracking_uri

# A trial may differ in what it learns from and how, not in where it runs or writes.
TUNABLE = ("model.", "train.", "data.", "seed")
FIXED = frozenset(
    {
        "train.workers",
        "train.device",
        "train.cpus_per_worker",
        "train.max_failures",
        "train.validate_every",
        "train.checkpoint_every",
        "data.source",
        "data.train_shards",
        "data.val_shards",
    }
)


def distributions(space: Mapping[str, SearchDimension]) -> dict[str, Any]:
    """Ray Tune's distribution of each dimension, by dotted key."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: SearchDimension) -> Any:
    low, high = dimension.low or 0.0, dimension.high or 0.0
    match dimension.kind:
        case "choice":
            return tune.choice(list(dimension.values))
        case "uniform":
            return tune.uniform(low, high)
        case "log_uniform":
            return tune.loguniform(low, high)
        case "int":
            # Tune leaves the upper bound out.
            return tune.randint(int(low), int(high) + 1)


def check_space(config: RunConfig) -> None:
    """Try every bound and option in the config, before anything runs.

    Raises:
        ConfigError: all keys that a trial may not change, and all values that a config refuses.
    """
    problems = []
    if not config.sweep.space:
        problems.append("sweep.space: empty; name at least one key to search over")
    for key, dimension in config.sweep.space.items():
        if key in FIXED or not key.startswith(TUNABLE):
            problems.append(f"sweep.space.{key}: a sweep cannot change this key")
            continue
        for value in _extremes(dimension):
            try:
                with_values(config, {key: value})
            except ConfigError as error:
                problems.append(f"sweep.space.{key}: {value!r} is refused: {error}")
    if problems:
        raise ConfigError(problems)


def _extremes(dimension: SearchDimension) -> tuple[Any, ...]:
    match dimension.kind:
        case "choice":
            return dimension.values
        case "int":
            return (int(dimension.low or 0), int(dimension.high or 0))
        case _:
            return (dimension.low, dimension.high)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with dotted keys set, checked as a whole.

    Raises:
        ConfigError: a key is unknown or a value is refused.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return check_settings(RunConfig, tree)


def trial_config(config: RunConfig, values: Mapping[str, Any], trial_id: str) -> RunConfig:
    """The config of one trial: drawn values, a folder of its own, the sweep's data and tracker.

    A trial saves when it validates, so that each of its reports has both the metric and the
    checkpoint.
    """
    folder = storage.join(config.output, "sweep", "trials", trial_id)
    every = config.train.validate_every or config.sweep.grace_steps
    return with_values(
        _pinned(config, f"{config.name}-{trial_id}", folder),
        {**values, "train.validate_every": every, "train.checkpoint_every": every},
    )


def best_config(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """What ``train.py`` needs to train with the best trial's values, in a folder of its own."""
    folder = storage.join(config.output, "sweep", "best")
    return with_values(_pinned(config, f"{config.name}-best", folder), values)


def _pinned(config: RunConfig, name: str, output: str) -> RunConfig:
    """The config under another name and output, still with the data and tracker of the first."""
    return config.model_copy(
        update={
            "name": name,
            "output": output,
            "sweep": SweepConfig(),
            "data": config.data.model_copy(
                update={
                    "train_shards": split_shards_url(config, "train"),
                    "val_shards": split_shards_url(config, "val"),
                }
            ),
            "track": config.track.model_copy(update={"uri": tracking_uri(config)}),
        }
    )
