"""Detectron's names: Caffe2 blobs.

A layer's weight and bias end in ``_w`` and ``_b``. A norm is named after its layer, with ``_bn`` or
``_gn``, and has a scale ``_s`` and a bias ``_b``.
"""

import re

from model.weights.conversion import Renames, Replacement

IGNORED = (
    (r".*_momentum", "optimizer state"),
    (r"lr|weight_order|model_iter|optimizer_iteration.*", "training state"),
    (r"(fc1000|pred)_[wb]", "ImageNet classifier"),
    (r"conv1_b", "Detectron's first convolution has no bias"),
)

_KINDS = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_NORMS = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
_TAIL = r"_([wb])"
# Of a layer that may have group norm.
_GN_TAIL = r"(_gn)?_([wbs])"


def renames_to(res5: str, finest: int) -> Renames:
    """Return the patterns of Detectron's names with ours.

    Args:
        res5: our name of it, in the backbone or the box head.
        finest: the stage that the finest level of the pyramid is made of.
    """
    stages = {"2": "backbone.layer1", "3": "backbone.layer2", "4": "backbone.layer3", "5": res5}

    def block(match: re.Match[str]) -> str:
        stage, number, branch, norm, kind = match.groups()
        layer = (_NORMS if norm else _BRANCHES)[branch]
        return f"{stages[stage]}.{number}.{layer}.{_KINDS[kind]}"

    def level(part: str) -> Replacement:
        def name(match: re.Match[str]) -> str:
            stage, norm, kind = match.groups()
            layers = f"{part}_norms" if norm else part
            return f"fpn.{layers}.{int(stage) - finest}.{_KINDS[kind]}"

        return name

    return (
        (r"conv1_(w)", _layer("backbone.conv1")),
        (r"(?:res_)?conv1_(?:bn|gn)_([sb]|rm|riv)", _layer("backbone.bn1")),
        (r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_(?:(bn|gn)_)?([wsb]|rm|riv)", block),
        (r"fpn_inner_res([2-5])_\d+_sum(?:_lateral)?" + _GN_TAIL, level("lateral")),
        (r"fpn_res([2-5])_\d+_sum" + _GN_TAIL, level("output")),
        (r"fpn_6" + _TAIL, _layer("fpn.p6")),
        (r"fpn_7" + _TAIL, _layer("fpn.p7")),
        *_HEADS,
    )


def _layer(name: str) -> Replacement:
    return lambda match: f"{name}.{_KINDS[match[1]]}"


def _numbered(template: str, first: int = 1) -> Replacement:
    """Name a layer by its number; theirs count from ``first``, ours from 0."""
    return lambda match: template.format(int(match[1]) - first) + f".{_KINDS[match[2]]}"


def _head_layer(head: str) -> Replacement:
    """Name a convolution or norm of a head; theirs count from 1, ours from 0."""

    def name(match: re.Match[str]) -> str:
        number, norm, kind = match.groups()
        return f"roi_heads.{head}.{'norms' if norm else 'convs'}.{int(number) - 1}.{_KINDS[kind]}"

    return name


# With a pyramid, all levels share the layers defined for the finest: level 2, or RetinaNet's 3.
_HEADS: Renames = (
    (r"conv_rpn(?:_fpn2)?" + _TAIL, _layer("rpn.head.convs.0")),
    (r"rpn_cls_logits(?:_fpn2)?" + _TAIL, _layer("rpn.head.objectness")),
    (r"rpn_bbox_pred(?:_fpn2)?" + _TAIL, _layer("rpn.head.deltas")),
    (r"head_conv(\d+)" + _GN_TAIL, _head_layer("box")),
    (r"fc6" + _TAIL, _layer("roi_heads.box.fc1")),
    (r"fc7" + _TAIL, _layer("roi_heads.box.fc2")),
    (r"cls_score" + _TAIL, _layer("roi_heads.box.class_logits")),
    (r"bbox_pred" + _TAIL, _layer("roi_heads.box.box_deltas")),
    (r"(?:_\[mask\]|_mask)_fcn(\d+)" + _GN_TAIL, _head_layer("mask")),
    (r"conv5_mask" + _TAIL, _layer("roi_heads.mask.upsample")),
    (r"mask_fcn_logits" + _TAIL, _layer("roi_heads.mask.logits")),
    (r"conv_fcn(\d+)" + _TAIL, _numbered("roi_heads.keypoint.convs.{}")),
    (r"kps_score_lowres" + _TAIL, _layer("roi_heads.keypoint.upsample")),
    (r"retnet_cls_conv_n(\d+)_fpn3" + _TAIL, _numbered("retinanet.class_tower.{}", 0)),
    (r"retnet_bbox_conv_n(\d+)_fpn3" + _TAIL, _numbered("retinanet.box_tower.{}", 0)),
    (r"retnet_cls_pred_fpn3" + _TAIL, _layer("retinanet.class_logits")),
    (r"retnet_bbox_pred_fpn3" + _TAIL, _layer("retinanet.box_deltas")),
)
