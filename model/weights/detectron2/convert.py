"""detectron2's Faster, Mask and Keypoint R-CNN, its RPN and RetinaNet, and ImageNet backbones.

On ResNet and ResNeXt with a pyramid, C4 or dilated C5. The order of classes and anchors differs
from ours: see ``rows.py``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import DETECTRON2, BoxHeadConfig, Conventions, ModelConfig
from model.weights.architecture.anchors import read_stored_anchors
from model.weights.architecture.backbone import has_pyramid, is_resnext
from model.weights.architecture.detector import finish_conversion, is_whole_detector
from model.weights.architecture.heads import has_keypoint_head, has_roi_heads
from model.weights.architecture.retinanet import is_retinanet
from model.weights.conversion import (
    ConvertedWeights,
    add_identity_statistics,
    refuse_unsupported,
    rename_tensors,
)
from model.weights.detectron2.names import IGNORED, UNSUPPORTED, renames_from
from model.weights.detectron2.rows import move_background_first, reorder_anchors
from model.weights.report import WeightsError
from model.weights.stated_settings import explicit_settings, pad_to_multiple
from model.weights.storage.weights_file import StoredWeights

_BACKBONE_NORM = r"((?:backbone|roi_heads\.box\.res5)\..*(?:bn\d|downsample\.1))\.weight"
_FIRST_NORMS = ("fpn.output_norms.0", "roi_heads.box.norms.0", "roi_heads.mask.norms.0")
_AUTHOR_OF_RGB_BACKBONES = "torchvision"
_RGB = {
    "pixel_order": "rgb",
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
    "stride_in_1x1": False,
}
# BGR, for ImageNet backbones that are not by the authors of ResNet.
_STD_OF_OTHER_BACKBONES = (57.375, 57.12, 58.395)
# LVIS v0.5 and v1, for which detectron2's configs keep low scores.
_LVIS_CLASSES = (1230, 1203)
_LVIS_BOX = {"score_threshold": 1e-4, "detections_per_image": 300}


def is_detectron2(stored: StoredWeights) -> bool:
    """Return whether these are weights of detectron2, or a backbone in its format."""
    names = stored.tensors
    return any(
        f"{prefix}stem.conv1.weight" in names and f"{prefix}res2.0.conv1.weight" in names
        for prefix in ("", "backbone.", "backbone.bottom_up.")
    ) or any(name.startswith(("proposal_generator.", "head.cls_subnet.")) for name in names)


def convert_detectron2(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of detectron2.

    Args:
        stored: what :func:`is_detectron2` recognizes.
        config: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the architecture is not supported.
    """
    refuse_unsupported(stored.tensors, UNSUPPORTED)
    renamed = rename_tensors(stored.tensors, renames_from(stored.tensors), IGNORED)
    tensors = renamed.tensors
    config, anchor_notes = read_stored_anchors(
        stored.tensors, config, is_retinanet(tensors), by_size=True
    )
    group_normed = _is_group_normed(tensors, config)
    conventions, assumptions = _infer_conventions(stored, tensors, group_normed)
    move_background_first(tensors)
    reorder_anchors(tensors, config)
    if not group_normed:
        add_identity_statistics(tensors, _backbone_norms(tensors), conventions.norm_epsilon)
    base, notes = _apply_default_settings(tensors, config)
    if has_keypoint_head(tensors):
        # detectron2: keypoint AP degrades with plain L1.
        conventions = conventions.model_copy(update={"box_smooth_l1_beta": 0.5})
    converted = finish_conversion("detectron2", renamed, conventions, base)
    return replace(converted, assumptions=(*assumptions, *anchor_notes, *notes))


def _is_group_normed(tensors: Mapping[str, Tensor], config: ModelConfig) -> bool:
    """Return whether norms of the backbone without statistics are group norm.

    They are if pyramid or heads have norms without statistics too, or if ``config`` says so.
    Otherwise they are affine maps, which detectron2's early files and Detectron's have under the
    same names.
    """
    return config.backbone.norm == "group_norm" or any(
        f"{norm}.weight" in tensors and f"{norm}.running_var" not in tensors
        for norm in _FIRST_NORMS
    )


