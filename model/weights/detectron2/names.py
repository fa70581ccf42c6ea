"""detectron2's names."""

import re
from collections.abc import Iterable

from model.weights.conversion import Renames, Replacement

_NORM_LAYERS = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "shortcut": "downsample.1"}
_TOWERS = {"cls": "class", "bbox": "box"}
# A backbone file has names without prefix; a detector without a pyramid has no "bottom_up".
_BODY = r"(?:backbone\.(?:bottom_up\.)?)?"
_BLOCK = r"(\d+)\.(conv[123]|shortcut|conv2_offset)(\.norm)?\.(\w+)"
_TAIL = r"\.(weight|bias)"

IGNORED = (
    (r"(proposal_generator\.)?anchor_generator\..*", "anchors follow from the config"),
    (r"pixel_(mean|std)", "kept as a convention"),
    (r"(stem\.fc|linear|fc1000)\.(weight|bias)", "ImageNet classifier"),
)
UNSUPPORTED = {
    "roi_heads.box_head.0.": "Cascade R-CNN",
    "sem_seg_head.": "panoptic or semantic segmentation",
    ".point_head.": "PointRend",
    "mask_point_head.": "PointRend",
    "mask_coarse_head.": "PointRend",
    "densepose": "DensePose",
    "head.mask_subnet.": "TensorMask",
    "head.cls_subnet.1.": "RetinaNet with norms in its towers",
    "backbone.bottom_up.s1.": "RegNet",
    "backbone.net.": "a vision transformer",
}


def renames_from(names: Iterable[str]) -> Renames:
    """Return the patterns of detectron2's names with ours.

    Args:
        names: all names of the file. detectron2 numbers the levels of the pyramid by the stages of
            the backbone and we from the finest, which the names reveal.
    """
    laterals = (re.match(r"backbone\.fpn_lateral(\d)", name) for name in names)
    finest = min((int(match[1]) for match in laterals if match), default=2)
    return (
        (_BODY + r"stem\.conv1\.norm\.(\w+)", r"backbone.bn1.\1"),
        (_BODY + r"stem\.conv1\.weight", "backbone.conv1.weight"),
        (_BODY + r"res([2-5])\." + _BLOCK, _backbone_layer),
        (r"roi_heads\.res5\." + _BLOCK, _res5_layer),
        (r"backbone\.fpn_(lateral|output)(\d)(\.norm)?\.(\w+)", _pyramid_layer(finest)),
        (r"backbone\.top_block\.(p[67])" + _TAIL, r"fpn.\1.\2"),
        (r"proposal_generator\.rpn_head\.conv" + _TAIL, r"rpn.head.convs.0.\1"),
        (r"proposal_generator\.rpn_head\.conv\.conv(\d)" + _TAIL, r"rpn.head.convs.\1.\2"),
        (r"proposal_generator\.rpn_head\.objectness_logits" + _TAIL, r"rpn.head.objectness.\1"),
        (r"proposal_generator\.rpn_head\.anchor_deltas" + _TAIL, r"rpn.head.deltas.\1"),
        (r"roi_heads\.(box)_head\.conv(\d)(\.norm)?\.(\w+)", _head_layer),
        (r"roi_heads\.box_head\.fc(\d)" + _TAIL, r"roi_heads.box.fc\1.\2"),
        (r"roi_heads\.box_predictor\.cls_score" + _TAIL, r"roi_heads.box.class_logits.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred" + _TAIL, r"roi_heads.box.box_deltas.\1"),
        (r"roi_heads\.(mask)_head\.mask_fcn(\d)(\.norm)?\.(\w+)", _head_layer),
        (r"roi_heads\.mask_head\.deconv" + _TAIL, r"roi_heads.mask.upsample.\1"),
        (r"roi_heads\.mask_head\.predictor" + _TAIL, r"roi_heads.mask.logits.\1"),
        (r"roi_heads\.(keypoint)_head\.conv_fcn(\d)()\.(\w+)", _head_layer),
        (r"roi_heads\.keypoint_head\.score_lowres" + _TAIL, r"roi_heads.keypoint.upsample.\1"),
        (r"head\.(cls|bbox)_subnet\.(\d)" + _TAIL, _tower_layer),
        (r"head\.cls_score" + _TAIL, r"retinanet.class_logits.\1"),
        (r"head\.bbox_pred" + _TAIL, r"retinanet.box_deltas.\1"),
    )


def _block_layer(block: str, layer: str, norm: str | None, kind: str) -> str:
    ours = _NORM_LAYERS[layer] if norm else layer.replace("shortcut", "downsample.0")
    return f"{block}.{ours}.{kind}"


def _backbone_layer(match: re.Match[str]) -> str:
    stage, *layer = match.groups()
    return f"backbone.layer{int(stage) - 1}.{_block_layer(*layer)}"


def _res5_layer(match: re.Match[str]) -> str:
    return f"roi_heads.box.res5.{_block_layer(*match.groups())}"


def _pyramid_layer(finest: int) -> Replacement:
    def name(match: re.Match[str]) -> str:
        part, level, norm, kind = match.groups()
        return f"fpn.{part}{'_norms' if norm else ''}.{int(level) - finest}.{kind}"

    return name


def _head_layer(match: re.Match[str]) -> str:
    head, number, norm, kind = match.groups()
    return f"roi_heads.{head}.{'norms' if norm else 'convs'}.{int(number) - 1}.{kind}"


def _tower_layer(match: re.Match[str]) -> str:
    # Their numbers count ReLUs too.
    return f"retinanet.{_TOWERS[match[1]]}_tower.{int(match[2]) // 2}.{match[3]}"
