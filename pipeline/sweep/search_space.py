"""The search space: what a trial may change, sampled values, and configs with such values."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model.config.settings import check_settings
from pipeline.config import RunConfig, SearchDimension, stated_tree

Space = Mapping[str, SearchDimension]
"""Dotted key -> its distribution."""

Values = dict[str, Any]
"""Dotted key -> value, of one trial; without the keys whose condition is not met."""


def sample(space: Space, seed: int, number: int) -> Values:
    """Return the values of one trial, which depend on nothing but the arguments.

    Keys of kind ``grid`` go through all their combinations, one after the other; the others are
    sampled independently.

    Args:
        space: the search space.
        seed: of the whole search.
        number: of the trial, from 0.
    """
    generator = np.random.default_rng([seed, number])
    grids = {key: dimension.values for key, dimension in space.items() if dimension.kind == "grid"}
    count = math.prod(len(values) for values in grids.values())
    grid_point = dict(zip(grids, _combination(list(grids.values()), number % count), strict=True))
    # Also those that do not apply, so that the others do not depend on the conditions.
    drawn = {
        key: grid_point[key] if key in grids else _draw(dimension, generator)
        for key, dimension in space.items()
    }
    return without_inactive(space, drawn)


def _draw(dimension: SearchDimension, generator: np.random.Generator) -> Any:
    options = dimension.options()
    if options is not None:
        return options[int(generator.integers(len(options)))]
    low, high = dimension.bounds
    if not dimension.is_logarithmic:
        return dimension.number(float(generator.uniform(low, high)))
    if dimension.is_integer:
        # From half an integer below to half above: the bounds are as likely as their neighbors.
        low, high = low - 0.5, high + 0.5
    return dimension.number(math.exp(generator.uniform(math.log(low), math.log(high))))


def grid_points(space: Space) -> list[Values] | None:
    """Return every combination of the values, in order; None if there are too many to list.

    The last key changes fastest. Combinations that differ only in keys that do not apply are one.
    """
    options = [dimension.options() for dimension in space.values()]
    lists = [values for values in options if values is not None]
    if len(lists) < len(options) or math.prod(map(len, lists)) > MAX_GRID_POINTS:
        return None
    points: list[Values] = []
    for combination in itertools.product(*lists):
        point = without_inactive(space, dict(zip(space, combination, strict=True)))
        if point not in points:
            points.append(point)
    return points


MAX_GRID_POINTS = 2_000


def _combination(lists: list[tuple[Any, ...]], index: int) -> tuple[Any, ...]:
    """Return one element of ``itertools.product(*lists)``."""
    chosen = []
    for values in reversed(lists):
        index, position = divmod(index, len(values))
        chosen.append(values[position])
    return tuple(reversed(chosen))


def without_inactive(space: Space, values: Mapping[str, Any]) -> Values:
    """Return the values without those whose condition is not met by the others."""
    return {key: values[key] for key in space if key in values and is_active(space, key, values)}


def is_active(space: Space, key: str, values: Mapping[str, Any]) -> bool:
    """Return whether the conditions of a key are met, and those of the keys in them."""
    return all(
        other in values
        and is_active(space, other, values)
        and any(same(values[other], allowed) for allowed in allowed_values(condition))
        for other, condition in space[key].when.items()
    )


def allowed_values(condition: Any) -> tuple[Any, ...]:
    """Return the values of a condition, which is a single value or a list of them."""
    return tuple(condition) if isinstance(condition, list | tuple) else (condition,)


def same(one: Any, other: Any) -> bool:
    """Return whether two values of a setting are equal; in Python also ``1 == True``."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def keys_in_order(space: Space) -> Iterator[str]:
    """Yield the keys so that each comes after those that its condition names.

    Raises:
        ValueError: conditions form a circle.
    """
    done: set[str] = set()
    while len(done) < len(space):
        ready = [key for key in space if key not in done and set(space[key].when) <= done]
        if not ready:
            raise ValueError(f"the conditions of {', '.join(set(space) - done)} form a circle")
        yield from ready
        done.update(ready)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the config with dotted keys set, validated as a whole.

    A mapping is merged into what the config states for the key.

    Raises:
        ConfigError: a key is unknown or a value is invalid.
    """
    tree = stated_tree(config)
    for key, value in values.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[last] = _merged(node.get(last), value)
    return check_settings(RunConfig, tree)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def format_values(values: Mapping[str, Any]) -> str:
    """Return values as one line, with keys shortened to what tells them apart."""
    names = short_names(values)
    return "  ".join(f"{names[key]}={format_value(value)}" for key, value in values.items())


def format_value(value: Any) -> str:
    """Return a value as short text; numbers with four digits."""
    match value:
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case float():
            return f"{value:.4g}"
        case dict():
            return ",".join(f"{key}:{format_value(each)}" for key, each in value.items())
        case list() | tuple():
            return "[" + ",".join(map(format_value, value)) + "]"
    return str(value)


def short_names(keys: Mapping[str, Any] | list[str]) -> dict[str, str]:
    """Return the last parts of dotted keys, as many as needed to tell them apart."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum(f".{other}".endswith(f".{name}") for other in keys) == 1:
                break
        names[key] = name
    return names
