"""Check a sweep before anything starts: each key may be searched, each value gives a config."""

from collections.abc import Iterator
from typing import Any

from model.config.settings import ConfigError
from pipeline.config import RunConfig, SearchDimension
from pipeline.sweep.population import reason_not_mutable
from pipeline.sweep.search_space import (
    MAX_GRID_POINTS,
    Space,
    Values,
    allowed_values,
    format_values,
    grid_points,
    keys_in_order,
    sample,
    with_values,
)
from pipeline.train.run_record import SAMPLING

_SECTIONS = ("model.", "train.", "data.")
_SAMPLES = 100
_SHOWN = 3
SAME_FOR_ALL = {
    *("workers", "min_workers", "device", "cpus_per_worker", "gpus_per_worker", "max_failures"),
    *("retry_out_of_memory", "resume", "max_hours", "log_every"),
}
"""Settings of ``train`` that all trials have in common; a resumed sweep may change them."""

_SET_BY_THE_SWEEP = {
    *("validate_every", "validate_every_epochs", "validation_loss", "checkpoint_every"),
    *("keep_checkpoints", "final_checkpoint", "best_metric"),
}


def check_space(config: RunConfig) -> None:
    """Check every key, bound, option and condition, and combinations of them.

    Raises:
        ConfigError: lists all keys that a trial may not change and all invalid values.
    """
    space = config.sweep.space
    if not space:
        raise ConfigError(["sweep.space: empty; name at least one key to search over"])
    problems = [
        f"sweep.space.{key}: {problem}"
        for key, dimension in space.items()
        for problem in _key_problems(config, key, dimension)
    ]
    problems += _search_problems(config)
    if not problems:
        problems = list(_value_problems(config)) or list(_combination_problems(config))
    if problems:
        raise ConfigError(problems)


def _key_problems(config: RunConfig, key: str, dimension: SearchDimension) -> Iterator[str]:
    space = config.sweep.space
    reason = _reason_not_searchable(key)
    if reason is None and config.sweep.scheduler == "pbt":
        reason = reason_not_mutable(key, dimension)
    if reason is not None:
        yield reason
    if outer := [other for other in space if key.startswith(f"{other}.")]:
        yield f"lies below {outer[0]}, which is also searched; list both together in its values"
    for other, condition in dimension.when.items():
        if other not in space:
            yield f"when: {other} is not a key of the space"
            continue
        options = space[other].options() or ()
        if unknown := [value for value in allowed_values(condition) if value not in options]:
            yield f"when: {other} is never {unknown[0]!r}"


def _reason_not_searchable(key: str) -> str | None:
    """Return why trials cannot differ in a key; None if they can."""
    section, _, name = key.partition(".")
    first = name.partition(".")[0]
    if key == "model.num_classes":
        return "a sweep cannot change this key: the dataset decides it"
    if section == "train" and first in SAME_FOR_ALL:
        return "a sweep cannot change this key: all trials run in the same way"
    if section == "train" and first in _SET_BY_THE_SWEEP:
        return "a sweep cannot change this key: trials are measured and saved at the same points"
    if section == "data" and first not in SAMPLING:
        return (
            "a sweep cannot change this key: all trials read the same shards; of data, a sweep "
            f"can change {', '.join(sorted(SAMPLING))}"
        )
    if key != "seed" and not key.startswith(_SECTIONS):
        return "a sweep cannot change this key: it can change model, train, data and seed"
    return None


def _search_problems(config: RunConfig) -> Iterator[str]:
    """Yield what does not fit together in the search itself."""
    sweep, space = config.sweep, config.sweep.space
    try:
        list(keys_in_order(space))
    except ValueError as error:
        yield f"sweep.space: {error}"
        return
    if sweep.searcher == "grid":
        if endless := [key for key, each in space.items() if each.options() is None]:
            yield (
                f"sweep.searcher: grid needs a list of values for {endless[0]}: kind grid, choice "
                "or int, or a q"
            )
        elif grid_points(space) is None:
            yield f"sweep.searcher: the grid has more than {MAX_GRID_POINTS} points; use random"
    if sweep.searcher == "optuna" and (grids := [k for k, v in space.items() if v.kind == "grid"]):
        yield f"sweep.space.{grids[0]}: kind grid has no meaning for optuna; use choice"
    if sweep.second_metric is not None and sweep.searcher != "optuna":
        yield "sweep.second_metric: needs sweep.searcher=optuna"
    if sweep.second_metric is not None and sweep.scheduler != "none":
        yield (
            "sweep.second_metric: needs sweep.scheduler=none, because a trial that was stopped "
            "early has not the time and the metric of a whole training"
        )
    if sweep.scheduler == "pbt":
        yield from _population_problems(config)
    if sweep.warm_start == "best":
        changing = [key for key in space if key.startswith("model.") or key == "train.weights"]
        if changing:
            yield (
                f"sweep.warm_start: best cannot be combined with {changing[0]} in the space, "
                "because the weights of one trial may not fit another"
            )


def _population_problems(config: RunConfig) -> Iterator[str]:
    sweep = config.sweep
    if sweep.searcher != "random":
        yield "sweep.scheduler: pbt needs sweep.searcher=random, which samples its first values"
    if sweep.warm_start != "none":
        yield "sweep.warm_start: not with sweep.scheduler=pbt, which copies weights itself"
    if sweep.trials is not None and sweep.trials < 2:
        yield "sweep.trials: pbt needs a population of at least 2 trials"


def _value_problems(config: RunConfig) -> Iterator[str]:
    """Yield each option and bound that is invalid by itself."""
    space = config.sweep.space
    for key, dimension in space.items():
        partners: Values = {}
        _meet_conditions(space, key, partners)
        values = dimension.values if dimension.is_list else map(dimension.number, dimension.bounds)
        found: dict[str, Any] = {}
        for value in values:
            if problem := _problem(config, {**partners, key: value}):
                found.setdefault(problem, value)
        for problem, value in found.items():
            yield f"sweep.space.{key}: {value!r} is invalid: {problem}"


def _meet_conditions(space: Space, key: str, values: Values) -> None:
    """Add values with which the key applies."""
    for other, condition in space[key].when.items():
        _meet_conditions(space, other, values)
        values[other] = allowed_values(condition)[0]


def _combination_problems(config: RunConfig) -> Iterator[str]:
    """Yield the first few invalid trials of a grid, or of a sample of the space."""
    sweep = config.sweep
    if sweep.searcher == "grid":
        trials = grid_points(sweep.space) or []
    else:
        trials = [sample(sweep.space, config.seed, number) for number in range(_SAMPLES)]
    found: dict[str, Any] = {}
    for values in trials:
        if problem := _problem(config, values):
            found.setdefault(problem, values)
    for problem, values in list(found.items())[:_SHOWN]:
        yield f"sweep.space: the trial {format_values(values)} is invalid: {problem}"


def _problem(config: RunConfig, values: Values) -> str:
    """Return what is wrong with a trial, in one line; empty if nothing."""
    try:
        with_values(config, values)
    except ConfigError as error:
        return "; ".join(error.problems)
    return ""
