"""A config file of maskrcnn-benchmark, read as it reads it, and what of it has no place here."""

import ast
import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import ConfigError
from pipeline.config.maskrcnn_benchmark.tables import DEFAULTS, EARLIER_NAMES

# What a reasonable value takes; longer texts are not looked into for tuples.
_LONGEST_LITERAL = 2000


@dataclass(frozen=True)
class NotCarried:
    """A key of the original file that has no place in ours."""

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.why}"


class Original:
    """The values of a file over the original's defaults; it remembers what is left behind.

    Args:
        given: dotted key -> value, keys of ``DEFAULTS`` alone.
        left: what reading the file already left behind.
    """

    def __init__(self, given: Mapping[str, Any], left: Iterable[NotCarried] = ()) -> None:
        self._given = dict(given)
        self._left = {remark.key: remark for remark in left}
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._given.get(key, DEFAULTS[key])

    def gives(self, key: str) -> bool:
        """Whether the file itself says it."""
        return key in self._given

    def leave(self, key: str, why: str) -> None:
        """Name a key as not carried."""
        self._left[key] = NotCarried(key, self[key], why)

    def expect(self, key: str, *values: Any, why: str) -> None:
        """Leave a key behind unless it says what this detector does anyway."""
        if self[key] not in values:
            self.leave(key, why)

    def not_carried(self) -> tuple[NotCarried, ...]:
        """What was left behind, in the file's order; keys that nothing asked for are idle."""
        for key in self._given:
            if key not in self._read:
                self.leave(key, "without effect in such a model, there as here")
        order = {key: number for number, key in enumerate(self._given)}
        return tuple(sorted(self._left.values(), key=lambda left: order.get(left.key, -1)))


class _OriginalLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, which remembers what a second key took away."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.overwritten: list[NotCarried] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few bytes of aliases can stand for gigabytes.
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.value in first:
                name, lost = first[key.value]
                place = f"{name.value} in line {name.start_mark.line + 1}"
                why = "given again below; as there, the last alone counts"
                self.overwritten.append(NotCarried(place, self.construct_object(lost, True), why))
            first[key.value] = key, value
        return super().construct_mapping(node, deep)


def read_original(path: Path) -> Original:
    """Read a file of maskrcnn-benchmark.

    Of a key given twice the last alone counts, as there.

    Raises:
        ConfigError: it cannot be read, is not safe YAML or not a mapping; or every unknown key
            with the nearest known one, and every value of another kind than the default's.
    """
    tree, overwritten = _load(path)
    if strange := {"_BASE_", "VERSION"} & tree.keys():
        raise ConfigError(
            [f"{path} has {' and '.join(sorted(strange))}: a file of detectron2, which is not read"]
        )
    problems: list[str] = []
    given: dict[str, Any] = {}
    for key, value in _leaves(tree, "", problems):
        try:
            given[key] = _as_the_default(key, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return Original(given, overwritten)


def _load(path: Path) -> tuple[dict[str, Any], list[NotCarried]]:
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
    """Known keys with their values, dotted; the others become problems."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        known = EARLIER_NAMES.get(key, key)
        if known in DEFAULTS:
            yield known, value
        elif any(other.startswith(f"{key}.") for other in DEFAULTS):
            if isinstance(value, dict):
                yield from _leaves(value, f"{key}.", problems)
            elif value is not None:
                problems.append(f"{key}: must be a mapping; got {_short(value)}")
        else:
            nearest = _nearest(key)
            hint = f"; did you mean {nearest}?" if nearest else ""
            problems.append(f"{key}: unknown key{hint}")


def _nearest(key: str) -> str | None:
    close = difflib.get_close_matches(key, list(DEFAULTS), 1, 0.8)
    if close:
        return close[0]
    by_leaf: dict[str, str] = {}
    for known in DEFAULTS:
        by_leaf.setdefault(known.rpartition(".")[2], known)
    close = difflib.get_close_matches(key.rpartition(".")[2], list(by_leaf), 1, 0.75)
    return by_leaf[close[0]] if close else None


def _as_the_default(key: str, value: Any) -> Any:
    """The value as yacs takes it: texts are Python literals where they can be, kinds must agree.

    Raises:
        ValueError: it is of another kind than the default.
    """
    value, default = python_literal(value), DEFAULTS[key]
    if key == "INPUT.MIN_SIZE_TRAIN" and _kind(value) == "a number":
        return (value,)  # as earlier versions had it
    if not isinstance(default, tuple):
        if _kind(value) != _kind(default):
            raise ValueError(f"{key}: must be {_kind(default)}; got {_short(value)}")
        return value
    # The empty defaults are of lists of anything: names, or what is left behind.
    wanted = _kind(default[0]) if default else None
    if not isinstance(value, list | tuple) or (wanted and any(_kind(v) != wanted for v in value)):
        raise ValueError(f"{key}: must be a list, of {wanted or 'names'} each; got {_short(value)}")
    return tuple(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "something else"


def python_literal(value: Any) -> Any:
    """A text that is a Python literal as its value, as yacs takes it; anything else as it is."""
    if not isinstance(value, str) or len(value) > _LONGEST_LITERAL:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
