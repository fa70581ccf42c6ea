"""Which published weights fit an architecture."""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.weights.published.table import PublishedWeights, published_weights
from model.weights.published.timm_weights import timm_weights
from model.weights.report import WeightsError
from model.weights.setting_origins import ORIGINS, Origin

# Layers of the same shape: batch norms whose statistics and scales are frozen, or not.
_SAME_NORM = {"frozen_bn": "batch_norm", "sync_batch_norm": "batch_norm"}

# What the tensors of a detector show: settings that must be equal. The number of classes need not
# be, and deformable layers begin as plain ones on a backbone.
_ARCHITECTURE = (
    *(
        key
        for key, origin in ORIGINS.items()
        if origin is Origin.TENSORS and not key.startswith(("num_classes", "backbone."))
    ),
    "box.pool_side",
)
_BACKBONE = ("depth", "width", "groups", "norm")


def find_published(word: str, config: ModelConfig) -> PublishedWeights:
    """Return the published weights of a detector, or of its backbone.

    Of several that fit, those with the pixel order and the stride that the config states are
    preferred; torchvision's come before others.

    Args:
        word: ``imagenet`` for the backbone alone, ``coco`` for the whole detector.
        config: the detector.

    Raises:
        WeightsError: none fit; lists those that exist.
    """
    if not config.backbone.is_resnet:
        return _of_other_backbone(word, config)
    fits = _is_backbone_of if word == "imagenet" else _is_detector_of
    fitting = [each for each in published_weights(word) if fits(each.config, config)]
    if not fitting:
        what = "backbone" if word == "imagenet" else "detector"
        existing = ", ".join(each.model for each in published_weights(word))
        raise WeightsError(
            f"no {word} weights are published for this {what} ({_describe(word, config)}); they "
            f"exist for: {existing}. Name a file instead, or choose one of these"
        )
    stated = config.conventions.model_fields_set & {"pixel_order", "stride_in_1x1"}
    return max(
        fitting,  # the first of equal ones
        key=lambda each: sum(
            getattr(each.config.conventions, name) == getattr(config.conventions, name)
            for name in stated
        ),
    )


def _of_other_backbone(word: str, config: ModelConfig) -> PublishedWeights:
    if word == "imagenet" and config.backbone.timm is not None:
        return timm_weights(config)
    backbone = config.backbone.timm or config.backbone.function
    raise WeightsError(f"no {word} weights are published for {backbone}; name a file instead")


def _is_backbone_of(published: ModelConfig, config: ModelConfig) -> bool:
    strides = [each.conventions.stride_in_1x1 for each in (published, config)]
    # Basic blocks have no 1x1 convolution.
    return _has_backbone_of(published, config) and (
        config.backbone.depth < 50 or strides[0] == strides[1]
    )


def _has_backbone_of(published: ModelConfig, config: ModelConfig) -> bool:
    theirs, ours = _values(published.backbone), _values(config.backbone)
    grouped = ("group_width",) if config.backbone.groups > 1 else ()
    return all(theirs[key] == ours[key] for key in (*_BACKBONE, *grouped))


def _is_detector_of(published: ModelConfig, config: ModelConfig) -> bool:
    theirs, ours = published.backbone, config.backbone
    deformable = [
        (each.deformable, each.deformable_stages if each.deformable != "none" else ())
        for each in (theirs, ours)
    ]
    return (
        _has_backbone_of(published, config)
        and theirs.features == ours.features
        and deformable[0] == deformable[1]
        and all(_value(published, key) == _value(config, key) for key in _ARCHITECTURE)
    )


def _values(section: Any) -> Mapping[str, Any]:
    return {
        name: _SAME_NORM.get(value, value) if isinstance(value, str) else value
        for name, value in section
    }


def _value(config: ModelConfig, key: str) -> Any:
    """Return a setting by its dotted key; of a head itself, whether it exists."""
    section, _, name = key.rpartition(".")
    if not section:
        return getattr(config, name) is not None
    owner = getattr(config, section)
    return None if owner is None else _values(owner)[name]


def _describe(word: str, config: ModelConfig) -> str:
    """Return the architecture in the words of its settings."""
    backbone = config.backbone
    parts = [f"depth {backbone.depth}", f"norm {backbone.norm}"]
    if backbone.groups > 1:
        parts.append(f"{backbone.groups} groups of {backbone.group_width}")
    if backbone.width != ModelConfig().backbone.width:
        parts.append(f"width {backbone.width}")
    if word == "imagenet":
        return ", ".join([*parts, f"stride_in_1x1 {str(config.conventions.stride_in_1x1).lower()}"])
    heads = [name for name in ("box", "mask", "keypoint", "retinanet") if getattr(config, name)]
    described = f"heads {', '.join(heads)}" if heads else "no heads"
    return ", ".join([*parts, f"features {backbone.features}", described])
