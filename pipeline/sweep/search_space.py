"""The search space: Ray Tune's distributions, and configs with sampled values."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from model.config.settings import ConfigError, check_settings
from pipeline.config import RunConfig, SearchDimension, stated_tree

# A trial may change what it trains on and how, but not where it runs or writes.
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
    """Return Ray Tune's distribution of each dimension, by dotted key."""
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
            # Tune's upper bound is exclusive, ours is inclusive.
            return tune.randint(int(low), int(high) + 1)


def check_space(config: RunConfig) -> None:
    """Check every bound and option of the search space against the config, before anything runs.

    Raises:
        ConfigError: lists all keys that a trial may not change and all invalid values.
    """
    problems = []
    if not config.sweep.space:
        problems.append("sweep.space: empty; name at least one key to search over")
    for key, dimension in config.sweep.space.items():
        if key in FIXED or not key.startswith(TUNABLE):
            problems.append(f"sweep.space.{key}: a sweep cannot change this key")
            continue
        for value in _values_to_check(dimension):
            try:
                with_values(config, {key: value})
            except ConfigError as error:
                problems.append(f"sweep.space.{key}: {value!r} is invalid: {error}")
    if problems:
        raise ConfigError(problems)


def _values_to_check(dimension: SearchDimension) -> tuple[Any, ...]:
    match dimension.kind:
        case "choice":
            return dimension.values
        case "int":
            return (int(dimension.low or 0), int(dimension.high or 0))
        case _:
            return (dimension.low, dimension.high)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the config with dotted keys set, validated as a whole.

    Raises:
        ConfigError: a key is unknown or a value is invalid.
    """
    tree = stated_tree(config)
    for key, value in values.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return check_settings(RunConfig, tree)
