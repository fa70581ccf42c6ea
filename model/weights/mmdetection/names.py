"""MMDetection's names.

A convolution and its norm are one module with parts ``conv`` and ``bn`` or ``gn``. The backbone has
torchvision's names, as ours has, except for group norm and deformable convolutions.
"""

import re
from collections.abc import Iterable

from model.weights.conversion import Renames, Replacement

_TAIL = r"\.(weight|bias)"
_PART = r"\.(conv|bn|gn)\.(\w+)"
_TOWERS = {"cls": "class", "reg": "box"}

IGNORED = (
    # mmcv's EMAHook exchanges the two before it saves.
    (r"ema_\w+", "weights before averaging; the averaged ones have the usual names"),
    (r"data_preprocessor\..*", "kept as a convention"),
)
UNSUPPORTED = {
    "bbox_head.0.": "Cascade R-CNN",
    "mask_head.0.": "Cascade Mask R-CNN",
    "mask_iou_head.": "Mask Scoring R-CNN",
    "semantic_head.": "a semantic branch (HTC, SCNet)",
    "point_head.": "PointRend",
    "grid_head.": "Grid R-CNN",
    "neck.pafpn_convs.": "PAFPN",
    "neck.upsample_modules.": "CARAFE",
    "neck.0.": "a sequence of necks (Libra R-CNN, DyHead)",
    "backbone.stem.": "ResNet-C, ResNet-D or ResNeSt, which have a deep stem",
    ".layer1.0.convs.": "Res2Net",
    "backbone.stage2.": "HRNet",
    "backbone.stages.": "Swin, ConvNeXt or another backbone in stages",
    ".context_block": "GCNet",
    ".gen_attention_block": "generalized attention",
    ".offset_fc.": "deformable ROI pooling",
    "bbox_head.conv_cls.": "FCOS or a detector like it",
    "bbox_head.atss_": "ATSS or a detector like it",
    "bbox_head.gfl_": "GFL or a detector like it",
    "bbox_head.convs_pred.": "YOLOv3",
    "bbox_head.multi_level_": "YOLOX or RTMDet",
    "bbox_head.rtm_": "RTMDet",
    "bbox_head.transformer.": "DETR or a detector like it",
    "query_embedding.": "DETR or a detector like it",
    "query_feat.": "Mask2Former",
}


def renames_from(names: Iterable[str]) -> Renames:
    """Return the patterns of MMDetection's names with ours.

    Args:
        names: all names of the file. The layers of P6 and P7 continue the numbers of the other
            levels, whose count the names reveal.
    """
    laterals = {m[1] for name in names if (m := re.match(r"neck\.lateral_convs\.(\d+)\.", name))}
    return (
        (r"backbone\.gn1\.(\w+)", r"backbone.bn1.\1"),
        (r"(backbone|roi_head\.shared_head)\.(layer\d\.\d+\..*)", _block_layer),
        (r"neck\.lateral_convs\.(\d+)" + _PART, _numbered("fpn.lateral", "fpn.lateral_norms")),
        (r"neck\.fpn_convs\.(\d+)" + _PART, _output_layer(len(laterals))),
        (r"rpn_head\.rpn_conv" + _TAIL, r"rpn.head.convs.0.\1"),
        (r"rpn_head\.rpn_conv\.(\d+)\.conv" + _TAIL, r"rpn.head.convs.\1.\2"),
        (r"rpn_head\.rpn_cls" + _TAIL, r"rpn.head.objectness.\1"),
        (r"rpn_head\.rpn_reg" + _TAIL, r"rpn.head.deltas.\1"),
        (r"roi_head\.bbox_head\.shared_convs\.(\d+)" + _PART, _head_layer("box")),
        (r"roi_head\.bbox_head\.shared_fcs\.(\d+)" + _TAIL, _hidden_layer),
        (r"roi_head\.bbox_head\.fc_cls" + _TAIL, r"roi_heads.box.class_logits.\1"),
        (r"roi_head\.bbox_head\.fc_reg" + _TAIL, r"roi_heads.box.box_deltas.\1"),
        (r"roi_head\.mask_head\.convs\.(\d+)" + _PART, _head_layer("mask")),
        (r"roi_head\.mask_head\.upsample" + _TAIL, r"roi_heads.mask.upsample.\1"),
        (r"roi_head\.mask_head\.conv_logits" + _TAIL, r"roi_heads.mask.logits.\1"),
        (r"bbox_head\.(cls|reg)_convs\.(\d+)" + _PART, _tower_layer),
        (r"bbox_head\.retina_cls" + _TAIL, r"retinanet.class_logits.\1"),
        (r"bbox_head\.retina_reg" + _TAIL, r"retinanet.box_deltas.\1"),
    )


def _block_layer(match: re.Match[str]) -> str:
    owner, layer = match.groups()
    layer = re.sub(r"\.gn(\d)\.", r".bn\1.", layer)
    layer = re.sub(r"\.conv2\.conv_offset\.", ".conv2_offset.", layer)
    if owner == "backbone":
        return f"backbone.{layer}"
    return f"roi_heads.box.res5.{layer.removeprefix('layer4.')}"


def _numbered(convs: str, norms: str) -> Replacement:
    def name(match: re.Match[str]) -> str:
        number, part, kind = match.groups()
        return f"{convs if part == 'conv' else norms}.{number}.{kind}"

    return name


def _head_layer(head: str) -> Replacement:
    return _numbered(f"roi_heads.{head}.convs", f"roi_heads.{head}.norms")


def _output_layer(levels: int) -> Replacement:
    """Name the 3x3 convolutions of the pyramid; those after ``levels`` make P6 and P7."""
    below = _numbered("fpn.output", "fpn.output_norms")

    def name(match: re.Match[str]) -> str:
        extra, part, kind = int(match[1]) - levels, match[2], match[3]
        if extra < 0:
            return below(match) if callable(below) else below
        return f"fpn.p{extra + 6}.{kind}" if part == "conv" else match[0]

    return name


def _hidden_layer(match: re.Match[str]) -> str:
    return f"roi_heads.box.fc{int(match[1]) + 1}.{match[2]}"


def _tower_layer(match: re.Match[str]) -> str:
    tower, number, part, kind = match.groups()
    layers = "tower" if part == "conv" else "norms"
    return f"retinanet.{_TOWERS[tower]}_{layers}.{number}.{kind}"
