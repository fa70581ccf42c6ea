"""Read a config file of maskrcnn-benchmark as yacs does, and record the keys that are skipped."""

import ast
import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import ConfigError, nearest_by_last_part, short_repr
from pipeline.config.maskrcnn_benchmark.tables import DEFAULTS, RENAMED_KEYS

Tree = dict[str, Any]
"""A section of our settings, as nested plain values."""

# Longer strings are not parsed as Python literals; reasonable values are far shorter.
_MAX_LITERAL_LENGTH = 2000


@dataclass(frozen=True)
class SkippedKey:
    """A key of the original file that is not converted."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.reason}"


class OriginalConfig:
    """The values of a file on top of maskrcnn-benchmark's defaults; records skipped keys.

    Args:
        given: dotted key -> value; only keys of ``DEFAULTS``.
        skipped: keys that were skipped while reading the file.
    """

    def __init__(self, given: Mapping[str, Any], skipped: Iterable[SkippedKey] = ()) -> None:
        self._given = dict(given)
        self._skipped = {key.key: key for key in skipped}
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._given.get(key, DEFAULTS[key])

    def sets(self, key: str) -> bool:
        """Return whether the file sets the key."""
        return key in self._given

    def skip(self, key: str, reason: str) -> None:
        """Record that the key's value is not converted."""
        self._skipped[key] = SkippedKey(key, self[key], reason)

    def expect(self, key: str, *values: Any, reason: str) -> None:
        """Skip the key unless it has one of the values that our detector implements."""
        if self[key] not in values:
            self.skip(key, reason)

    def skipped(self) -> tuple[SkippedKey, ...]:
        """Return all skipped keys in the order of the file, with those that were never read."""
        for key in self._given:
            if key not in self._read:
                self.skip(key, "has no effect on this model in maskrcnn-benchmark either")
        order = {key: index for index, key in enumerate(self._given)}
        return tuple(sorted(self._skipped.values(), key=lambda item: order.get(item.key, -1)))


class _OriginalLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases; records the values of repeated keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.overwritten: list[SkippedKey] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few bytes of aliases can expand to gigabytes.
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.value in first:
                name, lost = first[key.value]
                where = f"{name.value} in line {name.start_mark.line + 1}"
                reason = "repeated below; the last one wins, as in maskrcnn-benchmark"
                self.overwritten.append(
                    SkippedKey(where, self.construct_object(lost, True), reason)
                )
            first[key.value] = key, value
        return super().construct_mapping(node, deep)


def read_original(path: Path) -> OriginalConfig:
    """Read a config file of maskrcnn-benchmark.

    The last of repeated keys wins, as in maskrcnn-benchmark.

    Raises:
        ConfigError: the file cannot be read, is not safe YAML, is not a mapping or is a file of
            another program; or lists every unknown key with the nearest known one, and every value
            of another type than the default.
    """
    tree, overwritten = _load(path)
    if foreign := {"_BASE_", "VERSION"} & tree.keys():
        raise ConfigError(
            [f"{path} has {' and '.join(sorted(foreign))}: detectron2's configs are not supported"]
        )
    if tree and not any(str(name).isupper() for name in tree):
        raise ConfigError(
            [
                f"{path} is not a file of maskrcnn-benchmark, whose keys are in capitals (MODEL, "
                f"SOLVER, ...); it has {', '.join(map(str, list(tree)[:5]))}. A config of this "
                "project needs no import: give it to the jobs as it is."
            ]
        )
    problems: list[str] = []
    given: dict[str, Any] = {}
    for key, value in _leaves(tree, "", problems):
        try:
            given[key] = _coerce_to_default(key, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return OriginalConfig(given, overwritten)


def _load(path: Path) -> tuple[dict[str, Any], list[SkippedKey]]:
    try:
        loader = _OriginalLoader(path.read_text())
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError([f"{path} is not valid YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError:
        raise ConfigError([f"{path} is nested too deeply"]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{path} must hold a mapping of settings; got {type(tree).__name__}"])
    return tree, loader.overwritten


def _leaves(tree: Mapping[Any, Any], prefix: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the known keys, dotted, with their values; append the others to ``problems``."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        known = RENAMED_KEYS.get(key, key)
        if known in DEFAULTS:
            yield known, value
        elif any(other.startswith(f"{key}.") for other in DEFAULTS):
            if isinstance(value, dict):
                yield from _leaves(value, f"{key}.", problems)
            elif value is not None:
                problems.append(f"{key}: must be a mapping; got {short_repr(value)}")
        else:
            nearest = _nearest_key(key)
            hint = f"; did you mean {nearest}?" if nearest else ""
            problems.append(f"{key}: unknown key{hint}")


def _nearest_key(key: str) -> str | None:
    close = difflib.get_close_matches(key, list(DEFAULTS), 1, 0.8)
    return close[0] if close else nearest_by_last_part(key.rpartition(".")[2], DEFAULTS)


def _coerce_to_default(key: str, value: Any) -> Any:
    """Return the value as yacs reads it: strings may be Python literals, types must match.

    Raises:
        ValueError: the value has another type than the default.
    """
    value, default = python_literal(value), DEFAULTS[key]
    if key == "INPUT.MIN_SIZE_TRAIN" and _kind(value) == "number":
        return (value,)  # as in earlier versions
    if not isinstance(default, tuple):
        if _kind(value) != _kind(default):
            raise ValueError(f"{key}: must be a {_kind(default)}; got {short_repr(value)}")
        return value
    # A list whose default is empty takes any items: names, or values that are skipped anyway.
    kind = _kind(default[0]) if default else None
    if not isinstance(value, list | tuple) or (kind and any(_kind(item) != kind for item in value)):
        raise ValueError(f"{key}: must be a list of {kind or 'name'}s; got {short_repr(value)}")
    return tuple(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else type(value).__name__


def python_literal(value: Any) -> Any:
    """Return the value of a string that is a Python literal, as yacs does; else the argument."""
    if not isinstance(value, str) or len(value) > _MAX_LITERAL_LENGTH:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
