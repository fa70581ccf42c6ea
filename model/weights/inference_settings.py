"""Inference settings that ``load_detector`` takes as keyword arguments."""

import difflib
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.config.settings import check_settings

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
        ConfigError: a value is out of range.
    """
    tree: dict[str, Any] = config.model_dump()
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
    checked: ModelConfig = check_settings(ModelConfig, tree)
    return checked
