"""maskrcnn-benchmark's Faster and Mask R-CNN on ResNet-FPN.

Class 0 is the background and boxes and masks have a row for it, as ours.
"""

import re

from model.config import ModelConfig
from model.weights.architecture import describe_detector
from model.weights.conversion import Conversion, Replacement, StoredWeights, rename_tensors
from model.weights.legacy import LEGACY, one_box_for_all, refuse_unbuilt

MASKRCNN_BENCHMARK = LEGACY.model_copy(update={"resize_rounding": "down"})
_TAIL = r"\.(weight|bias)"


def _one_less(template: str) -> Replacement:
    def name(match: re.Match[str]) -> str:
        return template.format(int(match[1]) - 1, match[2])

    return name


_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"backbone\.body\.stem\.(.*)", r"backbone.\1"),
    (r"backbone\.body\.(layer\d\..*)", r"backbone.\1"),
    (r"backbone\.fpn\.fpn_inner(\d)" + _TAIL, _one_less("fpn.lateral.{}.{}")),
    (r"backbone\.fpn\.fpn_layer(\d)" + _TAIL, _one_less("fpn.output.{}.{}")),
    (r"rpn\.head\.conv" + _TAIL, r"rpn.head.convs.0.\1"),
    (r"rpn\.head\.cls_logits" + _TAIL, r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred" + _TAIL, r"rpn.head.deltas.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc6" + _TAIL, r"roi_heads.box.fc1.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7" + _TAIL, r"roi_heads.box.fc2.\1"),
    (r"roi_heads\.box\.predictor\.cls_score" + _TAIL, r"roi_heads.box.class_logits.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred" + _TAIL, r"roi_heads.box.box_deltas.\1"),
    (
        r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)" + _TAIL,
        _one_less("roi_heads.mask.convs.{}.{}"),
    ),
    (r"roi_heads\.mask\.predictor\.conv5_mask" + _TAIL, r"roi_heads.mask.upsample.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits" + _TAIL, r"roi_heads.mask.logits.\1"),
)
_UNNEEDED = ((r"rpn\.anchor_generator\..*", "anchors follow from the config"),)
_UNBUILT = {
    "roi_heads.keypoint.": "Keypoint R-CNN",
    "rpn.head.cls_tower": "RetinaNet",
    "feature_extractor.head.": "a detector without a pyramid (C4)",
    "feature_extractor.xconvs": "a box head of convolutions",
    ".offset.": "a deformable convolution",
}


def is_maskrcnn_benchmark(stored: StoredWeights) -> bool:
    """Whether these are weights of maskrcnn-benchmark."""
    return "backbone.body.stem.conv1.weight" in stored.tensors


def convert_maskrcnn_benchmark(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_maskrcnn_benchmark` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    unbuilt = dict(_UNBUILT)
    if "backbone.body.stem.bn1.running_var" not in stored.tensors:
        unbuilt["backbone.body.stem.bn1."] = "GroupNorm in the pyramid and the heads"
    refuse_unbuilt(stored.tensors, unbuilt)
    renamed = rename_tensors(stored.tensors, _RENAMES, _UNNEEDED)
    renamed.tensors.update(one_box_for_all(renamed.tensors))
    return describe_detector("maskrcnn-benchmark", renamed, MASKRCNN_BENCHMARK, config)
