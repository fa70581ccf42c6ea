"""Detectron's Caffe2 weights: Faster and Mask R-CNN on ResNet-FPN, and ImageNet backbones.

Its layers bear the names of Caffe2 blobs: ``res2_0_branch2a_w``, ``fpn_inner_res5_2_sum_w``. Its
norms are affine maps, "scale" and "bias" alone, the statistics being folded into them; fully
connected layers flatten channel, row, column, class 0 is the background: as ours.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.config import ModelConfig
from model.weights.architecture import describe_detector
from model.weights.conversion import Conversion, Replacement, StoredWeights, rename_tensors
from model.weights.legacy import LEGACY, one_box_for_all, refuse_unbuilt

_BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_NORMS = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
_KINDS = {"w": "weight", "s": "weight", "b": "bias"}


def _block(match: re.Match[str]) -> str:
    stage, block, branch, norm, kind = match.groups()
    layer = (_NORMS if norm else _BRANCHES)[branch]
    return f"backbone.layer{int(stage) - 1}.{block}.{layer}.{_KINDS[kind]}"


def _layer(template: str) -> Replacement:
    """A name in which {0} is the first group less one or two, and the last group is w or b."""

    def name(match: re.Match[str]) -> str:
        *numbers, kind = match.groups()
        return template.format(*map(int, numbers)) + "." + _KINDS[kind]

    return name


def _level(part: str) -> Replacement:
    def name(match: re.Match[str]) -> str:
        return f"fpn.{part}.{int(match[1]) - 2}.{_KINDS[match[2]]}"

    return name


def _mask_layer(match: re.Match[str]) -> str:
    return f"roi_heads.mask.convs.{int(match[1]) - 1}.{_KINDS[match[2]]}"


_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"conv1_(w)", _layer("backbone.conv1")),
    (r"res_conv1_bn_([sb])", _layer("backbone.bn1")),
    (r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_(?:(bn)_)?([wsb])", _block),
    (r"fpn_inner_res([2-5])_\d+_sum(?:_lateral)?_([wb])", _level("lateral")),
    (r"fpn_res([2-5])_\d+_sum_([wb])", _level("output")),
    # Defined for level 2 and shared by all.
    (r"conv_rpn_fpn2_([wb])", _layer("rpn.head.convs.0")),
    (r"rpn_cls_logits_fpn2_([wb])", _layer("rpn.head.objectness")),
    (r"rpn_bbox_pred_fpn2_([wb])", _layer("rpn.head.deltas")),
    (r"fc6_([wb])", _layer("roi_heads.box.fc1")),
    (r"fc7_([wb])", _layer("roi_heads.box.fc2")),
    (r"cls_score_([wb])", _layer("roi_heads.box.class_logits")),
    (r"bbox_pred_([wb])", _layer("roi_heads.box.box_deltas")),
    (r"_\[mask\]_fcn(\d)_([wb])", _mask_layer),
    (r"conv5_mask_([wb])", _layer("roi_heads.mask.upsample")),
    (r"mask_fcn_logits_([wb])", _layer("roi_heads.mask.logits")),
)
_UNNEEDED = (
    (r".*_momentum", "the optimiser's"),
    (r"lr|weight_order|model_iter|optimizer_iteration.*", "the training's state"),
    (r"(fc1000|pred)_[wb]", "ImageNet's classifier"),
    (r"conv1_b", "Detectron's first convolution has no bias"),
)
_UNBUILT = {
    "_gn_s": "GroupNorm in the pyramid and the heads",
    "kps_score": "Keypoint R-CNN",
    "retnet_": "RetinaNet",
    "conv_rpn_w": "a detector without a pyramid (C4)",
}

_NOT_HONOURED = (
    "images are resized without antialiasing",
    "boxes are refined, cut and compared in pixels of the original image, not of the resized one "
    "(less than 1 pixel)",
)


def is_detectron(stored: StoredWeights) -> bool:
    """Whether these are weights of Detectron, or a backbone in its format."""
    return "conv1_w" in stored.tensors and "res2_0_branch2a_w" in stored.tensors


def convert_detectron(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_detectron` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    refuse_unbuilt(stored.tensors, _UNBUILT)
    renamed = rename_tensors(stored.tensors, _RENAMES, _UNNEEDED)
    renamed.tensors.update(one_box_for_all(renamed.tensors))
    renamed.tensors.update(_identity_statistics(renamed.tensors))
    conversion = describe_detector("Detectron", renamed, LEGACY, config)
    return replace(conversion, not_honoured=_NOT_HONOURED) if conversion.config else conversion


def _identity_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean 0 and variance 1 for every affine map; there is no epsilon beside it."""
    norms = [n.removesuffix("weight") for n in tensors if re.search(r"(bn\d|downsample\.1)\.w", n)]
    return {
        name: tensor
        for norm in norms
        for name, tensor in (
            (f"{norm}running_mean", torch.zeros_like(tensors[f"{norm}weight"])),
            (f"{norm}running_var", torch.ones_like(tensors[f"{norm}weight"])),
        )
    }
