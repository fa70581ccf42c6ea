"""maskrcnn-benchmark's names.

A layer and its norm may be one module, with numbers 0 and 1. Lists of layers number ReLUs too.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model.weights.conversion import Renames, Replacement

IGNORED = ((r"rpn\.anchor_generator\..*", "anchors follow from the config"),)

_TAIL = r"\.(weight|bias)"
_NORM_TAIL = r"(?:\.([01]))?" + _TAIL
_BOX, _MASK, _KEYPOINT = (rf"roi_heads\.{head}\." for head in ("box", "mask", "keypoint"))
_XCONVS = "roi_heads.box.feature_extractor.xconvs"
_DEFORMABLE = {"conv2.conv.": "conv2.", "conv2.offset.": "conv2_offset.", None: ""}


def renames_from(tensors: Mapping[str, Tensor]) -> Renames:
    """Return the patterns of maskrcnn-benchmark's names with ours, for a model of these tensors."""
    if any(name.startswith("rpn.head.cls_tower.") for name in tensors):
        return (*_BACKBONE, *_pyramid(finest=2), *_RETINANET)
    has_norms = f"{_XCONVS}.1.weight" in tensors
    return (
        *_BACKBONE,
        *_pyramid(finest=1),
        *_RPN,
        *_BOX_HEAD,
        _box_convolutions(has_norms),
        *_MASK_AND_KEYPOINT_HEAD,
    )


def _block(match: re.Match[str]) -> str:
    owner, stage, number, deformable, layer = match.groups()
    ours = f"backbone.{stage}" if owner == "backbone.body" else "roi_heads.box.res5"
    return f"{ours}.{number}.{_DEFORMABLE[deformable]}{layer}"


def _pyramid(finest: int) -> Renames:
    """Return the names of levels numbered from ``finest``."""

    def layer(match: re.Match[str]) -> str:
        part, level, index, kind = match.groups()
        layers = {"inner": "lateral", "layer": "output"}[part] + ("_norms" if index == "1" else "")
        return f"fpn.{layers}.{int(level) - finest}.{kind}"

    return (
        (r"backbone\.fpn\.fpn_(inner|layer)(\d)" + _NORM_TAIL, layer),
        (r"backbone\.fpn\.top_blocks\.(p[67])" + _TAIL, r"fpn.\1.\2"),
    )


def _box_convolutions(has_norms: bool) -> tuple[str, Replacement]:
    kinds = ("convs", "norms") if has_norms else ("convs",)

    def layer(match: re.Match[str]) -> str:
        number, index = divmod(int(match[1]), len(kinds) + 1)
        if index == len(kinds):
            return match[0]  # the number of a ReLU, which has no tensors
        return f"roi_heads.box.{kinds[index]}.{number}.{match[2]}"

    return (re.escape(_XCONVS) + r"\.(\d+)" + _TAIL, layer)


def _hidden_layer(match: re.Match[str]) -> str:
    number, layers = int(match[1]) - 6, "fc_norms." if match[2] == "1" else "fc"
    return f"roi_heads.box.{layers}{number + (layers == 'fc')}.{match[3]}"


def _mask_layer(match: re.Match[str]) -> str:
    layers = "norms" if match[2] == "1" else "convs"
    return f"roi_heads.mask.{layers}.{int(match[1]) - 1}.{match[3]}"


def _keypoint_layer(match: re.Match[str]) -> str:
    return f"roi_heads.keypoint.convs.{int(match[1]) - 1}.{match[2]}"


def _tower_layer(match: re.Match[str]) -> str:
    number, is_relu = divmod(int(match[2]), 2)
    part = {"cls": "class", "bbox": "box"}[match[1]]
    return match[0] if is_relu else f"retinanet.{part}_tower.{number}.{match[3]}"


_BACKBONE: Renames = (
    (r"backbone\.body\.stem\.(.*)", r"backbone.\1"),
    (
        r"(backbone\.body|roi_heads\.box\.feature_extractor\.head)\.(layer\d)\.(\d+)\."
        r"(conv2\.(?:conv|offset)\.)?(.*)",
        _block,
    ),
)
_RETINANET: Renames = (
    (r"rpn\.head\.(cls|bbox)_tower\.(\d+)" + _TAIL, _tower_layer),
    (r"rpn\.head\.cls_logits" + _TAIL, r"retinanet.class_logits.\1"),
    (r"rpn\.head\.bbox_pred" + _TAIL, r"retinanet.box_deltas.\1"),
)
_RPN: Renames = (
    (r"rpn\.head\.conv" + _TAIL, r"rpn.head.convs.0.\1"),
    (r"rpn\.head\.cls_logits" + _TAIL, r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred" + _TAIL, r"rpn.head.deltas.\1"),
)
_BOX_HEAD: Renames = (
    (_BOX + r"feature_extractor\.fc([67])" + _NORM_TAIL, _hidden_layer),
    (_BOX + r"predictor\.cls_score" + _TAIL, r"roi_heads.box.class_logits.\1"),
    (_BOX + r"predictor\.bbox_pred" + _TAIL, r"roi_heads.box.box_deltas.\1"),
)
_MASK_AND_KEYPOINT_HEAD: Renames = (
    (_MASK + r"feature_extractor\.mask_fcn(\d)" + _NORM_TAIL, _mask_layer),
    (_MASK + r"predictor\.conv5_mask" + _TAIL, r"roi_heads.mask.upsample.\1"),
    (_MASK + r"predictor\.mask_fcn_logits" + _TAIL, r"roi_heads.mask.logits.\1"),
    (_KEYPOINT + r"feature_extractor\.conv_fcn(\d)" + _TAIL, _keypoint_layer),
    (_KEYPOINT + r"predictor\.kps_score_lowres" + _TAIL, r"roi_heads.keypoint.upsample.\1"),
)
