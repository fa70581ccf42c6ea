"""Convert the detector of a maskrcnn-benchmark config, except for its heads."""

import re

from model.config import MASKRCNN_BENCHMARK
from pipeline.config.maskrcnn_benchmark.heads import (
    convert_box_head,
    convert_keypoint_head,
    convert_mask_head,
    convert_norm,
    convert_retinanet,
)
from pipeline.config.maskrcnn_benchmark.original import OriginalConfig, Tree


def convert_model(original: OriginalConfig) -> Tree:
    """Return the ``model`` section."""
    depth, features = _parse_conv_body(original)
    retinanet, rpn_only = original["MODEL.RETINANET_ON"], original["MODEL.RPN_ONLY"]
    original.expect("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", reason="unsupported architecture")
    tree: Tree = {
        "conventions": _convert_conventions(original),
        "input": _convert_input(original),
        "backbone": _convert_backbone(original, depth, features),
        **{"box": None, "mask": None, "keypoint": None},
    }
    if features == "fpn":
        tree["fpn"] = {
            "channels": original["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"],
            "norm": convert_norm(original, "MODEL.FPN.USE_GN"),
        }
        original.expect("MODEL.FPN.USE_RELU", False, reason="unsupported ReLU in the pyramid")
    if retinanet:
        tree["retinanet"] = convert_retinanet(original)
        tree["num_classes"] = original["MODEL.RETINANET.NUM_CLASSES"] - 1
        return tree
    tree["rpn"] = _convert_rpn(original, features == "fpn")
    tree["num_classes"] = original["MODEL.ROI_BOX_HEAD.NUM_CLASSES"] - 1
    if rpn_only:
        return tree
    tree["box"] = convert_box_head(original, features == "fpn")
    sampling = original["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"]
    tree["conventions"]["roi_sampling_ratio"] = sampling
    if original["MODEL.MASK_ON"]:
        tree["mask"] = convert_mask_head(original, features == "fpn")
    if original["MODEL.KEYPOINT_ON"]:
        tree["keypoint"] = convert_keypoint_head(original)
    for head in ("MASK", "KEYPOINT"):
        key = f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO"
        if original[f"MODEL.{head}_ON"] and features == "fpn":
            original.expect(
                key, sampling, reason=f"the box head's {sampling} is used for all heads"
            )
    return tree


def _parse_conv_body(original: OriginalConfig) -> tuple[int, str]:
    """Return the depth and ``backbone.features``."""
    key = "MODEL.BACKBONE.CONV_BODY"
    match = re.fullmatch(r"R-(50|101|152)-(C4|C5|FPN)(-RETINANET)?", original[key])
    if match is None:
        original.skip(key, "unsupported backbone; R-50-C4 is used")
        return 50, "c4"
    features = match[2].lower()
    if original["MODEL.RETINANET_ON"]:
        return int(match[1]), features
    heads = ["RPN"] if original["MODEL.RPN_ONLY"] else ["RPN", "ROI_HEADS"]
    for head in heads:
        original.expect(
            f"MODEL.{head}.USE_FPN",
            features == "fpn",
            reason=f"determined by {key} = {original[key]}",
        )
    return int(match[1]), features


def _convert_conventions(original: OriginalConfig) -> Tree:
    bgr = original["INPUT.TO_BGR255"]
    # Without TO_BGR255, maskrcnn-benchmark's pixels are RGB in 0..1; ours are in 0..255.
    scale = 1.0 if bgr else 255.0
    group_norm = _backbone_norm(original) == "group_norm"
    return MASKRCNN_BENCHMARK.model_dump() | {
        "pixel_order": "bgr" if bgr else "rgb",
        "pixel_mean": [scale * value for value in original["INPUT.PIXEL_MEAN"]],
        "pixel_std": [scale * value for value in original["INPUT.PIXEL_STD"]],
        "stride_in_1x1": original["MODEL.RESNETS.STRIDE_IN_1X1"],
        "norm_epsilon": original["MODEL.GROUP_NORM.EPSILON"] if group_norm else 0.0,
    }


