"""Weights of a network that a detector uses as its backbone in place of our ResNet."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.backbones.custom import CustomBackbone
from model.backbones.timm_models import TimmBackbone
from model.config import BackboneConfig, Conventions
from model.detector import Detector
from model.weights.conflicts import Conflict, describe_overruled_weights
from model.weights.conversion import ConvertedWeights
from model.weights.published.timm_weights import pretrained_settings
from model.weights.storage.wrappers import unwrap_name

_PREFIX = "backbone.net."
_CLASSIFIERS = ("head", "head_dist", "fc", "classifier")
_PIXELS = ("pixel_mean", "pixel_std")


def name_backbone_tensors(weights: ConvertedWeights, detector: Detector) -> ConvertedWeights:
    """Give weights of a network alone the names that they have in a detector.

    Args:
        weights: of the network that is the detector's backbone, under its own names, or of a whole
            detector, which are returned unchanged.
        detector: to be filled.
    """
    backbone = detector.backbone
    if not isinstance(backbone, CustomBackbone):
        return weights
    # What looks like a ResNet has been renamed as one.
    stored = {weights.original_names.get(name, name): t for name, t in weights.tensors.items()}
    own = backbone.net.state_dict()
    if any(name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in own for name in stored):
        return weights  # of a detector of ours
    stored = _under_own_names(stored, own)
    if not own.keys() & stored.keys():
        return weights
    tensors, ignored = dict(stored), {}
    if isinstance(backbone, TimmBackbone):
        tensors = _in_present_format(tensors, backbone)
    for name in [name for name in tensors if name not in own]:
        if _is_left_out(name, backbone):
            del tensors[name]
            ignored[name] = "not part of the backbone"
    return ConvertedWeights(
        "timm" if isinstance(backbone, TimmBackbone) else "backbone",
        {_PREFIX + name: tensor for name, tensor in tensors.items()},
        original_names={_PREFIX + name: name for name in tensors},
        ignored=ignored,
        assumptions=(*weights.assumptions, *_warn_about_pixels(detector)),
    )


def _under_own_names(stored: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of the network, if both differ by a module around it.

    Args:
        stored: as read, without the usual names of wrappers in front (``net.``, ``model.``).
        own: the network's, which may begin with such a name, or be ``backbone.`` in the file.
    """
    if own.keys() & stored.keys():
        return stored
    bare = {unwrap_name(name): name for name in own}
    for prefix in ("", "backbone."):
        named = {
            bare.get(unwrap_name(name.removeprefix(prefix)), name): t for name, t in stored.items()
        }
        if own.keys() & named.keys():
            return named
    return stored


def pixel_conventions(config: BackboneConfig) -> Conventions | None:
    """Return what timm's weights of a backbone assume of the pixels; None without timm."""
    if config.timm is None:
        return None
    found = pretrained_settings(config.timm)
    if found is None:
        return None
    mean, std = (
        tuple(round(255 * each, 4) for each in values) for values in (found.mean, found.std)
    )
    return Conventions(pixel_order="rgb", pixel_mean=mean, pixel_std=std)


def _warn_about_pixels(detector: Detector) -> tuple[str, ...]:
    """Return a note if the detector normalizes pixels otherwise than timm's weights assume."""
    theirs = pixel_conventions(detector.config.backbone)
    ours = detector.config.conventions
    if theirs is None:
        return ()
    conflicts = [
        Conflict(f"conventions.{key}", getattr(theirs, key), getattr(ours, key))
        for key in ("pixel_order", *_PIXELS)
        if getattr(theirs, key) != getattr(ours, key)
    ]
    return (describe_overruled_weights(conflicts),) if conflicts else ()


def _in_present_format(tensors: dict[str, Tensor], backbone: TimmBackbone) -> dict[str, Tensor]:
    """Return tensors as the installed timm names and shapes them; older files may differ."""
    module = sys.modules[type(backbone.net).__module__]
    convert: Any = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted: Mapping[str, Tensor] = convert(dict(tensors), backbone.net)
    except Exception:
        # It may read layers of the classifier, which the backbone has not.
        return tensors
    return dict(converted)


def _is_left_out(name: str, backbone: CustomBackbone) -> bool:
    if isinstance(backbone, TimmBackbone):
        return name in backbone.unused_names or name.split(".")[0] in _CLASSIFIERS
    return name.split(".")[0] in _CLASSIFIERS
