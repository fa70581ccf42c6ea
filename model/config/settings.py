"""Settings trees: frozen pydantic models, composed from YAML files and checked in one go.

YAML file -> `compose_yaml` -> `apply_overrides` -> `check_settings` -> an instance, or a
`ConfigError` that names every bad key at once.
"""

import copy
import difflib
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from model.config.settings_table import describe_settings, settings_table

__all__ = [
    "ConfigError",
    "Fraction",
    "NonNegative",
    "Positive",
    "PositiveFloat",
    "Settings",
    "apply_overrides",
    "check_settings",
    "compose_yaml",
    "describe_settings",
    "settings_table",
]

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """A node of a settings tree: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


class ConfigError(ValueError):
    """The settings are wrong; ``problems`` holds one line per bad key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        return "\n  ".join([head, *self.problems])


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key given twice is an error and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot in a number with an exponent; without this 1e-4 would be text.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def compose_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file over the files that its top-level ``base`` names.

    Args:
        path: the file; ``base`` in it is a path or a list of paths relative to it, the later over
            the earlier. Mappings merge key by key, everything else replaces.

    Raises:
        ConfigError: a file is missing, is not YAML or not a mapping, or is its own base.
    """
    return _compose(Path(path).expanduser().resolve(), ())


def _compose(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if path in below:
        chain = " -> ".join(str(file) for file in (*below, path))
        raise ConfigError([f"base: the files form a circle: {chain}"])
    try:
        tree = yaml.load(path.read_text(), Loader=_StrictLoader)
    except OSError as error:
        where = f" (base of {below[-1]})" if below else ""
        raise ConfigError([f"cannot read {path}{where}: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not valid YAML: {' '.join(str(error).split())}"]) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{path} must hold a mapping of settings; got {type(tree).__name__}"])
    bases = tree.pop("base", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _compose((path.parent / base).resolve(), (*below, path)))
    return _merge(merged, tree)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        standing = merged.get(key)
        both = isinstance(standing, dict) and isinstance(value, dict)
        merged[key] = _merge(standing, value) if both else value  # type: ignore[arg-type]
    return merged


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with each ``a.b=value`` set; values are read as YAML (``a=[1, 2]``, ``a=null``).

    Raises:
        ConfigError: overrides that are not ``key=value``, or that reach below a plain value.
    """
    result = copy.deepcopy(dict(tree))
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", key):
            problems.append(f"{override!r} is not an override; write key.sub_key=value")
            continue
        try:
            value = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError:
            problems.append(f"{key}: {text!r} is not a YAML value; quote it?")
            continue
        *parents, leaf = key.split(".")
        node: Any = result
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                problems.append(f"{key}: {parent} is the plain value {node!r}, without keys")
                break
        else:
            node[leaf] = value
    if problems:
        raise ConfigError(problems)
    return result


def check_settings(
    cls: type[SettingsT], tree: Mapping[str, Any], context: Mapping[str, Any] | None = None
) -> SettingsT:
    """An instance of ``cls`` from a tree of plain values.

    Types are strict: text is no number, ``true`` is not 1, 1.5 is no count.

    Args:
        cls: the settings class at the tree's root.
        tree: plain values, as YAML gives them.
        context: handed to validators that want one.

    Raises:
        ConfigError: every unknown key with the nearest valid one, every wrong type and every
            value out of range.
    """
    try:
        # Through JSON, where strict types still let a list become a tuple.
        return cls.model_validate_json(
            json.dumps(tree, default=str), strict=True, context=dict(context or {})
        )
    except ValidationError as error:
        raise ConfigError([_describe_problem(cls, item) for item in error.errors()]) from None


def _describe_problem(cls: type[BaseModel], error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = re.sub(r"^(Value error, |Input )", "", error["msg"]).replace("should be", "must be")
    match error["type"]:
        case "extra_forbidden":
            nearest = _nearest_key(cls, error["loc"])
            hint = f"; did you mean {nearest}?" if nearest else ""
            return f"{key}: unknown key{hint}"
        case "missing":
            return f"{key}: must be given"
        case "value_error" if isinstance(error["input"], dict):
            return f"{key}: {message}" if key else message
        case _:
            got = repr(error["input"])
            return f"{key}: {message}; got {got if len(got) <= 80 else got[:77] + '...'}"


def _nearest_key(cls: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    """The valid key most like the unknown one: beside it, else anywhere with a like name."""
    # Without the places in lists, which the keys of a tree do not have.
    *parents, unknown = (part for part in loc if isinstance(part, str))
    keys = [row.key for row in describe_settings(cls)]
    depth = len(parents)
    beside = {
        parts[depth]: ".".join(parts[: depth + 1])
        for parts in (key.split(".") for key in keys)
        if len(parts) > depth
        and all(part in (given, "<key>") for part, given in zip(parts, parents, strict=False))
    }
    if close := difflib.get_close_matches(unknown, beside, 1, 0.6):
        return ".".join([*parents, close[0]])
    by_leaf: dict[str, str] = {}
    for key in keys:
        by_leaf.setdefault(key.rpartition(".")[2], key)
    close = difflib.get_close_matches(unknown, by_leaf, 1, 0.75)
    return by_leaf[close[0]] if close else None
