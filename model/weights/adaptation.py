"""Weights of one set of conventions in a detector with another.

Pixel order, mean, standard deviation and epsilon are arithmetic in the first layers and are
converted. All other differences can only be reported.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Conventions
from model.weights.architecture.heads import has_keypoint_head

# They change what later layers see. Conventions of losses do not, and are not reported.
_REPORTED = (
    "anchor_stride",
    "round_anchors",
    "roi_aligned",
    "roi_sampling_ratio",
    "legacy_geometry",
)
_STEM = "backbone.conv1.weight"
_STEM_MEAN = "backbone.bn1.running_mean"
_BACKBONE_VARIANCE = r"(backbone|roi_heads\.box\.res5)\..*\.running_var"


def adapt_to_conventions(
    tensors: Mapping[str, Tensor],
    theirs: Conventions,
    ours: Conventions,
    whole: bool,
    dilated: bool = False,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Convert weights from their conventions to the detector's.

    Args:
        tensors: under our names.
        theirs: what the weights assume.
        ours: what the detector does.
        whole: the weights include RPN and heads.
        dilated: the detector dilates res5.

    Returns:
        The tensors, and notes on what was converted and what still differs.
    """
    result, notes = dict(tensors), []
    pixels = ("pixel_order", "pixel_mean", "pixel_std")
    if _STEM in result and any(getattr(theirs, key) != getattr(ours, key) for key in pixels):
        _adapt_pixels(result, theirs, ours)
        notes.append(
            f"converted from {theirs.pixel_order} pixels, mean {theirs.pixel_mean}, standard "
            f"deviation {theirs.pixel_std}"
        )
    if theirs.norm_epsilon != ours.norm_epsilon:
        # The norms of pyramid and heads have the same epsilon everywhere.
        for name in [name for name in result if re.fullmatch(_BACKBONE_VARIANCE, name)]:
            result[name] = result[name].float() + (theirs.norm_epsilon - ours.norm_epsilon)
        notes.append(f"converted from the norm epsilon {theirs.norm_epsilon:g}")
    for key in _relevant_conventions(result, whole, dilated):
        if getattr(theirs, key) != getattr(ours, key):
            notes.append(
                f"these weights were trained with {key} = {getattr(theirs, key)}, the detector "
                f"has {getattr(ours, key)}: to follow the weights, set model.conventions.{key}"
            )
    return result, tuple(notes)


def _relevant_conventions(tensors: Mapping[str, Tensor], whole: bool, dilated: bool) -> list[str]:
    """List the conventions that matter to these weights and cannot be converted."""
    # Basic blocks have no 1x1 convolution: they stride in the first 3x3 either way.
    relevant = ["stride_in_1x1"] if "backbone.layer1.0.conv3.weight" in tensors else []
    if whole:
        relevant += _REPORTED
        if dilated:
            relevant.append("dilate_first_block")
    if has_keypoint_head(tensors):
        relevant.append("keypoint_coordinates")
    return relevant


def warn_about_folded_norms(tensors: Mapping[str, Tensor], norm: str) -> tuple[str, ...]:
    """Return a note if the detector's norm would discard what the weights depend on.

    Args:
        tensors: under our names.
        norm: ``BackboneConfig.norm`` of the detector.
    """
    mean = tensors.get(_STEM_MEAN)
    if norm == "frozen_bn" or mean is None or mean.any():
        return ()
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
