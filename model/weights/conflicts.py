"""Conflicts between a config and weights: settings that they know differently, as one warning."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.config.settings import Settings
from model.weights.setting_origins import HEADS, ORIGINS, Origin
from model.weights.stated_settings import has_section, setting_of, stated_settings


@dataclass(frozen=True)
class Conflict:
    """A setting whose value differs between a config and weights.

    Args:
        key: dotted key of ModelConfig.
        in_weights: the value that belongs to the weights.
        in_config: the value of the config.
        converted: the weights were converted to the config's value.
    """

    key: str
    in_weights: Any
    in_config: Any
    converted: bool = False

    @property
    def name(self) -> str:
        """The key as the argument ``conventions`` of ``load_detector`` names it."""
        return self.key.removeprefix("conventions.")


def find_conflicts(
    config: ModelConfig, of_weights: ModelConfig, resolved: Collection[str] = ()
) -> tuple[Conflict, ...]:
    """List the settings that ``config`` states and that have another value in ``of_weights``.

    Settings without effect on inference are left out, and those of parts that the weights lack.

    Args:
        config: config of a user.
        of_weights: the config of the detector that the weights fill.
        resolved: keys to leave out.
    """
    conflicts = [
        Conflict(head, getattr(of_weights, head), getattr(config, head))
        for head in HEADS
        if _states_head(config, head)
        and (getattr(config, head) is None) != (getattr(of_weights, head) is None)
    ]
    for key, value in stated_settings(config).items():
        if ORIGINS[key] is Origin.TRAINING or key in resolved or not _is_used(of_weights, key):
            continue
        if not _mean_the_same(key, setting_of(of_weights, key), value):
            conflicts.append(Conflict(key, setting_of(of_weights, key), value))
    return tuple(conflicts)


def describe_overruled_config(conflicts: Sequence[Conflict]) -> str:
    """Format the warning that the settings of the weights are used, one line per conflict."""
    lines = [
        "the config states other settings than these weights were trained with. "
        "The settings of the weights are used:",
        list_overruled_settings(conflicts),
    ]
    # The tensors show nearly always whether the settings of the backbone are right.
    uncertain = [c for c in conflicts if ORIGINS[c.key] is Origin.LIBRARY]
    example = next((c for c in uncertain if not c.key.startswith("backbone.")), None)
    if example is not None:
        name, value = example.name, example.in_config
        lines.append(
            "If the weights were trained with a value of the config after all, state it: "
            f"load_detector(..., conventions={{{name!r}: {value!r}}}), or "
            f"python -m model.weights convert ... --convention '{name}={value_text(value)}'"
        )
    return "\n".join(lines)


def list_overruled_settings(conflicts: Sequence[Conflict]) -> str:
    """Format settings of weights that are used instead of a config's, one line per conflict."""
    return "\n".join(
        f"  model.{c.key} = {value_text(c.in_weights)} (the config: {value_text(c.in_config)})"
        for c in conflicts
    )


def describe_overruled_weights(conflicts: Sequence[Conflict]) -> str:
    """Format the warning that the detector's settings are used, one line per conflict."""
    lines = [
        "these weights were trained with other settings than the detector has. "
        "The settings of the detector are used:"
    ]
    for c in conflicts:
        converted = "; converted" if c.converted else ""
        used, trained = value_text(c.in_config), value_text(c.in_weights)
        lines.append(f"  model.{c.key} = {used} (the weights: {trained}{converted})")
    if any(not c.converted for c in conflicts):
        lines.append(
            "To follow the weights where they are not converted, give the model their settings; a "
            "training job adopts all of model.conventions that its config does not state"
        )
    return "\n".join(lines)


def value_text(value: Any) -> str:
    """Return a value as YAML writes it; a head that is not null is "present"."""
    return "present" if isinstance(value, Settings) else json.dumps(value)


def _states_head(config: ModelConfig, head: str) -> bool:
    section = getattr(config, head)
    return head in config.model_fields_set or bool(section and section.model_fields_set)


def _mean_the_same(key: str, one: Any, other: Any) -> bool:
    """Return whether two values of a setting are equal in inference."""
    if key.endswith(".norm") and {one, other} == {"batch_norm", "sync_batch_norm"}:
        return True
    return bool(one == other)


def _is_used(config: ModelConfig, key: str) -> bool:
    """Return whether the detector has the part that the setting belongs to."""
    section, _, _ = key.rpartition(".")
    if section == "fpn":
        return config.backbone.features == "fpn"
    if section == "rpn":
        return config.retinanet is None
    return has_section(config, key)
