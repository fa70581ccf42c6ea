"""Training that starts from weights of other conventions: the detector's are used.

Pixel order, mean, standard deviation and epsilon are arithmetic in the first layers and are
converted. All other differences can only be reported.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Conventions, ModelConfig
from model.weights.architecture.heads import has_keypoint_head
from model.weights.architecture.retinanet import is_retinanet
from model.weights.conflicts import Conflict
from model.weights.setting_origins import ORIGINS, Origin
from model.weights.stated_settings import has_section, setting_of

_PIXELS = ("pixel_order", "pixel_mean", "pixel_std")
_STEM = "backbone.conv1.weight"
_STEM_MEAN = "backbone.bn1.running_mean"
_STEM_SHIFT = "backbone.bn1.bias"
_BACKBONE_VARIANCE = r"(backbone|roi_heads\.box\.res5)\..*\.running_var"


def adapt_to_conventions(
    tensors: Mapping[str, Tensor],
    theirs: Conventions,
    ours: Conventions,
    whole: bool,
    dilated: bool = False,
) -> tuple[dict[str, Tensor], tuple[Conflict, ...]]:
    """Convert weights from their conventions to the detector's.

    Args:
        tensors: under our names.
        theirs: what the weights assume.
        ours: what the detector does.
        whole: the weights include RPN and heads.
        dilated: the detector dilates res5.

    Returns:
        The tensors, and the conventions that were converted or still differ.
    """
    result = dict(tensors)
    relevant = _relevant_conventions(result, whole, dilated)
    differing = [
        key
        for key in Conventions.model_fields
        if key in relevant and getattr(theirs, key) != getattr(ours, key)
    ]
    if any(key in differing for key in _PIXELS):
        _adapt_pixels(result, theirs, ours)
    if "norm_epsilon" in differing:
        # The norms of pyramid and heads have the same epsilon everywhere.
        for name in [name for name in result if re.fullmatch(_BACKBONE_VARIANCE, name)]:
            result[name] = result[name].float() + (theirs.norm_epsilon - ours.norm_epsilon)
    return result, tuple(
        Conflict(
            f"conventions.{key}",
            getattr(theirs, key),
            getattr(ours, key),
            converted=key in (*_PIXELS, "norm_epsilon"),
        )
        for key in differing
    )


def _relevant_conventions(tensors: Mapping[str, Tensor], whole: bool, dilated: bool) -> set[str]:
    """Return the conventions that matter to these weights."""
    relevant = set(Conventions.model_fields) if whole else {*_PIXELS, "norm_epsilon"}
    if _STEM not in tensors:
        relevant -= {*_PIXELS}
    # Basic blocks have no 1x1 convolution: they stride in the first 3x3 either way.
    conditions = {
        "stride_in_1x1": "backbone.layer1.0.conv3.weight" in tensors,
        "dilate_first_block": whole and dilated,
        "keypoint_coordinates": has_keypoint_head(tensors),
        "relu_before_p7": is_retinanet(tensors),
    }
    matter = {key for key, is_met in conditions.items() if is_met}
    return relevant - conditions.keys() | matter


def list_other_settings(theirs: ModelConfig, ours: ModelConfig) -> tuple[Conflict, ...]:
    """List the settings besides conventions that weights were trained with and a detector changes.

    Anchors, delta weights and the like mean the same only on the same feature maps.

    Args:
        theirs: config of the detector that the weights fill.
        ours: config of the detector to be trained.
    """
    if theirs.backbone.features != ours.backbone.features:
        return ()
    keys = [
        key
        for key, origin in ORIGINS.items()
        if origin is Origin.LIBRARY
        and not key.startswith("conventions.")
        and key not in ("backbone.norm", "keypoint.names")
        and has_section(theirs, key)
        and has_section(ours, key)
    ]
    return tuple(
        Conflict(key, setting_of(theirs, key), setting_of(ours, key))
        for key in keys
        if setting_of(theirs, key) != setting_of(ours, key)
    )


def warn_about_folded_norms(tensors: Mapping[str, Tensor], norm: str) -> tuple[str, ...]:
    """Return a note if the detector's norm would discard what the weights depend on.

    Args:
        tensors: under our names.
        norm: ``BackboneConfig.norm`` of the detector.
    """
    mean, shift = tensors.get(_STEM_MEAN), tensors.get(_STEM_SHIFT)
    if norm == "frozen_bn" or mean is None or mean.any():
        return ()
    if shift is None or not shift.any():
        return ()  # not trained yet: the statistics are those of a new norm
    return (
        "the norm statistics of these weights are folded into an affine map, which "
        f"model.backbone.norm = {norm} does not keep: use frozen_bn",
    )


def _adapt_pixels(tensors: dict[str, Tensor], theirs: Conventions, ours: Conventions) -> None:
    """Make the first convolution expect our pixels.

    For a pixel p, theirs is (p - m) / s and ours is x = (p - m') / s', so theirs is
    (x s' + m' - m) / s: a factor per input channel, and a constant that goes into the norm's mean.
    The constant is wrong where the convolution reaches over the image's border, which is zero.
    """
    weight = tensors[_STEM].float()
    if theirs.pixel_order != ours.pixel_order:
        weight = weight.flip(1)
    mean, std = _in_order(theirs, ours.pixel_order)
    own_mean, own_std = torch.tensor(ours.pixel_mean), torch.tensor(ours.pixel_std)
    constant = torch.einsum("oihw,i->o", weight, (own_mean - mean) / std)
    tensors[_STEM] = weight * (own_std / std).view(1, 3, 1, 1)
    if _STEM_MEAN in tensors:
        tensors[_STEM_MEAN] = tensors[_STEM_MEAN].float() - constant


def _in_order(conventions: Conventions, order: str) -> tuple[Tensor, Tensor]:
    values = torch.tensor([conventions.pixel_mean, conventions.pixel_std])
    mean, std = values if conventions.pixel_order == order else values.flip(1)
    return mean, std
