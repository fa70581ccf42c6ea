"""Weights into detectors: whole ones, and parts of them for fine-tuning."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.detector import Detector, build_detector
from model.settings import check_settings, compose_yaml
from model.structures import Category
from model.weights.files import DESCRIPTION, TENSORS, read_description, read_tensors
from model.weights.report import LoadReport, WeightsError
from model.weights.torchvision import (
    coco_categories,
    infer_config,
    is_torchvision_backbone,
    is_torchvision_detector,
    rename_backbone,
    rename_detector,
)

_LOG = logging.getLogger(__name__)

# Where each inference setting lies in ModelConfig.
_INFERENCE_SETTINGS = {
    "short_side": ("input", "short_side"),
    "long_side": ("input", "long_side"),
    "score_threshold": ("box", "score_threshold"),
    "nms_iou": ("box", "nms_iou"),
    "detections_per_image": ("box", "detections_per_image"),
    "mask_threshold": ("mask", "threshold"),
}
# Layers whose shape depends on the classes: another data set has others.
_CLASS_LAYERS = ("box_head.class_logits.", "box_head.box_deltas.", "mask_head.logits.")


def load_detector(
    source: str | Path,
    config: str | Path | ModelConfig | None = None,
    device: str | torch.device = "cpu",
    **overrides: float,
) -> Detector:
    """A trained detector, ready to predict.

    Args:
        source: a folder that ``save_detector`` wrote; or a .safetensors or .pth file of ours or of
            torchvision's Faster or Mask R-CNN on ResNet-FPN.
        config: a YAML file with a ``model`` part, or a ModelConfig. A folder brings its own, and
            torchvision's weights tell their architecture; then this may be None. What
            torchvision's weights do tell overrules it.
        device: where the detector shall be.
        overrides: inference settings by name: short_side, long_side, score_threshold, nms_iou,
            detections_per_image, mask_threshold.

    Raises:
        WeightsError: the file is absent, damaged, incomplete or does not fit the config.
        TypeError: an override has no such name.
        ConfigError: the YAML file, or an override's value, is not valid.
    """
    path = Path(source)
    given = _read_config(config)
    folder = path if path.is_dir() else path.parent
    state = read_tensors(path / TENSORS if path.is_dir() else path)
    categories: Sequence[Category] = ()
    if is_torchvision_detector(state):
        chosen = infer_config(state, given or ModelConfig())
        _report_difference(given, chosen, path)
        if chosen.num_classes == 90:
            categories = coco_categories()
    elif path.is_dir() or (path.name == TENSORS and (folder / DESCRIPTION).exists()):
        stored, categories = read_description(folder)
        chosen = given or stored
        categories = categories if chosen.num_classes == len(categories) else ()
    elif given is not None:
        chosen = given
    else:
        raise WeightsError(f"{path} does not say which detector it is for: pass config=")
    detector = build_detector(_override(chosen, overrides), categories)
    report = _load_state(detector, state, path, allow_mismatch=False)
    _LOG.info("%s: %s", path, report)
    if report.initialised:
        raise WeightsError(f"{path} does not fill the detector: {report}")
    return detector.to(device).eval()


def load_weights(detector: Detector, path: str | Path, allow_mismatch: bool = True) -> LoadReport:
    """Start a detector from given weights, as far as they fit.

    Args:
        detector: takes the weights, in place.
        path: as ``load_detector``'s source, or a plain torchvision ResNet for the backbone.
        allow_mismatch: leave layers whose shape depends on the classes at initialisation where the
            file has other classes; else that is an error, as it always is for other layers.

    Returns:
        What was loaded, and what was not.

    Raises:
        WeightsError: the file cannot be read, holds nothing for this detector, or does not fit.
    """
    source = Path(path)
    state = read_tensors(source / TENSORS if source.is_dir() else source)
    report = _load_state(detector, state, source, allow_mismatch)
    _LOG.info("%s: %s", source, report)
    return report


def _load_state(
    detector: Detector, state: Mapping[str, Tensor], path: Path, allow_mismatch: bool
) -> LoadReport:
    if is_torchvision_detector(state):
        state = rename_detector(state)
    elif is_torchvision_backbone(state):
        state = rename_backbone(state)
    own = detector.state_dict()
    # A counter that only batch norm with momentum None reads.
    optional = {name for name in (*own, *state) if name.endswith("num_batches_tracked")}
    fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    other_shape = [n for n, t in state.items() if n in own and own[n].shape != t.shape]
    described = {n: f"{n} {tuple(own[n].shape)} <- {tuple(state[n].shape)}" for n in other_shape}
    fatal = [
        described[n] for n in other_shape if not (allow_mismatch and n.startswith(_CLASS_LAYERS))
    ]
    if fatal:
        raise WeightsError(f"{path} does not fit this detector: " + "; ".join(fatal[:8]))
    if not fitting:
        found = ", ".join(list(state)[:3])
        raise WeightsError(f"{path} holds nothing for this detector, only {found} ...")
    detector.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=tuple(fitting),
        initialised=tuple(n for n in own if n not in state and n not in optional),
        mismatched=tuple(described.values()),
        dropped=tuple(n for n in state if n not in own and n not in optional),
    )


def _read_config(config: str | Path | ModelConfig | None) -> ModelConfig | None:
    if config is None or isinstance(config, ModelConfig):
        return config
    checked: ModelConfig = check_settings(ModelConfig, compose_yaml(config).get("model", {}))
    return checked


def _override(config: ModelConfig, overrides: Mapping[str, float]) -> ModelConfig:
    tree: dict[str, Any] = config.model_dump()
    for name, value in overrides.items():
        if name not in _INFERENCE_SETTINGS:
            near = difflib.get_close_matches(name, _INFERENCE_SETTINGS, n=1)
            known = ", ".join(_INFERENCE_SETTINGS)
            hint = f"did you mean {near[0]}?" if near else f"there are {known}"
            raise TypeError(f"load_detector has no setting {name!r}; {hint}")
        part, key = _INFERENCE_SETTINGS[name]
        if tree[part] is None:
            raise TypeError(f"{name} was given, but this detector has no {part} head")
        tree[part][key] = value
    checked: ModelConfig = check_settings(ModelConfig, tree)
    return checked


def _report_difference(given: ModelConfig | None, chosen: ModelConfig, path: Path) -> None:
    """Say which parts of a given config the weights overrule."""
    if given is None:
        return
    for name in type(given).model_fields:
        if getattr(given, name) != getattr(chosen, name):
            _LOG.warning("%s overrules model.%s: %r", path, name, getattr(chosen, name))
