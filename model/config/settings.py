"""Settings: frozen pydantic models, checked strictly, with all bad keys reported at once.

YAML file -> `compose_yaml` -> `apply_overrides` (both in ``yaml_files``) -> `check_settings` -> an
instance, or a `ConfigError` with one line per bad key.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from model.config.settings_table import list_settings

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def without_nulls(value: Any) -> Any:
    """Remove the null entries of a mapping: so a file removes those of its base."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    return value


ClassWeights = Annotated[dict[str, PositiveFloat], BeforeValidator(without_nulls)]
"""Name of a class -> weight of its objects in a classification loss."""

Precision = Literal["fp32", "bf16", "fp16"]


class Settings(BaseModel):
    """A node of a settings tree: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


class ConfigError(ValueError):
    """The settings are wrong; ``problems`` has one line per bad key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        return "\n  ".join([head, *self.problems])


def check_settings(
    cls: type[SettingsT], tree: Mapping[str, Any], context: Mapping[str, Any] | None = None
) -> SettingsT:
    """Validate a tree of plain values and return it as an instance of ``cls``.

    Types are strict: a string is not a number, ``true`` is not 1, 1.5 is not an integer.

    Args:
        cls: the settings class at the root of the tree.
        tree: plain values, as read from YAML.
        context: passed on to the validators.

    Raises:
        ConfigError: lists every unknown key with the nearest valid one, every wrong type and every
            value out of range.
    """
    try:
        # Via JSON, because there strict validation still accepts a list for a tuple.
        return cls.model_validate_json(
            json.dumps(tree, default=str), strict=True, context=dict(context or {})
        )
    except ValidationError as error:
        raise ConfigError(_problems(cls, error.errors())) from None


def _problems(cls: type[BaseModel], errors: Iterable[ErrorDetails]) -> list[str]:
    """Return one line per key; of a value that may have one of several types, all alternatives."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(".".join(_key_parts(error["loc"])), []).append(error)
    lines = []
    for key, alternatives in by_key.items():
        *others, last = (_problem(cls, key, error) for error in alternatives)
        given = f"; got {short_repr(alternatives[0]['input'])}"
        first = "".join(f"{text.removesuffix(given)} or " for text in others)
        lines.append(first + (last.removeprefix(f"{key}: must be ") if others else last))
    return lines


def _key_parts(loc: tuple[int | str, ...]) -> list[str]:
    """Return the parts of a key, without the names that pydantic adds for alternative types."""
    added = re.compile(r"(constrained-|function-|literal\[)")
    return [str(part) for part in loc if not added.match(str(part))]


def _problem(cls: type[BaseModel], key: str, error: ErrorDetails) -> str:
    """Return pydantic's error as one line: key, what is wrong, and what to do."""
    message = re.sub(r"^(Value error, |Input )", "", error["msg"]).replace("should be", "must be")
    match error["type"]:
        case "extra_forbidden":
            nearest = _nearest_key(cls, error["loc"])
            hint = f"; did you mean {nearest}?" if nearest else ""
            return f"{key}: unknown key{hint}"
        case "missing":
            return f"{key}: required"
        case "value_error" if isinstance(error["input"], dict):
            return f"{key}: {message}" if key else message
        case _:
            return f"{key}: {message}; got {short_repr(error['input'])}"


def _nearest_key(cls: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    """Return the valid key most similar to an unknown one: a sibling, else any by its last part."""
    # Without list indices, which the keys of `list_settings` do not contain.
    *parents, unknown = (part for part in loc if isinstance(part, str))
    keys = [row.key for row in list_settings(cls)]
    depth = len(parents)
    siblings = {
        parts[depth]
        for parts in (key.split(".") for key in keys)
        if len(parts) > depth
        and all(part in (given, "<key>") for part, given in zip(parts, parents, strict=False))
    }
    if close := difflib.get_close_matches(unknown, siblings, 1, 0.6):
        return ".".join([*parents, close[0]])
    return nearest_by_last_part(unknown, keys)


def nearest_by_last_part(name: str, keys: Iterable[str]) -> str | None:
    """Return the first dotted key whose last part is most similar to ``name``, if any is close."""
    by_last_part: dict[str, str] = {}
    for key in keys:
        by_last_part.setdefault(key.rpartition(".")[2], key)
    close = difflib.get_close_matches(name, by_last_part, 1, 0.75)
    return by_last_part[close[0]] if close else None


def short_repr(value: Any) -> str:
    """Return the value's repr, cut to 80 characters for error messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
