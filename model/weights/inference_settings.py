"""Inference settings that ``load_detector`` takes as keyword arguments."""

import difflib
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.config.settings import ConfigError, check_settings

# Keyword to section and key of ModelConfig. RetinaNet has the keys of "box" in its own section.
_INFERENCE_SETTINGS = {
    "short_side": ("input", "short_side"),
    "long_side": ("input", "long_side"),
    "proposals": ("rpn", "post_nms_test"),
    "proposals_per_level": ("rpn", "pre_nms_test"),
    "proposal_nms_iou": ("rpn", "nms_iou"),
    "score_threshold": ("box", "score_threshold"),
    "nms_iou": ("box", "nms_iou"),
    "detections_per_image": ("box", "detections_per_image"),
    "mask_threshold": ("mask", "threshold"),
}


def override_inference_settings(config: ModelConfig, overrides: Mapping[str, float]) -> ModelConfig:
    """Return the config with other inference settings.

    Args:
        config: config of a detector.
        overrides: keyword arguments of ``load_detector``.

    Raises:
        TypeError: there is no such setting, or the detector has no such head.
        ConfigError: values are out of range; names the arguments and the keys that they set.
    """
    tree: dict[str, Any] = config.model_dump()
    arguments: dict[str, str] = {}  # dotted key -> the argument that sets it
    for name, value in overrides.items():
        if name not in _INFERENCE_SETTINGS:
            near = difflib.get_close_matches(name, _INFERENCE_SETTINGS, n=1)
            known = ", ".join(_INFERENCE_SETTINGS)
            hint = f"did you mean {near[0]}?" if near else f"there are {known}"
            raise TypeError(f"load_detector has no setting {name!r}; {hint}")
        section, key = _INFERENCE_SETTINGS[name]
        if section == "box" and config.retinanet is not None:
            section = "retinanet"
        if section == "rpn" and config.retinanet is not None:
            raise TypeError(f"{name} was given, but RetinaNet has no proposals")
        if tree[section] is None:
            raise TypeError(f"{name} was given, but this detector has no {section} head")
        tree[section][key] = value
        arguments[f"{section}.{key}"] = name
    try:
        checked: ModelConfig = check_settings(ModelConfig, tree)
    except ConfigError as error:
        raise ConfigError([_name_argument(line, arguments) for line in error.problems]) from None
    return checked


def _name_argument(problem: str, arguments: Mapping[str, str]) -> str:
    """Put the argument that the caller gave before the key that it sets."""
    key, colon, message = problem.partition(":")
    return f"{arguments[key]} ({key}):{message}" if colon and key in arguments else problem
