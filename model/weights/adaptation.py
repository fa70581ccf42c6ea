"""Weights made under other conventions, for a detector with its own.

What is arithmetic in the first layers - pixel order, mean, deviation, epsilon - is converted; of
the rest one can only be told.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Conventions

# They change what the layers after them see; losses do not.
_TOLD = (
    "anchor_stride",
    "round_anchors",
    "roi_aligned",
    "roi_sampling_ratio",
    "legacy_geometry",
)
_STEM = "backbone.conv1.weight"
_BACKBONE_VARIANCE = r"(backbone|roi_heads\.box\.res5)\..*\.running_var"
_STEM_MEAN = "backbone.bn1.running_mean"


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
        theirs: what the weights take for granted.
        ours: what the detector does.
        whole: there are weights of RPN and heads too.
        dilated: the detector dilates res5.

    Returns:
        The tensors, and in words what was converted and what differs still.
    """
    result, notes = dict(tensors), []
    pixels = ("pixel_order", "pixel_mean", "pixel_std")
    if _STEM in result and any(getattr(theirs, key) != getattr(ours, key) for key in pixels):
        _adapt_pixels(result, theirs, ours)
        notes.append(
            f"converted from {theirs.pixel_order} pixels, mean {theirs.pixel_mean}, deviation "
            f"{theirs.pixel_std}"
        )
    if theirs.norm_epsilon != ours.norm_epsilon:
        # Pyramid and heads have an epsilon of their own, always the same.
        for name in [name for name in result if re.fullmatch(_BACKBONE_VARIANCE, name)]:
            result[name] = result[name].float() + (theirs.norm_epsilon - ours.norm_epsilon)
        notes.append(f"converted from the epsilon {theirs.norm_epsilon:g}")
    told = ["stride_in_1x1", *(_TOLD if whole else ())]
    if dilated and whole:
        told.append("dilate_first_block")
    if "roi_heads.keypoint.upsample.weight" in result:
        told.append("keypoint_coordinates")
    if "backbone.layer1.0.conv3.weight" not in result:
        told.remove("stride_in_1x1")
    for key in told:
        if getattr(theirs, key) != getattr(ours, key):
            notes.append(
                f"these weights were trained with {key} = {getattr(theirs, key)}, the detector "
                f"has {getattr(ours, key)}: set model.conventions.{key} to agree with them"
            )
    return result, tuple(notes)


def folded_norms_note(tensors: Mapping[str, Tensor], norm: str) -> tuple[str, ...]:
    """A word of warning where a norm that learns would forget what the weights rest on.

    Args:
        tensors: under our names.
        norm: ``BackboneConfig.norm`` of the detector.
    """
    mean = tensors.get(_STEM_MEAN)
    if norm == "frozen_bn" or mean is None or mean.any():
        return ()
    return (
        "the statistics of these weights' norms are folded into an affine map, which "
        f"model.backbone.norm = {norm} does not keep: use frozen_bn",
    )


def _adapt_pixels(tensors: dict[str, Tensor], theirs: Conventions, ours: Conventions) -> None:
    """Make the first convolution expect our pixels.

    With p a pixel, theirs is (p - m) / s and ours x = (p - m') / s', so theirs is
    (x s' + m' - m) / s: a factor for each input channel, and a constant that joins the norm's mean.
    The constant is wrong where the convolution reaches over the image, whose border is zero.
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
