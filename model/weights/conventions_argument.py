"""The argument ``conventions`` of ``load_detector``: what weights assume, stated by the caller."""

import difflib
from collections.abc import Mapping
from typing import Any

from model.config.settings import (
    ConfigError,
    check_settings,
    nearest_by_last_part,
    short_repr,
)
from model.weights.setting_origins import ORIGINS, Origin
from model.weights.stated_settings import EVERY_SECTION

_PREFIX = "conventions."
_KEYS = {key.removeprefix(_PREFIX): key for key in ORIGINS if ORIGINS[key] is Origin.LIBRARY}


def parse_conventions(conventions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conventions by dotted key of ModelConfig, validated.

    Args:
        conventions: by name of a field of ``Conventions`` (``roi_aligned``), or by dotted key of
            another setting whose origin is ``LIBRARY`` (``retinanet.delta_weights``).

    Raises:
        ConfigError: lists every unknown name with the nearest valid one, and every invalid value.
        TypeError: they are not a mapping of names.
    """
    if not isinstance(conventions, Mapping) or any(not isinstance(key, str) for key in conventions):
        raise TypeError(
            "conventions must be a dict by name, such as {'roi_aligned': False}; "
            f"got {short_repr(conventions)}"
        )
    stated, problems = {}, []
    for name, value in conventions.items():
        key = _KEYS.get(name.removeprefix(_PREFIX))
        if key is None:
            problems.append(f"conventions: {name}{_reason(name)}")
            continue
        section, _, field = key.rpartition(".")
        try:
            checked = check_settings(type(getattr(EVERY_SECTION, section)), {field: value})
        except ConfigError as error:
            problems += [f"conventions: {problem}" for problem in error.problems]
            continue
        stated[key] = getattr(checked, field)
    if problems:
        raise ConfigError(problems)
    return stated


def _reason(name: str) -> str:
    """Return why the name is refused, as the end of a sentence."""
    if ORIGINS.get(name) is Origin.TENSORS:
        return " cannot be stated: the tensors determine it"
    if name in ORIGINS:
        return " is no convention of weights: state it in config="
    near = difflib.get_close_matches(name, _KEYS, n=1)
    suggestion = near[0] if near else nearest_by_last_part(name, _KEYS)
    known = ", ".join(_KEYS)
    return " is unknown; " + (f"did you mean {suggestion}?" if suggestion else f"known: {known}")
