"""The detector that a file of maskrcnn-benchmark describes, in our settings."""

import re
from typing import Any

from model.config import MASKRCNN_BENCHMARK
from pipeline.config.maskrcnn_benchmark.heads import (
    box_tree,
    keypoint_tree,
    mask_tree,
    norm_of,
    retinanet_tree,
)
from pipeline.config.maskrcnn_benchmark.original import Original

Tree = dict[str, Any]


def model_tree(original: Original) -> Tree:
    """The ``model`` part."""
    depth, features = _conv_body(original)
    retinanet, rpn_only = original["MODEL.RETINANET_ON"], original["MODEL.RPN_ONLY"]
    original.expect("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", why="there is no other")
    tree: Tree = {
        "conventions": _conventions(original),
        "input": _input(original),
        "backbone": _backbone(original, depth, features),
        **{"box": None, "mask": None, "keypoint": None},
    }
    if features == "fpn":
        tree["fpn"] = {
            "channels": original["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"],
            "norm": norm_of(original, "MODEL.FPN.USE_GN"),
        }
        original.expect("MODEL.FPN.USE_RELU", False, why="no ReLU in the pyramid")
    if retinanet:
        tree["retinanet"] = retinanet_tree(original)
        tree["num_classes"] = original["MODEL.RETINANET.NUM_CLASSES"] - 1
        return tree
    tree["rpn"] = _rpn(original, features == "fpn")
    tree["num_classes"] = original["MODEL.ROI_BOX_HEAD.NUM_CLASSES"] - 1
    if rpn_only:
        return tree
    tree["box"] = box_tree(original, features == "fpn")
    sampling = original["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"]
    tree["conventions"]["roi_sampling_ratio"] = sampling
    if original["MODEL.MASK_ON"]:
        tree["mask"] = mask_tree(original, features == "fpn")
    if original["MODEL.KEYPOINT_ON"]:
        tree["keypoint"] = keypoint_tree(original)
    for head in ("MASK", "KEYPOINT"):
        key = f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO"
        if original[f"MODEL.{head}_ON"] and features == "fpn":
            original.expect(key, sampling, why=f"every head samples as the box head: {sampling}")
    return tree


def _conv_body(original: Original) -> tuple[int, str]:
    """Depth, and which maps are read."""
    key = "MODEL.BACKBONE.CONV_BODY"
    match = re.fullmatch(r"R-(50|101|152)-(C4|C5|FPN)(-RETINANET)?", original[key])
    if match is None:
        original.leave(key, "no such backbone here; R-50-C4 stands in its place")
        return 50, "c4"
    features = match[2].lower()
    if original["MODEL.RETINANET_ON"]:
        return int(match[1]), features
    heads = ["RPN"] if original["MODEL.RPN_ONLY"] else ["RPN", "ROI_HEADS"]
    for head in heads:
        original.expect(
            f"MODEL.{head}.USE_FPN", features == "fpn", why=f"{key} decides: {original[key]}"
        )
    return int(match[1]), features


def _conventions(original: Original) -> Tree:
    """The original's; with TO_BGR255 off, pixels are RGB in 0..1 there, in 0..255 here."""
    bgr = original["INPUT.TO_BGR255"]
    scale = 1.0 if bgr else 255.0
    group_norm = _backbone_norm(original) == "group_norm"
    return MASKRCNN_BENCHMARK.model_dump() | {
        "pixel_order": "bgr" if bgr else "rgb",
        "pixel_mean": [scale * value for value in original["INPUT.PIXEL_MEAN"]],
        "pixel_std": [scale * value for value in original["INPUT.PIXEL_STD"]],
        "stride_in_1x1": original["MODEL.RESNETS.STRIDE_IN_1X1"],
        "norm_epsilon": original["MODEL.GROUP_NORM.EPSILON"] if group_norm else 0.0,
    }


def _input(original: Original) -> Tree:
    long_side = original["INPUT.MAX_SIZE_TEST"]
    original.expect(
        "INPUT.MAX_SIZE_TRAIN",
        long_side,
        why=f"model.input.long_side is one for training and testing: {long_side}",
    )
    return {
        "short_side": original["INPUT.MIN_SIZE_TEST"],
        "long_side": long_side,
        "size_divisor": max(1, original["DATALOADER.SIZE_DIVISIBILITY"]),
    }


