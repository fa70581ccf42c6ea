"""torchvision's names.

A convolution and its norm are one module, with numbers 0 and 1. Older files name the layers of FPN,
RPN, mask head and RetinaNet without the ".0", and number ReLUs too.
"""

import re

from model.weights.conversion import Renames


def _fpn_layer(match: re.Match[str]) -> str:
    part = {"inner": "lateral", "layer": "output"}[match[1]]
    return f"fpn.{part}{'_norms' if match[3] == '1' else ''}.{match[2]}.{match[4]}"


def _head_layer(match: re.Match[str]) -> str:
    layers = "norms" if match[3] == "1" else "convs"
    return f"roi_heads.{match[1]}.{layers}.{match[2]}.{match[4]}"


def _old_mask_layer(match: re.Match[str]) -> str:
    return f"roi_heads.mask.convs.{int(match[1]) - 1}.{match[2]}"


def _keypoint_layer(match: re.Match[str]) -> str:
    # Their numbers count ReLUs too.
    return f"roi_heads.keypoint.convs.{int(match[1]) // 2}.{match[2]}"


_TOWERS = {"classification": "class", "regression": "box"}


def _tower_layer(match: re.Match[str]) -> str:
    part = "tower" if match[3] == "0" else "norms"
    return f"retinanet.{_TOWERS[match[1]]}_{part}.{match[2]}.{match[4]}"


def _old_tower_layer(match: re.Match[str]) -> str:
    return f"retinanet.{_TOWERS[match[1]]}_tower.{int(match[2]) // 2}.{match[3]}"


DETECTOR_RENAMES: Renames = (
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
    # In a box head of convolutions: number 5, after four convolutions and a flattening.
    (r"roi_heads\.box_head\.5\.(\w+)", r"roi_heads.box.fc1.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", _old_mask_layer),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", r"roi_heads.mask.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", r"roi_heads.mask.logits.\1"),
    (r"roi_heads\.keypoint_head\.(\d+)\.(\w+)", _keypoint_layer),
    (
        r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(\w+)",
        r"roi_heads.keypoint.upsample.\1",
    ),
    (r"backbone\.fpn\.extra_blocks\.(p[67])\.(\w+)", r"fpn.\1.\2"),
    (r"head\.(\w+)_head\.conv\.(\d)\.([01])\.(\w+)", _tower_layer),
    (r"head\.(\w+)_head\.conv\.(\d)\.(\w+)", _old_tower_layer),
    (r"head\.classification_head\.cls_logits\.(\w+)", r"retinanet.class_logits.\1"),
    (r"head\.regression_head\.bbox_reg\.(\w+)", r"retinanet.box_deltas.\1"),
)
BACKBONE_RENAMES: Renames = ((r"((?:conv1|bn1|layer[1-4]\.\d+)\..*)", r"backbone.\1"),)
BACKBONE_IGNORED = ((r"fc\.(weight|bias)", "ImageNet classifier"),)
