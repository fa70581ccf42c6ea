"""torchvision's Faster, Mask and Keypoint R-CNN, its RetinaNet, and plain ResNets, also timm's.

A convolution and its norm are ".0" and ".1" of one module there.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from model.config import TORCHVISION, Conventions, ModelConfig
from model.weights.architecture.detector import describe_detector
from model.weights.classes import sparse_coco_categories
from model.weights.conversion import Conversion, Replacement, StoredWeights, rename_tensors
from model.weights.torchvision.retinanet import (
    RETINANET_RENAMES,
    is_torchvision_retinanet,
    with_their_settings,
    without_background,
)


def _old_mask_layer(match: re.Match[str]) -> str:
    return f"roi_heads.mask.convs.{int(match[1]) - 1}.{match[2]}"


def _fpn_layer(match: re.Match[str]) -> str:
    part = {"inner": "lateral", "layer": "output"}[match[1]]
    return f"fpn.{part}{'_norms' if match[3] == '1' else ''}.{match[2]}.{match[4]}"


def _head_layer(match: re.Match[str]) -> str:
    layers = "norms" if match[3] == "1" else "convs"
    return f"roi_heads.{match[1]}.{layers}.{match[2]}.{match[4]}"


def _keypoint_layer(match: re.Match[str]) -> str:
    # ReLUs are counted along
    return f"roi_heads.keypoint.convs.{int(match[1]) // 2}.{match[2]}"


# Older files name the layers of FPN, RPN and mask head without the ".0" of later ones.
_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"backbone\.body\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.([01]))?\.(\w+)", _fpn_layer),
    (r"rpn\.head\.conv\.(\d+)\.0\.(\w+)", r"rpn.head.convs.\1.\2"),
    (r"rpn\.head\.conv\.(\w+)", r"rpn.head.convs.0.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.head.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(\w+)", r"roi_heads.box.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(\w+)", r"roi_heads.box.fc2.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"roi_heads.box.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"roi_heads.box.box_deltas.\1"),
    (r"roi_heads\.(mask|box)_head\.(\d)\.([01])\.(\w+)", _head_layer),
    # After four convolutions and what flattens their maps.
    (r"roi_heads\.box_head\.5\.(\w+)", r"roi_heads.box.fc1.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", _old_mask_layer),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", r"roi_heads.mask.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", r"roi_heads.mask.logits.\1"),
    (r"roi_heads\.keypoint_head\.(\d+)\.(\w+)", _keypoint_layer),
    (
        r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(\w+)",
        r"roi_heads.keypoint.upsample.\1",
    ),
)
_BACKBONE_RENAMES = ((r"((?:conv1|bn1|layer[1-4]\.\d+)\..*)", r"backbone.\1"),)
_BACKBONE_UNNEEDED = ((r"fc\.(weight|bias)", "ImageNet's classifier"),)


def is_torchvision_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a torchvision R-CNN on an FPN."""
    return "backbone.body.conv1.weight" in state and any(
        name.startswith("backbone.fpn.") for name in state
    )


def is_torchvision_backbone(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a plain ResNet, such as torchvision's or timm's."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state


def convert_torchvision(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """A torchvision detector under our names.

    Args:
        stored: what :func:`is_torchvision_detector` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    renamed = rename_tensors(stored.tensors, (*_RENAMES, *RETINANET_RENAMES))
    if is_torchvision_retinanet(stored.tensors):
        renamed = without_background(renamed)
    # v1 weights were made when FrozenBatchNorm2d added no epsilon; BatchNorm2d always did.
    trained_norm = "backbone.body.bn1.num_batches_tracked" in stored.tensors
    conventions = TORCHVISION.model_copy(update={"norm_epsilon": 1e-5} if trained_norm else {})
    described = describe_detector("torchvision", renamed, conventions, config)
    conversion = with_their_settings(described, config.retinanet)
    sparse = sparse_coco_categories()
    known = conversion.config is not None and conversion.config.num_classes == len(sparse)
    return replace(conversion, categories=sparse) if known else conversion


def convert_torchvision_backbone(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """A plain ResNet of torchvision or timm under our names.

    Args:
        stored: what :func:`is_torchvision_backbone` recognised.
        config: without meaning here.
    """
    renamed = rename_tensors(stored.tensors, _BACKBONE_RENAMES, _BACKBONE_UNNEEDED)
    # The defaults are those of torchvision's classifiers: RGB, their mean and deviation.
    return describe_detector("torchvision or timm", renamed, Conventions(), config)