def _backbone_norms(names: Iterable[str]) -> list[str]:
    matches = (re.fullmatch(_BACKBONE_NORM, name) for name in names)
    return [match[1] for match in matches if match]


def _infer_conventions(
    stored: StoredWeights, tensors: Mapping[str, Tensor], group_normed: bool
) -> tuple[Conventions, tuple[str, ...]]:
    """Return the conventions that the file states, else the configs' defaults, and assumptions."""
    if stored.author == _AUTHOR_OF_RGB_BACKBONES:
        return DETECTRON2.model_copy(update=_RGB), ()
    mean, std = stored.tensors.get("pixel_mean"), stored.tensors.get("pixel_std")
    grouped = is_resnext(tensors)
    trained = group_normed or any(name.endswith("num_batches_tracked") for name in tensors)
    # Only the backbones of the ResNet authors have the stride in the 1x1.
    in_1x1 = not (grouped or trained)
    if mean is None or std is None:
        update: dict[str, Any] = {"stride_in_1x1": in_1x1}
        if grouped:
            update["pixel_std"] = _STD_OF_OTHER_BACKBONES
        return DETECTRON2.model_copy(update=update), (
            "assumed detectron2's defaults: BGR pixels less (103.53, 116.28, 123.675), strides in "
            f"the {'1x1' if in_1x1 else '3x3'} convolutions; a model on torchvision's backbone has "
            "others: state them as conventions={'pixel_order': 'rgb', ...}",
        )
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    if len(means) != 3 or len(stds) != 3 or min(stds) <= 0:
        raise WeightsError(f"pixel_mean {means} and pixel_std {stds} must be of three channels")
    update = {
        # Photographs are yellowish: red has the largest mean, blue the smallest.
        "pixel_order": "rgb" if means[0] > means[2] else "bgr",
        "pixel_mean": tuple(round(value, 4) for value in means),
        "pixel_std": tuple(round(value, 4) for value in stds),
        # The backbones with a standard deviation of 1 are those of the ResNet authors.
        "stride_in_1x1": stds == [1.0, 1.0, 1.0] and in_1x1,
    }
    return DETECTRON2.model_copy(update=update), (
        f"assumed from pixel_mean and pixel_std: {update['pixel_order']} pixels, strides in the "
        f"{'1x1' if update['stride_in_1x1'] else '3x3'} convolutions",
    )


def _apply_default_settings(
    tensors: Mapping[str, Tensor], config: ModelConfig
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return ``config`` with what detectron2's configs set for such a model, and notes on it.

    Settings that ``config`` states explicitly are kept.
    """
    if not is_whole_detector(tensors):
        return config, ()
    rpn_only = not has_roi_heads(tensors)
    notes: list[str] = []
    update: dict[str, Any] = {}
    # detectron2 pads to the stride of the coarsest map that the pyramid reads, else not at all.
    config = pad_to_multiple(config, 32 if has_pyramid(tensors) else 1)
    # 1000 proposals per image in training; Detectron has 2000.
    proposals = {"post_nms_train": 1500 if has_keypoint_head(tensors) else 1000}
    if not has_pyramid(tensors):
        proposals = {"pre_nms_train": 12000, "pre_nms_test": 12000 if rpn_only else 6000}
        if "backbone.layer4.0.conv1.weight" in tensors:
            features = {"features": "dc5"} | explicit_settings(config.backbone)
            update["backbone"] = config.backbone.model_copy(update=features)
            notes.append(
                "assumed that res5 is dilated, as in all of detectron2's models that pool from it"
            )
    if rpn_only:
        proposals["post_nms_test"] = 2000
    rpn = proposals | explicit_settings(config.rpn)
    update["rpn"] = config.rpn.model_copy(update=rpn)
    classes = len(tensors.get("roi_heads.box.class_logits.bias", ())) - 1
    if classes in _LVIS_CLASSES:
        box = config.box or BoxHeadConfig()
        update["box"] = box.model_copy(update=_LVIS_BOX | explicit_settings(box))
        notes.append(
            f"assumed LVIS, because of {classes} classes: 300 detections, scores from 0.0001"
        )
    return config.model_copy(update=update), tuple(notes)
