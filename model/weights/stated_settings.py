"""The settings that a config states, as opposed to defaults: listed, taken over and replaced.

A setting is stated if it was given to the constructor, by a YAML file or by an override. Keys are
dotted keys of ModelConfig.
"""

from collections.abc import Mapping
from typing import Any

from model.config import KeypointHeadConfig, ModelConfig, RetinaNetConfig
from model.config.settings import Settings
from model.weights.setting_origins import HEADS, ORIGINS, Origin

EVERY_SECTION = ModelConfig().model_copy(
    update={"keypoint": KeypointHeadConfig(), "retinanet": RetinaNetConfig()}
)
"""The defaults with every head, from which sections are taken; no detector has such a config."""


def explicit_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that were given, not left at their defaults."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def stated_settings(config: ModelConfig) -> dict[str, Any]:
    """Return the stated settings by dotted key; whether a head exists is not one of them."""
    stated: dict[str, Any] = {}
    for key in ORIGINS:
        section, _, name = key.rpartition(".")
        owner = getattr(config, section) if section else config
        if key not in HEADS and owner is not None and name in owner.model_fields_set:
            stated[key] = getattr(owner, name)
    return stated


def has_section(config: ModelConfig, key: str) -> bool:
    """Return whether the section of a dotted key is not null."""
    section, _, _ = key.rpartition(".")
    return not section or getattr(config, section) is not None


def setting_of(config: ModelConfig, key: str) -> Any:
    """Return the value of a dotted key; None if its section is null."""
    section, _, name = key.rpartition(".")
    owner = getattr(config, section) if section else config
    return None if owner is None else getattr(owner, name)


def replace_settings(config: ModelConfig, values: Mapping[str, Any]) -> ModelConfig:
    """Return the config with other values, which then count as stated; they are not checked.

    Args:
        config: the sections that the keys name are not null.
        values: new values by dotted key.
    """
    updates: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        updates.setdefault(section, {})[name] = value
    root = updates.pop("", {})
    for section, update in updates.items():
        root[section] = getattr(config, section).model_copy(update=update)
    return config.model_copy(update=root)


def pad_to_multiple(config: ModelConfig, divisor: int) -> ModelConfig:
    """Return the config with a library's size divisor, unless it states another."""
    padding = {"size_divisor": divisor} | explicit_settings(config.input)
    return config.model_copy(update={"input": config.input.model_copy(update=padding)})


def take_free_settings(base: ModelConfig, config: ModelConfig) -> ModelConfig:
    """Return ``base`` with the settings of inference and training that ``config`` states.

    Those of a head that either of them does not have are left out.
    """
    free = {
        key: value
        for key, value in stated_settings(config).items()
        if ORIGINS[key] in (Origin.INFERENCE, Origin.TRAINING) and has_section(base, key)
    }
    return replace_settings(base, free)


def free_settings(config: ModelConfig) -> ModelConfig:
    """Return `EVERY_SECTION` with what the config may decide for any weights.

    These are its settings of inference and training and its keypoint names. Conventions and
    architecture are left to the converters, which infer them from the weights.
    """
    free = take_free_settings(EVERY_SECTION, config)
    if names := stated_settings(config).get("keypoint.names"):
        free = replace_settings(free, {"keypoint.names": names})
    return free