def _convert_input(original: OriginalConfig) -> Tree:
    long_side = original["INPUT.MAX_SIZE_TEST"]
    original.expect(
        "INPUT.MAX_SIZE_TRAIN",
        long_side,
        reason=f"training and testing share model.input.long_side = {long_side}",
    )
    return {
        "short_side": original["INPUT.MIN_SIZE_TEST"],
        "long_side": long_side,
        "size_divisor": max(1, original["DATALOADER.SIZE_DIVISIBILITY"]),
    }


def _backbone_norm(original: OriginalConfig) -> str:
    """Return the norm that the names of the blocks and the stem imply."""
    blocks, stem = "MODEL.RESNETS.TRANS_FUNC", "MODEL.RESNETS.STEM_FUNC"
    norm, ending = "frozen_bn", "WithFixedBatchNorm"
    if original[blocks] == "BottleneckWithGN":
        norm, ending = "group_norm", "WithGN"
    original.expect(blocks, f"Bottleneck{ending}", reason=f"unsupported blocks; {norm} is used")
    original.expect(stem, f"Stem{ending}", reason=f"the stem has the norm of the blocks, {norm}")
    return norm


def _convert_backbone(original: OriginalConfig, depth: int, features: str) -> Tree:
    resnets = "MODEL.RESNETS."
    width = original[resnets + "STEM_OUT_CHANNELS"]
    norm = _backbone_norm(original)
    original.expect(
        resnets + "RES2_OUT_CHANNELS",
        4 * width,
        reason=f"res2 has 4 times the stem's channels, {4 * width}",
    )
    original.expect(resnets + "RES5_DILATION", 1, reason="unsupported dilation of res5")
    stages = original[resnets + "STAGE_WITH_DCN"]
    deformable = [stage for stage, on in zip((2, 3, 4, 5), stages, strict=False) if on]
    deformation: Tree = {}
    if deformable:
        original.expect(
            resnets + "DEFORMABLE_GROUPS", 1, reason="only one deformable group is supported"
        )
        version = "v2" if original[resnets + "WITH_MODULATED_DCN"] else "v1"
        deformation = {"deformable": version, "deformable_stages": deformable}
    if norm == "group_norm":
        for key, value in (("DIM_PER_GP", -1), ("NUM_GROUPS", 32)):
            original.expect(
                f"MODEL.GROUP_NORM.{key}", value, reason="group normalization has 32 groups"
            )
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


def _convert_rpn(original: OriginalConfig, pyramid: bool) -> Tree:
    rpn = "MODEL.RPN."
    strides = (4, 8, 16, 32, 64) if pyramid else (16,)
    original.expect(rpn + "ANCHOR_STRIDE", strides, reason="derived from the feature maps")
    original.expect(rpn + "RPN_HEAD", "SingleConvRPNHead", reason="unsupported head")
    legacy = "determined by model.conventions.legacy_geometry"
    original.expect(rpn + "STRADDLE_THRESH", 0, reason=legacy)
    if pyramid:
        original.expect(rpn + "FPN_POST_NMS_PER_BATCH", True, reason=legacy)
    post_nms = {}
    for mode in ("TRAIN", "TEST"):
        per_level = original[f"{rpn}POST_NMS_TOP_N_{mode}"]
        total = original[f"{rpn}FPN_POST_NMS_TOP_N_{mode}"] if pyramid else per_level
        post_nms[mode] = total
        if per_level < total:
            original.skip(
                f"{rpn}POST_NMS_TOP_N_{mode}",
                "after NMS, proposals are limited over all levels together, not per level",
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
        "post_nms_train": post_nms["TRAIN"],
        "post_nms_test": post_nms["TEST"],
        "min_box_side": original[rpn + "MIN_SIZE"],
    }