def _backbone_norm(original: Original) -> str:
    """What the names of its blocks and its stem say of the norm."""
    blocks, stem = "MODEL.RESNETS.TRANS_FUNC", "MODEL.RESNETS.STEM_FUNC"
    norm, ending = "frozen_bn", "WithFixedBatchNorm"
    if original[blocks] == "BottleneckWithGN":
        norm, ending = "group_norm", "WithGN"
    original.expect(blocks, f"Bottleneck{ending}", why=f"no such blocks here; {norm} stands")
    original.expect(stem, f"Stem{ending}", why=f"the stem's norm is the blocks': {norm}")
    return norm


def _backbone(original: Original, depth: int, features: str) -> Tree:
    resnets = "MODEL.RESNETS."
    width = original[resnets + "STEM_OUT_CHANNELS"]
    norm = _backbone_norm(original)
    original.expect(
        resnets + "RES2_OUT_CHANNELS", 4 * width, why=f"res2 has four times the stem: {4 * width}"
    )
    original.expect(resnets + "RES5_DILATION", 1, why="res5 as a head is not dilated")
    stages = original[resnets + "STAGE_WITH_DCN"]
    deformable = [stage for stage, on in zip((2, 3, 4, 5), stages, strict=False) if on]
    deformation: Tree = {}
    if deformable:
        original.expect(resnets + "DEFORMABLE_GROUPS", 1, why="offsets are of one group")
        version = "v2" if original[resnets + "WITH_MODULATED_DCN"] else "v1"
        deformation = {"deformable": version, "deformable_stages": deformable}
    if norm == "group_norm":
        for key, value in (("DIM_PER_GP", -1), ("NUM_GROUPS", 32)):
            original.expect(f"MODEL.GROUP_NORM.{key}", value, why="there are 32 groups")
    return {
        "depth": depth,
        "features": features,
        "norm": norm,
        "frozen_stages": max(0, original["MODEL.BACKBONE.FREEZE_CONV_BODY_AT"]),
        "width": width,
        "groups": original[resnets + "NUM_GROUPS"],
        "group_width": original[resnets + "WIDTH_PER_GROUP"],
        **deformation,
    }


def _rpn(original: Original, pyramid: bool) -> Tree:
    rpn = "MODEL.RPN."
    strides = (4, 8, 16, 32, 64) if pyramid else (16,)
    original.expect(rpn + "ANCHOR_STRIDE", strides, why="strides follow from the maps")
    original.expect(rpn + "RPN_HEAD", "SingleConvRPNHead", why="no such head here")
    legacy = "model.conventions.legacy_geometry decides"
    original.expect(rpn + "STRADDLE_THRESH", 0, why=legacy)
    if pyramid:
        original.expect(rpn + "FPN_POST_NMS_PER_BATCH", True, why=legacy)
    after = {}
    for mode in ("TRAIN", "TEST"):
        each, total = original[f"{rpn}POST_NMS_TOP_N_{mode}"], f"{rpn}FPN_POST_NMS_TOP_N_{mode}"
        after[mode] = original[total] if pyramid else each
        if each < after[mode]:
            original.leave(
                f"{rpn}POST_NMS_TOP_N_{mode}", "after NMS the levels are counted together alone"
            )
    return {
        "anchor_sizes": list(original[rpn + "ANCHOR_SIZES"]),
        "anchor_ratios": list(original[rpn + "ASPECT_RATIOS"]),
        "positive_iou": original[rpn + "FG_IOU_THRESHOLD"],
        "negative_iou": original[rpn + "BG_IOU_THRESHOLD"],
        "samples_per_image": original[rpn + "BATCH_SIZE_PER_IMAGE"],
        "positive_fraction": original[rpn + "POSITIVE_FRACTION"],
        "nms_iou": original[rpn + "NMS_THRESH"],
        "pre_nms_train": original[rpn + "PRE_NMS_TOP_N_TRAIN"],
        "pre_nms_test": original[rpn + "PRE_NMS_TOP_N_TEST"],
        "post_nms_train": after["TRAIN"],
        "post_nms_test": after["TEST"],
        "min_box_side": original[rpn + "MIN_SIZE"],
    }
